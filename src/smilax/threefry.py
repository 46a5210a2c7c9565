"""Random words and normal numbers of `jax.random`, bit for bit, in one pass over the array.

On CPU JAX computes them in a loop of passes, which takes two to four times as long. Left to `jax.random` are keys of
other generators, arrays of 2³² numbers, and normal numbers of other precision.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
PARITY = np.uint32(0x1BD11BDA)


def bits(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """`jax.random.bits` of 32 bits.

    Args:
        key: a scalar key.
        shape: of the result, uint32.
    """
    if not _covered(key) or math.prod(shape) >= 2**32:
        return jax.random.bits(key, shape, jnp.uint32)
    # More axes than two make the place of a number in the sequence dear to compute.
    table = shape if len(shape) <= 2 else (math.prod(shape[:-1]), shape[-1])
    strides = [math.prod(table[axis + 1 :]) for axis in range(len(table))]
    places = [jax.lax.broadcasted_iota(jnp.uint32, table, axis) * np.uint32(s) for axis, s in enumerate(strides)]
    first, second = threefry(jax.random.key_data(key), sum(places, jnp.zeros(table, jnp.uint32)))
    return (first ^ second).reshape(shape)


def normal(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
    """`jax.random.normal`: standard normal numbers of this shape and dtype."""
    if dtype != jnp.float32 or not _covered(key):
        return jax.random.normal(key, shape, dtype)
    # 23 bits of mantissa make numbers in [1, 2), and these uniform ones in (-1, 1).
    mantissa = (bits(key, shape) >> np.uint32(9)) | np.uint32(0x3F800000)
    lowest = np.nextafter(np.float32(-1), np.float32(0))
    uniform = (jax.lax.bitcast_convert_type(mantissa, jnp.float32) - 1) * (1 - lowest) + lowest
    return np.float32(math.sqrt(2)) * jax.lax.erf_inv(jnp.maximum(uniform, lowest))


def threefry(key: jax.Array, counts: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Both words of Threefry-2x32 in 20 rounds (Salmon et al. 2011), for counters of high word 0.

    Args:
        key: two words, uint32.
        counts: low words, uint32 of any shape.
    """
    schedule = (key[0], key[1], key[0] ^ key[1] ^ PARITY)
    one, two = jnp.broadcast_to(schedule[0], counts.shape), counts + schedule[1]
    for part in range(5):
        for turn in ROTATIONS[part % 2]:
            one = one + two
            two = one ^ ((two << np.uint32(turn)) | (two >> np.uint32(32 - turn)))
        one = one + schedule[(part + 1) % 3]
        two = two + schedule[(part + 2) % 3] + np.uint32(part + 1)
    return one, two


def _covered(key: jax.Array) -> bool:
    return jax.random.key_impl(key) == "threefry2x32" and jax.config.values["jax_threefry_partitionable"]
