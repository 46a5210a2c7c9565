"""Predictive distributions, and where their uncertainty comes from."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from smilax import metrics
from smilax.checks import check_finite
from smilax.plots.calibration import check_labels
from smilax.plots.style import MUTED, below, ink, make_axes, palette
from smilax.predict import Prediction, match_targets


def bands(prediction: Any, x: Any, y: Any = None, *, levels: Sequence[float] = (0.5, 0.9), ax: Any = None) -> Any:
    """Predictive mean and central intervals along one input.

    Args:
        prediction: a `Prediction` of a regression or of counts with one target.
        x: the input that goes on the axis, shape `(rows,)`, in any order.
        y: targets, shape `(rows,)`; None shows none.
        levels: probabilities of the intervals.
        ax: matplotlib axes.

    Raises:
        TypeError: if the prediction is a classification.
        ValueError: if `x` is not one number per row, or there are several targets.

    Example:
        >>> import jax, numpy as np, smilax as sx
        >>> posterior = sx.bnn(sx.models.mlp(1, 1), sx.likelihoods.Gaussian(), sx.priors.Normal(0.0, 1.0), num_data=9)
        >>> members = jax.vmap(posterior.init)(jax.random.split(jax.random.key(0), 5))
        >>> x = np.linspace(-1, 1, 9, dtype=np.float32)
        >>> sx.plots.bands(sx.predict(posterior, members, x[:, None]), x).get_ylabel()
        'target'
    """
    _check_single(prediction, "bands")
    x = np.asarray(x, np.float64)
    if x.size != prediction.num_rows:
        raise ValueError(f"x must have shape ({prediction.num_rows},), one number per row, got {x.shape}")
    ax = make_axes(ax)
    order = np.argsort(x.ravel(), kind="stable")
    along, color = x.ravel()[order], palette(ax)[0]
    for level in sorted(levels, reverse=True):
        low, high = (np.ravel(end)[order] for end in prediction.interval(level))
        ax.fill_between(along, low, high, color=color, alpha=0.25, linewidth=0, label=f"{level:.0%} interval")
    ax.plot(along, np.ravel(prediction.mean)[order], color=color, linewidth=2, label="mean")
    if y is not None:
        y = match_targets(y, prediction.mean.shape)
        ax.plot(along, np.ravel(y)[order], ".", color=ink(), markersize=4, alpha=0.6, label="target")
    ax.set(xlabel="input", ylabel="target", title="Predictive bands")
    below(ax, ncols=4)
    return ax


def intervals(prediction: Any, y: Any, *, level: float = 0.9, most: int = 60, ax: Any = None) -> Any:
    """Predictive intervals and targets, rows in the order of their predictive means.

    Args:
        prediction: a `Prediction` of a regression or of counts with one target.
        y: targets, shape `(rows,)`.
        level: probability of the central interval.
        most: rows shown, evenly over the order.
        ax: matplotlib axes.

    Raises:
        TypeError: if the prediction is a classification.
        ValueError: if there are several targets, or `y` does not fit.

    Example:
        >>> import jax, numpy as np, smilax as sx
        >>> posterior = sx.bnn(sx.models.mlp(2, 1), sx.likelihoods.Gaussian(), sx.priors.Normal(0.0, 1.0), num_data=9)
        >>> members = jax.vmap(posterior.init)(jax.random.split(jax.random.key(0), 2))
        >>> prediction = sx.predict(posterior, members, np.zeros((9, 2), np.float32))
        >>> sx.plots.intervals(prediction, np.zeros(9)).get_ylabel()
        'target'
    """
    _check_single(prediction, "intervals")
    ax = make_axes(ax)
    low, high = (np.ravel(end) for end in prediction.interval(level))
    mean, y = np.ravel(prediction.mean), np.ravel(match_targets(y, prediction.mean.shape))
    check_finite("y", y)
    order = np.argsort(mean, kind="stable")
    order = order[np.unique(np.linspace(0, len(order) - 1, min(most, len(order))).round().astype(int))]
    place = np.arange(len(order))
    inside = (y[order] >= low[order]) & (y[order] <= high[order])
    colors = palette(ax)
    ax.vlines(place, low[order], high[order], color=colors[5], linewidth=3, alpha=0.45, label=f"{level:.0%} interval")
    ax.plot(place, mean[order], color=colors[0], linewidth=1.5, label="mean")
    ax.plot(place[inside], y[order][inside], ".", color=ink(), label="target")
    ax.plot(place[~inside], y[order][~inside], "x", color=colors[1], markeredgewidth=2, label="target outside")
    ax.set(xlabel="test rows, by predicted mean", ylabel="target", title="Predictive intervals")
    below(ax)
    return ax


def epistemic_aleatoric(prediction: Any, y: Any = None, *, level: float = 0.9, ax: Any = None) -> Any:
    """Where each row's uncertainty comes from: ignorance, which data would remove, against noise, which they would not.

    In regression both are standard deviations, in the units of the target (of several targets root mean squares); in
    classification mutual information and mean conditional entropy, in nats. On the dashed line they are equal.

    Args:
        prediction: a `Prediction` of any kind.
        y: targets; given, rows that were wrong (or outside the central interval) are marked.
        level: of that interval.
        ax: matplotlib axes.

    Example:
        >>> import jax, numpy as np, smilax as sx
        >>> posterior = sx.bnn(sx.models.mlp(2, 3), sx.likelihoods.Categorical(), sx.priors.Normal(), num_data=9)
        >>> members = jax.vmap(posterior.init)(jax.random.split(jax.random.key(0), 2))
        >>> prediction = sx.predict(posterior, members, np.ones((9, 2), np.float32))
        >>> sx.plots.epistemic_aleatoric(prediction).get_xlabel()
        'aleatoric: conditional entropy, nats'
    """
    if not isinstance(prediction, Prediction):
        raise TypeError(f"epistemic_aleatoric needs a Prediction, got {type(prediction).__name__}")
    ax = make_axes(ax)
    if prediction.kind == "classification":
        noise, ignorance = prediction.aleatoric_entropy, prediction.mutual_information
        units = "conditional entropy, nats", "mutual information, nats"
        missed = "wrong class"
    else:
        rows = prediction.num_rows
        noise, ignorance = (
            np.sqrt(np.asarray(part, np.float64).reshape(rows, -1).mean(1))
            for part in (prediction.aleatoric, prediction.epistemic)
        )
        units = ("standard deviation",) * 2
        missed = f"outside the {level:.0%} interval"
    noise, ignorance = np.ravel(noise), np.ravel(ignorance)
    wrong = np.zeros(len(noise), bool) if y is None else _missed(prediction, y, level)
    colors = palette(ax)
    dots = {"linestyle": "", "markersize": 4, "alpha": 0.6}
    ax.axline((0, 0), slope=1, color=MUTED, linewidth=1, linestyle="--", label="equal")
    ax.plot(noise[~wrong], ignorance[~wrong], marker="o", markeredgewidth=0, color=colors[0], label="row", **dots)
    if y is not None:
        ax.plot(noise[wrong], ignorance[wrong], marker="x", color=colors[1], label=missed, **(dots | {"alpha": 1}))
    # From zero, so that distances to the axes can be compared.
    for values, limit in ((noise, ax.set_xlim), (ignorance, ax.set_ylim)):
        most = float(np.max(values[np.isfinite(values)], initial=0.0))
        limit(0, 1.05 * most if most > 0 else 1)
    ax.set(xlabel=f"aleatoric: {units[0]}", ylabel=f"epistemic: {units[1]}")
    ax.set_title("Where uncertainty comes from")
    below(ax, ncols=3)
    return ax


def uncertainty(known: Mapping[str, Any], unknown: Mapping[str, Any], *, ax: Any = None) -> Any:
    """Epistemic uncertainty (mutual information) of classifiers on data like the training data and unlike it.

    Of sequences, and of several labels a row, each target counts by itself.

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
    check_labels(known)
    if set(known) != set(unknown):
        raise ValueError(f"known and unknown must have the same labels, got {sorted(known)} and {sorted(unknown)}")
    ax = make_axes(ax)
    for color, label in zip(palette(ax), known, strict=False):
        area = metrics.auroc(known[label], unknown[label])
        for style, name, prediction in (("-", "seen", known[label]), ("--", "unseen", unknown[label])):
            values = np.sort(np.maximum(np.ravel(prediction.mutual_information).astype(np.float64), 1e-8))
            share = np.arange(1, len(values) + 1) / len(values)
            text = f"{label}, {name}" + (f" (AUROC {area:.3f})" if name == "seen" else "")
            ax.step(values, share, linestyle=style, color=color, label=text, where="post")
    ax.set(xscale="log", xlabel="mutual information, nats", ylabel="share of rows", title="Epistemic uncertainty")
    ax.set(xlim=(1e-7, 4), ylim=(0, 1.02))
    below(ax)
    return ax


def _missed(prediction: Prediction, y: Any, level: float) -> np.ndarray:
    if prediction.kind == "classification":
        labels = match_targets(y, prediction.probs.shape[:-1])
        return np.ravel(np.argmax(prediction.probs, axis=-1) != labels)
    low, high = prediction.interval(level)
    y = match_targets(y, low.shape)
    return ((y < low) | (y > high)).reshape(len(y), -1).any(1)


def _check_single(prediction: Any, name: str) -> None:
    if not isinstance(prediction, Prediction):
        raise TypeError(f"{name} needs a Prediction, got {type(prediction).__name__}")
    if prediction.kind == "classification":
        raise TypeError(f"{name} needs numeric targets; this prediction is a classification")
    shape = prediction._stream.target_shape
    if int(np.prod(shape[1:])) != 1:
        raise ValueError(f"{name} shows one target, but the prediction has targets of shape {shape[1:]}")
