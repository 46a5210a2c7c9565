import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smilax.models.convolution import Convolution, average_pool, by_library, by_slices, convolve

CASES = [
    # in, out, image, kernel, stride, padding; thin windows and wide ones
    (1, 6, (9, 8), (5, 5), 1, 2),
    (6, 4, (7, 9), (5, 5), 1, 0),
    (3, 5, (8, 8), (3, 3), 2, 1),
    (16, 2, (7, 6), (3, 2), 2, 1),
    (20, 3, (5, 5), (1, 1), 2, 0),
    (4, 4, (5, 5), (5, 5), 1, 0),
]


@pytest.mark.parametrize("case", CASES)
def test_slices_agree_with_the_library_in_value_and_gradient(case, key):
    channels, out, image, kernel, stride, padding = case
    x = jax.random.normal(key, (channels, *image, 3))
    weight = jax.random.normal(jax.random.key(1), (*kernel, channels, out)) / 10

    def value(function):
        def loss(x, weight):
            y = function(x, weight, stride, padding)
            return jnp.sum(jnp.sin(y)), y

        (_, y), gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(x, weight)
        return y, *gradients

    expected = value(by_library)
    for function in (by_slices, convolve):
        for ours, theirs in zip(value(function), expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_convolution_by_hand():
    x = jnp.arange(9.0).reshape(1, 3, 3, 1)
    weight = jnp.array([[1.0, 0.0], [0.0, -1.0]])[:, :, None, None]
    np.testing.assert_array_equal(convolve(x, weight)[0, :, :, 0], [[-4.0, -4.0], [-4.0, -4.0]])


def test_under_vmap_over_weights(key):
    x, weights = jnp.ones((3, 6, 6, 2)), jax.random.normal(key, (4, 3, 3, 3, 5))
    out = jax.jit(jax.vmap(convolve, in_axes=(None, 0)))(x, weights)
    expected = jnp.stack([by_library(x, w, 1, 0) for w in weights])
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)


def test_average_pool_cuts_off_the_edge():
    x = np.arange(2 * 5 * 4 * 3, dtype=float).reshape(2, 5, 4, 3)
    expected = np.stack([[x[:, i : i + 2, j : j + 2].mean(axis=(1, 2)) for j in (0, 2)] for i in (0, 2)])
    np.testing.assert_allclose(average_pool(jnp.asarray(x)), expected.transpose(2, 0, 1, 3), rtol=1e-6)


def test_layer_starts_uniform_and_adds_its_bias(key):
    layer = Convolution(8, 50, 3, padding=1, key=key)
    bound = (9 * 8) ** -0.5
    for values in (layer.weight, layer.bias):
        assert float(jnp.max(jnp.abs(values))) <= bound
        assert float(jnp.std(values)) == pytest.approx(bound / 3**0.5, rel=0.2)
    out = layer(jnp.zeros((8, 4, 4, 2)))
    np.testing.assert_array_equal(out, jnp.broadcast_to(layer.bias[:, None, None, None], (50, 4, 4, 2)))


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="do not fit"):
        convolve(jnp.zeros((3, 5, 5, 1)), jnp.zeros((3, 3, 4, 1)))
    with pytest.raises(ValueError, match="exceeds"):
        convolve(jnp.zeros((3, 2, 5, 1)), jnp.zeros((3, 3, 3, 1)))
