"""Networks from Flax, Linen and NNX."""

import warnings

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import smilax as sx
from smilax.structure import leaf_paths

pytestmark = pytest.mark.once

X = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)


class Linen(nn.Module):
    """A perceptron with dropout and a normalisation, each if asked for."""

    dropout: float = 0.0
    norm: str = ""

    @nn.compact
    def __call__(self, x, train=True):
        x = nn.Dense(8)(x)
        if self.norm == "batch":
            x = nn.BatchNorm(use_running_average=not train)(x)
        if self.norm == "group":
            x = nn.GroupNorm(num_groups=2)(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(nn.tanh(x))
        return nn.Dense(2)(x)


class Nnx(nnx.Module):
    """The same for NNX."""

    def __init__(self, dropout=0.0, norm="", *, rngs):
        self.first = nnx.Linear(3, 8, rngs=rngs)
        norms = {"batch": nnx.BatchNorm, "layer": nnx.LayerNorm}
        self.norm = norms[norm](8, rngs=rngs) if norm else (lambda x: x)
        self.dropout = nnx.Dropout(dropout, rngs=rngs)
        self.layers = nnx.List([nnx.Linear(8, 8, rngs=rngs), nnx.Linear(8, 2, rngs=rngs)])

    def __call__(self, x):
        x = self.dropout(jnp.tanh(self.norm(self.first(x))))
        return self.layers[1](self.layers[0](x))


def by_hand(params, x):
    """The outputs of `Linen()`."""
    x = np.tanh(x @ np.asarray(params["Dense_0"]["kernel"]) + np.asarray(params["Dense_0"]["bias"]))
    return x @ np.asarray(params["Dense_1"]["kernel"]) + np.asarray(params["Dense_1"]["bias"])


def test_linen_apply_is_the_module(key):
    network = sx.from_flax(Linen(), X)
    params = network.init(key)
    assert leaf_paths(params) == ["Dense_0/bias", "Dense_0/kernel", "Dense_1/bias", "Dense_1/kernel"]
    np.testing.assert_allclose(network.apply(params, X), by_hand(params, X), rtol=1e-5, atol=1e-6)
    theirs = Linen().init(key, jnp.asarray(X))["params"]
    np.testing.assert_array_equal(params["Dense_0"]["kernel"], theirs["Dense_0"]["kernel"])


def test_nnx_apply_is_the_module(key):
    network = sx.from_flax(lambda rngs: Nnx(rngs=rngs))
    params = network.init(key)
    assert leaf_paths(params)[:3] == ["first/bias", "first/kernel", "layers/0/bias"]
    with jax.numpy_rank_promotion("allow"):
        expected = Nnx(rngs=nnx.Rngs(key))(X)
    np.testing.assert_allclose(network.apply(params, X), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("make", [lambda: sx.from_flax(Linen(), X), lambda: sx.from_flax(Nnx)], ids=["linen", "nnx"])
def test_under_jit_vmap_and_grad(make, key):
    network = make()
    members = jax.vmap(network.init)(jax.random.split(key, 4))
    assert jax.jit(jax.vmap(network.apply, in_axes=(0, None)))(members, X).shape == (4, 6, 2)
    params = network.init(key)
    gradient = jax.jit(jax.grad(lambda p: jnp.sum(network.apply(p, X))))(params)
    assert jax.tree.structure(gradient) == jax.tree.structure(params)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))


def test_dropout_is_off_with_a_warning(key):
    with pytest.warns(UserWarning, match="Linen has dropout, which is switched off"):
        network = sx.from_flax(Linen(dropout=0.5), X)
    params = network.init(key)
    np.testing.assert_allclose(network.apply(params, X), by_hand(params, X), rtol=1e-5, atol=1e-6)
    with pytest.warns(UserWarning, match="Nnx has dropout, which is switched off"):
        dropping = sx.from_flax(lambda rngs: Nnx(dropout=0.5, rngs=rngs))
    plain = sx.from_flax(lambda rngs: Nnx(rngs=rngs))
    params = plain.init(key)
    np.testing.assert_array_equal(dropping.apply(params, X), plain.apply(params, X))


def test_no_warning_where_dropout_is_off_already(key):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dropping = sx.from_flax(Linen(dropout=0.5), X, train=False)
    plain = sx.from_flax(Linen(), X)
    params = plain.init(key)
    np.testing.assert_array_equal(dropping.apply(params, X), plain.apply(params, X))


