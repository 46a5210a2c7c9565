"""Where a run's draws and reports go: into memory, or into a store."""

import fnmatch
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from smilax.packing import unpack
from smilax.store import StoreWriter
from smilax.structure import leaf_paths

Group = Literal["draws", "info", "warmup_info"]
STORED_DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Store:
    """A directory for the draws of a run, and how they are kept; a plain path takes the defaults.

    Attributes:
        path: the directory; it must not exist, or be empty.
        dtype: "bfloat16", "float16" or "float32": floats that are wider are rounded to it on disk, and come back in
            their own dtype. The resumable state is always exact.
        select: keep only some leaves: glob patterns of paths, such as `"network/layers/2/*"`, of which one has to match
            (`*` stands for any part, slashes included), or a function of the path. Paths are those of
            `sx.priors.by_path`.
        interval: seconds between commits to aim at; a process that is killed loses no more than what it drew since the
            last one, and draws it again when resumed. 0 commits after every chunk.

    Raises:
        TypeError, ValueError: if an argument is not of its kind.

    Example:
        >>> import smilax as sx
        >>> sx.Store("runs/energy", dtype="bfloat16").dtype
        'bfloat16'
    """

    path: str | Path
    dtype: str | None = None
    select: str | tuple[str, ...] | list[str] | Callable[[str], bool] | None = None
    interval: float = 5.0

    def __post_init__(self):
        if not isinstance(self.path, (str, Path)):
            raise TypeError(f"store: path must be a str or a pathlib.Path, got {self.path!r}")
        if self.dtype not in (None, *STORED_DTYPES):
            raise ValueError(f"store: dtype must be None or one of {', '.join(STORED_DTYPES)}, got {self.dtype!r}")
        patterns = [self.select] if isinstance(self.select, str) else self.select
        if isinstance(patterns, (list, tuple)):
            if not patterns or not all(isinstance(pattern, str) for pattern in patterns):
                raise TypeError(f"store: select must be glob patterns or a function of the path, got {self.select!r}")
        elif patterns is not None and not callable(patterns):
            raise TypeError(f"store: select must be glob patterns or a function of the path, got {self.select!r}")
        if isinstance(self.interval, bool) or not isinstance(self.interval, (int, float)) or not self.interval >= 0:
            raise ValueError(f"store: interval must be a number of seconds, at least 0, got {self.interval!r}")

    def keeps(self, path: str) -> bool:
        """Whether draws of the leaf with this path are kept."""
        if self.select is None:
            return True
        if callable(self.select):
            return bool(self.select(path))
        patterns = [self.select] if isinstance(self.select, str) else self.select
        return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)


class MemoryRecorder:
    """Collects blocks in arrays `(chain, draw, …)` of the length foreseen."""

    shared = False

    def __init__(self, capacity: dict[str, int]):
        self._capacity = capacity
        self._filled = dict.fromkeys(capacity, 0)
        self._arrays: dict[str, Any] = dict.fromkeys(capacity)

    def add(self, group: Group, block: Any) -> None:
        """A block of draws or reports, a pytree with leaves `(chain, draw, …)`."""
        if self._arrays[group] is None:
            size = self._capacity[group]
            self._arrays[group] = jax.tree.map(lambda x: np.empty((x.shape[0], size, *x.shape[2:]), x.dtype), block)
        begin = self._filled[group]
        end = self._filled[group] = begin + jax.tree.leaves(block)[0].shape[1]

        def copy(target, source):
            target[:, begin:end] = source

        jax.tree.map(copy, self._arrays[group], block)

    def finish(self, group: Group) -> Any:
        """What was collected, or None."""
        filled = self._filled[group]
        if self._arrays[group] is None or filled == self._capacity[group]:
            return self._arrays[group]
        return jax.tree.map(lambda x: x[:, :filled], self._arrays[group])


class StoreRecorder:
    """Hands blocks on to a store."""

    shared = True

    def __init__(self, writer: StoreWriter, options: Store):
        self._writer, self._options = writer, options

    def add(self, group: Group, block: Any) -> None:
        """A block of draws or reports, a pytree with leaves `(chain, draw, …)` that nobody else writes to."""
        if group == "draws":
            block = unpack(block, batch_ndim=2)
        named = list(zip(leaf_names(block), jax.tree.leaves(block), strict=True))
        if group == "draws":
            named = [(name, leaf) for name, leaf in named if self._options.keeps(name)]
        self._writer.append(group, dict(named), dtype=self._options.dtype if group == "draws" else None)


def leaf_names(tree: Any) -> list[str]:
    """A name for each leaf: its path, "params" where the tree is a single array."""
    names = [path or "params" for path in leaf_paths(tree)]
    if len(set(names)) < len(names):
        raise ValueError(f"store: two leaves of the parameters have the same path: {sorted(names)}")
    if "__metadata__" in names:
        raise ValueError("store: no leaf of the parameters may be called '__metadata__', which safetensors reserves")
    return names


def bytes_per_draw(params: Any, options: Store | None) -> int:
    """Bytes that a draw of one chain takes on disk, or in memory; `params` are those of one chain."""
    total = 0
    for name, leaf in zip(leaf_names(params), jax.tree.leaves(params), strict=True):
        itemsize = np.dtype(leaf.dtype).itemsize
        if options is not None:
            if not options.keeps(name):
                continue
            if options.dtype is not None and leaf.dtype.kind == "f":
                itemsize = min(itemsize, 4 if options.dtype == "float32" else 2)
        total += itemsize * math.prod(leaf.shape)
    return total
