"""An array `(chain, draw, …)` that stays on disk until it is asked for."""

import math
import operator
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from smilax.store.header import to_dtype
from smilax.store.manifest import Leaf, Shard
from smilax.store.opening import ShardFiles
from smilax.store.shards import read_rows

# Rows wanted that are closer together than this many bytes are read in one go, with what is between them.
_GAP_BYTES = 1 << 16


def _positions(index: Any, length: int, axis: int) -> tuple[np.ndarray, Any]:
    """The sorted positions that an index needs, and the index that has the same meaning among those."""
    where = f"index of axis {axis} ({('chain', 'draw')[axis]})"
    if isinstance(index, slice):
        span = range(*index.indices(length))
        # A negative step reads upwards and turns the result around.
        return np.arange(span.start, span.stop, span.step)[:: 1 if span.step > 0 else -1], slice(
            None, None, 1 if span.step > 0 else -1
        )
    array = np.asarray(index)
    if array.dtype == bool and array.ndim == 1:
        if len(array) != length:
            raise IndexError(f"{where} is a mask of length {len(array)}; it must have length {length}")
        array = np.flatnonzero(array)
    elif array.size == 0:
        array = array.astype(int)
    elif array.dtype.kind not in "iu":
        raise IndexError(f"{where} must be an integer, a slice, an integer array or a mask, got {index!r}")
    bad = (array < -length) | (array >= length)
    if bad.any():
        raise IndexError(f"{where} is {array[bad].flat[0]}; the length is {length}")
    array = np.where(array < 0, array + length, array)
    if array.ndim == 0:
        return array.reshape(1), 0
    needed, inverse = np.unique(array, return_inverse=True)
    return needed, inverse.reshape(array.shape)


def _plain(index: Any) -> Any:
    return index if hasattr(index, "__index__") and not np.ndim(index) else np.asarray(index)


class LazyArray(NDArrayOperatorsMixin):
    """A leaf of a store, `(chain, draw, …)`.

    Indexing, with NumPy's rules, reads the draws and chains that the index needs and gives a NumPy array in the
    original dtype. On the first two axes integers, slices, integer arrays and one-dimensional masks do; `None` does
    not. `numpy.asarray` reads it all, and so do arithmetic, NumPy's functions, and `mean`, `std`, `var`, `sum`, `min`,
    `max`, `reshape` and `astype`, which give NumPy arrays.

    Raises:
        StoreCorrupt: when draws are read whose shard is missing or damaged; it names them.
    """

    def __init__(self, leaf: Leaf, shards: tuple[Shard, ...], num_chains: int, files: ShardFiles):
        self._leaf, self._shards, self._files = leaf, shards, files
        self.name = leaf.name
        self.shape: tuple[int, ...] = (num_chains, max((shard.stop for shard in shards), default=0), *leaf.shape)
        self.dtype = to_dtype(leaf.original_dtype)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes that the whole would take in memory."""
        return self.size * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"LazyArray({self.name!r}, shape={self.shape}, dtype={self.dtype.name}, stored={self._leaf.dtype})"

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError(f"{self!r} is on disk: reading it makes a copy, so copy=False is impossible")
        array = self._read(np.arange(self.shape[0]), np.arange(self.shape[1]))
        return array if dtype is None else array.astype(dtype, copy=False)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        read = [np.asarray(value) if isinstance(value, LazyArray) else value for value in inputs]
        return getattr(ufunc, method)(*read, **options)

    def __getattr__(self, name: str) -> Any:
        if name not in ("mean", "std", "var", "sum", "min", "max", "reshape", "astype"):
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}; np.asarray reads the array")
        return getattr(np.asarray(self), name)

    def __getitem__(self, index: Any) -> Any:
        index = index if isinstance(index, tuple) else (index,)
        if any(i is None or isinstance(i, bool | np.bool_) for i in index):
            raise IndexError(f"None, True and False are no index of {self!r}")
        dots = [n for n, i in enumerate(index) if i is Ellipsis]
        # JAX arrays and sequences within an index are taken for the NumPy arrays that they stand for.
        index = tuple(i if i is Ellipsis or isinstance(i, slice) else _plain(i) for i in index)
        extra = sum(i.ndim - 1 for i in index if isinstance(i, np.ndarray) and i.dtype == bool and i.ndim > 1)
        if len(dots) > 1 or len(index) + extra - len(dots) > self.ndim:
            raise IndexError(f"index {index!r} has more parts than {self!r} has axes")
        at = dots[0] if dots else len(index)
        fill = (slice(None),) * (self.ndim - len(index) - extra + len(dots))
        parts = [*index[:at], *fill, *index[at + 1 :]]
        chains, parts[0] = _positions(parts[0], self.shape[0], 0)
        draws, parts[1] = _positions(parts[1], self.shape[1], 1)
        for axis, part in enumerate(parts[2:], 2):
            # Before anything is read.
            if not extra and not isinstance(part, slice | np.ndarray):
                position = operator.index(part)
                if not -self.shape[axis] <= position < self.shape[axis]:
                    raise IndexError(f"index of axis {axis} is {position}; the length is {self.shape[axis]}")
        read = self._read(chains, draws)
        result = read[tuple(parts)]
        # A small view must not keep all that was read.
        return result.copy() if isinstance(result, np.ndarray) and result.size < read.size else result

    def _read(self, chains: np.ndarray, draws: np.ndarray) -> np.ndarray:
        """The given chains and draws, both sorted and without repetition."""
        jobs = []
        if chains.size and draws.size:
            for shard in self._shards:
                low, high = np.searchsorted(draws, (shard.start, shard.stop))
                held = shard.chains or (0, self.shape[0])
                top, bottom = np.searchsorted(chains, held)
                if low < high and top < bottom:
                    self._files.check_size(shard)
                    jobs.append((shard, held, low, high, top, bottom))
        out = np.empty((len(chains), len(draws), *self._leaf.shape), self.dtype)
        for shard, held, low, high, top, bottom in jobs:
            with self._files.open(shard, self._leaf, held[1] - held[0]) as (fd, tensor):
                path = self._files.directory / shard.file
                row = max(1, self._leaf.nbytes)
                wanted = draws[low:high] - shard.start
                cuts = np.flatnonzero((np.diff(wanted) - 1) * row > _GAP_BYTES) + 1
                for rows, places in zip(np.split(wanted, cuts), np.split(np.arange(low, high), cuts), strict=True):
                    first, span = int(rows[0]), int(rows[-1] - rows[0]) + 1
                    dense = span == len(rows)
                    for n, chain in enumerate((chains[top:bottom] - held[0]).tolist(), top):
                        target = out[n, places[0] : places[-1] + 1]
                        if dense and tensor.dtype == self.dtype:
                            read_rows(fd, tensor, chain, first, target, path)
                        else:
                            scratch = np.empty((span, *self._leaf.shape), tensor.dtype)
                            read_rows(fd, tensor, chain, first, scratch, path)
                            target[...] = (scratch if dense else scratch[rows - first]).astype(self.dtype)
        return out