def test_batch_statistics_are_refused_and_other_normalisation_works(key):
    with pytest.raises(ValueError, match="Linen keeps statistics of batches .*flax.linen.GroupNorm"):
        sx.from_flax(Linen(norm="batch"), X)
    with pytest.raises(ValueError, match="Nnx keeps statistics of batches .*flax.nnx.LayerNorm"):
        sx.from_flax(lambda rngs: Nnx(norm="batch", rngs=rngs))
    for network in (sx.from_flax(Linen(norm="group"), X), sx.from_flax(lambda rngs: Nnx(norm="layer", rngs=rngs))):
        params = network.init(key)
        together = network.apply(params, X)
        alone = np.concatenate([network.apply(params, X[i : i + 1]) for i in range(len(X))])
        np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)


def test_frozen_parameters_are_neither_sampled_nor_stored(key):
    trained = Linen().init(jax.random.key(7), jnp.asarray(X))["params"]
    network = sx.from_flax(Linen(), X, params=trained, frozen=lambda path, leaf: path.startswith("Dense_0"))
    params = network.init(key)
    assert leaf_paths(params) == ["Dense_1/bias", "Dense_1/kernel"]
    np.testing.assert_allclose(network.apply(params, X), by_hand(trained, X), rtol=1e-5, atol=1e-6)

    nnx_network = sx.from_flax(Nnx, frozen=lambda path, leaf: not path.startswith("layers/1"))
    inner = nnx_network.init(key)
    assert leaf_paths(inner) == ["layers/1/bias", "layers/1/kernel"]
    zero = jax.tree.map(jnp.zeros_like, inner)
    np.testing.assert_array_equal(nnx_network.apply(zero, X), 0)


def test_low_rank_factors_alone(key):
    class Adapted(nnx.Module):
        def __init__(self, rngs):
            self.layer = nnx.LoRALinear(3, 2, lora_rank=1, rngs=rngs)

        def __call__(self, x):
            return self.layer(x)

    network = sx.from_flax(Adapted, X, frozen=lambda path, leaf: "lora" not in path)
    assert all("lora" in path for path in leaf_paths(network.init(key)))
    assert [leaf.shape for leaf in jax.tree.leaves(network.init(key))] == [(3, 1), (1, 2)]


def test_a_posterior_is_sampled(key):
    network = sx.from_flax(Linen(), X, frozen=lambda path, leaf: path.startswith("Dense_0"))
    posterior = sx.bnn(network, sx.likelihoods.Gaussian(scale=0.5), sx.priors.Normal(), num_data=6)
    result = sx.sample(
        key, sx.sgld(posterior, 1e-3), (X, X[:, :2]), posterior.init(key), num_chains=2, num_warmup=2, num_samples=4,
        batch_size=3, progress_bar=False,
    )  # fmt: skip
    assert leaf_paths(result.draws) == ["network/Dense_1/bias", "network/Dense_1/kernel"]
    assert result.draws["network"]["Dense_1"]["kernel"].shape == (2, 4, 8, 2)


def test_what_is_no_flax_module_is_refused():
    with pytest.raises(TypeError, match="module must be a Linen module"):
        sx.from_flax(3)
    with pytest.raises(TypeError, match="example_x must be given for the Linen module Linen"):
        sx.from_flax(Linen())
    with pytest.raises(TypeError, match="must build an nnx.Module, got int"):
        sx.from_flax(lambda rngs: 3)
    with pytest.raises(TypeError, match="params is for Linen"):
        sx.from_flax(Nnx, params={})
    with pytest.raises(ValueError, match="params are not those of Linen"):
        sx.from_flax(Linen(), X, params={"Dense_0": {"kernel": np.zeros((2, 2))}})
    with pytest.raises(ValueError, match="frozen holds for every parameter"):
        sx.from_flax(Linen(), X, frozen=lambda path, leaf: True)
    with pytest.raises(ValueError, match="frozen holds for no parameter of Linen; they are Dense_0/bias"):
        sx.from_flax(Linen(), X, frozen=lambda path, leaf: False)
    with pytest.raises(ValueError, match="examples on its leading axis"):
        sx.from_flax(nn.Sequential([nn.Dense(2), jnp.sum]), X)


