import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smilax.interop.equinox import from_equinox
from smilax.structure import leaf_paths

pytestmark = pytest.mark.once


def mlp(key):
    return eqx.nn.MLP(3, 2, 8, 2, activation=jax.nn.tanh, key=key)


def test_apply_is_the_module_vectorised(key):
    network, x = from_equinox(mlp), jax.random.normal(jax.random.key(1), (5, 3))
    params = network.init(key)
    np.testing.assert_allclose(network.apply(params, x), jax.vmap(mlp(key))(x), rtol=1e-5)
    assert all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(params))
    assert leaf_paths(params)[0] == "layers/0/weight"


def test_a_module_trained_elsewhere_is_a_start(key):
    network, x = from_equinox(mlp), jnp.ones((5, 3))
    params = eqx.partition(mlp(key), eqx.is_inexact_array)[0]
    np.testing.assert_array_equal(network.apply(params, x), network.apply(network.init(key), x))


def test_under_jit_vmap_and_grad(key):
    network, x = from_equinox(mlp), jnp.ones((5, 3))
    members = jax.vmap(network.init)(jax.random.split(key, 4))
    outputs = jax.jit(jax.vmap(network.apply, in_axes=(0, None)))(members, x)
    assert outputs.shape == (4, 5, 2)
    gradient = jax.grad(lambda p: jnp.sum(network.apply(p, x)))(network.init(key))
    assert jax.tree.structure(gradient) == jax.tree.structure(network.init(key))


class Embedding(eqx.Module):
    """Integer buffers, a setting, a function made anew each time, and one array to train."""

    table: jax.Array
    order: jax.Array
    shift: np.ndarray
    function: object = eqx.field(static=True)
    name: str

    def __init__(self, key):
        self.table = jax.random.normal(key, (4, 2))
        self.order = jnp.array([3, 2, 1, 0])
        self.shift = np.array([10, 20])
        self.function = lambda x: 2 * x
        self.name = "embedding"

    def __call__(self, token):
        return self.function(self.table[self.order[token]]) + jnp.asarray(self.shift, self.table.dtype)


def test_only_floating_point_arrays_are_parameters(key):
    network = from_equinox(Embedding)
    params = network.init(key)
    assert [leaf.shape for leaf in jax.tree.leaves(params)] == [(4, 2)]
    expected = 2 * np.asarray(params.table)[[3, 0]] + np.array([10, 20])
    np.testing.assert_allclose(network.apply(params, jnp.array([0, 3])), expected, rtol=1e-5)
    # One structure for all, whatever functions are made on the way.
    assert jax.tree.structure(params) == jax.tree.structure(network.init(jax.random.key(1)))


def test_dropout_is_off_with_a_warning(key):
    def make(key):
        return eqx.nn.Sequential([eqx.nn.Linear(3, 2, key=key), eqx.nn.Dropout(0.5)])

    with pytest.warns(UserWarning, match="Sequential has dropout, which is switched off"):
        network = from_equinox(make)
    params, x = network.init(key), jnp.ones((5, 3))
    linear = eqx.nn.Linear(3, 2, key=key)
    np.testing.assert_allclose(network.apply(params, x), jax.vmap(linear)(x), rtol=1e-6)
    from_equinox(lambda key: eqx.nn.inference_mode(make(key)))  # off already: no warning


class Normalised(eqx.Module):
    """A layer and a normalisation."""

    linear: eqx.nn.Linear
    norm: eqx.Module

    def __init__(self, kind, key):
        self.linear = eqx.nn.Linear(3, 4, key=key)
        self.norm = {
            "batch": lambda: eqx.nn.BatchNorm(4, "batch", mode="batch"),
            "group": lambda: eqx.nn.GroupNorm(2, 4),
        }[kind]()

    def __call__(self, x):
        return self.norm(self.linear(x))


def test_batch_statistics_are_refused_and_other_normalisation_works(key):
    with pytest.raises(ValueError, match="Normalised keeps statistics of batches .*equinox.nn.GroupNorm"):
        from_equinox(lambda key: Normalised("batch", key))
    with pytest.raises(ValueError, match="Normalised keeps statistics of batches"):
        from_equinox(lambda key: eqx.nn.make_with_state(Normalised)("batch", key))
    network = from_equinox(lambda key: Normalised("group", key))
    assert network.apply(network.init(key), jnp.ones((5, 3))).shape == (5, 4)


