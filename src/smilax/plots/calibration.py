"""Whether predictions are as sure as they should be."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from smilax import metrics
from smilax.checks import check_finite
from smilax.plots.style import LINES, MARKERS, MUTED, below, make_axes, palette

# Fewer rows say nothing: bins of a reliability diagram, and the beginning of a risk-coverage curve.
LEAST_ROWS = 5


def reliability(predictions: Mapping[str, Any], y: Any, *, num_bins: int = 10, ax: Any = None) -> Any:
    """Accuracy against confidence of one or more classifiers; on the diagonal they are calibrated.

    Below the diagonal a classifier is too sure of itself, above it too cautious.

    Args:
        predictions: `Prediction`s by label, at most six; or class probabilities `(rows, K)`.
        y: class labels, shape `(rows,)`.
        num_bins: equal-width bins of confidence; those with fewer than five rows say nothing and are left out.
        ax: matplotlib axes.

    Example:
        >>> import numpy as np, smilax as sx
        >>> probs = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]])
        >>> sx.plots.reliability({"model": probs}, np.array([0, 1, 1])).get_xlabel()
        'confidence'
    """
    check_labels(predictions)
    ax = make_axes(ax)
    ax.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle="--", label="calibrated")
    for n, (label, prediction) in enumerate(predictions.items()):
        curve = metrics.reliability_curve(prediction, y, num_bins)
        filled = np.asarray(curve.num_rows) >= LEAST_ROWS
        error = metrics.ece(prediction, y)
        ax.plot(
            np.asarray(curve.confidence)[filled],
            np.asarray(curve.accuracy)[filled],
            marker=MARKERS[n],
            markersize=5,
            linestyle=LINES[n],
            color=palette(ax)[n],
            label=f"{label} (ECE {error:.3f})",
        )
    ax.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1.02), ylim=(0, 1.02), title="Reliability")
    below(ax)
    return ax


def coverage(predictions: Mapping[str, Any], y: Any, *, ax: Any = None) -> Any:
    """How often central intervals hold the target, against how often they should.

    Below the diagonal intervals are too narrow, above it too wide. The band is where 95 % of calibrated predictions
    would be at each level, for so many targets that are independent. Intervals of counts hold more than they claim,
    because counts come in steps; of these a count at either end is taken as inside with the share that makes up for it
    (the randomised probability integral transform; Smith 1985, Czado, Gneiting and Held 2009).

    Args:
        predictions: `Prediction`s of a regression or of counts by label, at most six.
        y: targets, shape `(rows,)` or `(rows, K)`.
        ax: matplotlib axes.

    Raises:
        ValueError: if `y` does not fit, or is not finite.

    Example:
        >>> import jax, numpy as np, smilax as sx
        >>> posterior = sx.bnn(sx.models.mlp(2, 1), sx.likelihoods.Gaussian(), sx.priors.Normal(0.0, 1.0), num_data=9)
        >>> members = jax.vmap(posterior.init)(jax.random.split(jax.random.key(0), 2))
        >>> prediction = sx.predict(posterior, members, np.zeros((9, 2), np.float32))
        >>> sx.plots.coverage({"prior": prediction}, np.zeros(9)).get_xlabel()
        'probability that the interval claims'
    """
    check_labels(predictions)
    ax = make_axes(ax)
    levels = np.linspace(0.05, 0.95, 19)
    scatter = 1.96 * np.sqrt(levels * (1 - levels) / np.size(y))
    ax.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle="--", label="calibrated")
    ax.fill_between(levels, levels - scatter, levels + scatter, color=MUTED, alpha=0.25, linewidth=0)
    for n, (label, prediction) in enumerate(predictions.items()):
        # Where a target stands in its predictive distribution decides all levels at once.
        position = np.abs(2 * _standing(prediction, y) - 1)
        observed = [(position <= level).mean() for level in levels]
        ax.plot(levels, observed, color=palette(ax)[n], linestyle=LINES[n], linewidth=2, label=label)
    ax.set(xlabel="probability that the interval claims", ylabel="share of targets inside", xlim=(0, 1), ylim=(0, 1))
    ax.set_title("Coverage of central intervals")
    below(ax)
    return ax


def risk_coverage(predictions: Mapping[str, Any], y: Any, *, ax: Any = None) -> Any:
    """The loss that is left when only the most confident predictions are given.

    A curve that rises shows that confidence tells good predictions from bad ones; dotted is what answering the same
    share of rows at random would give. The curve is `sx.metrics.risk_coverage_curve` from five rows on.

    Args:
        predictions: `Prediction`s of one kind by label, at most six; or class probabilities `(rows, K)`.
        y: targets.
        ax: matplotlib axes.

    Example:
        >>> import numpy as np, smilax as sx
        >>> probs = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.7, 0.3], [0.5, 0.5]])
        >>> sx.plots.risk_coverage({"model": probs}, np.array([0, 1, 1, 0, 0])).get_xlabel()
        'share of rows answered, most confident first'
    """
    check_labels(predictions)
    ax = make_axes(ax)
    classes = True
    for n, (label, prediction) in enumerate(predictions.items()):
        classes = getattr(prediction, "kind", "classification") == "classification"
        curve = metrics.risk_coverage_curve(prediction, y)
        first = min(LEAST_ROWS, len(curve.risk)) - 1
        color = palette(ax)[n]
        ax.plot(
            curve.coverage[first:],
            curve.risk[first:],
            color=color,
            linestyle=LINES[n],
            linewidth=2,
            label=f"{label} (area {metrics.aurc(prediction, y):.3g})",
        )
        ax.plot([0, 1], [curve.risk[-1]] * 2, color=color, linestyle=":", linewidth=1)
    ax.set(
        xlabel="share of rows answered, most confident first", xlim=(0, 1), ylim=(0, None), title="Risk and coverage"
    )
    ax.set_ylabel("share of wrong answers" if classes else "mean squared error")
    ax.plot([], [], color=MUTED, linestyle=":", linewidth=1, label="at random")
    below(ax)
    return ax


def _standing(prediction: Any, y: Any) -> np.ndarray:
    """F(y) of each target; of counts a point between F(y - 1) and F(y), uniform and the same in every call."""
    y = np.asarray(y)
    check_finite("y", y)
    upper = np.asarray(prediction.cdf(y), np.float64).ravel()
    if prediction.kind != "count":
        return upper
    lower = np.asarray(prediction.cdf(y - 1), np.float64).ravel()
    return lower + np.random.default_rng(0).uniform(size=lower.shape) * (upper - lower)


def check_labels(predictions: Any, most: int = len(MARKERS)) -> None:
    """Raises unless `predictions` is a mapping of as many as colours tell apart."""
    if not isinstance(predictions, Mapping):
        raise TypeError(f"predictions must be a dictionary by label, got {type(predictions).__name__}")
    if not 0 < len(predictions) <= most:
        raise ValueError(f"predictions must be 1 to {most} by label, got {len(predictions)}")
