"""A small network, judged by its predictions: its parameters have symmetries and modes without number."""

from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
from benchmarks.truth.reference import by_nuts
from benchmarks.truth.target import Target
from sklearn.datasets import load_diabetes

import smilax as sx

HIDDEN, TEST, VALID = 8, 88, 54


def _rows():
    """Standardised training and validation rows, and the test inputs."""
    x, y = load_diabetes(return_X_y=True)
    x, y = ((a - a.mean(axis=0)) / a.std(axis=0) for a in (x, y))
    order = np.random.default_rng(0).permutation(len(y))
    x, y = x[order].astype(np.float32), y[order].astype(np.float32)
    return (x[TEST:], y[TEST:]), x[:TEST]


def tanh() -> Target:
    """Regression with learned noise; all chains, those of NUTS too, start at members of a deep ensemble."""
    (x, y), test = _rows()
    network = sx.models.mlp(10, 1, hidden=(HIDDEN,), activation=jnp.tanh)

    def posterior_of(num_data):
        return sx.bnn(network, sx.likelihoods.Gaussian(), sx.priors.Normal(0.0, 1.0), num_data)

    posterior = posterior_of(len(y))

    @lru_cache
    def start(num):
        train, valid = (x[VALID:], y[VALID:]), (x[:VALID], y[:VALID])
        members = sx.train_ensemble(
            jax.random.key(0), posterior_of(len(y) - VALID), train, valid, num_members=max(num, 2)
        )
        return jax.tree.map(lambda leaf: np.asarray(leaf)[:num], members)

    return Target(
        "tanh", "Tanh network, diabetes",
        f"10-{HIDDEN}-1, prior N(0, 1), learned noise, in function space: means and standard deviations of the output "
        f"at {TEST} test inputs. N = {len(y)}, d = {HIDDEN * 12 + 2}, B = 64. All chains, those of NUTS too, start at "
        "members of a deep ensemble.",
        posterior, (x, y), 64, start, by_nuts(4000, 1000, num_chains=8, whiten=False),
        num_chains=8, quantities=lambda params: posterior.outputs(params, jnp.asarray(test))[:, 0], kind="function",
        seeds=2, grid_chains=4, grid_seeds=1,
    )  # fmt: skip
