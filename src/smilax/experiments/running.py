"""Running an experiment: every seed's warm start, every case from it, each scored as soon as it is done."""

import json
import os
import platform
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from smilax.experiments.building import (
    CHAIN_SEED,
    Problem,
    algorithm_of,
    batch_size_of,
    batches_of,
    load_members,
    members_of,
    problem_of,
    save_members,
)
from smilax.experiments.cases import ENSEMBLE, Case, Experiment, restored
from smilax.experiments.problems import ConfigError
from smilax.experiments.schema import task_of
from smilax.experiments.scoring import health, scores
from smilax.experiments.sources import DataDir
from smilax.experiments.table import append_row, read_rows
from smilax.result import Result, sampling_draws
from smilax.resuming import resume
from smilax.sampling import sample
from smilax.sizing import estimate

RECORD, TABLE, MEMBERS = "experiment.json", "results.csv", "members.safetensors"


class Interrupted(Exception):
    """The run was stopped by Ctrl-C; everything it drew is on disk."""


def directory_of(experiment: Experiment, output: str | Path | None = None) -> Path:
    """Where an experiment is written."""
    chosen = output or experiment.base.output.directory
    suffix = "" if experiment.size == "full" else f"-{experiment.size}"
    return Path(chosen) if chosen else Path("runs") / f"{experiment.name}{suffix}"


def run_experiment(
    experiment: Experiment,
    *,
    data_dir: DataDir = None,
    output: str | Path | None = None,
    say: Callable[[str], Any] = print,
    progress_bar: bool = False,
) -> Path:
    """Runs an experiment, and writes its table, draws and reports into a directory.

    Results are in `results.csv`, one row for each method, setting and seed, as soon as there are any. A run that was
    interrupted or killed goes on with `resume_experiment`.

    Args:
        experiment: from `load_experiment`.
        data_dir: folder of local data files; None fetches what can be fetched.
        output: the directory; None takes that of the experiment, or `runs/NAME`.
        say: told what is going on, line by line.
        progress_bar: whether to show progress bars.

    Returns:
        The directory.

    Raises:
        ConfigError: if the directory holds a run already, or the data do not suit the network.
        OSError: if the data cannot be had.
        Interrupted: after Ctrl-C.

    Example:
        >>> import smilax as sx, tempfile
        >>> experiment = sx.experiments.load_experiment(
        ...     "demo-diabetes", size="small", samplers=["psmile"], changes=["run.num_warmup=20", "run.num_samples=20"]
        ... )
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     where = sx.experiments.run_experiment(experiment, output=f"{folder}/run", say=lambda line: None)
        ...     rows = sx.experiments.read_rows(where / "results.csv")
        >>> [row["method"] for row in rows]
        ['deep_ensemble', 'psmile']
    """
    directory = directory_of(experiment, output)
    if (directory / RECORD).exists():
        raise ConfigError(
            str(directory),
            [f"holds a run already: smilax resume {directory} goes on with it; or give another --output"],
        )
    if any((directory / f"seed{seed}").exists() for seed in experiment.base.run.seeds) or (directory / TABLE).exists():
        raise ConfigError(
            str(directory), [f"holds parts of a run but no {RECORD}: remove them, or give another --output"]
        )
    # Before anything is written: data that are not there are no run.
    problem_of(experiment.base, experiment.base.run.seeds[0], data_dir)
    directory.mkdir(parents=True, exist_ok=True)
    where = None if data_dir is None else str(Path(data_dir).resolve())
    record = json.dumps({**experiment.record(), "data_dir": where, "machine": machine()}, indent=1)
    partial = directory / f"{RECORD}.partial"
    partial.write_text(record, encoding="utf-8")
    partial.replace(directory / RECORD)
    return _go_on(experiment, directory, where, say, progress_bar)


def machine() -> str:
    """What the run is on, in words."""
    device = jax.devices()[0]
    cores = f", {os.cpu_count()} cores" if device.platform == "cpu" else ""
    return f"{jax.device_count()} x {device.device_kind}{cores} ({platform.machine()}), JAX {jax.__version__}"


def read_record(directory: str | Path) -> tuple[Experiment, DataDir]:
    """The experiment of a directory, and where its data are.

    Raises:
        ConfigError: if this is no directory of an experiment.
    """
    path = Path(directory) / RECORD
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return restored(record), record["data_dir"]
    except FileNotFoundError as error:
        problem = f"this is no run of `smilax run`: there is no {RECORD} in it"
        raise ConfigError(str(directory), [problem]) from error
    except (json.JSONDecodeError, KeyError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), [f"the file is damaged: {error}"]) from error


def resume_experiment(
    directory: str | Path,
    *,
    data_dir: DataDir = None,
    say: Callable[[str], Any] = print,
    progress_bar: bool = False,
) -> Path:
    """Goes on with an experiment from where it was interrupted or killed; draws are those of an unbroken run.

    Args:
        directory: what `run_experiment` returned.
        data_dir: folder of the data files, where it is not the one of the run any more.
        say: told what is going on, line by line.
        progress_bar: whether to show progress bars.

    Raises:
        ConfigError: if the directory holds no run.
        Interrupted: after Ctrl-C.

    Example:
        >>> import smilax as sx, tempfile
        >>> experiment = sx.experiments.load_experiment("demo-diabetes", size="small", samplers=["deep_ensemble"])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     where = sx.experiments.run_experiment(experiment, output=f"{folder}/run", say=lambda line: None)
        ...     again = sx.experiments.resume_experiment(where, say=lambda line: None)
        ...     len(sx.experiments.read_rows(again / "results.csv"))
        1
    """
    experiment, recorded = read_record(directory)
    return _go_on(experiment, Path(directory), recorded if data_dir is None else data_dir, say, progress_bar)


