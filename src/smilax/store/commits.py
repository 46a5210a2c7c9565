"""What a commit is on disk: new shards, a new state, and last of all the manifest that makes them count."""

import math
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from smilax.store.blocks import cut
from smilax.store.errors import StoreError, StoreExists
from smilax.store.files import TEMPORARY, sync_directory, writing
from smilax.store.lock import NAME as LOCK_NAME
from smilax.store.manifest import FILE, NAME, Leaf, Manifest, Shard, StateFile, Status
from smilax.store.shards import write_shard
from smilax.store.sharing import Share, collect, hand_over

SHARD_BYTES = 1 << 26


@dataclass(frozen=True)
class Commit:
    """What is to become durable at once.

    Attributes:
        blocks: by group and leaf, blocks that follow each other along the draw axis, and the group's last draws so far.
        leaves: of all groups, those committed earlier too.
        state: what is needed to go on after these draws.
        position: that it belongs to.
        status: of the run.
        config: of the run.
    """

    blocks: dict[str, dict[str, list[np.ndarray]]]
    leaves: dict[str, tuple[Leaf, ...]]
    state: dict[str, np.ndarray]
    position: dict[str, Any]
    status: Status
    config: dict[str, Any]


class Committer:
    """Brings commits to disk, one after another.

    Attributes:
        manifest: what is durable; in processes other than 0, with their own shards only since they began.
    """

    def __init__(self, path: Path, manifest: Manifest, share: Share | None = None):
        self.path, self.manifest, self.share = path, manifest, share
        self._commits = 0
        # Also above those of a commit that failed: no name is ever used for two contents.
        used = [int(p.stem.rsplit("-", 1)[1]) for p in path.iterdir() if FILE.fullmatch(p.name)]
        self._number = max(used, default=0)

    def write(self, commit: Commit) -> None:
        """Makes a commit durable. StoreUnwritable if that fails; the store is then as it was before."""
        old, share = self.manifest, self.share
        self._commits += 1
        with writing(self.path, f"the {old.num_draws()} draws per chain committed before stay readable"):
            shards = [shard for group, blocks in commit.blocks.items() for shard in self._write_group(group, blocks)]
            if share is not None and share.process > 0:
                sync_directory(self.path)
                hand_over(self.path, share, self._commits, shards)
                self.manifest = replace(old, shards=(*old.shards, *shards))
                return
            name = self._name("state")
            size, checksum = write_shard(self.path, name, commit.state, sync=False)
            # One for all the new names; the manifest may only speak of them once they are durable.
            sync_directory(self.path)
            if share is not None:
                shards += collect(self.path, share, self._commits)
            manifest = replace(
                old,
                status=commit.status,
                config=commit.config,
                leaves=commit.leaves,
                shards=(*old.shards, *shards),
                state=StateFile(name, size, checksum, commit.position),
            )
            manifest.write(self.path)
        self.manifest = manifest
        if old.state is not None:
            # What cannot be deleted now is an orphan, which the next writer deletes.
            with suppress(OSError):
                (self.path / old.state.file).unlink()

    def _name(self, kind: str) -> str:
        # Processes that write at once count in steps of their number.
        count, process = (1, 0) if self.share is None else (self.share.count, self.share.process)
        self._number += 1 + (process - self._number - 1) % count
        return f"{kind}-{self._number:06d}.safetensors"

    def _write_group(self, group: str, blocks: dict[str, list[np.ndarray]]) -> list[Shard]:
        total = sum(block.shape[1] for block in next(iter(blocks.values())))
        row = sum(block.nbytes for parts in blocks.values() for block in parts) / total
        # Shards of equal size, none above SHARD_BYTES unless a single draw is.
        most = max(1, math.floor(SHARD_BYTES / max(row, 1)))
        step = math.ceil(total / math.ceil(total / most))
        begin = self.manifest.num_draws(group)
        chains = self.share.chains if self.share is not None and group == "draws" else None
        shards = []
        for start in range(0, total, step):
            stop = min(start + step, total)
            name = self._name(group)
            pieces = {leaf: cut(parts, start, stop) for leaf, parts in blocks.items()}
            size, checksum = write_shard(self.path, name, pieces, sync=False)
            shards.append(Shard(name, group, begin + start, begin + stop, size, checksum, chains))
        return shards


def refuse_occupied(path: Path) -> None:
    """StoreExists unless the directory is empty, or holds only what a run leaves that was killed before it began.

    A run begins with its first commit: before it there is no state to go on from, and nothing to lose.
    """
    names = sorted(entry.name for entry in path.iterdir())
    if NAME in names:
        try:
            manifest = Manifest.read(path)
            begun = manifest.state is not None or bool(manifest.shards)
        except StoreError:
            begun = True
        if begun:
            raise StoreExists(f"{path} holds a store already: go on with it, or choose another directory")
        return
    strange = [name for name in names if name != LOCK_NAME and not name.startswith(TEMPORARY)]
    if strange:
        raise StoreExists(f"{path} is not empty and holds no store, but {', '.join(map(repr, strange[:3]))}")


def clean(path: Path, manifest: Manifest) -> None:
    """Deletes what a run left that was killed between two commits."""
    known = manifest.files
    for entry in path.iterdir():
        orphan = FILE.fullmatch(entry.name) and entry.name not in known
        if orphan or entry.name.startswith(TEMPORARY):
            entry.unlink()
