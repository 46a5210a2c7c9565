"""Checks of host arrays before anything is compiled, with errors that say where the trouble is."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# A memory-mapped data set is looked through in pieces of about this many numbers.
_CHUNK = 1 << 22


def check_count(name: str, value: Any, least: int) -> int:
    """`value` as an integer of at least `least`."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return int(value)


def check_key(name: str, key: Any) -> None:
    """Raises unless `key` is one JAX random key, of whichever kind."""
    if isinstance(key, jax.Array):
        if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.shape == ():
            return
        if key.dtype == jnp.uint32 and key.ndim == 1:
            return
    raise TypeError(f"{name} must be one JAX random key, such as jax.random.key(0), got {key!r}")


def at_first(name: str, bad: np.ndarray, offset: int = 0) -> str:
    """Where `bad` is first true, in words: 'x[3, 1] (row 3, column 1)'. Rows are counted from `offset`."""
    index = [int(i) for i in np.unravel_index(int(np.argmax(bad)), bad.shape)]
    index[0] += offset
    row, column = f"row {index[0]}", index[1:]
    if len(column) == 1:
        row += f", column {column[0]}"
    elif column:
        row += f", position {tuple(column)}"
    return f"{name}[{', '.join(map(str, index))}] ({row})"


def check_finite(name: str, array: np.ndarray) -> None:
    """Raises a ValueError naming the first NaN or infinity of a floating-point array."""
    if not jnp.issubdtype(array.dtype, jnp.inexact):
        return
    rows = max(1, _CHUNK // max(1, math.prod(array.shape[1:])))
    for start in range(0, array.shape[0], rows):
        piece = np.asarray(array[start : start + rows])
        bad = ~np.isfinite(piece)
        if bad.any():
            value = piece[np.unravel_index(int(np.argmax(bad)), bad.shape)]
            raise ValueError(f"{name} must be finite, but {at_first(name, bad, start)} is {value}")


def check_numbers(name: str, array: Any) -> None:
    """Raises a TypeError for an array whose entries JAX does not know: objects, text, dates, records, foreign bytes."""
    if hasattr(array, "tocsr"):
        raise TypeError(f"{name} is a sparse matrix: give an array, as its toarray() makes")
    dtype = getattr(array, "dtype", None)
    if not isinstance(dtype, np.dtype):
        return
    if dtype.kind != "b" and not jnp.issubdtype(dtype, jnp.number):
        raise TypeError(f"{name} must be numbers, got an array of dtype {dtype}")
    if not dtype.isnative:
        raise TypeError(
            f"{name} has dtype {dtype.str}, bytes in the order of other machines: give {name}.astype({dtype.name!r})"
        )


def check_range(name: str, array: Any) -> None:
    """Raises a ValueError naming the first integer that JAX cannot hold: without x64 it makes 32 bits of 64."""
    given = np.dtype(array.dtype) if hasattr(array, "dtype") else None
    if given is None or given.kind not in "iu" or jax.dtypes.canonicalize_dtype(given) == given:
        return
    limits = np.iinfo(jax.dtypes.canonicalize_dtype(given))
    array = np.asarray(array)
    bad = (array < limits.min) | (array > limits.max)
    if bad.any():
        raise ValueError(
            f"{name} must fit {limits.dtype}, which JAX makes of {given} unless jax_enable_x64 is set, but "
            f"{at_first(name, bad)} is {array[np.unravel_index(int(np.argmax(bad)), bad.shape)]}"
        )
