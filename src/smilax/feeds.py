"""What the compiled loop reads batches from: all rows on the device, or blocks of batches read ahead on the host."""

import queue
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from smilax.checks import check_finite
from smilax.data import Batches, gather
from smilax.streams import Reader, Stream

# Puts a leaf of a block on the devices: its shape, and a function that reads the part at an index.
Send = Callable[[tuple[int, ...], Callable[[Any], np.ndarray]], jax.Array]
# Blocks one after another, up to that with the last step; asks now and then whether it is to stop.
MakeBlocks = Callable[[Callable[[], bool]], Iterator["Block"]]

# What a block of batches may take on the device; two more are on their way.
BLOCK_BYTES = 2**26
MOST_STEPS = 1024
AHEAD = 1
# No step is taken before the first block is read, which is as long as all others: of a slow source it is cut here.
BLOCK_SECONDS, LEAST_STEPS = 1.0, 8
# A thread that waits for a source can be told to stop only once that has given a batch.
PATIENCE = 10.0


class Block(NamedTuple):
    """Data for the steps up to `stop`.

    Attributes:
        data: one pytree for each group of chains, for `draw` in the compiled loop.
        stop: number of the first step that it does not cover; None if it covers all.
        place: where the source stood before the block, or None.
        first: number of its first step.
    """

    data: list[Any]
    stop: int | None
    place: Any
    first: int


class DeviceFeed:
    """All rows are on the device: one block for the whole run."""

    own_data = False

    def __init__(self, data: Any, groups: int):
        self._block = Block([data] * groups, None, None, 0)

    def block(self, step: int) -> Block:
        """The data for this step."""
        return self._block

    def place(self) -> None:
        """Nothing has to be kept: batches follow from keys and steps."""
        return None

    def close(self) -> None:
        """Nothing to do."""


class _Ahead:
    """Runs an iterator of blocks on a thread, a block ahead of who takes them."""

    def __init__(self, make: "MakeBlocks"):
        self._queue: queue.Queue[Any] = queue.Queue(AHEAD)
        self._stopped = threading.Event()
        blocks = make(self._stopped.is_set)
        self._thread = threading.Thread(target=self._work, args=(blocks,), name="smilax data", daemon=True)
        self._thread.start()

    def _work(self, blocks: Iterator[Block]) -> None:
        try:
            for block in blocks:
                if not self._put(block):
                    return
        except BaseException as error:  # handed over to who takes blocks
            self._put(error)

    def _put(self, item: Any) -> bool:
        while not self._stopped.is_set():
            try:
                self._queue.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def take(self) -> Block:
        item = self._queue.get()
        if isinstance(item, BaseException):
            raise item
        return item

    def close(self) -> None:
        self._stopped.set()
        self._thread.join(timeout=PATIENCE)
        if self._thread.is_alive():
            warnings.warn(
                f"the source of batches has not given one for {PATIENCE:.0f} s: a thread still waits for it, and ends "
                "once it does",
                stacklevel=2,
            )


class BlockFeed:
    """Blocks of batches in the order of the steps, read ahead by a thread.

    Attributes:
        own_data: whether the leaves of a block's data have a leading chain axis.
    """

    def __init__(self, make: "MakeBlocks", own_data: bool = False):
        self.own_data = own_data
        self._ahead = _Ahead(make)
        self._current: Block | None = None

    def block(self, step: int) -> Block:
        """The block with this step; steps may only grow."""
        while self._current is None or (self._current.stop is not None and step >= self._current.stop):
            self._current = None  # its memory is free for the next one
            self._current = self._ahead.take()
        return self._current

    def place(self) -> Any:
        """Where the source was before the current block, and that block's first step."""
        current = self._current
        if current is None or current.place is None:
            return None
        return {"place": current.place, "first": current.first}

    def close(self) -> None:
        """Ends the thread."""
        self._ahead.close()


def steps_per_block(batch: Any) -> int:
    """How many steps' batches go into a block."""
    size = sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(batch))
    return int(max(1, min(MOST_STEPS, BLOCK_BYTES // max(size, 1))))


def stream_blocks(
    stream: Stream, batch_size: int, groups: int, first: int, end: int, where: Any, send: Send
) -> MakeBlocks:
    """Blocks of a stream's batches for the steps from `first` to before `end`; `where` is what `BlockFeed.place` gave.

    Nothing is read beyond the last step.
    """

    def stacked(*batches):
        rows = np.stack(batches)
        return send(rows.shape, rows.__getitem__)

    def checked(batch: Any, step: int) -> Any:
        for path, leaf in jax.tree_util.tree_leaves_with_path(batch):
            check_finite(f"the stream's batch for step {step}, data{jax.tree_util.keystr(path)}", leaf)
        return batch

    def blocks(stopped: Callable[[], bool]) -> Iterator[Block]:
        begin, place = (first, None) if where is None else (where["first"], where["place"])
        reader = Reader(stream, batch_size, place)
        length = 0
        while begin < end:
            place = reader.place()
            batches = [checked(reader.next(), begin)]
            most, clock = length or min(steps_per_block(batches[0]), end - begin), time.perf_counter()
            while len(batches) < min(most, end - begin) and not stopped():
                # Several hosts have to come to the same length.
                late = time.perf_counter() - clock > BLOCK_SECONDS and jax.process_count() == 1
                if not length and late and len(batches) >= LEAST_STEPS:
                    break
                batches.append(checked(reader.next(), begin + len(batches)))
            if stopped():
                return
            length = length or len(batches)
            # All blocks have one shape; what fills up the last one is never drawn.
            batches += batches[-1:] * (length - len(batches))
            data = (jax.tree.map(stacked, *batches), send((), np.asarray(begin, np.uint32).__getitem__))
            yield Block([data] * groups, begin + length, place, begin)
            begin += length

    return blocks


def host_blocks(batches: Batches, keys: list[Any], batch_size: int, first: int, end: int, send: Send) -> MakeBlocks:
    """Blocks of rows gathered on the host: the very rows that each chain would see with all of them on the device.

    Of the steps from `first` to before `end`. Leaves have axes `(chain, step, row, …)`. Only those rows are read that
    `send` asks for.
    """
    one = jax.tree.map(lambda x: x[:1], batches.data)
    chains = len(jax.tree.leaves(keys[0].data)[0]) * len(keys)
    size = sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(one)) * batch_size * chains
    length = int(max(1, min(MOST_STEPS, BLOCK_BYTES // max(size, 1), end - first)))

    @jax.jit
    def rows_of(keys, steps):
        each = jax.vmap(batches.rows, in_axes=(None, 0, None))
        return jax.vmap(each, in_axes=(0, None, None))(keys, steps, batch_size)

    def blocks(stopped: Callable[[], bool]) -> Iterator[Block]:
        begin = first
        while begin < end and not stopped():
            steps = jnp.asarray(np.minimum(np.arange(begin, begin + length), end - 1), jnp.uint32)
            data = []
            for group in keys:
                rows = np.asarray(rows_of(group.data, steps))

                def gathered(x, rows=rows):
                    return send(rows.shape + x.shape[1:], lambda index: gather(x, rows[index[:3]]))

                numbers = np.full(len(rows), begin, np.uint32)
                data.append((jax.tree.map(gathered, batches.data), send(numbers.shape, numbers.__getitem__)))
            yield Block(data, begin + length, None, begin)
            begin += length

    return blocks
