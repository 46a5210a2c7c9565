"""How good a prediction is: scores of the predictive distribution against targets.

Every metric takes a `Prediction` and the targets and returns one float, computed in float64 on the host. Those that
need class probabilities only also take an array of them, shape `(rows, K)`. Log densities are in nats.
"""

from typing import Any, NamedTuple

import numpy as np

from smilax.checks import check_finite
from smilax.predict import Prediction, match_targets

# CRPS: nodes per target of the first, even pass and of each adaptive one; and the most counts that are summed singly.
CRPS_NODES, CRPS_PASSES, CRPS_COUNTS = 32, 3, 1024


def lppd(prediction: Any, y: Any) -> float:
    """The mean log predictive density, in nats per example: mean_i log(1/T sum_t p(y_i | x_i, draw t)).

    Args:
        prediction: a `Prediction` of any kind, or class probabilities.
        y: targets.

    Raises:
        ValueError: if `y` does not fit the prediction.

    Example:
        >>> import numpy as np, smilax as sx
        >>> round(sx.metrics.lppd(np.array([[0.5, 0.5], [0.5, 0.5]]), [0, 1]), 4)  # log(1/2)
        -0.6931
    """
    if isinstance(prediction, Prediction):
        return float(np.mean(prediction.log_prob(y), dtype=np.float64))
    probs, labels = _probs_and_labels("lppd", prediction, y)
    with np.errstate(divide="ignore"):
        return float(np.mean(np.log(probs[np.arange(len(labels)), labels])))


def perplexity(prediction: Any, y: Any) -> float:
    """exp(-lppd): the number of equally likely labels that would be as hard to guess.

    Where each row has several labels, as the tokens of a sequence, lppd is divided by their number.

    Args:
        prediction: a `Prediction` of any kind, or class probabilities `(rows, K)`.
        y: targets.

    Raises:
        ValueError: as `lppd`.

    Example:
        >>> import numpy as np, smilax as sx
        >>> round(sx.metrics.perplexity(np.full((3, 4), 0.25), [0, 1, 3]), 6)
        4.0
    """
    targets = np.size(y) // np.shape(y)[0]
    return float(np.exp(-lppd(prediction, y) / targets))


def rmse(prediction: Prediction, y: Any) -> float:
    """The root mean squared error of the predictive mean, over all rows and targets, in the units of `y`.

    Args:
        prediction: a `Prediction` of a regression or of counts.
        y: targets.

    Raises:
        TypeError: in classification.
        ValueError: if `y` does not have the shape of the targets.

    Example:
        >>> import jax.numpy as jnp, smilax as sx
        >>> network = sx.Network(init=lambda key: jnp.zeros(1), apply=lambda w, x: x @ w)
        >>> posterior = sx.bnn(network, sx.likelihoods.Gaussian(scale=1.0), sx.priors.Normal(0.0, 1.0), num_data=2)
        >>> prediction = sx.predict(posterior, {"network": jnp.zeros((3, 1))}, jnp.ones((2, 1)))
        >>> sx.metrics.rmse(prediction, jnp.array([1.0, -1.0]))
        1.0
    """
    mean, y = _mean_and_targets("rmse", prediction, y)
    return float(np.sqrt(np.mean((mean - y) ** 2)))


def crps(prediction: Prediction, y: Any) -> float:
    """The mean continuous ranked probability score, in the units of `y`; less is better.

    integral (F(t) - 1[y <= t])^2 dt, F the mixture's cdf of one target (Gneiting and Raftery 2007, equation 20);
    for counts the sum over the integers. The closed form for Gaussian mixtures costs the square of the number of
    draws, and others have none; here F is evaluated at about 130 points per target, which move to where it rises,
    and integrated by the trapezoidal rule with end corrections. The relative error is below 1e-4, and a few 1e-3 in
    single rows where each draw is a step of F a hundred times narrower than the whole. Counts are summed one by one
    as long as a row's predictive distribution spans at most 1024 of them.

    Args:
        prediction: a `Prediction` of a regression or of counts.
        y: targets.

    Raises:
        TypeError: in classification.
        ValueError: if `y` does not have the shape of the targets.

    Example:
        >>> import jax.numpy as jnp, smilax as sx
        >>> network = sx.Network(init=lambda key: jnp.zeros(1), apply=lambda w, x: x @ w)
        >>> posterior = sx.bnn(network, sx.likelihoods.Gaussian(scale=1.0), sx.priors.Normal(0.0, 1.0), num_data=2)
        >>> prediction = sx.predict(posterior, {"network": jnp.zeros((3, 1))}, jnp.ones((2, 1)))
        >>> round(sx.metrics.crps(prediction, jnp.array([0.0, 0.0])), 4)  # (sqrt(2) - 1) / sqrt(pi)
        0.2337
    """
    mean, y = _mean_and_targets("crps", prediction, y)
    score = _crps_counts if prediction.kind == "count" else _crps
    nodes = CRPS_COUNTS if prediction.kind == "count" else CRPS_NODES * (CRPS_PASSES + 1)
    total = sum(np.sum(score(part, y[rows])) for rows, part in prediction._parts(16 * nodes * y[0].nbytes))
    return float(total / mean.size)


