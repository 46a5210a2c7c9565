"""`smilax run table.csv --target column`: a fit, and a file of predictions with intervals, for who writes no Python."""

import contextlib
import json
import os
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import typer

from smilax.cli.app import INTERRUPTED, refuse
from smilax.cli.columns import are_classes, categories, is_number, known_rows

if TYPE_CHECKING:
    from pandas import DataFrame

READERS = {".csv": "read_csv", ".parquet": "read_parquet", ".pq": "read_parquet"}
SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}
# Of the rows with a target, where no others are to be predicted.
HELD_OUT = 0.2
LEVEL = 0.9  # of intervals
PREDICTIONS, RECORD, MODEL = "predictions.csv", "table.json", "model"


def is_table(source: str) -> bool:
    """Whether the name is that of a table, and not of an experiment."""
    return Path(source).suffix.lower() in READERS


def new_folder(output: Path | None, source: Path) -> Path:
    """The directory to write to: the one that was asked for, or the first of runs/NAME, runs/NAME-2, ... to be free."""
    if output is not None:
        if output.exists() and not output.is_dir():
            refuse(f"--output: {output} is a file; name a directory")
        if any((output / name).exists() for name in (PREDICTIONS, RECORD, MODEL)):
            refuse(f"--output: {output} holds the predictions of another run; name another directory")
        return output
    named = Path("runs") / source.stem
    tried = [named, *(named.with_name(f"{named.name}-{k}") for k in range(2, 10_000))]
    return next(path for path in tried if not path.exists())


