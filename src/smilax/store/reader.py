"""Reading a store, also while another process is writing to it."""

from pathlib import Path
from typing import Any

import numpy as np

from smilax.store.errors import StoreCorrupt
from smilax.store.files import reading
from smilax.store.lazy import LazyArray
from smilax.store.manifest import GROUPS, Manifest
from smilax.store.opening import ShardFiles, check_file
from smilax.store.shards import read_arrays

# A state file is replaced at each commit; a reader that is slower than a commit five times in a row is given up on.
_ATTEMPTS = 5


def check_group(group: str) -> None:
    """ValueError unless it is one of the groups of a store."""
    if group not in GROUPS:
        raise ValueError(f"group must be one of {', '.join(GROUPS)}, got {group!r}")


class Contents:
    """A store as it was when its manifest was read. No lock is needed: shards never change once they are listed.

    Attributes:
        path: the directory.
        manifest: what it held then.
    """

    def __init__(self, path: Path, check: bool = True):
        self.path = path
        self.manifest = Manifest.read(path)
        self._files = ShardFiles(path, check)

    def __repr__(self) -> str:
        m = self.manifest
        return f"Contents({str(self.path)!r}, {m.status}, {m.num_chains} chains, {m.num_draws()} draws)"

    def num_draws(self, group: str = "draws") -> int:
        """Draws per chain of a group."""
        check_group(group)
        return self.manifest.num_draws(group)

    def arrays(self, group: str = "draws") -> dict[str, LazyArray]:
        """The leaves of a group by name, in the order in which they were written; empty if there are none yet."""
        check_group(group)
        shards = tuple(shard for shard in self.manifest.shards if shard.group == group)
        leaves = self.manifest.leaves.get(group, ())
        return {leaf.name: LazyArray(leaf, shards, self.manifest.num_chains, self._files) for leaf in leaves}

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """What is needed to go on: arrays, and the position they belong to. Compared with its checksum.

        If a writer has replaced it meanwhile, `manifest` becomes the newer one, so that the two belong together.

        Raises:
            StoreCorrupt: if it is missing or damaged, or if none was written yet.
        """
        for attempt in range(_ATTEMPTS):
            entry = self.manifest.state
            if entry is None:
                raise StoreCorrupt(f"{self.path} has no state to go on from: the run was stopped before its first")
            file = self.path / entry.file
            try:
                with reading(file) as (fd, size):
                    check_file(fd, size, entry, file)
                    # By its descriptor, which stays valid if the name goes.
                    return read_arrays(fd, size, file), entry.position
            except StoreCorrupt:
                newer = Manifest.read(self.path)
                if attempt == _ATTEMPTS - 1 or newer.state == entry:
                    raise
                self.manifest = newer
        raise AssertionError("unreachable")


def read(path: str | Path, *, check: bool = True) -> Contents:
    """Opens a store for reading.

    Args:
        path: its directory.
        check: whether to compare a shard with its checksum the first time that it is touched, at 1 to 3 GB/s.

    Raises:
        StoreMissing: if there is no store.
        StoreVersion: if a newer smilax wrote it.
        StoreCorrupt: if its manifest is not valid.
    """
    return Contents(Path(path), check)


def verify(path: str | Path) -> list[str]:
    """Names of the files of a store, shards and state, that are missing or damaged; reads all of it.

    Raises:
        StoreError: as `read` does.
    """
    contents = read(path)
    manifest = contents.manifest
    damaged = []
    for shard in manifest.shards:
        file = contents.path / shard.file
        try:
            with reading(file) as (fd, size):
                check_file(fd, size, shard, file)
        except StoreCorrupt:
            damaged.append(shard.file)
    if manifest.state is not None:
        try:
            contents.state()
        except StoreCorrupt:
            damaged.append(contents.manifest.state.file if contents.manifest.state else manifest.state.file)
    return damaged
