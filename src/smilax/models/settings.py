"""Checks of what the model functions are given."""

from typing import Any

import jax
import jax.numpy as jnp


def check_sizes(name: str, **sizes: tuple[Any, int]) -> None:
    """Refuses sizes, each `(value, least)`, that are no integers of at least `least`.

    Raises:
        ValueError: naming the argument.
    """
    for argument, (size, least) in sizes.items():
        if isinstance(size, bool) or not hasattr(size, "__index__") or size < least:
            raise ValueError(f"{name}: {argument} must be an integer of at least {least}, got {size!r}")


def check_dtype(name: str, dtype: Any) -> jnp.dtype | None:
    """`compute_dtype` as a dtype; None stays None, which means that of the parameters.

    Raises:
        ValueError: if it is no floating-point type.
    """
    if dtype is None:
        return None
    try:
        found = jnp.dtype(dtype)
    except TypeError:
        found = None
    if found is None or not jnp.issubdtype(found, jnp.floating):
        raise ValueError(
            f'{name}: compute_dtype must be a floating-point type such as "bfloat16", or None, got {dtype!r}'
        )
    return found


def statistics_dtype(dtype: Any) -> jnp.dtype:
    """The dtype for sums over values of `dtype`: half precision is not enough."""
    return jnp.dtype(dtype) if jnp.dtype(dtype).itemsize >= 4 else jnp.dtype(jnp.float32)


def as_images(x: jax.Array, image_shape: tuple[int, int, int], dtype: Any) -> jax.Array:
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
