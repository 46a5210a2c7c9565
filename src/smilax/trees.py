"""Vector-space operations on pytrees: what a sampler needs of its parameters, leaf by leaf."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from smilax import threefry

# Up to this many numbers the dispatch of an operation costs more than a copy of its operands.
SMALL_LEAF = 16_384


def size(tree: Any) -> int:
    """How many numbers the tree holds."""
    return sum(math.prod(jnp.shape(leaf)) for leaf in jax.tree.leaves(tree))


def dot(a: Any, b: Any) -> jax.Array:
    """Sum over all entries of `a * b`; shape `()`."""
    return functools.reduce(jnp.add, jax.tree.leaves(jax.tree.map(jnp.vdot, a, b)))


def dots(a: Any, b: Any, x: Any) -> tuple[jax.Array, jax.Array]:
    """`dot(a, x)` and `dot(b, x)`; small leaves in one matrix-vector product, because each operation has its price."""

    def both(a, b, x):
        if x.size > SMALL_LEAF:
            return jnp.stack([jnp.vdot(a, x), jnp.vdot(b, x)])
        return jnp.stack([a.ravel(), b.ravel()]) @ x.ravel()

    total = functools.reduce(jnp.add, jax.tree.leaves(jax.tree.map(both, a, b, x)))
    return total[0], total[1]


def total(tree: Any) -> jax.Array:
    """The sum of all entries; shape `()`."""
    return functools.reduce(jnp.add, [jnp.sum(leaf) for leaf in jax.tree.leaves(tree)])


def scale(factor: jax.Array | float, tree: Any) -> Any:
    """`factor * tree`."""
    return jax.tree.map(lambda x: factor * x, tree)


def add_scaled(a: Any, factor: jax.Array | float, b: Any) -> Any:
    """`a + factor * b`."""
    return jax.tree.map(lambda x, y: x + factor * y, a, b)


def where(condition: jax.Array, a: Any, b: Any) -> Any:
    """`a` if the scalar condition holds, else `b`."""
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), a, b)


def normal_like(key: jax.Array, tree: Any) -> Any:
    """Independent standard normal numbers in the shapes and dtypes of `tree`."""
    leaves, treedef = jax.tree.flatten(tree)
    keys = [key] if len(leaves) == 1 else jax.random.split(key, len(leaves))
    return jax.tree.unflatten(
        treedef, [threefry.normal(k, jnp.shape(x), jnp.result_type(x)) for k, x in zip(keys, leaves, strict=True)]
    )


def signs_like(key: jax.Array, tree: Any) -> Any:
    """Independent random signs, ±1, in the shapes and dtypes of `tree`; 32 of them from one random word."""
    leaves, treedef = jax.tree.flatten(tree)
    keys = [key] if len(leaves) == 1 else jax.random.split(key, len(leaves))

    def signs(key, leaf):
        # Not `threefry.bits`, which the compiler would compute again for each sign of a word.
        words = jax.random.bits(key, (-(-leaf.size // 32),), jnp.uint32)
        # Sign k of all words side by side, so that neighbours in memory come from neighbouring words.
        bits = (words[None, :] >> jnp.arange(32, dtype=jnp.uint32)[:, None]) & 1
        return (1 - 2 * bits.reshape(-1)[: leaf.size].astype(leaf.dtype)).reshape(leaf.shape)

    return jax.tree.unflatten(treedef, [signs(k, x) for k, x in zip(keys, leaves, strict=True)])
