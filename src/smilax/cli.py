"""The command line."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="smilax",
    help="Bayesian posteriors over neural networks from mini-batches. Start with `smilax demo`.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Where to write the figure (PNG).")] = Path("demo.png"),
    seed: Annotated[int, typer.Option(help="Seed of all random numbers.", min=0)] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="Run a few steps only, to see that it works.")] = False,
) -> None:
    """Fit digits and diabetes: a deep ensemble against chains started from its members.

    Prints accuracy or RMSE, log predictive density, calibration, detection of unseen digits and seconds, and draws
    reliability, coverage and predictive intervals. Nothing is downloaded. Takes about a minute on two cores.
    """
    if not output.parent.is_dir():
        raise typer.BadParameter(f"the folder {output.parent} does not exist", param_hint="--output")
    from smilax.demo import FULL, QUICK, run_demo

    run_demo(output, seed, QUICK if quick else FULL, typer.echo)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="The directory that `sx.sample(..., store=)` wrote.", metavar="RUN")],
    output: Annotated[Path, typer.Option(help="Where to write the page (HTML).")] = Path("report.html"),
) -> None:
    """Write one HTML page about a stored run: its settings, what its diagnostics say, and its traces.

    The run may still be going. A store holds draws, not the model: for predictions, metrics and the noise call
    `sx.report` from Python with the posterior and the data.
    """
    if not output.parent.is_dir():
        raise typer.BadParameter(f"the folder {output.parent} does not exist", param_hint="--output")
    from smilax import load
    from smilax.reporting import report as write
    from smilax.store import StoreError

    try:
        write(output, load(run))
    except StoreError as error:
        raise typer.BadParameter(str(error), param_hint="RUN") from error
    typer.echo(f"Report: {output}")


@app.command()
def info() -> None:
    """Show versions and devices."""
    import jax
    import numpy

    import smilax

    typer.echo(f"smilax {smilax.__version__}, jax {jax.__version__}, numpy {numpy.__version__}")
    typer.echo(f"devices: {', '.join(str(device) for device in jax.devices())}")
    typer.echo(f"64-bit numbers: {'on' if jax.config.read('jax_enable_x64') else 'off'}")


def _version(value: bool) -> None:
    if value:
        import smilax

        typer.echo(smilax.__version__)
        raise typer.Exit


@app.callback()
def options(
    coordinator: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Run on several hosts: address of process 0.")
    ] = None,
    num_processes: Annotated[int | None, typer.Option(help="Number of processes, of all hosts.", min=1)] = None,
    process_id: Annotated[int | None, typer.Option(help="Number of this process, from 0.", min=0)] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Options before the command.

    In a cluster that JAX knows (SLURM, Open MPI, Cloud TPU, Kubernetes) the processes find one another without.
    """
    from smilax.distributed import initialize

    try:
        initialize(coordinator, num_processes, process_id)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def main() -> None:
    """Entry point of the `smilax` command."""
    app()
