"""Targets with closed forms and noise added to the exact gradient, as in `benchmarks/analytical.py`.

A batch is the noise itself: rows of a linear term of the log density, drawn afresh at each step. The exact part is
shared out over the rows like a likelihood, so that no sampler learns anything from a prior.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from benchmarks.analytical import DIM, noise_factors, target
from benchmarks.truth.target import Reference, Target, gaussian_reference

import smilax as sx

BATCH, ROWS = 8, 2048  # N/B is the noise variance 16², as it is for batches from a well specified model
FREEDOM = 5  # degrees of freedom of the heavy-tailed noise
WIDTH = 0.1  # variance of the banana across
PAIRS = DIM // 2
NOISES = ("isotropic", "anisotropic", "correlated", "fisher", "heavy")
ABOUT_NOISE = {
    "isotropic": "standard deviation 16",
    "anisotropic": "16 times the spectrum logspace(−1, 1), along the axes",
    "correlated": "16 times a Cholesky factor of the target's covariance",
    "fisher": "16 times a Cholesky factor of the inverse of the target's covariance",
    "heavy": f"isotropic, Student-t with {FREEDOM} degrees of freedom, standard deviation 16",
}


def banana(x):
    """Log density of independent pairs a ~ N(1, 1), b | a ~ N(a², 0.1), half of them a's."""
    a, b = x[:PAIRS], x[PAIRS:]
    return -0.5 * jnp.sum((a - 1) ** 2) - 0.5 * jnp.sum((b - a**2) ** 2) / WIDTH


def _banana_moments() -> Reference:
    """Moments by Gauss-Hermite quadrature, exact for these polynomials."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(20)
    weights = weights / weights.sum()
    a = 1 + nodes
    powers = [weights @ a**k for k in range(9)]
    # b = a² + e with e ~ N(0, w): E b², Var b² from E b⁴ = E a⁸ + 6 w E a⁴ + 3 w².
    b_square = powers[4] + WIDTH
    b_fourth = powers[8] + 6 * WIDTH * powers[4] + 3 * WIDTH**2
    mean = np.repeat([powers[1], powers[2]], PAIRS)
    square = np.repeat([powers[2], b_square], PAIRS)
    fourth = np.repeat([powers[4], b_fourth], PAIRS)
    return Reference(mean, square - mean**2, fourth - square**2, "closed form")


def _covariance_of_banana() -> np.ndarray:
    a_b = 4 - 2 * 1  # E[a³] − E[a] E[a²] with E[a³] = 4, E[a²] = 2
    b = 10 + WIDTH - 4  # E[a⁴] + w − (E a²)²
    return np.kron(np.asarray([[1.0, a_b], [a_b, b]]), np.eye(PAIRS))


def _gaussian(covariance):
    precision = jnp.asarray(np.linalg.inv(covariance), jnp.float32)
    return lambda x: -0.5 * x @ (precision @ x)


def _noise(noise: str, covariance: np.ndarray) -> Callable:
    """`transform(key, batch)` that puts fresh noise in the place of the rows drawn."""
    factor = noise_factors(covariance)["isotropic" if noise == "heavy" else noise]
    # The gradient sums B rows times N/B.
    factor = jnp.asarray(factor.T * BATCH**0.5 / ROWS, jnp.float32)

    def transform(key, batch):
        if noise == "heavy":
            rows = jax.random.t(key, float(FREEDOM), (BATCH, DIM), jnp.float32) * ((FREEDOM - 2) / FREEDOM) ** 0.5
        else:
            rows = jax.random.normal(key, (BATCH, DIM), jnp.float32)
        return rows @ factor

    return transform


def _make(shape: str, noise: str) -> Target:
    titles = {"gaussian": "Ill-conditioned Gaussian", "normal": "Standard Gaussian", "banana": "Banana"}
    abouts = {
        "gaussian": "Standard deviations logspace(−1, 1), rotated, d = 10.",
        "normal": "N(0, I), d = 10.",
        "banana": f"Five pairs a ~ N(1, 1), b | a ~ N(a², {WIDTH}), d = 10.",
    }
    if shape == "banana":
        covariance, density, reference = _covariance_of_banana(), banana, _banana_moments()
    else:
        covariance = target() if shape == "gaussian" else np.eye(DIM)
        density, reference = (
            _gaussian(covariance),
            gaussian_reference(np.zeros(DIM), np.diag(covariance), "closed form"),
        )
    posterior = sx.Posterior(
        lambda x: jnp.zeros((), x.dtype), lambda x, batch: batch @ x + density(x) / ROWS, num_data=ROWS
    )
    # The ill-conditioned one is that of the closing bars.
    long = shape == "gaussian"
    return Target(
        f"{shape}_{noise}", f"{titles[shape]}, {noise} noise",
        f"{abouts[shape]} Noise of the gradient: {ABOUT_NOISE[noise]}.",
        posterior, sx.Batches(np.zeros((ROWS, DIM), np.float32), replacement=True, transform=_noise(noise, covariance)),
        BATCH, lambda num: np.zeros((num, DIM), np.float32), lambda _: reference,
        num_warmup=100_000 if long else 20_000, num_samples=100_000 if long else 20_000,
        # Along the widest direction a chain has few independent draws: that few seeds would compare luck.
        num_chains=1, seeds=40 if long else 4, grid_seeds=10 if long else 1,
        ismile={"endless": True}, full_batch=False,
    )  # fmt: skip


MAKERS = {
    f"{shape}_{noise}": lambda shape=shape, noise=noise: _make(shape, noise)
    for shape in ("gaussian", "normal", "banana")
    for noise in NOISES
}
