"""Shards as a reader meets them: checked the first time they are touched, and named by the draws that they hold."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from smilax.store.errors import StoreCorrupt
from smilax.store.files import checksum, reading
from smilax.store.header import Tensor, read_header, to_dtype
from smilax.store.manifest import Leaf, Shard, StateFile


def check_file(fd: int, size: int, entry: Shard | StateFile, path: Path, *, content: bool = True) -> None:
    """Compares an open file with its entry in the manifest: its size, and its checksum if `content`."""
    if size != entry.bytes:
        raise StoreCorrupt(f"{path} has {size} bytes, but the manifest says {entry.bytes}")
    if content and (found := checksum(fd, size, path)) != entry.checksum:
        raise StoreCorrupt(f"{path} has checksum {found}, but the manifest says {entry.checksum}")


@contextmanager
def naming(shard: Shard) -> Iterator[None]:
    """Adds to a StoreCorrupt which draws are lost, and that the others are not."""
    try:
        yield
    except StoreCorrupt as error:
        whose = "" if shard.chains is None else f" of chains {shard.chains[0]}:{shard.chains[1]}"
        lost = f"draws {shard.start}:{shard.stop}{whose} of group {shard.group!r}"
        raise StoreCorrupt(f"{lost} are lost: {error}; other draws can still be read, by slices") from error


class ShardFiles:
    """The shards of one directory.

    Args:
        directory: the store.
        check: whether to compare checksums. A shard is read in full for that, but only the first time that it is
            touched; it is done again if the file has changed since.
    """

    def __init__(self, directory: Path, check: bool):
        self.directory = directory
        self._check = check
        self._known: dict[str, tuple[tuple[int, int, int], dict[str, Tensor]]] = {}

    def check_size(self, shard: Shard) -> None:
        """StoreCorrupt unless the file is there with the size that the manifest says; before memory is allocated."""
        path = self.directory / shard.file
        with naming(shard), reading(path) as (fd, size):
            check_file(fd, size, shard, path, content=False)

    @contextmanager
    def open(self, shard: Shard, leaf: Leaf, num_chains: int) -> Iterator[tuple[int, Tensor]]:
        """Descriptor of a shard, and where a leaf is in it.

        Raises:
            StoreCorrupt: if it is missing, damaged, or has not the leaf that the manifest says.
        """
        path = self.directory / shard.file
        with naming(shard), reading(path) as (fd, size):
            status = os.fstat(fd)
            identity = status.st_ino, status.st_mtime_ns, size
            known, tensors = self._known.get(shard.file, (None, {}))
            if known != identity:
                check_file(fd, size, shard, path, content=self._check)
                tensors = read_header(fd, size, path)
                self._known[shard.file] = identity, tensors
            tensor = tensors.get(leaf.name)
            shape = num_chains, shard.stop - shard.start, *leaf.shape
            if tensor is None or tensor.shape != shape or tensor.dtype != to_dtype(leaf.dtype):
                found = "no such leaf" if tensor is None else f"{tensor.dtype}{list(tensor.shape)}"
                raise StoreCorrupt(f"{path} must have leaf {leaf.name!r} as {leaf.dtype}{list(shape)}, but has {found}")
            yield fd, tensor
