"""The first part of a network's warm-up: from where a chain starts to a high log posterior.

A chain whose noise is that of its batches moves like preconditioned stochastic gradient descent at one fixed learning
rate, about 2B/N of a Newton step (docs/theory.md): right for sampling, slow for getting there. An optimiser whose rate
starts high and falls to nothing gets there in a fraction of the steps.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from smilax import trees
from smilax.packing import repack, unpack

# Adafactor (Shazeer and Stern 2018): second moments by rows and columns, no second copy of the parameters; and rates
# relative to the size of a leaf, so that there is none to choose. A leaf of zeros counts as `LEAST_SIZE`.
RATE, MOMENTUM, LEAST_SIZE = 0.03, 0.9, 0.01


def _scaled() -> Any:
    # Optax would be a third of the time that `import smilax` adds to JAX.
    import optax

    return optax.chain(
        optax.scale_by_factored_rms(min_dim_size_to_factor=2),
        optax.clip_by_block_rms(1.0),
        optax.scale_by_param_block_rms(LEAST_SIZE),
    )


class Descent(NamedTuple):
    """State of the descent, beside the parameters and the direction.

    Attributes:
        optimizer: second moments of the gradient.
        length: of the momentum, shape `()`.
    """

    optimizer: Any
    length: jax.Array


def descent_init(params: Any) -> Descent:
    """The descent before its first step."""
    leaves = jax.tree.leaves(unpack(params))
    return Descent(_scaled().init(leaves), jnp.zeros((), jnp.result_type(*leaves)))


def descend(
    descent: Descent, direction: Any, params: Any, gradient: Any, progress: jax.Array
) -> tuple[Descent, Any, Any]:
    """One step up the log posterior, down its negative.

    Args:
        descent: from `descent_init` or the step before.
        direction: of the momentum, a pytree like `params` of norm one; it takes the place of a chain's velocity.
        params: where to step from.
        gradient: of the log density. If it is not finite nothing moves.
        progress: from 0 at the first step to 1 at the last, shape `()`; the rate falls as a half cosine.

    Returns:
        The descent, the direction and the parameters.
    """
    leaves = jax.tree.leaves(unpack(params))
    finite = jnp.isfinite(sum(jnp.sum(jnp.abs(g)) for g in jax.tree.leaves(gradient)))
    # Optax counts on NumPy's promotion; this holds while tracing, and only in this thread.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        updates, after = _scaled().update(jax.tree.leaves(unpack(gradient)), descent.optimizer, leaves)
    rate = RATE * 0.5 * (1 + jnp.cos(jnp.pi * progress))

    def pushed(v, u):
        return MOMENTUM * descent.length * v + (1 - MOMENTUM) * rate.astype(v.dtype) * u.astype(v.dtype)

    momentum = jax.tree.map(pushed, direction, repack(updates, params))
    length = jnp.sqrt(trees.dot(momentum, momentum))
    moving = finite & (length > 0)
    inverse = 1 / jnp.where(moving, length, 1)
    return (
        jax.tree.map(lambda new, old: jnp.where(moving, new, old), Descent(after, length), descent),
        jax.tree.map(lambda m, v: jnp.where(moving, m * inverse, v), momentum, direction),
        jax.tree.map(lambda x, m: jnp.where(moving, x + m, x), params, momentum),
    )
