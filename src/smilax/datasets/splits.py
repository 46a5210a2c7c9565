"""Training, validation and test data."""

from typing import Any, NamedTuple

import numpy as np

# (x, y)
Rows = tuple[np.ndarray, np.ndarray]


class Split(NamedTuple):
    """Training, validation and test data.

    Attributes:
        train, valid, test: each `(x, y)`, NumPy arrays with the examples on the leading axis.
    """

    train: Rows
    valid: Rows
    test: Rows


def take_out(rows: Rows, num_taken: int, seed: int) -> tuple[Rows, Rows]:
    """All rows but `num_taken` random ones, and these, both in the order they had."""
    x, y = rows
    order = np.random.default_rng(seed).permutation(len(y))
    kept, taken = np.sort(order[num_taken:]), np.sort(order[:num_taken])
    return (x[kept], y[kept]), (x[taken], y[taken])


def check_seed(seed: Any) -> int:
    """Raises TypeError or ValueError unless it is a non-negative integer."""
    if isinstance(seed, bool) or not hasattr(seed, "__index__"):
        raise TypeError(f"seed must be an integer, got {seed!r}")
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}")
    return int(seed)


def check_share(name: str, share: Any) -> float:
    """Raises ValueError unless it is a number strictly between 0 and 1."""
    if isinstance(share, bool) or not isinstance(share, int | float | np.number) or not 0 < share < 1:
        raise ValueError(f"{name} must be a share of the rows, between 0 and 1, got {share!r}")
    return float(share)
