"""`smilax run table.csv --target column`: a fit, and a file of predictions with intervals, for who writes no Python."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import typer

from smilax.cli.app import refuse

if TYPE_CHECKING:
    from pandas import DataFrame

READERS = {".csv": "read_csv", ".parquet": "read_parquet", ".pq": "read_parquet"}
# Of the rows with a target, where no others are to be predicted.
HELD_OUT = 0.2
# A column of text with more values than this is a name or a note, not a category.
MOST_CATEGORIES = 50
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
    level: float,
    max_seconds: float | None,
    seed: int,
    output: Path,
) -> Path:
    """Fits a column of a table by the others and writes predictions and model; says how good it is where it can."""
    begin = time.perf_counter()
    table = _read(source)
    repeated = table.columns[table.columns.duplicated()].tolist()
    if repeated:
        refuse(f"{source} has several columns named {', '.join(map(repr, repeated))}")
    if target not in table.columns:
        refuse(f"--target: {source} has no column {target!r}; it has {', '.join(map(repr, table.columns))}")
    rows = _known(table, target)
    if len(rows) < 10:
        refuse(f"{source} has {len(rows)} rows with a value of {target!r}; at least 10 are needed")
    if others is not None:
        train, asked = rows, _read(others)
        missing = [name for name in rows.columns if name != target and name not in asked.columns]
        if missing:
            refuse(f"--predict: {others} lacks the columns {', '.join(map(repr, missing))}")
    elif len(rows) < len(table):
        train, asked = rows, table[table[target].isna()].drop(columns=target)
        typer.echo(f"{len(asked)} rows have no {target}: these are predicted")
    else:
        order = np.random.default_rng(seed).permutation(len(rows))
        cut = max(1, round(HELD_OUT * len(rows)))
        asked, train = rows.iloc[np.sort(order[:cut])], rows.iloc[np.sort(order[cut:])]
        typer.echo(f"{cut} rows of {len(rows)} are held out and predicted")
    known = target in asked.columns and bool(asked[target].notna().all())
    if known:
        asked = _known(asked, target)
        known = _is_number(asked[target]) == _is_number(train[target])
        if not known:
            typer.echo(f"--predict: column {target!r} holds other values than that of {source}: no score")
    features = [name for name in rows.columns if name != target]
    _check_features(train, asked, features)
    classes = _is_classification(train[target], target, task)
    encode, model = _pipeline(train, features, classes, max_seconds, seed)
    model.fit(encode.fit_transform(train[features]), train[target].to_numpy())
    output.mkdir(parents=True, exist_ok=True)
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


def _pandas() -> Any:
    try:
        import pandas
    except ImportError:
        refuse("tables are read with pandas, which is not installed: pip install 'smilax[tables]'")
    return pandas


def _read(path: Path) -> "DataFrame":
    if not path.is_file():
        refuse(f"there is no file {path}")
    if path.suffix.lower() not in READERS:
        refuse(f"{path} is no table: its name has to end with {', '.join(READERS)}")
    pandas = _pandas()
    try:
        return getattr(pandas, READERS[path.suffix.lower()])(path)
    except (ValueError, ImportError, OSError) as error:
        refuse(f"{path} cannot be read: {error}")


def _check_features(train: "DataFrame", asked: "DataFrame", features: list[str]) -> None:
    if not features:
        refuse("the table has no columns but the target")
    for name in features:
        gaps = int(train[name].isna().sum() + asked[name].isna().sum())
        if gaps:
            refuse(f"column {name!r} has {gaps} empty cells: fill them, or leave the column out of the file")
        kinds = {_is_number(train[name]), _is_number(asked[name])}
        if len(kinds) > 1:
            refuse(f"column {name!r} holds numbers in one of the tables and text in the other")
        if kinds == {True}:
            infinite = int(np.isinf(train[name]).sum() + np.isinf(asked[name]).sum())
            if infinite:
                refuse(f"column {name!r} has {infinite} infinite values")
        if kinds == {False} and train[name].nunique() > MOST_CATEGORIES:
            refuse(
                f"column {name!r} is text with {train[name].nunique()} different values, more than {MOST_CATEGORIES}: "
                "leave it out of the file, or group its values"
            )


def _known(table: "DataFrame", target: str) -> "DataFrame":
    """The rows with a target, of which a column of truth values and gaps becomes one of truth values."""
    rows = table[table[target].notna()]
    return rows.assign(**{target: rows[target].infer_objects()})


def _is_number(column: Any) -> bool:
    return column.dtype.kind in "iufb"


def _is_classification(column: Any, target: str, task: str | None) -> bool:
    """Whether the target is a class: text and truth values are, unless told otherwise."""
    number, values = column.dtype.kind in "iuf", column.nunique()
    if task == "regression" and not number:
        refuse(f"--task: column {target!r} is no number, so that it cannot be regression")
    classes = task == "classification" or not number
    if classes and values < 2:
        refuse(f"--target: column {target!r} holds one class only")
    if classes and (values > MOST_CATEGORIES or 2 * values > len(column)):
        refuse(
            f"--target: column {target!r} has {values} different values in {len(column)} rows, too many for classes"
            + ("" if number else "; if they are to be numbers, some of its cells are not: remove units and separators")
        )
    return classes


def _pipeline(train: "DataFrame", features: list[str], classes: bool, max_seconds: float | None, seed: int) -> Any:
    from sklearn.compose import make_column_transformer
    from sklearn.preprocessing import OneHotEncoder

    from smilax.estimators import SmileClassifier, SmileRegressor

    text = [name for name in features if not _is_number(train[name])]
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
