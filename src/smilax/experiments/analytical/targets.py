"""Targets in ten dimensions with known second and fourth moments."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

DIM = 10
FUNNEL_STD = 3.0
PAIRS, WIDTH = DIM // 2, 0.1


class Target(NamedTuple):
    """A density and what is known of it.

    Attributes:
        log_density: of a point, shape `(DIM,)`.
        second: E[x_i²] of the coordinates that are scored.
        variance: Var[x_i²] of them.
        scored: how many coordinates, the first ones, are scored.
        covariance: shape `(DIM, DIM)`; shapes correlated noise, its inverse fisher noise.
        start: where chains begin.
        length: ℓ of the noise that varies in space.
    """

    log_density: Callable[[Any], jax.Array]
    second: np.ndarray
    variance: np.ndarray
    scored: int
    covariance: np.ndarray
    start: np.ndarray
    length: float


def covariance_of_gaussian() -> np.ndarray:
    """Standard deviations logspace(-1, 1), randomly rotated; float64, shape `(DIM, DIM)`."""
    rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(DIM, DIM)))
    return (rotation * np.logspace(-1, 1, DIM) ** 2) @ rotation.T


def gaussian() -> Target:
    """The ill-conditioned Gaussian."""
    covariance = covariance_of_gaussian()
    precision, second = jnp.asarray(np.linalg.inv(covariance), jnp.float32), np.diag(covariance)
    return Target(lambda x: -0.5 * x @ (precision @ x), second, 2 * second**2, DIM, covariance, np.zeros(DIM), 6.5)


def funnel() -> Target:
    """θ ~ N(0, 3²) and nine x | θ ~ N(0, e^θ); θ, the first coordinate, alone is scored.

    The others' x² have a variance of 10⁸, against which no error counts.
    """

    def log_density(x):
        theta, rest = x[0], x[1:]
        return -0.5 * (theta / FUNNEL_STD) ** 2 - 0.5 * jnp.sum(rest**2) * jnp.exp(-theta) - 0.5 * (DIM - 1) * theta

    square = FUNNEL_STD**2
    covariance = np.diag([square, *[np.exp(square / 2)] * (DIM - 1)])
    return Target(log_density, np.array([square]), np.array([2 * square**2]), 1, covariance, np.zeros(DIM), 9.0)


def rosenbrock() -> Target:
    """Five pairs X ~ N(1, 1), Y | X ~ N(X², 0.1), the Xs first.

    Var Y² = 764 + 6 + 0.03 - 10.1² = 668.02; the paper has 668.7.
    """

    def log_density(x):
        a, b = x[:PAIRS], x[PAIRS:]
        return -0.5 * jnp.sum((a - 1) ** 2) - 0.5 * jnp.sum((b - a**2) ** 2) / WIDTH

    # Moments of X about zero, exact for polynomials: E X² = 2, E X⁴ = 10, E X⁸ = 764.
    nodes, weights = np.polynomial.hermite_e.hermegauss(20)
    power = [float(weights @ (1 + nodes) ** k / weights.sum()) for k in range(9)]
    y_second = power[4] + WIDTH
    y_fourth = power[8] + 6 * WIDTH * power[4] + 3 * WIDTH**2
    second = np.repeat([power[2], y_second], PAIRS)
    fourth = np.repeat([power[4], y_fourth], PAIRS)
    # Cov(X, Y) = E X³ - E X E X², Var Y = E X⁴ + w - (E X²)².
    pair = np.array([[1.0, power[3] - power[2]], [power[3] - power[2], power[4] + WIDTH - power[2] ** 2]])
    covariance = np.kron(pair, np.eye(PAIRS))
    start = np.repeat([1.0, 2.0], PAIRS)
    return Target(log_density, second, fourth - second**2, DIM, covariance, start, 2**0.5)


TARGETS: dict[str, Callable[[], Target]] = {"gaussian": gaussian, "funnel": funnel, "rosenbrock": rosenbrock}
