"""A branch that is rarely taken, evaluated only when some chain takes it."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap


def when(condition: jax.Array, function: Any, value: Any, *others: Any, in_turn: bool = False) -> Any:
    """`function(value, *others)` if the condition holds, else `value`; both pytrees are alike.

    Under `vmap` too the function is evaluated only if the condition holds for any chain: for all of them then, at once
    or, with `in_turn`, one after another.
    """

    @custom_vmap
    def apply(condition, value, others):
        return jax.lax.cond(condition, lambda: function(value, *others), lambda: value)

    @apply.def_vmap
    def apply_to_all(axis_size, in_batched, condition, value, others):
        def each(tree, batched):
            return jax.tree.map(lambda x, b: x if b else jnp.broadcast_to(x, (axis_size, *x.shape)), tree, batched)

        condition_batched, value_batched, others_batched = in_batched
        condition, value = each(condition, condition_batched), each(value, value_batched)

        def some():
            if in_turn:
                rows = (value, each(others, others_batched))
                new = jax.lax.map(lambda row: function(row[0], *row[1]), rows)
            else:
                axes = (0, *jax.tree.map(lambda b: 0 if b else None, others_batched))
                new = jax.vmap(function, axes)(value, *others)
            return jax.tree.map(
                lambda a, b: jnp.where(condition.reshape((-1,) + (1,) * (a.ndim - 1)), a, b), new, value
            )

        out = jax.lax.cond(jnp.any(condition), some, lambda: value)
        return out, jax.tree.map(lambda _: True, out)

    return apply(condition, value, others)
