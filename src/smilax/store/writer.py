"""Writing a store while sampling goes on: blocks are handed over, one thread brings them to disk."""

import json
import queue
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np

from smilax.store.blocks import as_blocks
from smilax.store.commits import SHARD_BYTES, Commit, Committer, clean, refuse_occupied
from smilax.store.errors import StoreError
from smilax.store.files import sync_directory, writing
from smilax.store.lock import Lock
from smilax.store.manifest import Manifest, Status
from smilax.store.reader import check_group
from smilax.store.sharing import Share

# Commits that may wait for the disk: with the one that is being written and the one that is being filled, three blocks
# of SHARD_BYTES are in memory at most.
QUEUE = 1


class StoreWriter:
    """Writes one run. Make it with `create` or `open`; use it as a context manager, or `close` it.

    Arrays that are handed over are not copied: they must not be written to afterwards, and a JAX buffer among them must
    not be donated. Any error of the writing thread is raised by the next `append`, `commit`, `flush` or `close`, and
    nothing is written after it; what was committed before stays readable.
    """

    def __init__(self, path: Path, lock: Lock | None, manifest: Manifest, interval: float, share: Share | None):
        self.path = path
        self.interval = interval
        self._lock, self._disk, self.share = lock, Committer(path, manifest, share), share
        self._config, self._leaves = dict(manifest.config), dict(manifest.leaves)
        self._draws: dict[str, int] = {}
        self._blocks: dict[str, dict[str, list[np.ndarray]]] = {}
        self._bytes = self._state_bytes = 0
        self._seconds = 0.0
        self._opened = self._committed = time.monotonic()
        self._error: Exception | None = None
        self._reported = self._ending = self._closed = False
        self._queue: queue.Queue[Commit | None] = queue.Queue(QUEUE)
        # A daemon, so that a program that forgets to close ends; whatever is cut off by that was not committed.
        self._thread = threading.Thread(target=self._work, name=f"smilax store {path}", daemon=True)
        self._thread.start()

    @classmethod
    def create(
        cls,
        path: str | Path,
        *,
        config: dict[str, Any],
        num_chains: int,
        versions: dict[str, Any],
        interval: float = 5.0,
        share: Share | None = None,
    ) -> "StoreWriter":
        """Makes a new store and commits its first manifest.

        Args:
            path: a directory that is empty or does not exist; parents are made.
            config: anything JSON-able.
            num_chains: chains of every array to come.
            versions: of the software, JSON-able.
            interval: seconds between commits that `due` aims at.
            share: that of process 0, where several processes write; the others `attend`.

        Raises:
            StoreExists: if the directory holds a store, or anything else.
            StoreLocked: if another run is making one there.
            StoreUnwritable: if it cannot be written.
            TypeError: if `config` or `versions` is not JSON-able.
        """
        path = Path(path)
        if num_chains < 1:
            raise ValueError(f"num_chains must be at least 1, got {num_chains}")
        manifest = Manifest(num_chains, config=_jsonable("config", config), versions=_jsonable("versions", versions))
        with writing(path, "nothing was written"):
            made = not path.exists()
            path.mkdir(parents=True, exist_ok=True)
            if made:
                sync_directory(path.parent)
            refuse_occupied(path)
            lock = Lock(path)
            try:
                # Again: another run may have made its store, and ended, just before we had the lock.
                refuse_occupied(path)
                clean(path, manifest)
                manifest.write(path)
                return cls(path, lock, manifest, interval, share)
            except BaseException:
                lock.release()
                raise

    @classmethod
    def open(cls, path: str | Path, *, interval: float = 5.0, share: Share | None = None) -> "StoreWriter":
        """Takes up a store where its last commit left it; what was written after that is deleted.

        Raises:
            StoreMissing, StoreVersion, StoreCorrupt: as `read` does.
            StoreLocked: if another run is writing to it.
            StoreUnwritable: if it cannot be written.
        """
        path = Path(path)
        Manifest.read(path)
        with writing(path, "its content is unchanged"):
            lock = Lock(path)
            try:
                manifest = Manifest.read(path)
                clean(path, manifest)
                return cls(path, lock, manifest, interval, share)
            except BaseException:
                lock.release()
                raise

    @classmethod
    def attend(cls, path: str | Path, share: Share, *, interval: float = 5.0) -> "StoreWriter":
        """Takes part, as a process other than 0, in writing a store that process 0 has made or opened."""
        return cls(Path(path), None, Manifest.read(path), interval, share)

    @property
    def manifest(self) -> Manifest:
        """What is durable."""
        return self._disk.manifest

    @property
    def num_chains(self) -> int:
        """Chains of every array."""
        return self._disk.manifest.num_chains

    def num_draws(self, group: str = "draws") -> int:
        """Draws per chain handed over so far, with those committed before this writer was opened."""
        check_group(group)
        return self._draws.setdefault(group, self._disk.manifest.num_draws(group))

    def update_config(self, **fields: Any) -> None:
        """Sets fields of the configuration; they become durable with the next commit."""
        self._config |= _jsonable("config", fields)

    def append(self, group: str, arrays: Mapping[str, Any], *, dtype: str | None = None) -> None:
        """Hands over a block of draws, to be part of the next commit.

        Args:
            group: "draws", "info" or "warmup_info".
            arrays: by name, `(chain, draw, …)`; names, shapes and dtypes are those of the group's first block, which
                may have no draws. Where several processes write, draws are those of this one's chains, and reports
                those of all, which only process 0 keeps.
            dtype: "bfloat16", "float16" or "float32" to store wider floats in it; readers get the original dtype.

        Raises:
            ValueError, TypeError: if the block does not fit, or a number does not fit into `dtype`.
            StoreError: whatever went wrong in writing.
        """
        self._check()
        chains, share = self.num_chains, self.share
        if share is not None and group != "draws" and share.process > 0:
            return
        if share is not None and group == "draws":
            chains = share.chains[1] - share.chains[0]
            if chains == 0:
                return
        count = self.num_draws(group)
        leaves, blocks = as_blocks(group, arrays, chains, dtype)
        known = self._leaves.setdefault(group, leaves)
        if set(known) != set(leaves):
            strange = set(leaves) ^ set(known)
            raise ValueError(f"group {group!r} was begun with other leaves; in one but not the other: {strange}")
        draws = next(iter(blocks.values())).shape[1] if blocks else 0
        if draws == 0:
            return
        buffer = self._blocks.setdefault(group, {leaf.name: [] for leaf in known})
        for name, block in blocks.items():
            buffer[name].append(block)
            self._bytes += block.nbytes
        self._draws[group] = count + draws

    def due(self) -> bool:
        """Whether it is time to commit: a shard is full, or enough time has passed.

        That is `interval` seconds, less at the beginning of a run, and up to twelve times as many after hours, so that
        a long run does not end in tens of thousands of small files. A state larger than a shard, or a disk so slow that
        commits would take a tenth of the time, makes them rarer too.
        """
        now = time.monotonic()
        age = now - self._opened
        early = max(self.interval / 5, age / 10)
        late = max(self.interval, min(age / 200, 12 * self.interval))
        wait = max(min(early, late), 10 * self._seconds if self.interval else 0.0)
        return self._bytes >= max(SHARD_BYTES, self._state_bytes) or now - self._committed >= wait

    def commit(self, state: Mapping[str, Any], position: dict[str, Any], status: Status = "running") -> None:
        """Makes everything appended so far part of the store, together with the state that follows it.

        Returns at once unless two commits are waiting for the disk already; then it waits for one of them.

        Args:
            state: arrays of any shapes.
            position: JSON-able.
            status: of the run.

        Raises:
            TypeError: if `position` is not JSON-able, or the state has a dtype that cannot be stored.
            StoreError: whatever went wrong in writing.
        """
        self._check()
        if status not in get_args(Status):
            raise ValueError(f"status must be one of {', '.join(get_args(Status))}, got {status!r}")
        arrays = {name: np.asarray(value) for name, value in state.items()}
        job = Commit(
            self._blocks, dict(self._leaves), arrays, _jsonable("position", position), status, dict(self._config)
        )
        self._blocks, self._bytes = {}, 0
        self._state_bytes = sum(array.nbytes for array in arrays.values())
        self._queue.put(job)
        self._committed = time.monotonic()

    def flush(self) -> None:
        """Waits until all commits are durable. StoreError: whatever went wrong in writing."""
        self._queue.join()
        self._check()

    def close(self) -> None:
        """Waits for all commits, and lets others write; can be called again. Blocks not committed are dropped.

        Raises:
            StoreError: whatever went wrong in writing, if it was not raised before.
        """
        if not self._closed:
            if not self._ending:
                self._queue.put(None)
                self._ending = True
            # Ctrl-C may end the waiting; closing again waits on, for the lock is needed until the last byte is written.
            self._thread.join()
            self._closed = True
            if self._lock is not None:
                self._lock.release()
            if self._error is not None and not self._reported:
                self._raise(self._error)

    def __enter__(self) -> "StoreWriter":
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        # An error on its way out is not replaced by another.
        self._reported = self._reported or error is not None
        self.close()

    def _check(self) -> None:
        if self._error is not None:
            self._raise(self._error)
        if self._ending:
            raise StoreError(f"the writer of {self.path} is closed")

    def _raise(self, error: Exception) -> None:
        self._reported = True
        # A new one each time: raising the same object again would pile up tracebacks in it.
        raise type(error)(*error.args) from error

    def _work(self) -> None:
        """The thread: commits one after another; after an error it takes them off the queue unwritten."""
        while True:
            job = self._queue.get()
            try:
                if job is None:
                    return
                if self._error is None:
                    start = time.monotonic()
                    self._disk.write(job)
                    self._seconds = time.monotonic() - start
            except Exception as error:
                self._error = error
            finally:
                # What was written must not stay in memory until the next commit.
                job = None
                self._queue.task_done()


def _jsonable(name: str, value: dict[str, Any]) -> dict[str, Any]:
    """A copy of the value as a reader will find it, tuples as lists."""
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be JSON-able: {error}") from error
