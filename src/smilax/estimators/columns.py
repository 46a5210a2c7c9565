"""What the columns of a data frame hold, whichever library it is of."""

from typing import Any

import numpy as np


def named_columns(table: Any) -> list[tuple[str, Any]]:
    """Of a data frame, whichever library it is of; none of anything else."""
    if not hasattr(table, "columns"):
        return []
    columns = [table.iloc[:, i] if hasattr(table, "iloc") else table[name] for i, name in enumerate(table.columns)]
    return [(str(name), column) for name, column in zip(table.columns, columns, strict=True)]


def columns_without_numbers(table: Any) -> list[str]:
    return [name for name, column in named_columns(table) if not holds_numbers(column)]


def holds_numbers(column: Any) -> bool:
    array = np.asarray(column.dropna() if hasattr(column, "dropna") else column)
    if array.dtype.kind in "mMc":
        return False
    try:
        array.astype(np.float64)
    except (TypeError, ValueError):
        return False
    return True


def has_gaps(column: Any) -> bool:
    return hasattr(column, "isna") and bool(column.isna().any())