def coverage(prediction: Prediction, y: Any, level: float = 0.9) -> float:
    """The fraction of targets within their central predictive interval, ends included.

    Args:
        prediction: of a regression or counts.
        y: targets.
        level: the probability that the interval claims, in (0, 1).

    Raises:
        TypeError: in classification.
        ValueError: if `y` does not have the shape of the targets or `level` is out of range.

    Example:
        >>> import jax.numpy as jnp, smilax as sx
        >>> network = sx.Network(init=lambda key: jnp.zeros(1), apply=lambda w, x: x @ w)
        >>> posterior = sx.bnn(network, sx.likelihoods.Gaussian(scale=1.0), sx.priors.Normal(0.0, 1.0), num_data=2)
        >>> prediction = sx.predict(posterior, {"network": jnp.zeros((3, 1))}, jnp.ones((2, 1)))
        >>> sx.metrics.coverage(prediction, jnp.array([1.0, 2.0]), level=0.9)
        0.5
    """
    _, y = _mean_and_targets("coverage", prediction, y)
    lower, upper = prediction.interval(level)
    return float(np.mean((lower <= y) & (y <= upper)))


def accuracy(prediction: Any, y: Any) -> float:
    """The fraction of rows whose most probable class (the first of equals) is the label.

    Args:
        prediction: a `Prediction` of a classification, or class probabilities `(rows, K)`.
        y: labels, integers from 0 to K - 1.

    Raises:
        TypeError: if this is no classification or the labels are not integers.
        ValueError: if lengths differ, a label is no class or the probabilities are none.

    Example:
        >>> import numpy as np, smilax as sx
        >>> sx.metrics.accuracy(np.array([[0.9, 0.1], [0.4, 0.6]]), [0, 0])
        0.5
    """
    probs, labels = _probs_and_labels("accuracy", prediction, y)
    return float(np.mean(np.argmax(probs, axis=1) == labels))


def brier(prediction: Any, y: Any) -> float:
    """The Brier score, mean_i sum_k (p_ik - 1[y_i = k])^2, in [0, 2]; less is better.

    This is the multi-class form of Brier (1950): for two classes it is twice the mean of (p_i - y_i)^2.

    Args:
        prediction: a `Prediction` of a classification, or class probabilities `(rows, K)`.
        y: labels.

    Raises:
        TypeError, ValueError: as `accuracy`.

    Example:
        >>> import numpy as np, smilax as sx
        >>> sx.metrics.brier(np.array([[0.5, 0.5]]), [1])
        0.5
    """
    probs, labels = _probs_and_labels("brier", prediction, y)
    return float(np.mean(np.sum((probs - np.eye(probs.shape[1])[labels]) ** 2, axis=1)))


class ReliabilityCurve(NamedTuple):
    """Confidence against accuracy, by bins of the confidence; NaN where a bin is empty.

    Attributes:
        confidence: the mean confidence of each bin's rows.
        accuracy: the fraction of them that is right.
        num_rows: how many they are.
    """

    confidence: np.ndarray
    accuracy: np.ndarray
    num_rows: np.ndarray


def reliability_curve(prediction: Any, y: Any, num_bins: int = 15) -> ReliabilityCurve:
    """Accuracy by predicted confidence, the largest predicted probability, in bins of equal width over [0, 1].

    A bin holds its right end and not its left, as in Guo et al. (2017).

    Args:
        prediction: a `Prediction` of a classification, or class probabilities `(rows, K)`.
        y: labels.
        num_bins: how many bins.

    Raises:
        TypeError, ValueError: as `accuracy`, or if there is less than one bin.

    Example:
        >>> import numpy as np, smilax as sx
        >>> curve = sx.metrics.reliability_curve(np.array([[0.75, 0.25], [0.75, 0.25]]), [0, 1], num_bins=2)
        >>> curve.confidence[1].item(), curve.accuracy[1].item(), curve.num_rows.tolist()
        (0.75, 0.5, [0, 2])
    """
    probs, labels = _probs_and_labels("reliability_curve", prediction, y)
    if num_bins < 1:
        raise ValueError(f"num_bins must be at least 1, got {num_bins}")
    confidence = np.max(probs, axis=1)
    correct = np.argmax(probs, axis=1) == labels
    which = np.clip(np.ceil(confidence * num_bins).astype(int) - 1, 0, num_bins - 1)
    count = np.bincount(which, minlength=num_bins)
    filled = np.where(count > 0, count, np.nan)
    by_bin = [np.bincount(which, weights=w, minlength=num_bins) / filled for w in (confidence, correct)]
    return ReliabilityCurve(by_bin[0], by_bin[1], count)


