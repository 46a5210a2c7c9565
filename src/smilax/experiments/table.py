"""Results as tidy CSV, one row for each method, setting and seed, and as text for the terminal."""

import csv
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from smilax.experiments.scoring import COLUMNS

# What the summary shows, where there is any of it.
SHOWN = ("lppd", "rmse", "coverage90", "accuracy", "ece", "auroc", "perplexity", "rhat", "nonfinite_chains", "seconds")


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Adds a row, with a header if it is the first; what is written is on the disk."""
    with path.open("a+", newline="", encoding="utf-8") as file:
        file.seek(0)
        if "\n" not in file.readline():
            # Not even the header is whole.
            file.truncate(0)
        file.seek(0)
        # A table that was begun by an earlier version keeps its columns.
        columns = next(csv.reader(file), None)
        writer = csv.DictWriter(file, columns or COLUMNS, extrasaction="ignore" if columns else "raise")
        if columns is None:
            writer.writeheader()
        elif not _ends_line(path):
            # What was being written when the machine went down stays a row of its own.
            file.write("\r\n")
        writer.writerow({key: _text(value) for key, value in row.items()})
        file.flush()
        os.fsync(file.fileno())


def _ends_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def read_rows(path: str | Path) -> list[dict[str, str]]:
    """The rows of a `results.csv` so far; the columns are in docs/experiments.md.

    Args:
        path: the file; one that is not there yet has no rows.

    Returns:
        A dictionary for each row, of text; what does not apply to a row is empty.

    Example:
        >>> import pathlib, smilax as sx
        >>> sx.experiments.read_rows(pathlib.Path("nowhere.csv"))
        []
    """
    if not Path(path).exists():
        return []
    with Path(path).open(newline="", encoding="utf-8") as file:
        # A row that was being written when the machine went down is no row.
        return [row for row in csv.DictReader(file) if None not in row.values() and None not in row]


def _text(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def summary(rows: Sequence[Mapping[str, str]]) -> str:
    """Mean ± standard deviation over seeds of what was measured, one line for each method and setting."""
    groups: dict[tuple[str, str], list[Mapping[str, str]]] = {}
    for row in rows:
        groups.setdefault((row["method"], row["settings"]), []).append(row)
    columns = [column for column in SHOWN if any(row[column] for row in rows)]
    lines = [["method", "settings", "seeds", *columns]]
    for (method, settings), group in groups.items():
        cells = [spread([float(row[column]) for row in group if row[column]]) for column in columns]
        lines.append([method, settings, str(len(group)), *cells])
    return aligned(lines)


def spread(values: Sequence[float]) -> str:
    """The mean, and the standard deviation of more than one."""
    if not values:
        return ""
    with np.errstate(invalid="ignore"):
        # Of scores that are not finite neither is.
        text = f"{np.mean(values):.4g}"
        return f"{text} ± {np.std(values, ddof=1):.2g}" if len(values) > 1 else text


def aligned(lines: Iterable[Sequence[str]]) -> str:
    """Rows of cells in columns, the first row underlined."""
    lines = list(lines)
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([text[0], "-" * max(map(len, text)), *text[1:]])
