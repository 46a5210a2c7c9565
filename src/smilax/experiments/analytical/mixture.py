"""A mixture with 25 modes in ten dimensions: which of them chains with noisy gradients find.

The paper says: a 5×5 grid of modes in the first two dimensions of ten. What it does not say is chosen here: centres at
{-4, -2, 0, 2, 4}² in the first two coordinates, standard deviation 0.5, and isotropic noise.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from smilax.data import Batches
from smilax.experiments.analytical.noises import NOISE_STD
from smilax.experiments.analytical.targets import DIM
from smilax.posterior import Posterior
from smilax.samplers import psmile_naive
from smilax.sampling import sample

SPACING, STD, SIDE = 2.0, 0.5, 5
CENTRES = np.stack(np.meshgrid(*[np.arange(-(SIDE // 2), SIDE // 2 + 1) * SPACING] * 2), axis=-1).reshape(-1, 2)
CENTRES = CENTRES.astype(np.float32)
# A mode counts as visited if a draw is so many standard deviations from it.
NEAR = 2.0


class Visits(NamedTuple):
    """Where the chains were.

    Attributes:
        draws: the first two coordinates, shape `(chain, draw, 2)`.
        modes: how many of the 25 each chain visited, shape `(chain,)`.
        together: how many all of them visited.
    """

    draws: np.ndarray
    modes: np.ndarray
    together: int


def log_density(x: jax.Array) -> jax.Array:
    """Of a point, shape `(DIM,)`, without its constant."""
    distances = jnp.sum((x[None, :2] - CENTRES.astype(x.dtype)) ** 2, axis=1)
    return jax.nn.logsumexp(-0.5 * distances / STD**2) - 0.5 * jnp.sum(x[2:] ** 2) / STD**2


def visits(seed: int, num_steps: int, num_chains: int = 10, step_size: float = 0.1, thinning: int = 10) -> Visits:
    """Chains of pSMILE-naive from random modes.

    Args:
        seed: of all random numbers.
        num_steps: of each chain.
        num_chains: number of chains.
        step_size: ε.
        thinning: steps per draw that is looked at.
    """
    # The one row is the noise, of the standard deviation that the sum of 256 unit draws has.
    posterior = Posterior(log_density, lambda x, batch: batch @ x, num_data=1)

    def fresh(key, batch):
        return NOISE_STD * jax.random.normal(key, batch.shape, jnp.float32)

    start = np.zeros((num_chains, DIM), np.float32)
    start[:, :2] = CENTRES[np.random.default_rng(seed).integers(len(CENTRES), size=num_chains)]
    result = sample(
        jax.random.key(seed), psmile_naive(posterior, step_size),
        Batches(np.zeros((1, DIM), np.float32), transform=fresh), start,
        num_warmup=0, num_samples=num_steps, thinning=thinning, batch_size=1, progress_bar=False,
    )  # fmt: skip
    draws = np.asarray(result.draws)[..., :2]
    return Visits(draws, *_count(draws))


def _count(draws: np.ndarray) -> tuple[np.ndarray, int]:
    near = np.zeros((len(draws), len(CENTRES)), bool)
    for k, centre in enumerate(CENTRES):
        near[:, k] = (((draws - centre) ** 2).sum(-1) < (NEAR * STD) ** 2).any(1)
    return near.sum(1), int(near.any(0).sum())
