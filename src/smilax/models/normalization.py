"""Normalisations that do not look across a batch, so that an example's likelihood is its own."""

import equinox as eqx
import jax
import jax.numpy as jnp

from smilax.models.settings import statistics_dtype

EPSILON = 1e-6


class FilterResponseNorm(eqx.Module):
    """Filter response normalisation and its thresholded activation, of images (channels, height, width, batch).

    y = max(γ x / sqrt(mean(x²) + ε) + β, τ), the mean over height and width; γ, β and τ of shape (channels,), started
    at 1, 0 and 0 (Singh and Krishnan 2020, equations 1 to 3). ε is 1e-6, as there for images of more than one pixel.
    Statistics are in float32 at least.
    """

    scale: jax.Array
    shift: jax.Array
    threshold: jax.Array

    def __init__(self, channels: int):
        self.scale, self.shift, self.threshold = jnp.ones(channels), jnp.zeros(channels), jnp.zeros(channels)

    def __call__(self, x: jax.Array) -> jax.Array:
        wide = x.astype(statistics_dtype(x.dtype))
        square = jnp.mean(jnp.square(wide), axis=(1, 2), keepdims=True)
        scale, shift, threshold = (
            p.astype(wide.dtype)[:, None, None, None] for p in (self.scale, self.shift, self.threshold)
        )
        return jnp.maximum(scale * (wide * jax.lax.rsqrt(square + EPSILON)) + shift, threshold).astype(x.dtype)


class LayerNorm(eqx.Module):
    """Layer normalisation of the last axis: γ (x - mean) / sqrt(variance + 1e-5) + β (Ba, Kiros and Hinton 2016).

    Statistics are in float32 at least.
    """

    scale: jax.Array
    shift: jax.Array

    def __init__(self, width: int):
        self.scale, self.shift = jnp.ones(width), jnp.zeros(width)

    def __call__(self, x: jax.Array) -> jax.Array:
        wide = x.astype(statistics_dtype(x.dtype))
        centred = wide - jnp.mean(wide, axis=-1, keepdims=True)
        normal = centred * jax.lax.rsqrt(jnp.mean(jnp.square(centred), axis=-1, keepdims=True) + 1e-5)
        shape = (1,) * (x.ndim - 1) + (-1,)
        scale, shift = (p.astype(wide.dtype).reshape(shape) for p in (self.scale, self.shift))
        return (normal * scale + shift).astype(x.dtype)
