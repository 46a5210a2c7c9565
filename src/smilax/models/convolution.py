"""Convolutions that are fast inside a compiled loop.

On CPU, XLA has a quick convolution that it leaves aside within `lax.scan`, where the same operation takes four times as
long. Products of matrices do not suffer from that, so on CPU a convolution is made of shifted slices and matrix
products. Images are held as `(channels, height, width, batch)`: slices are then copies of long runs, and the batch is
where the processor vectorises.
"""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from smilax.models.settings import statistics_dtype

# Fewer numbers than this a product would be too thin, and the whole window goes into one.
_THIN = 16


def convolve(x: jax.Array, weight: jax.Array, stride: int = 1, padding: int = 0) -> jax.Array:
    """The two-dimensional convolution (cross-correlation, as usual in networks) of images with a kernel.

    Args:
        x: images, shape (in, height, width, batch).
        weight: the kernel, shape (kernel height, kernel width, in, out).
        stride: step between windows, in both directions.
        padding: zeros added on all four sides.

    Returns:
        Shape (out, height', width', batch).

    Raises:
        ValueError: if the shapes do not fit.
    """
    if x.ndim != 4 or weight.ndim != 4 or x.shape[0] != weight.shape[2]:
        raise ValueError(
            f"convolve: x (in, height, width, batch) and weight (height, width, in, out) do not fit: "
            f"{x.shape} and {weight.shape}"
        )
    if min(x.shape[1] + 2 * padding - weight.shape[0], x.shape[2] + 2 * padding - weight.shape[1]) < 0:
        raise ValueError(f"convolve: a kernel {weight.shape[:2]} exceeds images {x.shape[1:3]} with padding {padding}")
    return jax.lax.platform_dependent(
        x,
        weight,
        cpu=lambda x, weight: by_slices(x, weight, stride, padding),
        default=lambda x, weight: by_library(x, weight, stride, padding),
    )


def by_library(x: jax.Array, weight: jax.Array, stride: int, padding: int) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x, weight, (stride, stride), [(padding, padding)] * 2, dimension_numbers=("CHWN", "HWIO", "CHWN")
    )


def by_slices(x: jax.Array, weight: jax.Array, stride: int, padding: int) -> jax.Array:
    kernel_height, kernel_width, in_channels, out_channels = weight.shape
    x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    height = (x.shape[1] - kernel_height) // stride + 1
    width = (x.shape[2] - kernel_width) // stride + 1

    def rows(x, i):
        return x[:, i : i + stride * (height - 1) + 1 : stride]

    def columns(x, j):
        return x[:, :, j : j + stride * (width - 1) + 1 : stride]

    def product(weight, slices):
        # Half precision is for the factors: the sum over the kernel's rows below would lose more than they do.
        return jnp.matmul(
            weight.reshape(-1, out_channels).T,
            slices.reshape(-1, height * width * x.shape[3]),
            preferred_element_type=statistics_dtype(x.dtype),
        )

    if kernel_width * in_channels < _THIN:
        windows = [columns(rows(x, i), j) for i in range(kernel_height) for j in range(kernel_width)]
        out = product(weight, jnp.stack(windows))
    else:
        # Only the columns are laid out, kernel_width copies of the images instead of kernel_height times as many.
        strips = jnp.stack([columns(x, j) for j in range(kernel_width)]).reshape(-1, x.shape[1], width, x.shape[3])
        out = sum(product(weight[i], rows(strips, i)) for i in range(kernel_height))
    return out.reshape(out_channels, height, width, x.shape[3]).astype(x.dtype)


def average_pool(x: jax.Array, size: int = 2) -> jax.Array:
    """Means of `size` by `size` squares of images (channels, height, width, batch); an incomplete edge is cut off."""
    channels, height, width, batch = x.shape
    height, width = height // size, width // size
    squares = x[:, : height * size, : width * size].reshape(channels, height, size, width, size, batch)
    return jnp.mean(squares, axis=(2, 4))


def max_pool(x: jax.Array, size: int = 2, stride: int | None = None, padding: int = 0) -> jax.Array:
    """The largest values of `size` by `size` squares of images (channels, height, width, batch).

    Squares are `stride` apart, by default `size`; `padding` is on all sides and never the largest. An incomplete edge
    is cut off.
    """
    stride = size if stride is None else stride
    low = jnp.finfo(x.dtype).min
    x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)), constant_values=low)
    height, width = ((side - size) // stride + 1 for side in x.shape[1:3])
    rows = [x[:, i : i + stride * (height - 1) + 1 : stride] for i in range(size)]
    x = functools.reduce(jnp.maximum, rows)
    columns = [x[:, :, j : j + stride * (width - 1) + 1 : stride] for j in range(size)]
    return functools.reduce(jnp.maximum, columns)


class Convolution(eqx.Module):
    """`convolve` with parameters: weight (kernel height, kernel width, in, out) and, if wanted, bias (out,).

    Both start uniformly within ±1/sqrt(fan-in), as in Equinox and PyTorch. Images set the dtype of the computation.
    """

    weight: jax.Array
    bias: jax.Array | None
    stride: int = eqx.field(static=True)
    padding: int = eqx.field(static=True)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int = 0,
        bias: bool = True,
        key: Any,
    ):
        shape = (kernel_size, kernel_size, in_channels, out_channels)
        bound = (kernel_size**2 * in_channels) ** -0.5
        weight_key, bias_key = jax.random.split(key)
        self.weight = jax.random.uniform(weight_key, shape, minval=-bound, maxval=bound)
        self.bias = jax.random.uniform(bias_key, (out_channels,), minval=-bound, maxval=bound) if bias else None
        self.stride, self.padding = stride, padding

    def __call__(self, x: jax.Array) -> jax.Array:
        x = convolve(x, self.weight.astype(x.dtype), self.stride, self.padding)
        return x if self.bias is None else x + self.bias.astype(x.dtype)[:, None, None, None]
