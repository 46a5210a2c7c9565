"""`smilax run table.csv --target column`: a fit, and a file of predictions with intervals, for who writes no Python."""

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


def is_table(source: str) -> bool:
    """Whether the name is that of a table, and not of an experiment."""
    return Path(source).suffix.lower() in READERS


def fit_table(
    source: Path, target: str, others: Path | None, level: float, max_seconds: float | None, seed: int, output: Path
) -> Path:
    """Fits a column of a table by the others and writes `predictions.csv`; says how good it is where that is known."""
    table = _read(source)
    if target not in table.columns:
        refuse(f"--target: {source} has no column {target!r}; it has {', '.join(map(repr, table.columns))}")
    rows = table[table[target].notna()]
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
    features = [name for name in rows.columns if name != target]
    _check_features(train, asked, features)
    encode, model, classes = _pipeline(train, features, target, max_seconds, seed)
    model.fit(encode.fit_transform(train[features]), train[target].to_numpy())
    inputs, known = encode.transform(asked[features]), target in asked.columns and bool(asked[target].notna().all())
    written = _classes(model, inputs) if classes else _numbers(model, inputs, level)
    if known:
        truth = asked[target].to_numpy()
        written = {target: truth, **written}
        typer.echo(_score(written, truth, level, classes))
    output.mkdir(parents=True, exist_ok=True)
    where = output / "predictions.csv"
    pandas = _pandas()
    pandas.DataFrame(written, index=asked.index).to_csv(where, index_label="row")
    return where


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
        if kinds == {False} and train[name].nunique() > MOST_CATEGORIES:
            refuse(
                f"column {name!r} is text with {train[name].nunique()} different values, more than {MOST_CATEGORIES}: "
                "leave it out of the file, or group its values"
            )


def _is_number(column: Any) -> bool:
    return column.dtype.kind in "iufb"


def _pipeline(train: "DataFrame", features: list[str], target: str, max_seconds: float | None, seed: int) -> Any:
    from sklearn.compose import make_column_transformer
    from sklearn.preprocessing import OneHotEncoder

    from smilax.estimators import SmileClassifier, SmileRegressor

    text = [name for name in features if not _is_number(train[name])]
    encode = make_column_transformer(
        (OneHotEncoder(drop="if_binary", handle_unknown="ignore", sparse_output=False), text), remainder="passthrough"
    )
    classes = train[target].dtype.kind not in "iuf"
    if classes and train[target].nunique() < 2:
        refuse(f"--target: column {target!r} holds one class only")
    make = SmileClassifier if classes else SmileRegressor
    return encode, make(max_seconds=max_seconds, random_state=seed), classes


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
    return f"R² {1 - np.sum(off**2) / np.sum((truth - truth.mean()) ** 2):.3f}, {level:.0%} intervals hold {held:.0%}"
