"""`smilax bench`."""

import csv
import os
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from smilax.cli.app import app, explained

bench = typer.Typer(help="The paper's benchmark, and the cost of a step.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(bench, name="bench")
# Steps, seeds, points of the grid, and steps of the mixture's chains.
SIZES = {"full": (1_000_000, 7, 15, 200_000), "small": (20_000, 3, 7, 20_000)}


@bench.callback()
def benchmarks() -> None:
    """The paper's benchmark, and the cost of a step: what is measured is printed, and written as CSV and figures."""


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
    of ismile, which finds its step size in the first half of the steps, in the second half. Printed are, at the step
    size of the least mean over chains, that mean and the median: single chains may run off.
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
        lines = [["target", "noise", "law", "sampler", "best step", "bias", "median"]]
        for setting, values in results.items():
            best = values.mean(axis=1)
            k = int(np.argmin(np.where(np.isnan(best), np.inf, best)))
            step = "found" if setting.sampler == "ismile" else f"{grid_of(setting.sampler, points)[k]:.3g}"
            lines.append([*setting, step, f"{best[k]:.3g}", f"{np.median(values[k]):.3g}"])
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


@bench.command()
def step(
    output: Annotated[Path, typer.Option(help="Folder for steps.csv, steps.md and steps.png.")] = Path("steps"),
    size: Annotated[str, typer.Option(help="full (half an hour, 4 GB), or small (three cases, minutes).")] = "small",
    repeats: Annotated[int, typer.Option(help="Turns of each program.", min=1)] = 7,
    programs: Annotated[
        str | None,
        typer.Option(help="What to time beside the gradients, names with semicolons between; all if not given."),
    ] = None,
    python: Annotated[
        str | None, typer.Option(help="A Python with smilax, torch and posteriors; this one if not given.")
    ] = None,
    bde_python: Annotated[
        str | None, typer.Option(help="A Python with smilax and sklearn-contrib-bde, which needs an old BlackJAX.")
    ] = None,
) -> None:
    """What a step of each sampler costs, in gradients of the same batch, and what other libraries take for the same.

    Programs take turns; shown are medians. The unit is two gradients (a value and gradient within a compiled loop or in
    a call of its own, whichever is faster), which is what a microcanonical step needs. Peers that are not installed are
    left out, and said so. Exits with 1 if a claim does not hold.
    """
    from smilax.experiments import steps
    from smilax.experiments.problems import ConfigError, unknown_name
    from smilax.experiments.running import machine
    from smilax.experiments.steps.figures import cost_figure
    from smilax.experiments.steps.files import tables, write_page, write_rows
    from smilax.experiments.table import aligned

    with explained():
        if size not in steps.CASES:
            raise ConfigError("bench step", [unknown_name("--size", size, list(steps.CASES))])
        wanted = None if programs is None else [name.strip() for name in programs.split(";")]
        known = [*steps.NAMES, *steps.PEERS]
        if unknown := [name for name in wanted or () if name not in known]:
            raise ConfigError("bench step", [unknown_name("--programs", name, known) for name in unknown])
        pythons = {name: python or sys.executable for name in steps.PEERS}
        pythons["bde MCLMC"] = bde_python or python or sys.executable
        output.mkdir(parents=True, exist_ok=True)
        load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
        begin = time.perf_counter()
        rows = steps.measure(steps.CASES[size], repeats, pythons, typer.echo, wanted)
    write_rows(rows, output / "steps.csv")
    note = f"Medians of {repeats} turns; {machine()}; load before {load}."
    write_page(rows, output / "steps.md", note)
    cost_figure(rows, output / "steps.png")
    for name, table in tables(rows).items():
        typer.echo(f"\n{name}\n{aligned(table)}")
    claims = steps.verdicts(rows)
    for holds, claim in claims:
        typer.echo(f"{'PASS' if holds else 'FAIL'}  {claim}")
    typer.echo(f"\n{repeats} repeats, {time.perf_counter() - begin:.0f} s. Written: {output}")
    if not all(holds for holds, _ in claims):
        raise typer.Exit(1)
