"""The numbers are those of `jax.random`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smilax import threefry

SHAPES = [(), (1,), (257,), (30, 31), (3, 3, 5, 7), (2, 0, 3)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_bits_and_normal_are_those_of_jax(shape, impl):
    key = jax.random.key(3, impl=impl)
    np.testing.assert_array_equal(threefry.bits(key, shape), jax.random.bits(key, shape, jnp.uint32))
    for dtype in (jnp.float32, jnp.float16, jnp.float64):
        if dtype == jnp.float64 and not jax.config.jax_enable_x64:
            continue
        found, expected = (f(key, shape, dtype) for f in (threefry.normal, jax.random.normal))
        assert (found.dtype, found.shape) == (dtype, shape)
        np.testing.assert_array_equal(found, expected)


def test_of_many_keys_at_once_and_of_one_without_a_type():
    keys = jax.random.split(jax.random.key(1), 5)
    found = jax.jit(jax.vmap(lambda k: threefry.bits(k, (7, 3))))(keys)
    np.testing.assert_array_equal(found, jnp.stack([jax.random.bits(k, (7, 3), jnp.uint32) for k in keys]))
    plain = jax.random.PRNGKey(8)
    np.testing.assert_array_equal(threefry.bits(plain, (9,)), jax.random.bits(plain, (9,), jnp.uint32))


def test_other_counters_are_left_to_jax():
    before = jax.config.jax_threefry_partitionable
    jax.config.update("jax_threefry_partitionable", False)
    try:
        key = jax.random.key(2)
        np.testing.assert_array_equal(threefry.bits(key, (33,)), jax.random.bits(key, (33,), jnp.uint32))
    finally:
        jax.config.update("jax_threefry_partitionable", before)


def test_a_compiled_normal_is_one_pass():
    text = jax.jit(lambda key: threefry.normal(key, (1000,), jnp.dtype("float32"))).lower(jax.random.key(0)).as_text()
    assert "while" not in text
    theirs = jax.jit(lambda key: jax.random.normal(key, (1000,), jnp.float32)).lower(jax.random.key(0))
    assert "while" in theirs.as_text(), "JAX does so itself now"