def test_frozen_arrays_are_no_parameters(key):
    trained = mlp(jax.random.key(7))
    network = from_equinox(lambda key: trained, frozen=lambda path, leaf: not path.startswith("layers/2"))
    params, x = network.init(key), jax.random.normal(jax.random.key(1), (5, 3))
    assert leaf_paths(params) == ["layers/2/weight", "layers/2/bias"]
    np.testing.assert_allclose(network.apply(params, x), jax.vmap(trained)(x), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(network.apply(jax.tree.map(jnp.zeros_like, params), x), 0)
    # Without a trained module each key has its own last layer, on what key 0 gives for the others.
    fresh = from_equinox(mlp, frozen=lambda path, leaf: not path.startswith("layers/2"))
    np.testing.assert_array_equal(fresh.init(key).layers[2].weight, mlp(key).layers[2].weight)
    gradient = jax.grad(lambda p: jnp.sum(fresh.apply(p, x)))(fresh.init(key))
    assert leaf_paths(gradient) == leaf_paths(params)
    for answer in (True, False):
        with pytest.raises(ValueError, match="frozen holds for (every|no) parameter of MLP; they are layers/0/weight"):
            from_equinox(mlp, frozen=lambda path, leaf, answer=answer: answer)


def test_batched_modules_get_the_whole_batch(key):
    class Centre(eqx.Module):
        scale: jax.Array

        def __call__(self, x):
            return self.scale * (x - x.mean(axis=0, keepdims=True))

    network = from_equinox(lambda key: Centre(jnp.ones(())), batched=True)
    np.testing.assert_allclose(network.apply(network.init(key), jnp.array([[1.0], [3.0]])), [[-1.0], [1.0]])


def test_what_is_no_module_is_refused():
    with pytest.raises(TypeError, match="callable equinox.Module"):
        from_equinox(lambda key: {"w": jnp.zeros(3)})
    with pytest.raises(ValueError, match="no floating-point arrays"):
        from_equinox(lambda key: eqx.nn.Identity())
    with pytest.raises(ValueError, match="complex"):
        from_equinox(lambda key: eqx.nn.Linear(2, 2, dtype=jnp.complex64, key=key))


def test_what_does_not_build_from_a_key_is_told_how_to(key):
    with pytest.raises(TypeError, match="got a Linear: give lambda key: module"):
        from_equinox(eqx.nn.Linear(3, 2, key=key))
    with pytest.raises(TypeError, match="called with one key, and MLP cannot be .*lambda key: MLP"):
        from_equinox(eqx.nn.MLP)


class Keyed(eqx.Module):
    """Whose call has to be given a key, as those of networks with dropout often have."""

    linear: eqx.nn.Linear
    dropout: eqx.nn.Dropout
    noise: float = eqx.field(static=True)

    def __init__(self, key, noise=0.0):
        self.linear, self.dropout, self.noise = eqx.nn.Linear(3, 2, key=key), eqx.nn.Dropout(0.5), noise

    def __call__(self, x, *, key):
        first, second = jax.random.split(key)
        out = self.dropout(self.linear(x), key=first)
        return out + self.noise * jax.random.normal(second, out.shape) if self.noise else out


@pytest.mark.parametrize("batched", [False, True])
def test_a_call_that_needs_a_key(batched, key):
    make = (lambda key: Rows(Keyed(key))) if batched else Keyed
    with pytest.warns(UserWarning, match="has dropout"):
        network = from_equinox(make, batched=batched)
    params = network.init(key)
    x = jax.random.normal(key, (5, 3))
    module = Keyed(key)
    np.testing.assert_allclose(network.apply(params, x), jax.vmap(module.linear)(x), rtol=1e-6)


class Rows(eqx.Module):
    of_row: Keyed

    def __call__(self, x, key):
        return jax.vmap(lambda x: self.of_row(x, key=key))(x)


def test_a_call_that_draws_random_numbers_is_refused(key):
    with pytest.warns(UserWarning, match="has dropout"):
        network = from_equinox(lambda key: Keyed(key, noise=0.1))
    with pytest.raises(ValueError, match="Keyed draws random numbers when it is called"):
        jax.jit(network.apply)(network.init(key), jnp.ones((5, 3)))