def fit_table(
    source: Path,
    target: str,
    task: str | None,
    others: Path | None,
    level: float | None,
    max_seconds: float | None,
    seed: int,
    output: Path,
) -> Path:
    """Fits a column of a table by the others and writes predictions and model; says how good it is where it can."""
    begin = time.perf_counter()
    table = _read(source)
    if target not in table.columns:
        refuse(f"--target: {source} has no column {target!r}; it has {', '.join(map(repr, table.columns))}")
    rows = known_rows(table, target)
    if len(rows) < 10:
        refuse(f"{source} has {len(rows)} rows with a value of {target!r}; at least 10 are needed")
    if others is not None:
        train, asked = rows, _read(others)
        missing = [name for name in rows.columns if name != target and name not in asked.columns]
        if missing:
            refuse(f"--predict: {others} lacks the columns {', '.join(map(repr, missing))}")
        about = f"{len(asked)} rows of {others} are predicted"
    elif len(rows) < len(table):
        train, asked = rows, table[table[target].isna()].drop(columns=target)
        about = f"{len(asked)} rows have no {target}: these are predicted"
    else:
        order = np.random.default_rng(seed).permutation(len(rows))
        cut = max(1, round(HELD_OUT * len(rows)))
        asked, train = rows.iloc[np.sort(order[:cut])], rows.iloc[np.sort(order[cut:])]
        about = f"{cut} rows of {len(rows)} are held out and predicted"
    known = target in asked.columns and bool(asked[target].notna().all())
    if known:
        asked = known_rows(asked, target)
        known = is_number(asked[target]) == is_number(train[target])
        if not known:
            about += f"; column {target!r} holds other values than that of {source}: no score"
    features = [name for name in rows.columns if name != target]
    text = categories(train, asked, features)
    classes = are_classes(train[target], target, task)
    if classes and level is not None:
        refuse(f"--level is for targets that are numbers, and column {target!r} is taken as classes")
    level = LEVEL if level is None else level
    encode, model = _pipeline(text, classes, max_seconds, seed)
    with _written(output), _interruptible():
        typer.echo(about)
        if text:
            each = (f"{name!r} ({train[name].nunique()})" for name in text)
            typer.echo(f"taken as categories (values): {', '.join(each)}")
        model.fit(encode.fit_transform(train[features]), train[target].to_numpy())
        model.save(output / MODEL)
    inputs = encode.transform(asked[features])
    written = _classes(model, inputs) if classes else _numbers(model, inputs, level)
    score = None
    if known:
        truth = asked[target].to_numpy()
        score = _score(written, truth, level, classes)
        typer.echo(score)
        written = {f"{target} (known)" if target in (*written, "row") else target: truth, **written}
    pandas = _pandas()
    pandas.DataFrame(written, index=asked.index).to_csv(output / PREDICTIONS, index_label="row")
    record = {
        "table": str(source), "target": target, "task": "classification" if classes else "regression",
        "rows": len(train), "predicted": len(asked), "features": list(map(str, encode.get_feature_names_out())),
        "lengths": model.lengths_, "seed": seed, "level": level, "score": score,
        "seconds": round(time.perf_counter() - begin, 1),
    }  # fmt: skip
    (output / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return output / PREDICTIONS


def about_table(run: Path) -> str | None:
    """What `fit_table` left in a directory, in words; None if it was not there."""
    if not (run / RECORD).is_file():
        return None
    record = json.loads((run / RECORD).read_text(encoding="utf-8"))
    lengths = ", ".join(f"{name} {value:,}" for name, value in record["lengths"].items())
    name = "SmileClassifier" if record["task"] == "classification" else "SmileRegressor"
    lines = [
        f"{record['task']} of {record['target']!r} in {record['table']}",
        f"fitted to {record['rows']:,} rows and {len(record['features'])} features in {record['seconds']} s: {lengths}",
        f"{record['predicted']:,} rows predicted: {run / PREDICTIONS}",
        f"model: {run / MODEL}, for sx.{name}.load",
    ]
    return "\n".join([*lines, *([record["score"]] if record["score"] else [])])


def _read(path: Path) -> "DataFrame":
    """A CSV or Parquet file, rows numbered from zero, no two columns of one name."""
    if not path.is_file():
        refuse(f"there is no file {path}")
    if path.suffix.lower() not in READERS:
        refuse(f"{path} is no table: its name has to end with {', '.join(READERS)}")
    pandas = _pandas()
    try:
        table = getattr(pandas, READERS[path.suffix.lower()])(path)
        # `read_csv` renames what comes twice.
        header = pandas.read_csv(path, header=None, nrows=1, dtype=str).iloc[0] if _is_csv(path) else table.columns
    except UnicodeDecodeError as error:
        refuse(f"{path} cannot be read: it has to be UTF-8 ({error})")
    except (ValueError, ImportError, OSError) as error:
        refuse(f"{path} cannot be read: {error}")
    names = np.asarray(header.dropna(), object)
    repeated = sorted({str(name) for name in names if (names == name).sum() > 1})
    if repeated:
        refuse(f"{path} has several columns named {', '.join(map(repr, repeated))}")
    if _is_csv(path) and len(table.columns) == 1:
        used = [name for mark, name in SEPARATORS.items() if mark in str(table.columns[0])]
        if used:
            refuse(
                f"{path} seems to be separated by {used[0]}, its one column is {table.columns[0]!r}; commas are read"
            )
    table = table.reset_index(drop=True)
    first = table.columns[0]
    if _is_csv(path) and header.isna().iloc[0] and table[first].equals(table.index.to_series()):
        # As pandas writes it unless it is told not to; of a sorted table it says too much.
        typer.echo(f"{path}: the first column has no name and counts the rows; it is left out")
        table = table.drop(columns=first)
    return table


def _pandas() -> Any:
    """pandas, or a refusal."""
    try:
        import pandas
    except ImportError:
        refuse("tables are read with pandas, which is not installed: pip install 'smilax[tables]'")
    return pandas


def _is_csv(path: Path) -> bool:
    return READERS[path.suffix.lower()] == "read_csv"


@contextlib.contextmanager
def _written(output: Path) -> Iterator[None]:
    """A directory to write to, looked at before there is anything to lose; if nothing was written it goes again."""
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        refuse(f"--output: {output} cannot be made: {error.strerror}")
    if not os.access(output, os.W_OK):
        refuse(f"--output: {output} cannot be written to")
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            output.rmdir()
        raise


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Says what is left of an interrupted fit; with draws it goes on, and without it ends the command."""
    try:
        # The warning says how many draws there are, and from where in Python it comes.
        with warnings.catch_warnings(record=True) as caught:
            yield
    except KeyboardInterrupt as error:
        typer.echo("Interrupted before there were draws: nothing is written.", err=True)
        raise typer.Exit(INTERRUPTED) from error
    for one in caught:
        if str(one.message).startswith("interrupted"):
            typer.echo(f"{one.message}: predictions and model are of these", err=True)
        else:
            warnings.showwarning(one.message, one.category, one.filename, one.lineno)


def _pipeline(text: list[str], classes: bool, max_seconds: float | None, seed: int) -> Any:
    from sklearn.compose import make_column_transformer
    from sklearn.preprocessing import OneHotEncoder

    from smilax.estimators import SmileClassifier, SmileRegressor

    encode = make_column_transformer(
        (OneHotEncoder(drop="if_binary", handle_unknown="ignore", sparse_output=False), text), remainder="passthrough"
    )
    make = SmileClassifier if classes else SmileRegressor
    return encode, make(max_seconds=max_seconds, random_state=seed)


def _numbers(model: Any, inputs: Any, level: float) -> dict[str, np.ndarray]:
    mean, std = model.predict(inputs, return_std=True)
    lower, upper = model.predict_interval(inputs, level=level)
    return {"mean": mean, "std": std, "lower": lower, "upper": upper}


def _classes(model: Any, inputs: Any) -> dict[str, np.ndarray]:
    probabilities = model.predict_proba(inputs)
    likely = model.classes_[probabilities.argmax(axis=1)]
    each = {f"p({label})": probabilities[:, k] for k, label in enumerate(model.classes_)}
    return {"predicted": likely, **each}


def _score(written: dict[str, np.ndarray], truth: np.ndarray, level: float, classes: bool) -> str:
    if classes:
        right = np.mean(written["predicted"] == truth)
        sure = np.mean(np.max([v for name, v in written.items() if name.startswith("p(")], axis=0))
        return f"accuracy {right:.3f}, mean confidence {sure:.3f}"
    off = truth - written["mean"]
    held = np.mean((written["lower"] <= truth) & (truth <= written["upper"]))
    intervals = f"{level:.0%} intervals hold {held:.0%}"
    spread = np.sum((truth - truth.mean()) ** 2)
    return f"R² {1 - np.sum(off**2) / spread:.3f}, {intervals}" if spread > 0 else intervals
