"""Residual networks with filter response normalisation."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from smilax.interop.equinox import from_equinox
from smilax.models.convolution import Convolution, max_pool
from smilax.models.mlp import dense
from smilax.models.normalization import FilterResponseNorm
from smilax.models.settings import as_images, check_dtype, check_sizes
from smilax.network import Network


class ConvNorm(eqx.Module):
    """A convolution that keeps the size (divides it by the stride), and its normalisation."""

    convolution: Convolution
    norm: FilterResponseNorm

    def __init__(self, in_channels, out_channels, key, *, size=3, stride=1, bias=True):
        self.convolution = Convolution(
            in_channels, out_channels, size, stride=stride, padding=size // 2, bias=bias, key=key
        )
        self.norm = FilterResponseNorm(out_channels)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.norm(self.convolution(x))


class ResNet7(eqx.Module):
    """Six normalised convolutions, the last one residual, and a linear layer, for a whole batch at once."""

    layers: tuple[ConvNorm, ...]
    dense: eqx.nn.Linear
    image_shape: tuple[int, int, int] = eqx.field(static=True)
    compute_dtype: Any = eqx.field(static=True)

    def __init__(self, num_classes, image_size, channels, compute_dtype, key):
        *keys, dense_key = jax.random.split(key, 7)
        widths = (channels, 32, 64, 64, 128, 128, 128)
        self.layers = tuple(ConvNorm(i, o, k) for i, o, k in zip(widths[:-1], widths[1:], keys, strict=True))
        self.dense = eqx.nn.Linear(widths[-1], num_classes, key=dense_key)
        self.image_shape, self.compute_dtype = (image_size, image_size, channels), compute_dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        x = as_images(x, self.image_shape, self.compute_dtype or self.dense.weight.dtype)
        for i, layer in enumerate(self.layers[:-1]):
            x = layer(x)
            if i in (1, 3, 4):
                x = max_pool(x)
        return classify(x + self.layers[-1](x), self.dense)


class Block(eqx.Module):
    """Two 3x3 convolutions beside a shortcut, which is a 1x1 convolution where shapes change.

    The sum is normalised, so that a block ends with the thresholded activation.
    """

    first: ConvNorm
    second: Convolution
    norm: FilterResponseNorm
    shortcut: ConvNorm | None

    def __init__(self, in_channels, out_channels, stride, key):
        keys = jax.random.split(key, 3)
        self.first = ConvNorm(in_channels, out_channels, keys[0], stride=stride, bias=False)
        self.second = Convolution(out_channels, out_channels, 3, padding=1, bias=False, key=keys[1])
        self.norm = FilterResponseNorm(out_channels)
        self.shortcut = None
        if stride > 1 or in_channels != out_channels:
            self.shortcut = ConvNorm(in_channels, out_channels, keys[2], size=1, stride=stride, bias=False)

    def __call__(self, x: jax.Array) -> jax.Array:
        shortcut = x if self.shortcut is None else self.shortcut(x)
        return self.norm(self.second(self.first(x)) + shortcut)


class ResNet18(eqx.Module):
    """A convolution, four stages of two residual blocks, and a linear layer, for a whole batch at once."""

    stem: ConvNorm
    blocks: tuple[Block, ...]
    dense: eqx.nn.Linear
    stem_pool: bool = eqx.field(static=True)
    image_shape: tuple[int, int, int] = eqx.field(static=True)
    compute_dtype: Any = eqx.field(static=True)

    def __init__(self, num_classes, image_size, channels, width, stem_pool, compute_dtype, key):
        stem_key, dense_key, *keys = jax.random.split(key, 10)
        self.stem = ConvNorm(channels, width, stem_key, bias=False)
        widths = [width * 2 ** (i // 2) for i in range(8)]
        pairs = zip([width, *widths[:-1]], widths, keys, strict=True)
        self.blocks = tuple(Block(i, o, 1 if i == o else 2, k) for i, o, k in pairs)
        self.dense = eqx.nn.Linear(widths[-1], num_classes, key=dense_key)
        self.stem_pool = stem_pool
        self.image_shape, self.compute_dtype = (image_size, image_size, channels), compute_dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.stem(as_images(x, self.image_shape, self.compute_dtype or self.dense.weight.dtype))
        if self.stem_pool:
            x = max_pool(x, 3, stride=2, padding=1)
        for block in self.blocks:
            x = block(x)
        return classify(x, self.dense)


def classify(x: jax.Array, layer: eqx.nn.Linear) -> jax.Array:
    """Logits (B, K), in the dtype of the parameters, from the means of images (channels, height, width, B)."""
    means = jnp.mean(x.astype(layer.weight.dtype), axis=(1, 2))
    return dense((layer,), jax.nn.relu, means).T


def resnet7(num_classes: int = 10, image_size: int = 32, channels: int = 3, compute_dtype: Any = None) -> Network:
    """ResNet-7: images give logits of shape `(B, num_classes)`.

    3x3 convolutions to 32, 64, 64, 128, 128 and 128 channels, each with a bias and filter response normalisation; 2x2
    maxima after the second, fourth and fifth; the sixth is added to what it is given; then the mean over the image and
    a linear layer: 428,266 parameters at the defaults, the sizes of the paper's network for CIFAR-10. There the ε of
    each normalisation is a parameter, too; here it is fixed, since its prior would draw it towards one.

    Weights of convolutions have shape (height, width, in, out). Paths are `layers/0/convolution/weight`,
    `layers/0/norm/scale`, `dense/weight` and so on. `x` has shape `(B, image_size, image_size, channels)`; uint8 images
    are scaled to 0..1, floating-point images are taken as they are.

    Args:
        num_classes: number of outputs.
        image_size: height and width in pixels, at least 16.
        channels: colour channels of an image.
        compute_dtype: dtype of activations and products, such as `"bfloat16"`; None takes that of the parameters.
            Parameters, statistics and logits have the parameters' dtype in any case.

    Raises:
        ValueError: for sizes that are not such integers, or another compute_dtype.

    Example:
        >>> import jax, jax.numpy as jnp, smilax as sx
        >>> network = sx.models.resnet7()
        >>> params = jax.eval_shape(network.init, jax.random.key(0))
        >>> sum(leaf.size for leaf in jax.tree.leaves(params))
        428266
        >>> jax.eval_shape(network.apply, params, jnp.zeros((2, 32, 32, 3), jnp.uint8)).shape
        (2, 10)
    """
    check_sizes("resnet7", num_classes=(num_classes, 1), image_size=(image_size, 16), channels=(channels, 1))
    dtype = check_dtype("resnet7", compute_dtype)
    return from_equinox(lambda key: ResNet7(num_classes, image_size, channels, dtype, key), batched=True)


def resnet18(
    num_classes: int = 10,
    image_size: int = 32,
    channels: int = 3,
    width: int = 64,
    stem_pool: bool = False,
    compute_dtype: Any = None,
) -> Network:
    """ResNet-18 with filter response normalisation: images give logits of shape `(B, num_classes)`.

    A 3x3 convolution to `width` channels (the stem for small images), then four stages of two residual blocks with 1,
    2, 4 and 8 times as many channels, each stage but the first at half the resolution, then the mean over the image and
    a linear layer (He, Zhang, Ren and Sun 2016): 11,178,762 parameters at the defaults. Convolutions have no biases.

    Paths are `stem/convolution/weight`, `blocks/0/first/norm/scale`, `dense/weight` and so on; for `x` see `resnet7`.

    Args:
        num_classes: number of outputs.
        image_size: height and width in pixels, at least 16.
        channels: colour channels of an image.
        width: channels of the first stage.
        stem_pool: whether 3x3 maxima halve the image after the stem, which the paper's code does also for CIFAR-10; a
            gradient then costs a quarter.
        compute_dtype: as for `resnet7`.

    Raises:
        ValueError: for sizes that are not such integers, or another compute_dtype.

    Example:
        >>> import jax, jax.numpy as jnp, smilax as sx
        >>> network = sx.models.resnet18()
        >>> params = jax.eval_shape(network.init, jax.random.key(0))
        >>> sum(leaf.size for leaf in jax.tree.leaves(params))
        11178762
        >>> jax.eval_shape(network.apply, params, jnp.zeros((2, 32, 32, 3), jnp.uint8)).shape
        (2, 10)
    """
    check_sizes(
        "resnet18",
        num_classes=(num_classes, 1), image_size=(image_size, 16), channels=(channels, 1), width=(width, 1),
    )  # fmt: skip
    if not isinstance(stem_pool, bool):
        raise ValueError(f"resnet18: stem_pool must be True or False, got {stem_pool!r}")
    dtype = check_dtype("resnet18", compute_dtype)
    return from_equinox(
        lambda key: ResNet18(num_classes, image_size, channels, width, stem_pool, dtype, key), batched=True
    )
