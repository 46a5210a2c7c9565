import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smilax.models import lenet, mlp
from smilax.structure import leaf_paths


def count(params):
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def test_mlp_is_equinox_mlp_on_a_batch(key):
    network, x = mlp(5, 2, hidden=(16, 16), activation=jax.nn.gelu), jax.random.normal(jax.random.key(1), (7, 5))
    params = network.init(key)
    reference = eqx.nn.MLP(5, 2, 16, 2, activation=jax.nn.gelu, key=key)
    arrays, rest = eqx.partition(reference, eqx.is_array)
    reference = eqx.combine(jax.tree.unflatten(jax.tree.structure(arrays), jax.tree.leaves(params)), rest)
    np.testing.assert_allclose(network.apply(params, x), jax.vmap(reference)(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("in_size, size", [(5, 657), (8, 705), (11, 753)])
def test_mlp_has_the_papers_sizes(in_size, size, key):
    # With the likelihood's log scale: 658 to 754 parameters.
    assert count(mlp(in_size, 1, hidden=(16, 16, 16)).init(key)) == size


def test_mlp_starts_uniform_within_one_over_root_fan_in(key):
    params = mlp(100, 50, hidden=(400,)).init(key)
    assert leaf_paths(params) == ["layers/0/weight", "layers/0/bias", "layers/1/weight", "layers/1/bias"]
    for layer, fan_in in zip(params.layers, (100, 400), strict=True):
        for values in (layer.weight, layer.bias):
            bound = fan_in**-0.5
            assert float(jnp.max(jnp.abs(values))) <= bound
            assert float(jnp.std(values)) == pytest.approx(bound / 3**0.5, rel=0.15)


def test_mlp_without_hidden_layers_is_linear(key):
    network, x = mlp(3, 1, hidden=()), jnp.arange(6.0).reshape(2, 3)
    params = network.init(key)
    np.testing.assert_allclose(network.apply(params, x), x @ params.layers[0].weight.T + params.layers[0].bias[None])


def test_mlp_takes_other_dtypes(key):
    network = mlp(3, 1)
    params = network.init(key)
    expected = network.apply(params, jnp.full((2, 3), 7.0))
    for dtype in (jnp.uint8, jnp.float16):
        np.testing.assert_allclose(network.apply(params, jnp.full((2, 3), 7, dtype)), expected, rtol=1e-6)


def test_mlp_refuses_other_shapes(key):
    network = mlp(3, 1)
    for shape in ((3,), (2, 4), (2, 3, 1)):
        with pytest.raises(ValueError, match=r"\(B, 3\)"):
            network.apply(network.init(key), jnp.zeros(shape))
    for sizes in ((0, 1), (3, 0), (3, 1.0), (3, 1, (0,))):
        with pytest.raises(ValueError, match="positive integers"):
            mlp(*sizes)


def lenet_by_hand(params, x):
    """LeNet-5 with JAX's own operations, images (B, height, width, channels)."""
    gelu, layout = jax.nn.gelu, ("NHWC", "HWIO", "NHWC")
    for layer, padding in zip(params.convolutions, (2, 0), strict=True):
        x = jax.lax.conv_general_dilated(x, layer.weight, (1, 1), [(padding, padding)] * 2, dimension_numbers=layout)
        x = gelu(x + layer.bias[None, None, None])
        zero = jnp.zeros((), x.dtype)
        x = jax.lax.reduce_window(x, zero, jax.lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID") / 4
    x = x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)
    for i, layer in enumerate(params.dense):
        x = (gelu(x) if i else x) @ layer.weight.T + layer.bias[None]
    return x


@pytest.mark.once
@pytest.mark.parametrize(
    "image_size, channels", [(28, 1), *(pytest.param(*sizes, marks=pytest.mark.truth) for sizes in ((32, 3), (13, 1)))]
)
def test_lenet_is_lenet(image_size, channels, key):
    network = lenet(10, image_size, channels)
    params, x = network.init(key), jax.random.uniform(jax.random.key(1), (3, image_size, image_size, channels))
    np.testing.assert_allclose(network.apply(params, x), lenet_by_hand(params, x), rtol=1e-4, atol=1e-5)


def test_lenet_has_61706_parameters(key):
    params = lenet().init(key)
    assert count(params) == 61_706
    assert leaf_paths(params) == [
        f"{kind}/{i}/{name}"
        for kind, n in (("convolutions", 2), ("dense", 3))
        for i in range(n)
        for name in ("weight", "bias")
    ]
    assert [leaf.shape for leaf in jax.tree.leaves(params)][::2] == [
        (5, 5, 1, 6),
        (5, 5, 6, 16),
        (120, 400),
        (84, 120),
        (10, 84),
    ]


@pytest.mark.once
def test_lenet_scales_uint8_images(key):
    network = lenet(num_classes=3, image_size=16)
    params, images = network.init(key), np.random.default_rng(0).integers(0, 256, (2, 16, 16), dtype=np.uint8)
    expected = network.apply(params, jnp.asarray(images / 255, jnp.result_type(float)))
    np.testing.assert_allclose(network.apply(params, jnp.asarray(images)), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(
        network.apply(params, jnp.asarray(images)), network.apply(params, jnp.asarray(images)[..., None])
    )


def test_lenet_refuses_other_images(key):
    network = lenet(image_size=16)
    params = network.init(key)
    for shape in ((2, 16, 15), (2, 16, 16, 3), (16, 16), (2, 256)):
        with pytest.raises(ValueError, match=r"\(B, 16, 16, 1\) or \(B, 16, 16\)"):
            network.apply(params, jnp.zeros(shape))
    with pytest.raises(TypeError, match="uint8"):
        network.apply(params, jnp.zeros((2, 16, 16), jnp.int32))
    for sizes in ((0,), (10, 8), (10, 28, 0), (10, 28.0)):
        with pytest.raises(ValueError, match="lenet"):
            lenet(*sizes)
