"""Scores of class probabilities: errors, and whether confidence is what it claims to be."""

from typing import Any, NamedTuple

import numpy as np

from smilax.checks import check_count
from smilax.metrics.targets import class_probs, probs_and_labels

# A sum of trials whose variance is larger is taken for normal: its mean deviation is then right to one in a thousand.
NORMAL_FROM = 100.0


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
    probs, labels = probs_and_labels("accuracy", prediction, y)
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
    probs, labels = probs_and_labels("brier", prediction, y)
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
    probs, labels = probs_and_labels("reliability_curve", prediction, y)
    confidence = np.max(probs, axis=1)
    correct = np.argmax(probs, axis=1) == labels
    which = _bins(confidence, num_bins)
    count = np.bincount(which, minlength=num_bins)
    filled = np.where(count > 0, count, np.nan)
    by_bin = [np.bincount(which, weights=w, minlength=num_bins) / filled for w in (confidence, correct)]
    return ReliabilityCurve(by_bin[0], by_bin[1], count)


def _bins(confidence: np.ndarray, num_bins: int) -> np.ndarray:
    num_bins = check_count("num_bins", num_bins, 1)
    return np.clip(np.ceil(confidence * num_bins).astype(int) - 1, 0, num_bins - 1)


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


def ece_by_chance(prediction: Any, num_bins: int = 15) -> float:
    """The `ece` that a calibrated prediction would have of as many rows, by chance: what an ece is to be held against.

    If each row is right with the probability that its confidence claims, the number of right ones in a bin is a
    Poisson binomial one, and the gap between accuracy and confidence is its mean absolute deviation. It falls as one
    over the square root of the number of rows; an ece of about this size is no sign of miscalibration. No labels are
    needed.

    Args:
        prediction: a `Prediction` of a classification, or class probabilities `(rows, K)`.
        num_bins: how many bins.

    Raises:
        TypeError, ValueError: as `reliability_curve`.

    Example:
        >>> import numpy as np, smilax as sx
        >>> round(sx.metrics.ece_by_chance(np.array([[0.5, 0.5]])), 6)  # |1 - 0.5| or |0 - 0.5|
        0.5
    """
    probs = class_probs("ece_by_chance", prediction)
    confidence = np.max(probs.reshape(-1, probs.shape[-1]), axis=1)
    which = _bins(confidence, num_bins)
    return float(sum(_mean_deviation(confidence[which == b]) for b in np.unique(which)) / confidence.size)


def _mean_deviation(chances: np.ndarray) -> float:
    """E|X - E X| of the number X of successes among independent trials with these chances."""
    # That of failures is the same; of the rarer ones fewer terms count.
    chances = np.minimum(chances, 1 - chances) if np.all(chances >= 0.5) else chances
    variance = np.sum(chances * (1 - chances))
    if variance > NORMAL_FROM:
        return float(np.sqrt(2 / np.pi * variance))
    # The law of X as far as it has any mass.
    mean = np.sum(chances)
    longest = int(np.ceil(mean + 10 * np.sqrt(variance) + 20))
    law = np.ones(1)
    for chance in chances:
        law = np.convolve(law, [1 - chance, chance])[:longest]
    return float(np.sum(law * np.abs(np.arange(law.size) - mean)))
