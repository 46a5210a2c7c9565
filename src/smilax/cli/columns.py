"""What the columns of a table hold, numbers, categories or classes, and what is refused."""

from typing import TYPE_CHECKING, Any

import numpy as np

from smilax.cli.app import refuse

if TYPE_CHECKING:
    from pandas import DataFrame

# A column of text with more values than this, or with more than half as many as rows, is a name, a date or a note.
MOST_CATEGORIES = 50


def is_number(column: Any) -> bool:
    """Whether a column holds numbers or truth values."""
    return column.dtype.kind in "iufb"


def known_rows(table: "DataFrame", target: str) -> "DataFrame":
    """The rows with a target, of which a column of truth values and gaps becomes one of truth values."""
    rows = table[table[target].notna()]
    return rows.assign(**{target: rows[target].infer_objects()})


def categories(train: "DataFrame", asked: "DataFrame", features: list[str]) -> list[str]:
    """The features that are categories; refuses features that cannot be used."""
    if not features:
        refuse("the table has no columns but the target")
    found = []
    for name in features:
        gaps = int(train[name].isna().sum() + asked[name].isna().sum())
        if gaps:
            refuse(f"column {name!r} has {gaps} empty cells: fill them, or leave the column out of the file")
        for column in (train[name], asked[name]):
            _refuse_dates(f"column {name!r}", column)
        kinds = {is_number(train[name]), is_number(asked[name])}
        if len(kinds) > 1:
            refuse(f"column {name!r} holds numbers in one of the tables and text in the other")
        if kinds == {True}:
            infinite = int(np.isinf(train[name]).sum() + np.isinf(asked[name]).sum())
            if infinite:
                refuse(f"column {name!r} has {infinite} infinite values")
            continue
        for column in (train[name], asked[name]):
            _refuse_nearly_numbers(f"column {name!r}", column)
        values = train[name].nunique()
        if values > MOST_CATEGORIES or 2 * values > len(train):
            refuse(
                f"column {name!r} is text with {values} different values in {len(train)} rows; categories have at most "
                f"{MOST_CATEGORIES}, and at most half as many as there are rows. Leave it out of the file, group its "
                "values, or, of dates, write numbers"
            )
        found.append(name)
    return found


def are_classes(column: Any, target: str, task: str | None) -> bool:
    """Whether the target is a class: text and truth values are, unless told otherwise."""
    number, values = column.dtype.kind in "iuf", column.nunique()
    _refuse_dates(f"--target: column {target!r}", column)
    if task != "classification" and not is_number(column):
        _refuse_nearly_numbers(f"--target: column {target!r}", column)
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


def _refuse_dates(what: str, column: Any) -> None:
    if column.dtype.kind in "mM":
        refuse(f"{what} holds dates or times: write what matters of them as numbers, or leave it out of the file")


def _refuse_nearly_numbers(what: str, column: Any) -> None:
    """One cell such as "?" makes text of a column of numbers, and that of each number a category."""
    import pandas

    numbers = pandas.to_numeric(column, errors="coerce").notna()
    if numbers.mean() > 0.5 and not numbers.all():
        others = column[~numbers]
        shown = ", ".join(f"{cell!r} in row {row}" for row, cell in others.head(3).items())
        refuse(f"{what} holds numbers but for {len(others)} of its cells ({shown}): fill them, or leave their rows out")