def ece(prediction: Any, y: Any, num_bins: int = 15) -> float:
    """The expected calibration error: the mean over rows of their bin's |accuracy - confidence|.

    Bins are by *predicted* confidence, the probability of the most probable class, of equal width (Guo et al. 2017;
    the published SMILE code bins by the true class's probability, which is not known when predicting).

    Args:
        prediction: a `Prediction` of a classification, or class probabilities `(rows, K)`.
        y: labels.
        num_bins: how many bins.

    Raises:
        TypeError, ValueError: as `reliability_curve`.

    Example:
        >>> import numpy as np, smilax as sx
        >>> round(sx.metrics.ece(np.array([[0.8, 0.2], [0.8, 0.2]]), [0, 1], num_bins=10), 6)
        0.3
    """
    curve = reliability_curve(prediction, y, num_bins)
    gap = np.where(curve.num_rows > 0, np.abs(curve.accuracy - curve.confidence), 0.0)
    return float(np.sum(gap * curve.num_rows) / np.sum(curve.num_rows))


def auroc(scores_in: Any, scores_out: Any) -> float:
    """The area under the ROC curve of telling outliers by their score: P(score out > score in), ties half.

    Args:
        scores_in: scores of data like the training data, or a `Prediction` at them.
        scores_out: scores of other data, or a `Prediction` at them. The score of a prediction is its epistemic
            uncertainty: `mutual_information` in classification, else `epistemic`, summed over targets.

    Raises:
        ValueError: if there are no scores, or NaN among them.

    Example:
        >>> import smilax as sx
        >>> sx.metrics.auroc([0.1, 0.2, 0.3], [0.3, 0.4])
        0.9166666666666666
    """
    inside, outside = _scores("scores_in", scores_in), _scores("scores_out", scores_out)
    # Mann and Whitney's statistic: how many inliers each outlier exceeds.
    inside = np.sort(inside)
    below = (np.searchsorted(inside, outside, "left") + np.searchsorted(inside, outside, "right")) / 2
    return float(np.mean(below) / inside.size)


class RiskCoverageCurve(NamedTuple):
    """The mean loss of the rows predicted with most confidence.

    Attributes:
        coverage: the fraction of rows kept, 1/n ... 1.
        risk: their mean loss.
    """

    coverage: np.ndarray
    risk: np.ndarray


def risk_coverage_curve(prediction: Any, y: Any) -> RiskCoverageCurve:
    """The risk of answering only where the prediction is most confident, for every number of answers.

    In classification the confidence is the largest probability and the loss an error; otherwise they are the
    negative predictive variance and the squared error, both summed over targets. Equally confident rows count as
    their mean, which is what a random order among them would give on average.

    Args:
        prediction: a `Prediction` of any kind, or class probabilities `(rows, K)`.
        y: targets.

    Raises:
        TypeError, ValueError: if `y` does not fit the prediction; as `accuracy` in classification.

    Example:
        >>> import numpy as np, smilax as sx
        >>> curve = sx.metrics.risk_coverage_curve(np.array([[0.6, 0.4], [0.9, 0.1]]), [1, 0])
        >>> curve.coverage.tolist(), curve.risk.tolist()
        ([0.5, 1.0], [0.0, 0.5])
    """
    if isinstance(prediction, Prediction) and prediction.kind != "classification":
        mean, y = _mean_and_targets("risk_coverage_curve", prediction, y)
        rows = len(y)
        loss = np.sum(((mean - y) ** 2).reshape(rows, -1), axis=1)
        doubt = np.sum(np.asarray(prediction.variance, np.float64).reshape(rows, -1), axis=1)
    else:
        probs, labels = _probs_and_labels("risk_coverage_curve", prediction, y)
        loss = (np.argmax(probs, axis=1) != labels).astype(np.float64)
        doubt = -np.max(probs, axis=1)
    _, group, count = np.unique(doubt, return_inverse=True, return_counts=True)
    mean_loss = np.bincount(group, weights=loss) / count
    kept = np.arange(1, len(loss) + 1)
    return RiskCoverageCurve(kept / len(loss), np.cumsum(np.repeat(mean_loss, count)) / kept)


