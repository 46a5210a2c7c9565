"""Λ of ismile: what is added to the noise that it has learnt, so that no direction is taken for free of noise."""

from typing import Any

import jax
import jax.numpy as jnp

from smilax.packing import unpack
from smilax.posterior import Posterior

# Where the prior's precision is not known (flat priors): damping as a share of the mean noise variance. It slows
# directions down whose noise variance is a smaller share: at 0.01 a Gaussian whose variances span 10⁴ mixed ten times
# more slowly along the widest. At 1e-4 the scales of a hierarchical model, which only the prior knows, moved too far.
UNKNOWN_SHARE = 1e-3
# A unit that is dead all through warm-up has no noise, and its weights get the prior's wide steps; where it comes to
# life later, these are far too long. So the weights of networks are taken to have this share of their leaf's mean.
NETWORK_SHRINKAGE = 1e-2


def damping(
    posterior: Posterior, params: Any, means: list[jax.Array], batch_size: int, noise_floor: float, shrinkage: float
) -> list[jax.Array]:
    """Λ's diagonal, a number for each leaf: c (N/B) × prior precision, and a share of the leaf's own noise.

    Args:
        posterior: the target.
        params: whose prior precision counts; a pytree, or the same packed.
        means: the mean noise variance of each leaf's entries, shape `()`, in the order of `jax.tree.leaves`.
        batch_size: B.
        noise_floor: c.
        shrinkage: the share.
    """
    ratio = noise_floor * posterior.num_data / batch_size
    known = [
        # NaN, of a prior that has none or does not say, is not positive either.
        jnp.where(tau > 0, ratio * tau, 0).astype(mean.dtype)
        for tau, mean in zip(posterior.prior_precision(unpack(params)), means, strict=True)
    ]
    # A leaf may have neither a known prior precision nor noise of its own: it is damped like the others then.
    typical = sum(known) / len(known) + sum(means) / len(means)
    unknown = [UNKNOWN_SHARE * jnp.maximum(mean, typical) + jnp.finfo(mean.dtype).tiny for mean in means]
    return [
        jnp.where(level > 0, level, other) + shrinkage * mean
        for level, other, mean in zip(known, unknown, means, strict=True)
    ]
