"""`smilax bench`."""

import csv
import time
from pathlib import Path
from typing import Annotated

import typer

from smilax.cli.app import app, explained

bench = typer.Typer(help="Benchmarks of the paper.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(bench, name="bench")
# Steps, seeds, points of the grid, and steps of the mixture's chains.
SIZES = {"full": (1_000_000, 7, 15, 200_000), "small": (20_000, 3, 7, 20_000)}


@bench.callback()
def benchmarks() -> None:
    """Benchmarks of the paper: what is measured is printed, and written as CSV and figures."""


@bench.command()
def analytical(
    output: Annotated[Path, typer.Option(help="Folder for biases.csv, biases.png and mixture.png.")] = Path(
        "analytical"
    ),
    size: Annotated[str, typer.Option(help="full (hours), or small (minutes): fewer steps, seeds and step sizes.")] = (
        "small"
    ),
    targets: Annotated[str, typer.Option(help="Of gaussian, funnel, rosenbrock; with commas between.")] = "gaussian",
    noises: Annotated[
        str, typer.Option(help="Of isotropic, anisotropic, correlated, spatial, fisher.")
    ] = "isotropic,anisotropic,correlated,spatial,fisher",
    laws: Annotated[str, typer.Option(help="Of gaussian, laplace, student_t, lognormal.")] = "gaussian",
    samplers: Annotated[
        str, typer.Option(help="Of smile_naive, psmile_naive, sghmc, ismile.")
    ] = "smile_naive,psmile_naive,sghmc,ismile",
    steps: Annotated[int | None, typer.Option(help="Steps of each chain.", min=20)] = None,
    seeds: Annotated[int | None, typer.Option(help="Chains for each step size.", min=1)] = None,
    mixture: Annotated[bool, typer.Option(help="Also look for the 25 modes of the mixture.")] = True,
) -> None:
    """How the shape of the gradient's noise biases each sampler, on targets known exactly, in ten dimensions.

    The gradient is exact but for noise drawn afresh at each step, of standard deviation 16 per component and then
    shaped. The bias is the mean over coordinates of (mean of x² - E[x²])²/Var[x²], every 10th step, from the first on;
    of ismile, which finds its step size in the first half of the steps, in the second half.
    """
    import numpy as np

    from smilax.experiments import analytical as benchmark
    from smilax.experiments.analytical import mixture as modes
    from smilax.experiments.analytical.biases import cases, grid_of
    from smilax.experiments.analytical.figures import bias_figure, mixture_figure
    from smilax.experiments.problems import ConfigError, unknown_name
    from smilax.experiments.table import aligned

    def names(option: str, text: str, allowed: list[str]) -> list[str]:
        found = [part.strip() for part in text.split(",") if part.strip()]
        problems = [unknown_name(option, name, allowed) for name in found if name not in allowed]
        if problems or not found:
            raise ConfigError("bench analytical", problems or [f"{option}: name at least one"])
        return found

    with explained():
        size = names("--size", size, list(SIZES))[0]
        settings = cases(
            names("--targets", targets, list(benchmark.TARGETS)),
            names("--noises", noises, list(benchmark.NOISES)),
            names("--laws", laws, list(benchmark.LAWS)),
            names("--samplers", samplers, [*benchmark.BY_HAND, "ismile"]),
        )
        num_steps, num_seeds, points, mode_steps = SIZES[size]
        num_steps, num_seeds = steps or num_steps, seeds or num_seeds
        output.mkdir(parents=True, exist_ok=True)
        begin = time.perf_counter()
        results = benchmark.biases(settings, num_seeds, num_steps, points)
        with (output / "biases.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["target", "noise", "law", "sampler", "step_size", "seed", "steps", "bias"])
            for setting, values in results.items():
                for step_size, row in zip(grid_of(setting.sampler, points), values, strict=True):
                    text = "found" if setting.sampler == "ismile" else f"{step_size:.4g}"
                    for seed, value in enumerate(row):
                        writer.writerow([*setting, text, seed, num_steps, f"{value:.4g}"])
        bias_figure(results, output / "biases.png")
        lines = [["target", "noise", "law", "sampler", "best step", "bias"]]
        for setting, values in results.items():
            best = values.mean(axis=1)
            k = int(np.argmin(np.where(np.isnan(best), np.inf, best)))
            step = "found" if setting.sampler == "ismile" else f"{grid_of(setting.sampler, points)[k]:.3g}"
            lines.append([*setting, step, f"{best[k]:.3g}"])
        typer.echo(aligned(lines))
        typer.echo(f"\n{num_steps:,} steps, {num_seeds} seeds, {time.perf_counter() - begin:.0f} s")
        if mixture:
            visits = modes.visits(0, mode_steps)
            mixture_figure(visits, output / "mixture.png")
            one = ", ".join(map(str, visits.modes))
            typer.echo(
                f"mixture: of 25 modes, chains of {mode_steps:,} steps visited {one}; together {visits.together}"
            )
        typer.echo(f"Written: {output}")
