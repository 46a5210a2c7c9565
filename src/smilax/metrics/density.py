"""Log scores: the probability that a prediction gave to what was seen."""

from typing import Any

import numpy as np

from smilax.metrics.targets import probs_and_labels
from smilax.predict import Prediction


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
    probs, labels = probs_and_labels("lppd", prediction, y)
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
    density = lppd(prediction, y)
    targets = np.size(y) // np.shape(y)[0]
    return float(np.exp(-density / targets))
