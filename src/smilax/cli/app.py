"""The command, what comes before its commands, and the demonstration."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

# What a shell sees; 2 is also what a wrong option gives.
FAILED, WRONG, INTERRUPTED = 1, 2, 130
# Of compiled programs kept on disk.
CACHE_BYTES = 2**30

HELP = """Bayesian posteriors over neural networks from mini-batches.

Start with `smilax demo`. Then `smilax run --list` shows the experiments that come with smilax, `smilax run NAME
--dry-run` what one would do, and `smilax run config.toml` runs your own.

Exit codes: 0 done; 1 failed on the way; 2 a command, configuration or data that cannot be used; 130 interrupted, and
`smilax resume` goes on with experiments.
"""

app = typer.Typer(name="smilax", help=HELP, no_args_is_help=True, add_completion=False, rich_markup_mode=None)


def refuse(message: object) -> NoReturn:
    """Ends the command: what it was given cannot be used."""
    typer.echo(f"Error: {message}", err=True)
    raise typer.Exit(WRONG)


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Errors of configurations and data as messages, without a traceback."""
    from smilax.experiments import ConfigError
    from smilax.store import StoreError

    try:
        yield
    except (ConfigError, StoreError, FileNotFoundError) as error:
        refuse(error)
    except (OSError, FloatingPointError, ValueError) as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(FAILED) from error


def check_folder(output: Path) -> None:
    """Refuses a file in a folder that does not exist."""
    if not output.parent.is_dir():
        raise typer.BadParameter(f"the folder {output.parent} does not exist", param_hint="--output")


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
    check_folder(output)
    from smilax.demo import FULL, QUICK, run_demo

    run_demo(output, seed, QUICK if quick else FULL, typer.echo)


def _version(value: bool) -> None:
    if value:
        import smilax

        typer.echo(smilax.__version__)
        raise typer.Exit


def keep_programs() -> None:
    """Lets JAX keep compiled programs on disk, for the next run, unless the environment names a place already."""
    import jax

    config: Any = jax.config
    if config.jax_compilation_cache_dir is None:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(cache / "smilax" / "programs"))
        # The oldest make room.
        jax.config.update("jax_compilation_cache_max_size", CACHE_BYTES)


@app.callback()
def options(
    context: typer.Context,
    coordinator: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Run on several hosts: address of process 0.")
    ] = None,
    num_processes: Annotated[int | None, typer.Option(help="Number of processes, of all hosts.", min=1)] = None,
    process_id: Annotated[int | None, typer.Option(help="Number of this process, from 0.", min=0)] = None,
    cache: Annotated[
        bool, typer.Option(help="Keep compiled programs in ~/.cache/smilax (or JAX_COMPILATION_CACHE_DIR).")
    ] = True,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    # Its help is that of the whole command, in HELP.
    from smilax.distributed import initialize

    try:
        initialize(coordinator, num_processes, process_id)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    # Benchmarks time compilation.
    if cache and context.invoked_subcommand != "bench":
        keep_programs()


def main() -> None:
    """Entry point of the `smilax` command."""
    app()
