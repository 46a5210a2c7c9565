"""Quantiles of the mixture, by searching its cdf. Arrays have the shape (rows, Q, points, ...)."""

from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np

if TYPE_CHECKING:
    from smilax.predict.prediction import Prediction

# Points per pass narrow a bracket 9-fold; what is left after five passes, as a rule, is interpolated.
POINTS, PASSES = 8, 5
# The bracket is as wide as the standard deviation says, and that of a mixture is anything where a single draw is far
# off: passes go on until the cdf rises by this share of q or 1 - q within it, or by what rounding leaves.
SHARE, ROUNDING, MOST_PASSES = 1e-3, 2e-6, 60


def _bracket(prediction: "Prediction", q: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cantelli's bounds of the quantiles, or all numbers, float64 (rows, Q, ...), and q in a shape to compare with."""
    mean, std = (np.asarray(a, np.float64)[:, None] for a in (prediction.mean, prediction.std))
    q = q.reshape((1, -1) + (1,) * (mean.ndim - 2))
    with np.errstate(invalid="ignore", over="ignore"):
        margin = 1e-3 * std + 1e-5 * np.abs(mean)  # rounding of the moments
        lower, upper = mean - std * np.sqrt((1 - q) / q) - margin, mean + std * np.sqrt(q / (1 - q)) + margin
    # Moments of a draw may be too large for their dtype where its cdf is fine.
    reach = float(jnp.finfo(prediction.mean.dtype).max) / 8
    known = np.isfinite(lower) & np.isfinite(upper)
    return np.where(known, np.maximum(lower, -reach), -reach), np.where(known, np.minimum(upper, reach), reach), q


def _evaluate(prediction: "Prediction", points: np.ndarray) -> np.ndarray:
    flat = points.reshape((points.shape[0], -1) + points.shape[3:]).astype(prediction.mean.dtype)
    return prediction._cdf(flat).astype(np.float64).reshape(points.shape)


def _narrow(lower, upper, points, cdf, q):
    """The neighbouring points between which the cdf reaches q, and the cdf there; axis 2 holds the points."""
    points = np.concatenate([lower[:, :, None], points, upper[:, :, None]], axis=2)
    reached = np.concatenate([cdf >= q[:, :, None], np.ones_like(cdf[:, :, :1], dtype=bool)], axis=2)
    right = np.argmax(reached, axis=2)[:, :, None] + 1
    return tuple(np.take_along_axis(points, index, axis=2)[:, :, 0] for index in (right - 1, right)), right


def search(prediction: "Prediction", q: np.ndarray) -> np.ndarray:
    lower, upper, q = _bracket(prediction, q)
    below, above = np.zeros_like(lower), np.ones_like(lower)
    steps = (np.arange(1, POINTS + 1) / (POINTS + 1)).reshape((-1,) + (1,) * (lower.ndim - 2))
    enough = np.maximum(SHARE * np.minimum(q, 1 - q), ROUNDING)
    resolution = 4 * float(jnp.finfo(prediction.mean.dtype).eps)
    for done in range(MOST_PASSES):
        wide = upper - lower > resolution * np.maximum(np.abs(lower), np.abs(upper))
        if done >= PASSES and not np.any((above - below > enough) & wide):
            break
        points = lower[:, :, None] + (upper - lower)[:, :, None] * steps
        cdf = _evaluate(prediction, points)
        (lower, upper), right = _narrow(lower, upper, points, cdf, q)
        cdf = np.concatenate([below[:, :, None], cdf, above[:, :, None]], axis=2)
        below, above = (np.take_along_axis(cdf, index, axis=2)[:, :, 0] for index in (right - 1, right))
    fraction = np.clip((q - below) / np.where(above > below, above - below, 1.0), 0.0, 1.0)
    return (lower + fraction * (upper - lower)).astype(prediction.mean.dtype)


def search_counts(prediction: "Prediction", q: np.ndarray) -> np.ndarray:
    lower, upper, q = _bracket(prediction, q)
    # From here on cdf(lower) < q <= cdf(upper).
    lower, upper = np.maximum(np.floor(lower) - 1.0, -1.0), np.maximum(np.ceil(upper), 0.0)
    steps = (np.arange(1, POINTS + 1) / (POINTS + 1)).reshape((-1,) + (1,) * (lower.ndim - 2))
    unknown = np.zeros_like(lower, dtype=bool)
    for _ in range(MOST_PASSES):
        width = upper - lower
        if not np.any(width > 1):
            break
        points = np.minimum(lower[:, :, None] + np.ceil(width[:, :, None] * steps), upper[:, :, None] - 1)
        # Where the bracket is down to one count, its points are `lower`, whose cdf is known to be too small.
        cdf = np.where(points > lower[:, :, None], _evaluate(prediction, points), 0.0)
        unknown |= np.isnan(cdf).any(axis=2)
        (lower, upper), _ = _narrow(lower, upper, points, cdf, q)
    return np.where(unknown, np.nan, upper).astype(prediction.mean.dtype)
