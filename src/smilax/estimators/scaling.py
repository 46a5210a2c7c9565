"""Standardisation that travels with a model."""

from typing import NamedTuple

import numpy as np


class Scaling(NamedTuple):
    """Column means and standard deviations, float64.

    Attributes:
        mean: shape `(K,)`.
        scale: shape `(K,)`, one where a column is constant.
    """

    mean: np.ndarray
    scale: np.ndarray

    @classmethod
    def of(cls, table: np.ndarray, weight: np.ndarray | None = None) -> "Scaling":
        """Of the columns of a table `(N, K)`, each row counted `weight` times."""
        table = np.asarray(table, np.float64)
        # In two steps, and of shifted values: squares of large numbers would overflow or cancel.
        mean = np.average(table, axis=0, weights=weight)
        size = np.max(np.abs(table - mean), axis=0)
        unit = np.where(size > 0, size, 1.0)
        scale = unit * np.sqrt(np.average(((table - mean) / unit) ** 2, axis=0, weights=weight))
        # A constant column has a standard deviation of rounding errors.
        constant = ~(scale > 1e-10 * np.abs(mean)) | (scale == 0)
        return cls(mean, np.where(constant, 1.0, scale))

    def apply(self, table: np.ndarray) -> np.ndarray:
        """Standardised columns."""
        return (np.asarray(table, np.float64) - self.mean) / self.scale

    def undo(self, table: np.ndarray) -> np.ndarray:
        """The inverse of `apply`, in float64; columns are on the last axis."""
        return np.asarray(table, np.float64) * self.scale + self.mean
