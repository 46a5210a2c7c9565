"""Figures of predictions; every function draws into the axes it is given, or makes one, and returns it."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from smilax import metrics

# Okabe and Ito's palette, which colour-blind readers can tell apart.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def _axes(ax: Any) -> Any:
    if ax is not None:
        return ax
    # The object interface: no global state, no window.
    from matplotlib.figure import Figure

    return Figure(figsize=(4.5, 4), layout="constrained").add_subplot()


def reliability(predictions: Mapping[str, Any], y: Any, *, num_bins: int = 10, ax: Any = None) -> Any:
    """Accuracy against confidence of one or more classifiers; on the diagonal they are calibrated.

    Args:
        predictions: `Prediction`s by label.
        y: class labels, shape `(rows,)`.
        num_bins: equal-width bins of confidence; those with fewer than five rows say nothing and are left out.
        ax: matplotlib axes.

    Example:
        >>> import numpy as np, smilax as sx
        >>> probs = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]])
        >>> sx.plots.reliability({"model": probs}, np.array([0, 1, 1])).get_xlabel()
        'confidence'
    """
    ax = _axes(ax)
    ax.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle="--")
    for color, (label, prediction) in zip(COLORS, predictions.items(), strict=False):
        curve = metrics.reliability_curve(prediction, y, num_bins)
        filled = np.asarray(curve.num_rows) >= 5
        error = metrics.ece(prediction, y)
        ax.plot(
            np.asarray(curve.confidence)[filled],
            np.asarray(curve.accuracy)[filled],
            marker="o",
            markersize=4,
            color=color,
            label=f"{label} (ECE {error:.3f})",
        )
    ax.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1.02), ylim=(0, 1.02), title="Reliability")
    ax.legend(frameon=False, fontsize="small", loc="upper left")
    return ax


def coverage(predictions: Mapping[str, Any], y: Any, *, ax: Any = None) -> Any:
    """How often central intervals hold the target, against how often they should.

    Args:
        predictions: `Prediction`s of a regression by label.
        y: targets, shape `(rows,)`.
        ax: matplotlib axes.

    Example:
        >>> import jax, numpy as np, smilax as sx
        >>> posterior = sx.bnn(sx.models.mlp(2, 1), sx.likelihoods.Gaussian(), sx.priors.Normal(0.0, 1.0), num_data=9)
        >>> members = jax.vmap(posterior.init)(jax.random.split(jax.random.key(0), 2))
        >>> prediction = sx.predict(posterior, members, np.zeros((9, 2), np.float32))
        >>> sx.plots.coverage({"prior": prediction}, np.zeros(9)).get_xlabel()
        'nominal'
    """
    ax = _axes(ax)
    levels = np.linspace(0.05, 0.95, 19)
    ax.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle="--")
    for color, (label, prediction) in zip(COLORS, predictions.items(), strict=False):
        # Where a target stands in its predictive distribution decides all levels at once.
        position = np.abs(2 * np.asarray(prediction.cdf(y), np.float64).ravel() - 1)
        ax.plot(levels, [(position <= level).mean() for level in levels], color=color, label=label)
    ax.set(xlabel="nominal", ylabel="observed", xlim=(0, 1), ylim=(0, 1), title="Coverage of central intervals")
    ax.legend(frameon=False, fontsize="small", loc="upper left")
    return ax


def intervals(prediction: Any, y: Any, *, level: float = 0.9, most: int = 60, ax: Any = None) -> Any:
    """Predictive intervals and targets, rows in the order of their predictive means.

    Args:
        prediction: a `Prediction` of a regression.
        y: targets, shape `(rows,)`.
        level: probability of the central interval.
        most: rows shown, evenly over the order.
        ax: matplotlib axes.

    Example:
        >>> import jax, numpy as np, smilax as sx
        >>> posterior = sx.bnn(sx.models.mlp(2, 1), sx.likelihoods.Gaussian(), sx.priors.Normal(0.0, 1.0), num_data=9)
        >>> members = jax.vmap(posterior.init)(jax.random.split(jax.random.key(0), 2))
        >>> prediction = sx.predict(posterior, members, np.zeros((9, 2), np.float32))
        >>> sx.plots.intervals(prediction, np.zeros(9)).get_ylabel()
        'target'
    """
    ax = _axes(ax)
    low, high = prediction.interval(level)
    order = np.argsort(prediction.mean, kind="stable")
    order = order[np.unique(np.linspace(0, len(order) - 1, min(most, len(order))).round().astype(int))]
    place = np.arange(len(order))
    y = np.asarray(y)
    inside = (y[order] >= low[order]) & (y[order] <= high[order])
    ax.vlines(place, low[order], high[order], color=COLORS[5], linewidth=3, alpha=0.6, label=f"{level:.0%} interval")
    ax.plot(place, prediction.mean[order], color=COLORS[0], linewidth=1.5, label="mean")
    ax.plot(place[inside], y[order][inside], ".", color="0.15", label="target")
    ax.plot(place[~inside], y[order][~inside], "x", color=COLORS[1], label="target outside")
    ax.set(xlabel="test rows, by predicted mean", ylabel="target", title="Predictive intervals")
    ax.legend(frameon=False, fontsize="small", loc="upper left", ncols=2)
    return ax


def uncertainty(known: Mapping[str, Any], unknown: Mapping[str, Any], *, ax: Any = None) -> Any:
    """Epistemic uncertainty (mutual information) of classifiers on data like the training data and unlike it.

    Args:
        known: predictions on in-distribution rows, by label.
        unknown: predictions on out-of-distribution rows, same labels.
        ax: matplotlib axes.

    Example:
        >>> import jax, numpy as np, smilax as sx
        >>> network, prior = sx.models.mlp(2, 3), sx.priors.Normal(0.0, 1.0)
        >>> posterior = sx.bnn(network, sx.likelihoods.Categorical(), prior, num_data=9)
        >>> members = jax.vmap(posterior.init)(jax.random.split(jax.random.key(0), 2))
        >>> near, far = (sx.predict(posterior, members, np.full((9, 2), s, np.float32)) for s in (1, 5))
        >>> sx.plots.uncertainty({"prior": near}, {"prior": far}).get_ylabel()
        'share of rows'
    """
    ax = _axes(ax)
    for color, label in zip(COLORS, known, strict=False):
        area = metrics.auroc(known[label], unknown[label])
        for style, name, prediction in (("-", "seen", known[label]), ("--", "unseen", unknown[label])):
            values = np.sort(np.maximum(np.asarray(prediction.mutual_information, np.float64), 1e-8))
            share = np.arange(1, len(values) + 1) / len(values)
            text = f"{label}, {name}" + (f" (AUROC {area:.3f})" if name == "seen" else "")
            ax.step(values, share, linestyle=style, color=color, label=text, where="post")
    ax.set(xscale="log", xlabel="mutual information, nats", ylabel="share of rows", title="Epistemic uncertainty")
    ax.set(xlim=(1e-7, 4), ylim=(0, 1.02))
    ax.legend(frameon=False, fontsize="small", loc="upper left")
    return ax