def aurc(prediction: Any, y: Any) -> float:
    """The area under `risk_coverage_curve`: the mean of its risks (Geifman et al. 2019); less is better.

    Args:
        prediction: a `Prediction` of any kind, or class probabilities `(rows, K)`.
        y: targets.

    Raises:
        TypeError, ValueError: as `risk_coverage_curve`.

    Example:
        >>> import numpy as np, smilax as sx
        >>> round(sx.metrics.aurc(np.array([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4]]), [0, 0, 1]), 6)
        0.111111
    """
    return float(np.mean(risk_coverage_curve(prediction, y).risk))


# Checks -----------------------------------------------------------------------------------------------------------


def _mean_and_targets(name: str, prediction: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    if not isinstance(prediction, Prediction):
        raise TypeError(f"{name} needs a Prediction, got {type(prediction).__name__}")
    if prediction.kind == "classification":
        raise TypeError(f"{name} needs numeric targets; this prediction is a classification")
    mean = np.asarray(prediction.mean, np.float64)
    y = match_targets(np.asarray(y, np.float64), mean.shape)
    check_finite("y", y)
    return mean, y


def _probs_and_labels(name: str, prediction: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    if isinstance(prediction, Prediction):
        if prediction.kind != "classification":
            raise TypeError(f"{name} needs a classification; this prediction is a {prediction.kind}")
        probs = np.asarray(prediction.probs, np.float64)
    else:
        probs = np.asarray(prediction, np.float64)
        if probs.ndim != 2 or probs.shape[0] == 0 or probs.shape[1] < 2:
            raise ValueError(f"probabilities must have shape (rows, K), K at least 2, got {probs.shape}")
        if not (np.all(probs >= 0) and np.all(np.abs(np.sum(probs, axis=1) - 1) < 1e-3)):
            raise ValueError("probabilities must be at least 0 and add up to 1 in each row")
    labels = match_targets(y, probs.shape[:-1]).ravel()
    probs = probs.reshape(-1, probs.shape[-1])
    if labels.dtype.kind == "f" and np.all(labels == np.floor(labels)):
        labels = labels.astype(np.int64)
    if labels.dtype.kind not in "iub":
        raise TypeError(f"y must be integer labels, got an array of dtype {labels.dtype}")
    labels = labels.astype(np.int64)
    bad = np.flatnonzero((labels < 0) | (labels >= probs.shape[1]))
    if bad.size:
        allowed = f"0 to {probs.shape[1] - 1}"
        raise ValueError(f"y must be labels from {allowed}, got {labels[bad[0]]} in row {bad[0]}")
    return probs, labels


def _scores(name: str, scores: Any) -> np.ndarray:
    if isinstance(scores, Prediction):
        classes = scores.kind == "classification"
        scores = scores.mutual_information if classes else scores.epistemic.reshape(scores.num_rows, -1).sum(axis=1)
    scores = np.ravel(np.asarray(scores, np.float64))
    if scores.size == 0 or np.any(np.isnan(scores)):
        raise ValueError(f"{name} must be numbers, at least one, got {'NaN' if scores.size else 'none'}")
    return scores


# CRPS: arrays are (nodes, rows, ...) --------------------------------------------------------------------------------


def _crps(prediction: Prediction, y: np.ndarray) -> np.ndarray:
    """The score of each target of a continuous distribution."""
    mean, std = np.asarray(prediction.mean, np.float64), np.asarray(prediction.std, np.float64)
    y = _rounded(prediction, y)
    # Even in asinh: dense about the mean, and out to 30 standard deviations for heavy tails.
    reach = np.arcsinh(60.0)
    steps = np.sinh(np.linspace(-reach, reach, CRPS_NODES)).reshape((-1,) + (1,) * mean.ndim) / 2
    nodes = _rounded(prediction, np.concatenate([mean + std * steps, y[None]]))
    cdf = _cdf(prediction, nodes)
    nodes, cdf = _sorted(nodes, cdf)
    for _ in range(CRPS_PASSES):
        # A cell's error grows with its width and its rise; this balance serves smooth and stepwise cdfs.
        weight = np.cbrt(np.diff(nodes, axis=0) ** 2 * np.maximum(np.diff(cdf, axis=0), 0.0))
        new = _rounded(prediction, _place(nodes, weight, CRPS_NODES))
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


def _crps_counts(prediction: Prediction, y: np.ndarray) -> np.ndarray:
    """The score of each target of a distribution over the integers."""
    lower, upper = (np.asarray(a, np.float64) for a in prediction.quantile([1e-6, 1 - 1e-6]))
    lower = np.maximum(lower - 1, 0)
    count = int(min(np.max(upper - lower) + 1, CRPS_COUNTS))
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
