"""Large NumPy arrays whose memory goes back to the system when they are dropped."""

import math
import mmap

import numpy as np

# Smaller ones are left to the allocator, which takes less time.
LEAST_BYTES = 1 << 20


def concatenated(parts: list[np.ndarray]) -> np.ndarray:
    """`np.concatenate(parts)` in memory mapped for it alone.

    Blocks of draws are made by one thread and dropped by another, after a while. In the C library's heap each leaves a
    gap that seldom fits the next: the memory of a run that streams to disk grew by hundreds of megabytes.
    """
    shape = (sum(len(part) for part in parts), *parts[0].shape[1:])
    dtype = parts[0].dtype
    size = math.prod(shape) * dtype.itemsize
    if size < LEAST_BYTES:
        return np.concatenate(parts)
    out = np.frombuffer(mmap.mmap(-1, size), np.uint8).view(dtype).reshape(shape)
    return np.concatenate(parts, out=out)