def pending(experiment: Experiment, directory: Path) -> list[tuple[int, str]]:
    """Seed and label of what is not scored yet; the warm start is `deep_ensemble`."""
    done = {(int(row["seed"]), row["case"]) for row in read_rows(directory / TABLE)}
    labels = [ENSEMBLE, *(case.label for case in experiment.cases)]
    return [(s, label) for s in experiment.base.run.seeds for label in labels if (s, label) not in done]


def case_directory(directory: Path, seed: int, label: str) -> Path:
    """Where the draws of a case are."""
    return directory / f"seed{seed}" / label


def _go_on(experiment: Experiment, directory: Path, data_dir: DataDir, say: Callable, progress: bool) -> Path:
    todo = pending(experiment, directory)
    for seed in dict.fromkeys(seed for seed, _ in todo):
        labels = [label for s, label in todo if s == seed]
        folder = directory / f"seed{seed}"
        folder.mkdir(exist_ok=True)
        problem = problem_of(experiment.base, seed, data_dir)
        say(f"seed {seed}: {len(problem.data.train[1])} training rows, {len(problem.data.test[1])} test rows")
        common = {"experiment": experiment.name, "size": experiment.size, "seed": seed}
        begin, saved = time.perf_counter(), folder / MEMBERS
        if saved.exists():
            members = load_members(saved, problem.posterior)
        else:
            members = members_of(experiment.base, problem, seed, progress)
            save_members(saved, members)
            common["seconds"] = time.perf_counter() - begin
        if ENSEMBLE in labels:
            row = common | {
                "case": ENSEMBLE,
                "method": ENSEMBLE,
                "settings": "",
                "chains": experiment.base.run.num_chains,
            }
            _write(directory, row | scores(problem, members, task_of(experiment.base.data)), say)
        common.pop("seconds", None)
        for case in experiment.cases:
            if case.label in labels:
                row = _run_case(case, problem, members, seed, directory, progress)
                _write(directory, common | row, say)
    return directory


def _write(directory: Path, row: dict[str, Any], say: Callable) -> None:
    append_row(directory / TABLE, row)
    found = [f"{key} {row[key]:.4g}" for key in ("lppd", "rmse", "accuracy", "rhat", "seconds") if key in row]
    say(f"  {row['case']}: {', '.join(found)}")


def _run_case(case: Case, problem: Problem, members: Any, seed: int, directory: Path, progress: bool) -> dict[str, Any]:
    """Draws, scores, and what is written beside: the row."""
    config, run, store = case.config, case.config.run, case_directory(directory, seed, case.label)
    algorithm = algorithm_of(config, problem.posterior)
    batches, batch_size = batches_of(config, problem.data), batch_size_of(config, problem.data)
    unbroken = not (store / "manifest.json").exists()
    if unbroken:
        if store.exists():
            # Nothing was committed, or its draws were being removed once they had been scored.
            shutil.rmtree(store)
        result = sample(
            jax.random.key(CHAIN_SEED + seed), algorithm, batches, members,
            num_warmup=run.num_warmup, num_samples=run.num_samples, thinning=run.thinning, batch_size=batch_size,
            chain_method=run.chain_method, store=store, progress_bar=progress,
        )  # fmt: skip
    else:
        result = resume(store, algorithm, batches, progress_bar=progress)
    if result.interrupted:
        raise Interrupted(str(directory))
    row = {
        "case": case.label, "method": case.method, "order": config.data.order, "batch_size": run.batch_size,
        "settings": " ".join(f"{path}={value}" for path, value in case.settings.items()),
        "chains": run.num_chains, "warmup": run.num_warmup, "steps": run.num_samples, "draws": result.num_draws,
    }  # fmt: skip
    if config.sampler.name != "nuts":
        # A step of NUTS is a whole trajectory.
        total = estimate(
            algorithm, members,
            num_warmup=run.num_warmup, num_samples=run.num_samples, batch_size=result.config["batch_size"],
        ).gradients  # fmt: skip
        row["gradients"] = total // run.num_chains
    if unbroken:
        row["seconds"] = result.seconds
    kept = sampling_draws(result)
    row |= health(problem, kept) | scores(problem, kept, task_of(config.data))
    if config.output.report:
        write_report(store.with_suffix(".html"), kept, case, problem, members)
    if not config.output.draws:
        shutil.rmtree(store)
    return row


def write_report(path: Path, result: Result, case: Case, problem: Problem, members: Any) -> None:
    """The HTML report of a case."""
    from smilax.reporting import report

    report(
        path, result, problem.posterior, batches_of(case.config, problem.data), members,
        test=problem.data.test, title=case.label,
    )  # fmt: skip


def report_case(path: Path, store: Path, result: Result) -> bool:
    """Writes the report of the draws in `RUN/seed1/METHOD`; False if the store is not of an experiment."""
    store = store.resolve()
    directory, folder = store.parent.parent, store.parent.name
    if not (directory / RECORD).exists() or not folder.startswith("seed"):
        return False
    experiment, data_dir = read_record(directory)
    case = next((case for case in experiment.cases if case.label == store.name), None)
    if case is None or result.num_draws == 0:
        return False
    problem = problem_of(experiment.base, int(folder.removeprefix("seed")), data_dir)
    members = load_members(store.parent / MEMBERS, problem.posterior)
    write_report(path, sampling_draws(result), case, problem, members)
    return True
