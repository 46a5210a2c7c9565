"""The first part of a network's warm-up: from where a chain starts to a high log posterior.

A chain whose noise is that of its batches moves like preconditioned stochastic gradient descent at one fixed learning
rate, about 2B/N of a Newton step (docs/theory.md): right for sampling, slow for getting there. An optimiser whose rate
starts high and falls to nothing gets there in a fraction of the steps.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from smilax.packing import repack, unpack

# Adafactor (Shazeer and Stern 2018): second moments by rows and columns, no second copy of the parameters; and rates
# relative to the size of a leaf, so that there is none to choose. A leaf of zeros counts as `LEAST_SIZE`.
RATE, MOMENTUM, LEAST_SIZE = 0.03, 0.9, 0.01
_scaled = optax.chain(
    optax.scale_by_factored_rms(min_dim_size_to_factor=2),
    optax.clip_by_block_rms(1.0),
    optax.scale_by_param_block_rms(LEAST_SIZE),
)


def descent_init(params: Any) -> Any:
    """The optimiser before its first step."""
    return _scaled.init(jax.tree.leaves(unpack(params)))


def descend(optimizer: Any, momentum: Any, params: Any, gradient: Any, progress: jax.Array) -> tuple[Any, Any, Any]:
    """One step up the log posterior, down its negative.

    Args:
        optimizer: from `descent_init` or the step before.
        momentum: the last step's, a pytree like `params`; of no account in the first step.
        params: where to step from.
        gradient: of the log density. If it is not finite nothing moves.
        progress: from 0 at the first step to 1 at the last, shape `()`; the rate falls as a half cosine.

    Returns:
        The optimiser, the momentum and the parameters.
    """
    leaves = jax.tree.leaves(unpack(params))
    finite = jnp.isfinite(sum(jnp.sum(jnp.abs(g)) for g in jax.tree.leaves(gradient)))
    # Optax counts on NumPy's promotion; this holds while tracing, and only in this thread.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        updates, after = _scaled.update(jax.tree.leaves(unpack(gradient)), optimizer, leaves)
    started = optimizer[0].count > 0
    rate = RATE * 0.5 * (1 + jnp.cos(jnp.pi * progress))

    def pushed(m, u):
        return MOMENTUM * jnp.where(started, m, 0) + (1 - MOMENTUM) * rate.astype(m.dtype) * u.astype(m.dtype)

    pushes = jax.tree.map(pushed, momentum, repack(updates, params))
    moved = jax.tree.map(jnp.add, params, pushes)

    def keep(new, old):
        return jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)

    return keep(after, optimizer), keep(pushes, momentum), keep(moved, params)
