"""`smilax run` and `smilax resume`."""

import math
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from smilax.cli.app import INTERRUPTED, app, explained, refuse
from smilax.cli.tables import MODEL, about_table, fit_table, is_table, new_folder

if TYPE_CHECKING:
    from smilax.experiments import Experiment

DataDir = Annotated[
    Path | None, typer.Option(help="Folder of local data files; without, tables are fetched from OpenML.")
]


def _parts(text: str | None) -> list[str]:
    return [part.strip() for part in (text or "").split(",") if part.strip()]


@app.command()
def run(
    source: Annotated[
        str | None,
        typer.Argument(metavar="CONFIG", help="A TOML file, a shipped experiment, or a CSV or Parquet file."),
    ] = None,
    sampler: Annotated[
        str | None, typer.Option(help="Only these methods or samplers, with commas between: psmile,ismile.")
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="Seeds, with commas between: 1,2,3.")] = None,
    size: Annotated[str, typer.Option(help="full, or small: what the file has under [small].")] = "full",
    data_dir: DataDir = None,
    change: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change a setting of all methods; may be repeated."),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Directory of the run; runs/NAME if not given.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, say what would run, and stop.")] = False,
    target: Annotated[str | None, typer.Option(help="Of a table: the column to predict from the others.")] = None,
    task: Annotated[
        str | None,
        typer.Option(help="Of a table: regression or classification, if its column of numbers or text is not telling."),
    ] = None,
    predict: Annotated[
        Path | None, typer.Option(help="Of a table: another one, whose rows are predicted.", metavar="TABLE")
    ] = None,
    level: Annotated[
        float | None, typer.Option(help="Of a table: share of outcomes that an interval holds; 0.9 if not given.")
    ] = None,
    max_seconds: Annotated[float | None, typer.Option(help="Of a table: time for the fit, about; at least 1.")] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of a table: seed of all random numbers; 0 if not given.", min=0)
    ] = None,
    show: Annotated[bool, typer.Option("--list", help="Show the experiments that come with smilax.")] = False,
) -> None:
    """Run an experiment: train a deep ensemble, draw from the posterior with each method, score, write a table.

    \b
    A configuration is a TOML file such as
        [data]
        name = "energy"
        [model]
        name = "mlp"
        hidden = [16, 16, 16]
        [likelihood]
        name = "gaussian"
        [sampler]
        name = "ismile"
        [run]
        num_warmup = 5000
        num_samples = 2000

    Every key that is not known, of a wrong type or at odds with another is named, with what is allowed.

    \b
    smilax run uci-energy --dry-run
    smilax run uci-energy --sampler psmile,ismile --seeds 1,2,3 --size small --data-dir data
    smilax run config.toml --set run.num_samples=2000 --set sampler.step_size=0.01

    \b
    A table is fitted without a configuration:
    smilax run houses.csv --target price --max-seconds 60
    Predictions with intervals (of classes, probabilities) are in predictions.csv in the directory of the run: of the
    rows of --predict, or of those without a target, or of a fifth that is held out, with a score. The fitted model is
    beside them, for sx.SmileRegressor.load or sx.SmileClassifier.load.

    Results of experiments are in results.csv in the directory of the run, which `smilax info` shows; Ctrl-C stops once
    everything is on disk, and `smilax resume` goes on. Ctrl-C in the fit of a table keeps the draws there are by then.
    """  # noqa: D301 (the backslashes are for the formatter of the help)
    from smilax.experiments import load_experiment, run_experiment, shipped

    if show:
        for name in shipped():
            typer.echo(f"{name:24}{load_experiment(name).about}")
        return
    if source is None:
        refuse("say what to run: a TOML file or the name of an experiment (smilax run --list shows them)")
    if is_table(source):
        if target is None:
            refuse(f"say which column of {source} to predict: --target COLUMN")
        if sampler or seeds or change or dry_run or size != "full" or data_dir:
            refuse("--sampler, --seeds, --size, --data-dir, --set and --dry-run are for experiments, not for tables")
        if level is not None and not 0 < level < 1:
            refuse(f"--level must lie between 0 and 1, got {level}")
        if max_seconds is not None and not 1 <= max_seconds < math.inf:
            refuse(f"--max-seconds must be at least 1, got {max_seconds:g}")
        if task not in (None, "regression", "classification"):
            refuse(f"--task must be regression or classification, got {task!r}")
        where = new_folder(output, Path(source))
        with explained():
            written = fit_table(Path(source), target, task, predict, level, max_seconds, seed or 0, where)
        typer.echo(f"Predictions: {written}\nModel: {written.with_name(MODEL)}")
        return
    of_tables = {"target": target, "task": task, "predict": predict, "level": level, "max-seconds": max_seconds}
    given = [f"--{name}" for name, value in (of_tables | {"seed": seed}).items() if value is not None]
    if given:
        hint = "; seeds of an experiment are given by --seeds" if given == ["--seed"] else ""
        refuse(f"{', '.join(given)}: for tables (.csv, .parquet) only, and {source} is none{hint}")
    changes = list(change or [])
    if seeds is not None:
        changes.append(f"run.seeds=[{seeds}]")
    with explained():
        experiment = load_experiment(source, size=size, samplers=_parts(sampler), changes=changes)
        if dry_run:
            typer.echo(_plan(experiment, output))
            return
        with _interruptible():
            where = run_experiment(
                experiment, data_dir=data_dir, output=output, say=typer.echo, progress_bar=sys.stderr.isatty()
            )
    _finish(where)


