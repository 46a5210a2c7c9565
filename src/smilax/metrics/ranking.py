"""Whether uncertainty tells apart: outliers from data like those of training, and errors from what is right."""

from typing import Any, NamedTuple

import numpy as np

from smilax.metrics.targets import mean_and_targets, probs_and_labels
from smilax.predict import Prediction


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
        mean, y = mean_and_targets("risk_coverage_curve", prediction, y)
        rows = len(y)
        loss = np.sum(((mean - y) ** 2).reshape(rows, -1), axis=1)
        doubt = np.sum(np.asarray(prediction.variance, np.float64).reshape(rows, -1), axis=1)
    else:
        probs, labels = probs_and_labels("risk_coverage_curve", prediction, y)
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


def _scores(name: str, scores: Any) -> np.ndarray:
    if isinstance(scores, Prediction):
        classes = scores.kind == "classification"
        scores = scores.mutual_information if classes else scores.epistemic.reshape(scores.num_rows, -1).sum(axis=1)
    scores = np.ravel(np.asarray(scores, np.float64))
    if scores.size == 0 or np.any(np.isnan(scores)):
        raise ValueError(f"{name} must be numbers, at least one, got {'NaN' if scores.size else 'none'}")
    return scores