def test_classes_and_built_modules_are_told_apart():
    with pytest.raises(TypeError, match=r"a Linen module, and Dense is a class: give Dense\(...\)"):
        sx.from_flax(nn.Dense, np.ones((1, 3)))
    with pytest.raises(TypeError, match="got a Linear: give lambda rngs: module"):
        sx.from_flax(nnx.Linear(3, 2, rngs=nnx.Rngs(0)))


class Recurrent(nnx.Module):
    """A recurrent network, whose calls count in a random generator that no output depends on."""

    def __init__(self, rngs):
        self.cells, self.out = nnx.RNN(nnx.LSTMCell(3, 4, rngs=rngs)), nnx.Linear(4, 1, rngs=rngs)

    def __call__(self, x):
        return self.out(self.cells(x)[:, -1])


class Counting(nnx.Module):
    """What it says changes from call to call."""

    def __init__(self, rngs):
        self.out, self.calls = nnx.Linear(3, 1, rngs=rngs), nnx.Variable(jnp.zeros(()))

    def __call__(self, x):
        self.calls[...] += 1
        return self.out(x) * self.calls[...]


class Noisy(nnx.Module):
    def __init__(self, rngs):
        self.out, self.rngs = nnx.Linear(3, 1, rngs=rngs), rngs

    def __call__(self, x):
        return self.out(x) + jax.random.normal(self.rngs.noise(), (len(x), 1))


class Indexed(nnx.Module):
    def __init__(self, rngs):
        self.out, self.index = nnx.Linear(3, 1, rngs=rngs), nnx.Param(jnp.arange(3))

    def __call__(self, x):
        return self.out(x[:, self.index[...]])


def test_recurrent_networks_are_those_of_flax(key):
    network = sx.from_flax(lambda rngs: Recurrent(rngs))
    params, x = network.init(key), jnp.asarray(np.stack([X, X + 1], axis=1))
    by_itself = Recurrent(nnx.Rngs(key))(x)
    for _ in range(2):
        np.testing.assert_allclose(jax.jit(network.apply)(params, x), by_itself, rtol=1e-5, atol=1e-6)
    slope = jax.grad(lambda p: network.apply(p, x).sum())(params)
    assert all(float(jnp.abs(leaf).max()) > 0 for leaf in jax.tree.leaves(slope["out"]))


def test_a_call_finds_things_as_they_were_built(key):
    network = sx.from_flax(lambda rngs: Counting(rngs))
    params = network.init(key)
    first = network.apply(params, X)
    np.testing.assert_array_equal(network.apply(params, X), first)
    np.testing.assert_allclose(jax.jit(network.apply)(params, X), first, rtol=1e-6)


def test_a_call_that_draws_random_numbers_is_refused(key):
    network = sx.from_flax(lambda rngs: Noisy(rngs))
    with pytest.raises(ValueError, match="Noisy draws random numbers when it is called"):
        jax.jit(network.apply)(network.init(key), X)
    with pytest.raises(ValueError, match="Noisy draws random numbers when it is called"):
        sx.from_flax(lambda rngs: Noisy(rngs), X)


def test_whole_numbers_are_no_parameters(key):
    with pytest.raises(ValueError, match="no floating-point numbers, index: freeze them"):
        sx.from_flax(lambda rngs: Indexed(rngs), X)
    network = sx.from_flax(lambda rngs: Indexed(rngs), X, frozen=lambda path, leaf: path == "index")
    assert list(network.init(key)) == ["out"]


def test_the_callers_module_is_left_as_it_was(key):
    module = Nnx(dropout=0.5, rngs=nnx.Rngs(0))
    with pytest.warns(UserWarning, match="has dropout"):
        network = sx.from_flax(lambda rngs: module)
    network.apply(network.init(key), X)
    assert not module.dropout.deterministic


def test_inputs_and_parameters_of_the_wrong_kind_are_named(key):
    for example in ((1, 3), [1.0, 2.0], jax.ShapeDtypeStruct((1, 3), np.float32)):
        with pytest.raises(TypeError, match="example_x must be arrays of inputs, examples on the leading axis"):
            sx.from_flax(Linen(), example)
    variables = Linen().init(key, X, train=False)
    with pytest.raises(ValueError, match=r'params\["params"\]'):
        sx.from_flax(Linen(), X, params=variables)
    sx.from_flax(Linen(), X, params=variables["params"])
