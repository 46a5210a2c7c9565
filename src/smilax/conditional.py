"""A rare and expensive branch, evaluated only when some chain takes it."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap


def when(condition: jax.Array, function: Any, state: Any) -> Any:
    """`function(state)` if the condition holds. Under `vmap` too it is evaluated only if it holds for any chain."""

    @custom_vmap
    def apply(condition, state):
        return jax.lax.cond(condition, function, lambda s: s, state)

    @apply.def_vmap
    def apply_to_all(axis_size, in_batched, condition, state):
        condition_batched, state_batched = in_batched
        condition = condition if condition_batched else jnp.broadcast_to(condition, (axis_size,))
        state = jax.tree.map(lambda x, b: x if b else jnp.broadcast_to(x, (axis_size, *x.shape)), state, state_batched)

        def some(state):
            # One chain after another: with batched LAPACK calls XLA's CPU client was seen to wait for ever.
            new = jax.lax.map(function, state)
            return jax.tree.map(
                lambda a, b: jnp.where(condition.reshape((-1,) + (1,) * (a.ndim - 1)), a, b), new, state
            )

        out = jax.lax.cond(jnp.any(condition), some, lambda s: s, state)
        return out, jax.tree.map(lambda _: True, out)

    return apply(condition, state)