@app.command("resume")
def resume_run(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The directory of a run of `smilax run`.")],
    data_dir: DataDir = None,
) -> None:
    """Go on with an experiment that was interrupted or killed; what is done stays, draws are as of an unbroken run."""
    if about_table(run) is not None:
        refuse(f"{run} is the run of a table, which is done or not there: run the table again")
    from smilax.experiments import resume_experiment

    with explained(), _interruptible():
        where = resume_experiment(run, data_dir=data_dir, say=typer.echo, progress_bar=sys.stderr.isatty())
    _finish(where)


class _interruptible:
    """Turns an interrupted run into its exit code, and says how to go on."""

    def __enter__(self) -> None:
        self._warnings = warnings.catch_warnings()
        self._warnings.__enter__()
        # It tells how to go on from Python.
        warnings.filterwarnings("ignore", message="interrupted")

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        from smilax.experiments import Interrupted

        self._warnings.__exit__(None, None, None)
        if isinstance(error, Interrupted):
            typer.echo(f"Interrupted. Go on with: smilax resume {error}", err=True)
            raise typer.Exit(INTERRUPTED) from error
        if isinstance(error, KeyboardInterrupt):
            typer.echo("Interrupted. smilax resume goes on from what was scored or stored.", err=True)
            raise typer.Exit(INTERRUPTED) from error


def _finish(where: Path) -> None:
    from smilax.experiments import read_rows
    from smilax.experiments.table import summary

    table = where / "results.csv"
    typer.echo(f"\n{summary(read_rows(table))}\n\nTable: {table}")


def _plan(experiment: "Experiment", output: Path | None) -> str:
    """What would run, as text."""
    from smilax.experiments.running import directory_of
    from smilax.experiments.table import aligned

    base, seeds = experiment.base, experiment.base.run.seeds
    start = base.warm_start
    lines = [
        f"{experiment.name} ({experiment.size}): {experiment.about}".rstrip(" :"),
        f"data {base.data.name}, model {base.model.name}, likelihood {base.likelihood.name}, prior {base.prior.name}",
        f"warm start: {base.run.num_chains} members ({start.kind}), at most {start.max_epochs} epochs",
        f"seeds: {', '.join(map(str, seeds))}",
        f"directory: {directory_of(experiment, output)}",
        "",
    ]
    table = [["case", "sampler", "batches", "batch size", "chains", "warm-up", "steps", "thinning"]]
    for case in experiment.cases:
        run = case.config.run
        numbers = [str(n) for n in (run.batch_size, run.num_chains, run.num_warmup, run.num_samples, run.thinning)]
        table.append([case.label, case.config.sampler.name, case.config.data.order, *numbers])
    total = len(seeds) * sum(
        case.config.run.num_chains * (case.config.run.num_warmup + case.config.run.num_samples)
        for case in experiment.cases
    )
    end = f"{len(experiment.cases)} cases x {len(seeds)} seeds, {total:,} chain-steps; nothing was run"
    return "\n".join([*lines, aligned(table), "", end])
