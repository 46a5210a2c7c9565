"""Imports the installed package and draws twenty steps from a small linear regression."""

import sys

import jax
import jax.numpy as jnp
import numpy as np

import smilax as sx

rng = np.random.default_rng(0)
x = rng.normal(size=(100, 3)).astype(np.float32)
y = x @ np.array([1.0, -2.0, 0.5], np.float32) + rng.normal(size=100).astype(np.float32)


def log_likelihood(weights, batch):
    """Unit-variance Gaussian, one value per example."""
    features, target = batch
    return -0.5 * (target - features @ weights) ** 2


posterior = sx.Posterior(lambda weights: -0.5 * jnp.sum(weights**2), log_likelihood, num_data=len(y))
result = sx.sample(
    jax.random.key(0),
    sx.psmile_naive(posterior, step_size=0.01),
    (x, y),
    jnp.zeros(3),
    num_chains=2,
    num_warmup=10,
    num_samples=20,
    batch_size=10,
    progress_bar=False,
)
draws = np.asarray(result.draws)
assert draws.shape == (2, 20, 3), draws.shape
assert np.isfinite(draws).all()
print(f"smilax on Python {sys.version.split()[0]}, JAX {jax.__version__}: ok")
