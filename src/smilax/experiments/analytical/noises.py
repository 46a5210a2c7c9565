"""Shapes and laws of the noise of a gradient."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from smilax.experiments.analytical.targets import DIM

NOISE_STD = 16.0
FREEDOM = 5.0
LOG_STD = 0.5
NOISES: dict[str, str] = {
    "isotropic": "standard deviation 16",
    "anisotropic": "16 times the spectrum logspace(-1, 1), along the axes",
    "correlated": "16 times a Cholesky factor of the target's covariance",
    "spatial": "correlated, as a term (y·x) exp(-x₃/ℓ) of the log density",
    "fisher": "16 times a Cholesky factor of the inverse of the target's covariance",
}


def noise_factors(covariance: np.ndarray) -> dict[str, np.ndarray]:
    """For each noise the matrix by which unit draws are multiplied, with the factor 16; spatial as correlated."""
    factors = {
        "isotropic": np.eye(DIM),
        "anisotropic": np.diag(np.logspace(-1, 1, DIM)),
        "correlated": np.linalg.cholesky(covariance),
        "fisher": np.linalg.cholesky(np.linalg.inv(covariance)),
    }
    factors["spatial"] = factors["correlated"]
    return {name: NOISE_STD * factors[name] for name in NOISES}


def _gaussian(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return jax.random.normal(key, shape, jnp.float32)


def _laplace(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return jax.random.laplace(key, shape, jnp.float32) / 2**0.5


def _student_t(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return jax.random.t(key, FREEDOM, shape, jnp.float32) * ((FREEDOM - 2) / FREEDOM) ** 0.5


def _lognormal(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Skewed: exp(s z), less its mean, over its standard deviation."""
    square = LOG_STD**2
    mean, std = np.exp(square / 2), np.sqrt(np.expm1(square) * np.exp(square))
    return (jnp.exp(LOG_STD * jax.random.normal(key, shape, jnp.float32)) - float(mean)) / float(std)


# All of mean zero and variance one.
LAWS: dict[str, Callable[[jax.Array, tuple[int, ...]], jax.Array]] = {
    "gaussian": _gaussian, "laplace": _laplace, "student_t": _student_t, "lognormal": _lognormal,
}  # fmt: skip
