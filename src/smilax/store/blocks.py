"""Blocks of draws on their way to disk: the dtype they are stored in, and what they say about their group's leaves."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from smilax.store.header import CODES, FLOATS, to_dtype
from smilax.store.manifest import Leaf

STORED = ("bfloat16", "float16", "float32")


def stored(name: str, block: np.ndarray, dtype: str) -> np.ndarray:
    """The block in a smaller floating-point dtype; as it is if it is no float, or not larger.

    Raises:
        ValueError: if a finite number does not fit. Infinities in the place of draws would be found much later.
    """
    target = to_dtype(dtype)
    if block.dtype.name not in FLOATS or block.dtype.itemsize <= target.itemsize:
        return block
    with np.errstate(over="ignore"):
        small = block.astype(target)
    if not np.isfinite(small).all():
        lost = np.isfinite(block) & ~np.isfinite(small)
        if lost.any():
            value = block[lost].flat[0]
            raise ValueError(
                f"leaf {name!r} holds {value}, which does not fit into {dtype}: store it as bfloat16 or wider"
            )
    return small


def as_blocks(
    group: str, arrays: Mapping[str, Any], num_chains: int, dtype: str | None
) -> tuple[tuple[Leaf, ...], dict[str, np.ndarray]]:
    """Leaves and stored blocks of arrays `(chain, draw, …)`, C-contiguous.

    Raises:
        TypeError: for a dtype that cannot be stored.
        ValueError: if axes are missing or disagree.
    """
    if dtype is not None and dtype not in STORED:
        raise ValueError(
            f"dtype must be one of {', '.join(STORED)}, or None to store arrays as they are; got {dtype!r}"
        )
    leaves, blocks, draws = [], {}, None
    for name, value in arrays.items():
        block = np.asarray(value)
        what = f"leaf {name!r} of group {group!r}"
        if block.ndim < 2 or block.shape[0] != num_chains:
            raise ValueError(f"{what} must have shape (chain, draw, …) with {num_chains} chains, got {block.shape}")
        draws = block.shape[1] if draws is None else draws
        if block.shape[1] != draws:
            raise ValueError(f"{what} has {block.shape[1]} draws, but the leaf before has {draws}")
        if block.dtype.name not in CODES:
            raise TypeError(f"{what} has dtype {block.dtype}; a store holds {', '.join(CODES)}")
        small = block if dtype is None else stored(name, block, dtype)
        # A view of a larger buffer would keep all of that in memory until it is written.
        blocks[name] = np.ascontiguousarray(small)
        leaves.append(Leaf(name, block.shape[2:], small.dtype.name, block.dtype.name))
    return tuple(leaves), blocks


def cut(blocks: list[np.ndarray], start: int, stop: int) -> list[np.ndarray]:
    """Draws `start:stop` of blocks that follow each other along the draw axis, as views."""
    parts, offset = [], 0
    for block in blocks:
        low, high = max(start - offset, 0), min(stop - offset, block.shape[1])
        if low < high:
            parts.append(block[:, low:high])
        offset += block.shape[1]
    return parts
