"""A mixture of 25 Gaussians on a grid: how many of its modes are found."""

import jax
import jax.numpy as jnp
import numpy as np
from benchmarks.truth.target import Reference, Target

import smilax as sx

CENTRES = np.stack(np.meshgrid(np.arange(-4, 5, 2), np.arange(-4, 5, 2)), axis=-1).reshape(-1, 2).astype(np.float32)
VARIANCE = 0.03
NEAR = 3.0  # standard deviations
BATCH, ROWS = 8, 2048
NOISE_STD = 16.0


def _log_density(x):
    distances = jnp.sum((x - CENTRES.astype(x.dtype)) ** 2, axis=1)
    return jax.nn.logsumexp(-0.5 * distances / VARIANCE)


def _visits(x):
    """One where the point is near a centre, else zero, shape `(25,)`."""
    return (jnp.sum((x - CENTRES.astype(x.dtype)) ** 2, axis=1) < NEAR**2 * VARIANCE).astype(x.dtype)


def mixture() -> Target:
    """The grid of Zhang et al. (2020), with isotropic noise added to the gradient."""
    posterior = sx.Posterior(
        lambda x: jnp.zeros((), x.dtype), lambda x, batch: batch @ x + _log_density(x) / ROWS, num_data=ROWS
    )

    def transform(key, batch):
        return jax.random.normal(key, (BATCH, 2), jnp.float32) * (NOISE_STD * BATCH**0.5 / ROWS)

    share = np.full(25, (1 - np.exp(-(NEAR**2) / 2)) / 25)
    reference = Reference(share, share * (1 - share), share * (1 - share), "closed form")
    return Target(
        "mixture", "Mixture of 25 Gaussians",
        f"Centres on the grid {{−4, −2, 0, 2, 4}}², variance {VARIANCE}, gradient noise of standard deviation "
        f"{NOISE_STD:g}. Ten chains from uniform draws on [−5, 5]². A mode is visited if any of the draws looked at is "
        f"within {NEAR:g} standard deviations.",
        posterior, sx.Batches(np.zeros((ROWS, 2), np.float32), replacement=True, transform=transform), BATCH,
        lambda num: np.random.default_rng(0).uniform(-5, 5, (num, 2)).astype(np.float32), lambda _: reference,
        num_chains=10, quantities=_visits, kind="modes", seeds=2, grid_seeds=1,
        ismile={"replacement": True}, full_batch=False,
    )  # fmt: skip
