"""The posteriors on which steps are timed."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import smilax as sx
from smilax import trees

FEATURES, TABLE_FEATURES, NUM_DATA = 20, 11, 100_000
VOCABULARY, CONTEXT = 65, 64


class Case(NamedTuple):
    """One posterior and batch size.

    Attributes:
        model: `"mlp"` (20 features, two hidden layers of a width that makes about `size` parameters), `"table"` (the
            network 11-16-16-16-1 of the tabular experiments), `"lenet"` or `"gpt"` (two layers of width 64).
        size: parameters wanted of an `"mlp"`; otherwise 0.
        batch_size: B.
        chains: advanced together, vectorised.
    """

    model: str
    size: int
    batch_size: int
    chains: int = 1


class Problem(NamedTuple):
    """A case made real: posterior, one batch on the device, and the parameters of one chain."""

    posterior: Any
    batch: Any
    params: Any
    num_params: int


SMALL = [Case("table", 0, 256), Case("mlp", 10**4, 512), Case("mlp", 10**5, 512)]
CASES = {
    "small": SMALL,
    "full": [
        Case("mlp", 10**3, 512), *SMALL[1:], Case("mlp", 10**6, 512), Case("mlp", 10**7, 512),
        Case("mlp", 10**5, 64), Case("mlp", 10**5, 2048),
        SMALL[0], Case("table", 0, 256, chains=10), Case("mlp", 10**5, 512, chains=10),
        Case("lenet", 0, 512), Case("gpt", 0, 16),
    ],
}  # fmt: skip


def hidden_width(size: int) -> int:
    """Width h of two hidden layers with about `size` parameters: (20 + 1) h + (h + 1) h + h + 1, and a noise scale."""
    linear = FEATURES + 3
    return max(1, round((-linear + (linear**2 + 4 * (size - 2)) ** 0.5) / 2))


def build(case: Case) -> Problem:
    """The problem of a case; data are random, as costs do not depend on them."""
    rng = np.random.default_rng(0)

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    likelihood: Any = sx.likelihoods.Categorical()
    if case.model in ("mlp", "table"):
        features = FEATURES if case.model == "mlp" else TABLE_FEATURES
        hidden = (hidden_width(case.size),) * 2 if case.model == "mlp" else (16, 16, 16)
        network = sx.models.mlp(features, 1, hidden=hidden)
        likelihood = sx.likelihoods.Gaussian()
        batch = (normal(case.batch_size, features), normal(case.batch_size, 1))
    elif case.model == "lenet":
        network = sx.models.lenet(10)
        batch = (normal(case.batch_size, 28, 28, 1), jnp.asarray(rng.integers(0, 10, case.batch_size), jnp.int32))
    else:
        network = sx.models.gpt(VOCABULARY, context=CONTEXT, layers=2, heads=4, width=64)
        tokens = rng.integers(0, VOCABULARY, (2, case.batch_size, CONTEXT))
        batch = (jnp.asarray(tokens[0], jnp.int32), jnp.asarray(tokens[1], jnp.int32))
    posterior = sx.bnn(network, likelihood, sx.priors.Normal(0.0, 1.0), num_data=NUM_DATA)
    params = posterior.init(jax.random.key(0))
    return Problem(posterior, batch, params, trees.size(params))
