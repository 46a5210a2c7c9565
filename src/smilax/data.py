"""Where batches come from.

Rows live on the device and batches are gathered inside the compiled loop, or on the host, a block of batches ahead of
it. What batch step t of a chain sees depends only on the chain's data key and t: not on other chains, chunks, restarts,
or where the rows are.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from smilax import threefry
from smilax.checks import check_numbers, check_range
from smilax.shuffling import BESIDE, permuted
from smilax.streams import Stream, describe_transform


@dataclass(frozen=True, eq=False)
class Batches:
    """Arrays, and the rule by which batches are drawn from them.

    Attributes:
        data: a pytree of arrays with a common leading axis of N rows, e.g. `(x, y)`; dtypes are kept, so uint8 images
            stay uint8 until the model uses them.
        order: `"independent"` draws a fresh batch at each step, which is what makes batch noise usable as the
            sampler's randomness; `"epochs"` walks through shuffled epochs that visit every row, as the paper does. Over
            an epoch the noise sums to zero, and posterior variances in the data's directions come out two to four
            times too small (docs/theory.md): use it for reproduction only. Where B does not divide N the last batch
            of an epoch is completed with rows from its start.
        replacement: whether an independent batch may hold a row twice. Without (the default) a batch of all N rows
            is the full data set and has no noise.
        transform: optional augmentation `transform(key, batch) -> batch`, run inside the compiled loop, such as
            `sx.augment.Flip()`.
        on_host: whether rows stay on the host, from where batches are sent ahead of the loop; None (the default) does
            so for NumPy memory maps. The batches are the same ones. Of rows on the host only some are checked for
            NaN.

    Raises:
        TypeError: for arrays of anything but numbers.
        ValueError: if there are no arrays, or their lengths differ, or `order` is unknown, or a combination has no
            meaning.

    Example:
        >>> import jax, numpy as np, smilax as sx
        >>> batches = sx.Batches((np.zeros((100, 3)), np.zeros(100)), order="epochs")
        >>> x, y = batches.draw(batches.data, jax.random.key(0), 7, batch_size=10)
        >>> x.shape, y.shape
        ((10, 3), (10,))
    """

    data: Any
    order: Literal["independent", "epochs"] = "independent"
    replacement: bool = False
    transform: Callable[[jax.Array, Any], Any] | None = None
    on_host: bool | None = None

    def __post_init__(self):
        # A data frame's rows are not found by their numbers.
        data = jax.tree.map(lambda leaf: np.asarray(leaf) if hasattr(leaf, "iloc") else leaf, self.data)
        object.__setattr__(self, "data", data)
        leaves = jax.tree.leaves(data)
        if not leaves:
            raise ValueError("data holds no arrays")
        for path, leaf in jax.tree_util.tree_leaves_with_path(data):
            check_numbers(f"data{jax.tree_util.keystr(path)}", leaf)
        lengths = [np.shape(leaf)[0] if np.ndim(leaf) else None for leaf in leaves]
        if len(leaves) == 1 and leaves[0] is data and hasattr(data, "__iter__") and not hasattr(data, "shape"):
            raise TypeError(
                f"data must be arrays, got a {type(data).__name__}: of an iterable of batches make an sx.Stream, which "
                "takes the number of all rows"
            )
        if None in lengths:
            raise ValueError(
                "data: every array needs a leading axis of rows, got a scalar (the numbers of a list count as such: "
                "np.asarray makes an array of it)"
            )
        if len(set(lengths)) > 1:
            raise ValueError(f"data: arrays have different numbers of rows: {lengths}")
        if lengths[0] == 0:
            raise ValueError("data has no rows")
        if not self.streamed:
            for path, leaf in jax.tree_util.tree_leaves_with_path(data):
                check_range(f"data{jax.tree_util.keystr(path)}", leaf)
        if self.order not in ("independent", "epochs"):
            raise ValueError(f'order must be "independent" or "epochs", got {self.order!r}')
        if self.order == "epochs" and self.replacement:
            raise ValueError("replacement=True has no meaning with shuffled epochs")
        if self.transform is not None and not callable(self.transform):
            raise TypeError(f"transform must be a function (key, batch) -> batch, got {self.transform!r}")

    @property
    def num_rows(self) -> int:
        """N, the number of rows."""
        return np.shape(jax.tree.leaves(self.data)[0])[0]

    @property
    def streamed(self) -> bool:
        """Whether rows stay on the host."""
        return (
            any(isinstance(x, np.memmap) for x in jax.tree.leaves(self.data)) if self.on_host is None else self.on_host
        )

    def first(self, batch_size: int) -> Any:
        """A batch to look at, on the device."""
        key, step = jax.random.key(0), jnp.zeros((), jnp.uint32)
        if not self.streamed:
            return self.draw(jax.tree.map(jnp.asarray, self.data), key, step, batch_size)
        rows = np.asarray(self.rows(key, step, batch_size))
        block = jax.tree.map(lambda x: jnp.asarray(gather(x, rows))[None], self.data)
        return self.draw((block, step), key, step, batch_size)

    def config(self) -> dict[str, Any]:
        """A JSON-able description."""
        return {"order": self.order, "replacement": self.replacement, "transform": describe_transform(self.transform)}

    def draw(self, data: Any, key: jax.Array, step: jax.Array, batch_size: int) -> Any:
        """The batch of one step.

        Args:
            data: `self.data` on the device (passed in, so that it is an argument of the compiled program); if rows stay
                on the host, a block of batches and the number of its first step.
            key: the chain's data key.
            step: step number, counted from 0.
            batch_size: B, from 1 to N (more than N only with replacement).

        Returns:
            A pytree like `data` with B rows.
        """
        num_rows = self.num_rows
        full = batch_size == num_rows and not self.replacement and self.order == "independent"
        batch = data
        if self.streamed:
            block, first = data
            index = jnp.asarray(step, jnp.uint32) - first
            batch = jax.tree.map(lambda x: x.at[index].get(mode="promise_in_bounds"), block)
        elif not full:
            batch = self.take(data, self.rows(key, step, batch_size))
        if self.transform is not None:
            batch = self.transform(jax.random.fold_in(jax.random.fold_in(key, step), BESIDE), batch)
        return batch

    def take(self, data: Any, rows: jax.Array) -> Any:
        """These rows of the data."""
        # Row numbers are in range by construction; the default mode would spend time on proving it.
        return jax.tree.map(lambda x: jnp.asarray(x).at[rows].get(mode="promise_in_bounds"), data)

    def rows(self, key: jax.Array, step: jax.Array, batch_size: int) -> jax.Array:
        """The row numbers of one step's batch, int32, shape `(B,)`."""
        num_rows = self.num_rows
        step = jnp.asarray(step, jnp.uint32)
        if self.order == "epochs":
            steps = -(-num_rows // batch_size)
            first = (step % jnp.uint32(steps)).astype(jnp.int32) * batch_size
            positions = (first + jnp.arange(batch_size, dtype=jnp.int32)) % num_rows
            return permuted(jax.random.fold_in(key, step // jnp.uint32(steps)), positions, num_rows)
        key = jax.random.fold_in(key, step)
        if not self.replacement:
            return permuted(key, jnp.arange(batch_size, dtype=jnp.int32), num_rows)
        if num_rows < 2**20:
            # `randint` costs a third of a small step; the bias of a remainder is below N/2³², one part in 4,000.
            bits = threefry.bits(key, (batch_size,))
            return (bits % jnp.uint32(num_rows)).astype(jnp.int32)
        return jax.random.randint(key, (batch_size,), 0, num_rows, jnp.int32)


def gather(array: Any, rows: np.ndarray) -> np.ndarray:
    """Rows of an array on the host, in ascending order on disk; `rows` may have any shape."""
    flat, back = np.unique(rows.ravel(), return_inverse=True)
    found = np.asarray(array[flat])
    check_range("data", found)
    return found[back].reshape(rows.shape + array.shape[1:])


def as_batches(data: Any) -> Batches | Stream:
    """`data` itself if it is a source of batches, else independent batches without replacement from its arrays."""
    return data if isinstance(data, (Batches, Stream)) else Batches(data)


def on_device(name: str, data: Any) -> Batches:
    """`data` as batches from rows on the device.

    Raises:
        TypeError: if it is a stream, which has no rows to go back to.
    """
    batches = as_batches(data)
    if isinstance(batches, Stream):
        raise TypeError(f"{name} must be arrays or sx.Batches here, got an sx.Stream")
    return replace(batches, on_host=False)


def check_batch_size(batch_size: int | None, batches: Batches | Stream) -> int:
    """The batch size to use; None takes all rows, or what a stream yields.

    Raises:
        TypeError: if it is no integer.
        ValueError: if it is less than one, or exceeds the rows that a batch without replacement can hold.
    """
    if batch_size is None:
        if isinstance(batches, Stream):
            return len(jax.tree.leaves(batches.first(None))[0])
        return batches.num_rows
    if isinstance(batch_size, bool) or not hasattr(batch_size, "__index__"):
        raise TypeError(f"batch_size must be an integer or None, got {batch_size!r}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if batch_size > batches.num_rows and not batches.replacement:
        raise ValueError(f"batch_size = {batch_size} exceeds the {batches.num_rows} rows of data")
    return int(batch_size)
