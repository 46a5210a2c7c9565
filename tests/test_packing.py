"""Parameters in one buffer, or in a buffer for the small leaves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import smilax as sx
from smilax.packing import (
    LARGEST_PACKED,
    PACKING_LIMIT,
    all_packed,
    flatten,
    pack,
    packable,
    repack,
    spread,
    unflatten,
    unpack,
)

pytestmark = pytest.mark.once
RNG = np.random.default_rng(0)


def tree(width):
    """Two small leaves, one before and one behind a matrix of 20 × width, and a scalar."""
    return {
        "a": jnp.asarray(RNG.normal(size=(3, 2))),
        "b": jnp.asarray(RNG.normal(size=(20, width))),
        "c": jnp.asarray(RNG.normal(size=5)),
        "d": jnp.asarray(RNG.normal()),
    }


TREES = {"small": tree(10), "large": tree(PACKING_LIMIT // 20)}


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("size", TREES)
def test_the_way_there_and_back(size):
    params = TREES[size]
    packed = pack(params)
    assert packable(params)
    assert not packable(packed)
    assert [leaf.size for leaf in jax.tree.leaves(packed)] == {"small": [212], "large": [12, PACKING_LIMIT // 20 * 20]}[
        size
    ]
    assert all_packed(packed) == (size == "small")
    same(unpack(packed), params)
    same(repack(jax.tree.leaves(params), packed), packed)
    same(jax.vmap(unpack)(jax.vmap(pack)(jax.tree.map(lambda x: x[None], params))), unpack(pack_one_chain(params), 1))
    numpy = unpack(jax.tree.map(np.asarray, pack_one_chain(params)), 1)
    same(jax.tree.map(lambda x: x[0], numpy), params)


def pack_one_chain(params):
    return jax.vmap(pack)(jax.tree.map(lambda x: x[None], params))


@pytest.mark.parametrize("size", TREES)
def test_a_vector_has_the_order_of_the_leaves(size):
    params = TREES[size]
    vector = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(params)])
    for form in (params, pack(params)):
        np.testing.assert_array_equal(flatten(form), vector)
        same(unflatten(jnp.asarray(vector), form), form)


@pytest.mark.parametrize("size", TREES)
def test_one_number_for_each_leaf(size):
    packed = pack(TREES[size])
    values = [jnp.asarray(float(i)) for i in range(4)]
    scaled = jax.tree.map(jnp.multiply, packed, spread(values, packed))
    expected = jax.tree.unflatten(
        jax.tree.structure(TREES[size]),
        [i * leaf for i, leaf in enumerate(jax.tree.leaves(TREES[size]))],
    )
    same(unpack(scaled), expected)


def test_what_cannot_gain_is_not_packed():
    assert not packable({"a": jnp.ones(3)})
    assert not packable({"a": jnp.ones(3), "b": jnp.ones(3, jnp.int32)})
    assert not packable({"a": jnp.ones(3), "b": jnp.ones(PACKING_LIMIT)})
    assert not packable({"a": jnp.ones(LARGEST_PACKED + 1), "b": jnp.ones(PACKING_LIMIT), "c": jnp.ones(3)})


def test_gradients_of_partly_packed_parameters():
    params = TREES["large"]
    posterior = sx.Posterior(
        lambda p: -0.5 * sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(p)),
        lambda p, x: x @ p["c"] * jnp.sum(p["b"] ** 2) + p["d"] * jnp.sum(p["a"]),
        10,
    )
    x = jnp.asarray(RNG.normal(size=(4, 5)))
    value, gradient = posterior.value_and_grad(params, x)
    packed_value, packed_gradient = posterior.value_and_grad(pack(params), x)
    np.testing.assert_allclose(packed_value.total, value.total, rtol=1e-6)
    for ours, theirs in zip(jax.tree.leaves(unpack(packed_gradient)), jax.tree.leaves(gradient), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sampler", ["ismile", "psmile"])
def test_a_run_of_partly_packed_parameters_goes_on_from_its_result(sampler):
    # Whose law is that of any other parameters; this is about structure, on the way into a run and out of it.
    posterior = sx.Posterior(
        lambda p: -0.5 * sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(p)), lambda p, x: x @ p["c"], 100
    )
    rows = (RNG.normal(size=(100, 5)) * 0.3).astype(np.float32)
    algorithm = {"ismile": sx.ismile, "psmile": sx.psmile}[sampler](posterior)
    start = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), TREES["large"])
    result = sx.sample(
        jax.random.key(0), algorithm, rows, start, num_chains=2, num_warmup=3, num_samples=4, batch_size=20,
        progress_bar=False,
    )  # fmt: skip
    assert jax.tree.map(np.shape, result.draws) == jax.tree.map(lambda leaf: (2, 4, *leaf.shape), start)
    more = sx.sample(
        jax.random.key(0), algorithm, rows, result, num_warmup=0, num_samples=2, batch_size=20, progress_bar=False
    )
    assert np.isfinite(more.draws["b"]).all()
    assert not np.array_equal(more.draws["b"][:, 0], result.draws["b"][:, -1])
