"""LeNet-5, a small convolutional network."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax

from smilax.interop.equinox import from_equinox
from smilax.models.convolution import Convolution, average_pool
from smilax.models.mlp import dense
from smilax.models.settings import as_images, check_dtype, check_sizes
from smilax.network import Network


class LeNet(eqx.Module):
    """Two convolutions with pooling and three linear layers, for a whole batch at once."""

    convolutions: tuple[Convolution, ...]
    dense: tuple[eqx.nn.Linear, ...]
    activation: Callable = eqx.field(static=True)
    image_shape: tuple[int, int, int] = eqx.field(static=True)
    compute_dtype: Any = eqx.field(static=True)

    def __init__(self, num_classes, image_size, channels, activation, compute_dtype, key):
        keys = jax.random.split(key, 5)
        side = (image_size // 2 - 4) // 2
        self.convolutions = (
            Convolution(channels, 6, 5, padding=2, key=keys[0]),
            Convolution(6, 16, 5, key=keys[1]),
        )
        sizes = (16 * side**2, 120, 84, num_classes)
        pairs = zip(sizes[:-1], sizes[1:], keys[2:], strict=True)
        self.dense = tuple(eqx.nn.Linear(i, o, key=k) for i, o, k in pairs)
        self.activation = activation
        self.image_shape, self.compute_dtype = (image_size, image_size, channels), compute_dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        dtype = self.dense[0].weight.dtype
        x = as_images(x, self.image_shape, self.compute_dtype or dtype)
        for convolution in self.convolutions:
            x = average_pool(self.activation(convolution(x)))
        return dense(self.dense, self.activation, x.reshape(-1, x.shape[-1])).T.astype(dtype)


def lenet(
    num_classes: int = 10,
    image_size: int = 28,
    channels: int = 1,
    activation: Callable[[jax.Array], jax.Array] = jax.nn.gelu,
    compute_dtype: Any = None,
) -> Network:
    """LeNet-5: images give logits of shape `(B, num_classes)`.

    Convolution to 6 channels (5x5, padding 2), 2x2 average pooling, convolution to 16 channels (5x5), 2x2 average
    pooling, then linear layers to 120, 84 and `num_classes`: 61,706 parameters at the defaults (LeCun, Bottou, Bengio
    and Haffner 1998, with one smooth activation throughout). Weights of convolutions have shape
    (height, width, in, out), those of linear layers (out, in); all start uniformly within ±1/sqrt(fan-in). Paths are
    `convolutions/0/weight`, `dense/0/weight` and so on.

    `x` has shape `(B, image_size, image_size, channels)`, or `(B, image_size, image_size)` for one channel; uint8
    images are scaled to 0..1, floating-point images are taken as they are.

    Args:
        num_classes: number of outputs.
        image_size: height and width in pixels, at least 12.
        channels: colour channels of an image.
        activation: elementwise function after every layer but the last.
        compute_dtype: dtype of activations and products, such as `"bfloat16"`; None takes that of the parameters.
            Parameters and logits have the parameters' dtype in any case.

    Raises:
        ValueError: for sizes that are not positive integers, images that are too small, or another compute_dtype.

    Example:
        >>> import jax, jax.numpy as jnp, smilax as sx
        >>> network = sx.models.lenet()
        >>> params = network.init(jax.random.key(0))
        >>> sum(leaf.size for leaf in jax.tree.leaves(params))
        61706
        >>> network.apply(params, jnp.zeros((2, 28, 28), jnp.uint8)).shape
        (2, 10)
    """
    check_sizes("lenet", num_classes=(num_classes, 1), image_size=(image_size, 12), channels=(channels, 1))
    dtype = check_dtype("lenet", compute_dtype)
    return from_equinox(lambda key: LeNet(num_classes, image_size, channels, activation, dtype, key), batched=True)
