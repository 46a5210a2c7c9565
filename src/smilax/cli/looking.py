"""`smilax info` and `smilax report`."""

from pathlib import Path
from typing import Annotated

import typer

from smilax.cli.app import app, check_folder, explained
from smilax.cli.tables import about_table


@app.command()
def info(
    run: Annotated[
        Path | None, typer.Argument(metavar="RUN", help="A directory of `smilax run`, or one that holds draws.")
    ] = None,
) -> None:
    """Show versions and devices; or what a run has done so far, and its results."""
    if run is not None:
        with explained():
            typer.echo(_about_run(run))
        return
    import jax
    import numpy

    import smilax

    typer.echo(f"smilax {smilax.__version__}, jax {jax.__version__}, numpy {numpy.__version__}")
    typer.echo(f"devices: {', '.join(str(device) for device in jax.devices())}")
    typer.echo(f"64-bit numbers: {'on' if jax.config.read('jax_enable_x64') else 'off'}")


def _about_run(run: Path) -> str:
    from smilax.experiments.running import RECORD, TABLE, pending, read_record
    from smilax.experiments.table import read_rows, summary

    if (about := about_table(run)) is not None:
        return about
    if not (run / RECORD).exists():
        return _about_store(run)
    experiment, data_dir = read_record(run)
    todo, rows = pending(experiment, run), read_rows(run / TABLE)
    lines = [
        f"{experiment.name} ({experiment.size}): {experiment.about}".rstrip(" :"),
        f"data: {experiment.base.data.name}, from {data_dir or 'the network or the package'}",
        f"scored: {len(rows)} of {len(rows) + len(todo)}",
    ]
    if todo:
        missing = [f"seed {seed} {label}" for seed, label in todo[:5]] + ["..."] * (len(todo) > 5)
        lines += [f"to do: {', '.join(missing)}", f"go on with: smilax resume {run}"]
    return "\n".join([*lines, "", summary(rows)] if rows else lines)


def _about_store(run: Path) -> str:
    from smilax.loading import run_config
    from smilax.store import read

    contents = read(run)
    settings, manifest = run_config(contents)["settings"], contents.manifest
    algorithm = ", ".join(f"{key} {value}" for key, value in settings["algorithm"].items() if key != "name")
    draws = contents.arrays("draws")
    count = next(iter(draws.values())).shape[1] if draws else 0
    return "\n".join(
        [
            f"{settings['algorithm']['name']}: {algorithm}".rstrip(": "),
            f"status: {manifest.status}",
            f"chains: {settings['num_chains']}, parameters of each: {settings['num_params']:,}",
            f"steps: {settings['num_warmup']:,} of warm-up, {settings['num_samples']:,} after it",
            f"draws of each chain so far: {count:,}",
        ]
    )


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="The directory that `sx.sample(..., store=)` wrote.", metavar="RUN")],
    output: Annotated[Path, typer.Option(help="Where to write the page (HTML).")] = Path("report.html"),
) -> None:
    """Write one HTML page about a stored run: its settings, what its diagnostics say, and its traces.

    The run may still be going. Draws in a directory of `smilax run` (RUN/seed1/METHOD) are reported with predictions,
    metrics and noise, because the directory knows the model and the data. Other stores hold draws only: for the rest
    call `sx.report` from Python with the posterior and the data.
    """
    check_folder(output)
    from smilax import load
    from smilax.experiments.running import RECORD, report_case
    from smilax.reporting import report as write
    from smilax.store import StoreError

    if about_table(run) is not None:
        raise typer.BadParameter(
            f"{run} is the run of a table: sx.report(path, model.result_) writes the page of a model loaded in Python",
            param_hint="RUN",
        )
    if (run / RECORD).exists():
        cases = sorted(str(path.parent) for path in run.glob("*/*/manifest.json"))
        raise typer.BadParameter(
            f"{run} is an experiment; name one of its cases: {', '.join(cases) or 'none has draws yet'}",
            param_hint="RUN",
        )
    try:
        result = load(run)
    except StoreError as error:
        raise typer.BadParameter(str(error), param_hint="RUN") from error
    with explained():
        if not report_case(output, run, result):
            write(output, result)
    typer.echo(f"Report: {output}")
