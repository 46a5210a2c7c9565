"""A hierarchical regression, whose group effects and their log scale form Neal's funnel."""

import jax.numpy as jnp
import numpy as np
from benchmarks.truth.reference import by_nuts
from benchmarks.truth.target import Target
from sklearn import datasets

import smilax as sx

YEARS = 4  # of age in a group


def _normal(x, mean, log_scale):
    return -log_scale - 0.5 * ((x - mean) * jnp.exp(-log_scale)) ** 2


def _log_prior(params):
    effects, log_spread = params["effects"], params["log_spread"]
    return (
        jnp.sum(_normal(effects, params["mean"], log_spread))
        - 0.5 * params["mean"] ** 2
        - 0.5 * (log_spread + 1.0) ** 2
        - 0.5 * params["log_noise"] ** 2
    )


def _log_likelihood(params, batch):
    groups, y = batch
    return _normal(y, params["effects"][groups], params["log_noise"])


def _non_centred(params):
    """Effects from their standardised form, and the log determinant: the form in which NUTS runs."""
    effects = params["mean"] + jnp.exp(params["log_spread"]) * params["effects"]
    return params | {"effects": effects}, effects.size * params["log_spread"]


def hierarchy() -> Target:
    """Effects of age groups in their centred form."""
    x, y = datasets.load_diabetes(return_X_y=True, scaled=False)
    groups = ((x[:, 0] - x[:, 0].min()) // YEARS).astype(np.int32)
    count = int(groups.max()) + 1
    y = ((y - y.mean()) / y.std()).astype(np.float32)

    # With all effects alike the density has a spike at spread zero, without mass but hard to leave.
    means = (np.bincount(groups, y) / np.bincount(groups)).astype(np.float32)

    def start(num):
        scalars = {name: np.full(num, value, np.float32) for name, value in
                   (("mean", 0.0), ("log_spread", -1.0), ("log_noise", 0.0))}  # fmt: skip
        return scalars | {"effects": np.tile(means, (num, 1))}

    return Target(
        "hierarchy", "Hierarchical regression, diabetes",
        f"Standardised target, one effect for each of {count} age groups of {YEARS} years, effects ~ N(mean, spread²) "
        "in their centred form, so that effects and log spread are Neal's funnel; log spread ~ N(−1, 1), log noise and "
        f"mean ~ N(0, 1). N = {len(y)}, d = {count + 3}, B = 64. Effects start at the "
        "groups' means. NUTS runs in the non-centred form.",
        sx.Posterior(_log_prior, _log_likelihood, len(y)), (groups, y), 64, start, by_nuts(chart=_non_centred), seeds=2,
    )  # fmt: skip
