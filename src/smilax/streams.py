"""Batches from the host: an iterable such as a PyTorch DataLoader, tf.data, or a generator."""

import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import jax
import numpy as np

from smilax.places import encode
from smilax.shuffling import BESIDE


@dataclass(frozen=True, eq=False)
class Stream:
    """Batches that an iterable makes on the host, read ahead on a thread so that the device does not wait.

    All chains see the same batches, so that there are as many to make for ten chains as for one. Each chain's draws are
    those it would make alone, but the chains' errors are not independent of each other.

    Attributes:
        source: an iterable of batches that can be iterated again and again (each time is an epoch), or a function that
            returns an iterator: of no argument, or of the number of the epoch. A batch is a pytree of arrays with
            a common leading axis of rows; sizes may vary, and are cut into batches of equal size, across epochs too.
        num_rows: N, the rows of the whole data set.
        order: what the batches are: `"epochs"` visit every row before any again, as a DataLoader with shuffling does,
            `"independent"` are drawn anew for each batch. `sx.ismile` needs the latter (docs/theory.md).
        replacement: whether an independent batch may hold a row twice, or comes from an endless stream.
        transform: optional augmentation `transform(key, batch) -> batch`, run on the device.

    A run can be resumed to the same draws if `source` is a function of the epoch's number whose batches depend on
    nothing else, or has `state_dict()` and `load_state_dict(state)`, taken from the iterator where that has them
    (torchdata's StatefulDataLoader); a state may hold plain containers, numbers, bytes, arrays and tensors. Any other
    source begins anew when a run is resumed, which is said in a warning: the draws are valid then, but not those of an
    unbroken run.

    Raises:
        TypeError, ValueError: if an argument is not of its kind.

    Example:
        >>> import numpy as np, smilax as sx
        >>> def batches(epoch):
        ...     order = np.random.default_rng(epoch).permutation(100)
        ...     for rows in np.split(order, 10):
        ...         yield {"x": rows}
        >>> sx.Stream(batches, num_rows=100).restorable
        True
    """

    source: Iterable | Callable[..., Iterator]
    num_rows: int
    order: Literal["independent", "epochs"] = "epochs"
    replacement: bool = False
    transform: Callable[[jax.Array, Any], Any] | None = None

    def __post_init__(self):
        if iter_is_spent(self.source):
            raise TypeError(
                "source can be iterated only once: give an iterable that starts again, such as a DataLoader or a list, "
                "or a function that returns a new iterator"
            )
        if not (hasattr(self.source, "__iter__") or callable(self.source)):
            raise TypeError(f"source must be an iterable of batches or a function, got {type(self.source).__name__}")
        _ = self._takes_epoch  # raises if it takes more
        if isinstance(self.num_rows, bool) or not hasattr(self.num_rows, "__index__") or self.num_rows < 1:
            raise ValueError(f"num_rows must be the number of rows of the whole data set, got {self.num_rows!r}")
        if self.order not in ("independent", "epochs"):
            raise ValueError(f'order must be "independent" or "epochs", got {self.order!r}')
        if self.order == "epochs" and self.replacement:
            raise ValueError("replacement=True has no meaning with epochs")
        if self.transform is not None and not callable(self.transform):
            raise TypeError(f"transform must be a function (key, batch) -> batch, got {self.transform!r}")

    @property
    def restorable(self) -> bool:
        """Whether reading can go on at a known place."""
        return self._takes_epoch or hasattr(self.source, "load_state_dict")

    @property
    def _takes_epoch(self) -> bool:
        if hasattr(self.source, "__iter__"):
            return False
        try:
            parameters = inspect.signature(self.source).parameters.values()
        except (TypeError, ValueError):
            return False
        places = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        needed = [p.name for p in places if p.default is p.empty]
        if len(needed) > 1:
            raise TypeError(f"source must be a function of the epoch's number or of nothing, got {', '.join(needed)}")
        return bool(needed) or bool(places) and places[0].name == "epoch"

    def config(self) -> dict[str, Any]:
        """A JSON-able description."""
        return {
            "order": self.order, "replacement": self.replacement, "transform": describe_transform(self.transform),
            "stream": True,
        }  # fmt: skip

    def first(self, batch_size: int | None) -> Any:
        """A batch to look at, transformed; as the source makes it if the size is None. The source stays where it is."""
        source: Any = self.source
        before = source.state_dict() if hasattr(source, "load_state_dict") else None
        try:
            reader = Reader(self, batch_size or 1)
            if batch_size is None:
                return reader.piece()
            batch = reader.next()
            return batch if self.transform is None else self.transform(jax.random.key(0), batch)
        finally:
            if before is not None:
                source.load_state_dict(before)

    def check_storable(self) -> None:
        """Raises TypeError if the source has a state that a store cannot hold."""
        source: Any = self.source
        if hasattr(source, "load_state_dict"):
            before = source.state_dict()
            source.load_state_dict(before)
            encode(before)

    def draw(self, data: Any, key: jax.Array, step: jax.Array, batch_size: int) -> Any:
        """The batch of one step, on the device; `data` is a block of a `Reader`'s batches and its first step."""
        block, first = data
        index = jax.numpy.asarray(step, jax.numpy.uint32) - first
        batch = jax.tree.map(lambda x: x.at[index].get(mode="promise_in_bounds"), block)
        if self.transform is not None:
            batch = self.transform(jax.random.fold_in(jax.random.fold_in(key, step), BESIDE), batch)
        return batch

    def _epoch(self, number: int) -> Iterator:
        if hasattr(self.source, "__iter__"):
            return iter(self.source)
        # Of a list or a loader `Reader` needs an iterator, or it would begin again at each batch.
        return iter(self.source(number) if self._takes_epoch else self.source())


