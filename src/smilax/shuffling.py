"""Random access to random permutations: entry i of a permutation of N rows in constant time and memory.

A batch without replacement, or a shuffled epoch, is a slice of a permutation. Sorting N random numbers for it at each
step would cost more than a small model's gradient, so larger permutations are computed entry by entry, by a
Feistel network over a grid of about √N × √N cells with cycle walking back into [0, N) (Black and Rogaway 2002).
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

# Below this a sort is as fast, and exact; above it, eight rounds leave a pair's probability off by less than N⁻².
SORT_LIMIT = 128
ROUNDS = 8


def _mix(x: jax.Array) -> jax.Array:
    """A full-avalanche 32-bit hash (Wellons 2018, "lowbias32")."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


# What else a permutation's key is for takes the key folded with this: `jax.random.permutation` uses small numbers.
BESIDE = np.uint32(2**32 - 1)


def permuted(key: jax.Array, positions: jax.Array, num_rows: int) -> jax.Array:
    """Entries `positions` of the permutation of `range(num_rows)` that `key` names.

    Args:
        key: a JAX random key; different keys give independent permutations.
        positions: integers in `[0, num_rows)`, shape `(B,)`.
        num_rows: N, up to 2³¹.

    Returns:
        int32 row numbers, shape `(B,)`; distinct where the positions are.
    """
    if num_rows <= SORT_LIMIT:
        return jax.random.permutation(key, num_rows).astype(jnp.int32)[positions]
    width = math.isqrt(num_rows - 1) + 1
    height = -(-num_rows // width)
    words = jax.random.key_data(key).astype(jnp.uint32).ravel()
    rounds = _mix(words[0] + jnp.arange(1, ROUNDS + 1, dtype=jnp.uint32) * jnp.uint32(0x9E3779B9))
    rounds = _mix(rounds ^ words[-1])

    def encipher(x):
        left, right = x // jnp.uint32(height), x % jnp.uint32(height)
        for i in range(0, ROUNDS, 2):
            left = (left + _mix(right + rounds[i]) % jnp.uint32(width)) % jnp.uint32(width)
            right = (right + _mix(left + rounds[i + 1]) % jnp.uint32(height)) % jnp.uint32(height)
        return left * jnp.uint32(height) + right

    def outside(x):
        return x >= jnp.uint32(num_rows)

    x = encipher(positions.astype(jnp.uint32))
    x = jax.lax.while_loop(lambda x: jnp.any(outside(x)), lambda x: jnp.where(outside(x), encipher(x), x), x)
    return x.astype(jnp.int32)
