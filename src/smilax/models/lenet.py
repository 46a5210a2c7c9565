"""LeNet-5, a small convolutional network."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp

from smilax.interop.equinox import from_equinox
from smilax.models.convolution import Convolution, average_pool
from smilax.models.mlp import dense
from smilax.network import Network


class LeNet(eqx.Module):
    """Two convolutions with pooling and three linear layers, for a whole batch at once."""

    convolutions: tuple[Convolution, ...]
    dense: tuple[eqx.nn.Linear, ...]
    activation: Callable = eqx.field(static=True)
    image_shape: tuple[int, int, int] = eqx.field(static=True)

    def __init__(self, num_classes, image_size, channels, activation, key):
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
        self.image_shape = (image_size, image_size, channels)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = as_images(x, self.image_shape, self.dense[0].weight.dtype)
        for convolution in self.convolutions:
            x = average_pool(self.activation(convolution(x)))
        return dense(self.dense, self.activation, x.reshape(-1, x.shape[-1])).T


def as_images(x: jax.Array, image_shape: tuple[int, int, int], dtype: jnp.dtype) -> jax.Array:
    """Images (B, height, width, channels), or (B, height, width) if grey, as (channels, height, width, B) of `dtype`.

    Raises:
        ValueError: for another shape.
        TypeError: for integers other than uint8, which is scaled from 0..255 to 0..1.
    """
    *size, channels = image_shape
    allowed = [tuple(image_shape)] + ([tuple(size)] if channels == 1 else [])
    if tuple(x.shape[1:]) not in allowed:
        names = " or ".join(f"(B, {', '.join(map(str, shape))})" for shape in allowed)
        raise ValueError(f"x must hold images of shape {names}, got {x.shape}")
    if x.dtype != jnp.uint8 and not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"x must hold images in uint8 or floating point, got {x.dtype}")
    x = x.transpose(1, 2, 0)[None] if x.ndim == 3 else x.transpose(3, 1, 2, 0)
    return x.astype(dtype) / 255 if x.dtype == jnp.uint8 else x.astype(dtype)


def lenet(
    num_classes: int = 10,
    image_size: int = 28,
    channels: int = 1,
    activation: Callable[[jax.Array], jax.Array] = jax.nn.gelu,
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

    Raises:
        ValueError: for sizes that are not positive integers, or images that are too small.

    Example:
        >>> import jax, jax.numpy as jnp, smilax as sx
        >>> network = sx.models.lenet()
        >>> params = network.init(jax.random.key(0))
        >>> sum(leaf.size for leaf in jax.tree.leaves(params))
        61706
        >>> network.apply(params, jnp.zeros((2, 28, 28), jnp.uint8)).shape
        (2, 10)
    """
    for name, size, least in (
        ("num_classes", num_classes, 1),
        ("image_size", image_size, 12),
        ("channels", channels, 1),
    ):
        if isinstance(size, bool) or not hasattr(size, "__index__") or size < least:
            raise ValueError(f"lenet: {name} must be an integer of at least {least}, got {size!r}")
    return from_equinox(lambda key: LeNet(num_classes, image_size, channels, activation, key), batched=True)