def describe_transform(transform: Any) -> Any:
    """What is to be known of a transform, JSON-able: whether there is one, or what it says itself."""
    config = getattr(transform, "config", None)
    return config() if callable(config) else transform is not None


def iter_is_spent(source: Any) -> bool:
    """Whether it is an iterator, which cannot start again."""
    return hasattr(source, "__next__")


class Reader:
    """Reads a stream in batches of equal size, and knows where it is.

    A place is what the source says of itself before the piece that is being used up, and how many of that piece's rows
    are used.
    """

    def __init__(self, stream: Stream, batch_size: int, place: dict[str, Any] | None = None):
        self._stream, self._batch_size = stream, batch_size
        self._epoch, self._read = 0, 0
        self._iterator: Iterator | None = None
        self._pieces: list[tuple[Any, int, dict[str, Any]]] = []  # rows, how many of them are used, place before them
        if place is not None:
            self._go_to(place)

    def place(self) -> dict[str, Any] | None:
        """Where the next batch begins; None if the source cannot be brought back there."""
        if not self._stream.restorable:
            return None
        if self._pieces:
            _, used, before = self._pieces[0]
            return before | {"used": used}
        return self._here() | {"used": 0}

    def next(self) -> Any:
        """The next batch, a pytree of NumPy arrays with B rows."""
        need, parts = self._batch_size, []
        while need:
            if not self._pieces:
                before = self._here() if self._stream.restorable else {}
                self._pieces.append((self.piece(), 0, before))
            rows, used, before = self._pieces.pop()
            size = len(jax.tree.leaves(rows)[0])
            take = min(need, size - used)
            parts.append(jax.tree.map(lambda x, a=used, n=take: x[a : a + n], rows))
            need -= take
            if used + take < size:
                self._pieces.append((rows, used + take, before))
        return parts[0] if len(parts) == 1 else jax.tree.map(lambda *xs: np.concatenate(xs), *parts)

    def piece(self) -> Any:
        """The next batch as the source makes it, with rows."""
        for attempt in range(2):
            if self._iterator is None:
                self._iterator, self._read = self._stream._epoch(self._epoch), 0
            for batch in self._iterator:
                self._read += 1
                batch = _on_host(batch)
                if len(jax.tree.leaves(batch)[0]):
                    return batch
            if attempt and not self._read:
                break
            self._iterator, self._epoch = None, self._epoch + 1
        raise ValueError(
            f"source yields no batch in epoch {self._epoch}: it can perhaps be iterated only once; give an iterable "
            "that starts again, or a function that returns a new iterator"
        )

    def _here(self) -> dict[str, Any]:
        state = None
        if not self._stream._takes_epoch:
            keeper = self._iterator if hasattr(self._iterator, "state_dict") else self._stream.source
            state = keeper.state_dict()  # type: ignore[union-attr]
        return {"epoch": self._epoch, "read": self._read if self._iterator is not None else 0, "state": state}

    def _go_to(self, place: dict[str, Any]) -> None:
        self._epoch = place["epoch"]
        if place["state"] is not None:
            self._stream.source.load_state_dict(place["state"])  # type: ignore[union-attr]
            self._iterator, self._read = self._stream._epoch(self._epoch), place["read"]
        elif place["read"]:
            self._iterator, self._read = self._stream._epoch(self._epoch), 0
            for _ in range(place["read"]):
                next(self._iterator)
                self._read += 1
        if place["used"]:
            before = self._here()
            self._pieces.append((self.piece(), place["used"], before))


def check_restorable(stream: Stream) -> None:
    """Warns if a resumed run cannot go on with the batches that an unbroken one would see."""
    if not stream.restorable:
        warnings.warn(
            "the source of the data cannot say where it was (it is no function of the epoch, and has no state_dict and "
            "load_state_dict): it begins anew; the draws are valid, but not those of an unbroken run",
            stacklevel=4,
        )


def _on_host(batch: Any) -> Any:
    """A batch as NumPy arrays: lists as tuples, tensors of other libraries by way of the array protocol."""
    if isinstance(batch, list):
        batch = tuple(batch)
    batch = jax.tree.map(np.asarray, batch)
    sizes = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(batch)}
    if len(sizes) != 1 or () in sizes:
        raise ValueError(
            f"the arrays of a batch need a common leading axis of rows, got shapes "
            f"{[np.shape(leaf) for leaf in jax.tree.leaves(batch)]}"
        )
    return batch
