"""The continuous ranked probability score of each target, by integration; arrays are (nodes, rows, ...)."""

import numpy as np

from smilax.predict import Prediction

# Nodes per target of the first, even pass and of each adaptive one; and the most counts that are summed singly.
NODES, PASSES, MOST_COUNTS = 32, 3, 1024


def density_crps(prediction: Prediction, y: np.ndarray) -> np.ndarray:
    """The score of each target of a continuous distribution."""
    y = _rounded(prediction, y)
    # Even in asinh: dense where the bulk is, and out to where the widest of 10,000 draws ends. The standard deviation
    # says nothing of the bulk where a few draws are far off, and may be too large for its dtype.
    low, middle, high = (np.asarray(a, np.float64) for a in prediction.quantile([0.16, 0.5, 0.84]))
    largest = float(np.finfo(prediction.mean.dtype).max) / 8
    std = np.nan_to_num(np.asarray(prediction.std, np.float64), nan=largest, posinf=largest)
    spread = np.where(high > low, (high - low) / 2, std)
    offset = np.abs(np.nan_to_num(np.asarray(prediction.mean, np.float64), nan=0, posinf=0, neginf=0) - middle)
    furthest = np.minimum(1000 * std + offset, largest)
    reach = np.arcsinh(furthest / np.where(spread > 0, spread, 1.0))
    even = np.linspace(-1, 1, NODES).reshape((-1,) + (1,) * y.ndim)
    nodes = np.clip(middle + spread * np.sinh(reach * even), -largest, largest)
    nodes = _rounded(prediction, np.concatenate([nodes, y[None]]))
    cdf = _cdf(prediction, nodes)
    nodes, cdf = _sorted(nodes, cdf)
    for _ in range(PASSES):
        # A cell's error grows with its width and its rise; this balance serves smooth and stepwise cdfs.
        weight = np.cbrt(np.diff(nodes, axis=0) ** 2 * np.maximum(np.diff(cdf, axis=0), 0.0))
        new = _rounded(prediction, _place(nodes, weight, NODES))
        nodes, cdf = _sorted(np.concatenate([nodes, new]), np.concatenate([cdf, _cdf(prediction, new)]))
    left, right = cdf**2, (1 - cdf) ** 2
    width = np.diff(nodes, axis=0)
    slope = _slopes(width, np.diff(cdf, axis=0))
    # Euler and Maclaurin: h^2/12 (g'(a) - g'(b)) with g = F^2 below y and (1 - F)^2 above.
    area = [
        width / 2 * (g[:-1] + g[1:]) + width**2 / 12 * (bend[:-1] - bend[1:])
        for g, bend in ((left, 2 * cdf * slope), (right, -2 * (1 - cdf) * slope))
    ]
    return np.sum(np.where(nodes[1:] <= y, *area), axis=0)


def count_crps(prediction: Prediction, y: np.ndarray) -> np.ndarray:
    """The score of each target of a distribution over the integers."""
    lower, upper = (np.asarray(a, np.float64) for a in prediction.quantile([1e-6, 1 - 1e-6]))
    lower = np.maximum(lower - 1, 0)
    count = int(min(np.max(upper - lower) + 1, MOST_COUNTS))
    steps = np.linspace(0, 1, max(count, 2)).reshape((-1,) + (1,) * y.ndim)
    nodes = np.concatenate([np.round(lower + (upper - lower) * steps), y[None]])
    nodes, cdf = _sorted(nodes, _cdf(prediction, nodes))
    left, right = cdf**2, (1 - cdf) ** 2
    width = np.diff(nodes, axis=0)
    # The sum over a <= k < b: exact where b = a + 1, by Euler and Maclaurin where integers are skipped.
    area = [np.where(width > 0, width / 2 * (g[:-1] + g[1:]) + (g[:-1] - g[1:]) / 2, 0.0) for g in (left, right)]
    return np.sum(np.where(nodes[1:] <= y, *area), axis=0)


def _cdf(prediction: Prediction, nodes: np.ndarray) -> np.ndarray:
    return np.asarray(prediction.cdf(nodes), np.float64)


def _rounded(prediction: Prediction, values: np.ndarray) -> np.ndarray:
    """Values in float64 that the dtype of the computation holds exactly."""
    return values.astype(prediction.mean.dtype).astype(np.float64)


def _sorted(nodes: np.ndarray, cdf: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(nodes, axis=0, kind="stable")
    return np.take_along_axis(nodes, order, axis=0), np.take_along_axis(cdf, order, axis=0)


def _place(nodes: np.ndarray, weight: np.ndarray, count: int) -> np.ndarray:
    """`count` new points: evenly within the cells between `nodes`, as many in each as its share of the weight."""
    total = np.cumsum(weight, axis=0)
    share = np.nan_to_num(total / np.where(total[-1] > 0, total[-1], 1.0))
    first = np.ceil(np.concatenate([np.zeros_like(share[:1]), share]) * count - 0.5).astype(int)  # point of each cell
    cell = np.stack([np.sum(first[1:] <= j, axis=0) for j in range(count)])
    cell = np.minimum(cell, len(weight) - 1)
    start, stop, left, right = (np.take_along_axis(a, cell + i, axis=0) for a in (first, nodes) for i in (0, 1))
    rank = np.arange(1, count + 1).reshape((-1,) + (1,) * (nodes.ndim - 1)) - start
    return left + (right - left) * np.clip(rank / (stop - start + 1), 0.0, 1.0)


def _slopes(width: np.ndarray, rise: np.ndarray) -> np.ndarray:
    """The derivative at the nodes from three points, 0 at both ends; at most three times the flatter side's secant.

    The limit keeps the interpolant monotone (Fritsch and Carlson 1980), and so the correction small, at a steep step.
    """
    secant = np.maximum(rise, 0.0) / np.where(width > 0, width, 1.0)
    before, after = width[:-1], width[1:]
    both = np.where(before + after > 0, before + after, 1.0)
    slope = (secant[:-1] * after + secant[1:] * before) / both
    slope = np.minimum(slope, 3 * np.minimum(secant[:-1], secant[1:]))
    return np.concatenate([np.zeros_like(slope[:1]), slope, np.zeros_like(slope[:1])])
