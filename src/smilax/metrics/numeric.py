"""Scores of numeric targets: errors of the mean, and of the whole predictive distribution."""

from typing import Any

import numpy as np

from smilax.metrics.crps import MOST_COUNTS, NODES, PASSES, count_crps, density_crps
from smilax.metrics.targets import mean_and_targets
from smilax.predict import Prediction


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
    mean, y = mean_and_targets("rmse", prediction, y)
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
    mean, y = mean_and_targets("crps", prediction, y)
    score = count_crps if prediction.kind == "count" else density_crps
    nodes = MOST_COUNTS if prediction.kind == "count" else NODES * (PASSES + 1)
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
    _, y = mean_and_targets("coverage", prediction, y)
    lower, upper = prediction.interval(level)
    return float(np.mean((lower <= y) & (y <= upper)))
