"""Shards: immutable safetensors files, leaves of shape `(chain, draw, …)`, written whole and read in slices."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from smilax.store.errors import StoreCorrupt
from smilax.store.files import read_into, reading, write_file
from smilax.store.header import Tensor, encode, read_header


def as_bytes(array: np.ndarray) -> memoryview:
    """The bytes of a C-contiguous array, without a copy; bfloat16 has no buffer of its own, hence the view."""
    return array.reshape(-1).view(np.uint8).data


def _native(array: np.ndarray) -> np.ndarray:
    array = np.asarray(array)
    return np.asarray(array, dtype=array.dtype.newbyteorder("<"))


def _pieces(header: bytes, order: list[str], arrays: Mapping[str, list[np.ndarray]]) -> Iterator[memoryview]:
    yield memoryview(header)
    for name in order:
        blocks = arrays[name]
        if len(blocks) == 1 and (blocks[0].ndim < 2 or blocks[0].flags.c_contiguous):
            yield as_bytes(np.ascontiguousarray(blocks[0]))
            continue
        # Joined along the draw axis as they are written: concatenating would take the memory a second time. A cut
        # along that axis is contiguous within a chain.
        for chain in range(blocks[0].shape[0]):
            for block in blocks:
                yield as_bytes(np.ascontiguousarray(block[chain]))


def write_shard(
    directory: str | Path,
    name: str,
    arrays: Mapping[str, np.ndarray | Sequence[np.ndarray]],
    *,
    sync: bool = True,
) -> tuple[int, str]:
    """Writes a shard in full or not at all.

    Args:
        directory: where it goes.
        name: its file name there.
        arrays: array by name; or a list of blocks `(chain, draw, …)`, joined along the draw axis on the way.
        sync: whether to fsync the directory too.

    Returns:
        Number of bytes and checksum.

    Raises:
        TypeError, ValueError: see `encode`.
        OSError: whatever the operating system says.
    """
    blocks = {
        key: [_native(block) for block in value] if isinstance(value, list | tuple) else [_native(np.asarray(value))]
        for key, value in arrays.items()
    }
    described = {}
    for key, parts in blocks.items():
        shape = parts[0].shape
        if len(parts) > 1:
            shape = (shape[0], sum(part.shape[1] for part in parts), *shape[2:])
        described[key] = parts[0].dtype, shape
    header, order = encode(described)
    return write_file(Path(directory), name, _pieces(header, order, blocks), sync=sync)


def read_rows(fd: int, tensor: Tensor, chain: int, start: int, out: np.ndarray, path: Path) -> None:
    """Fills the contiguous `out` `(draw, …)`, of the tensor's dtype, with the chain's draws from `start` on."""
    row = tensor.nbytes // max(1, tensor.shape[0] * tensor.shape[1])
    offset = tensor.offset + (chain * tensor.shape[1] + start) * row
    read_into(fd, as_bytes(out), offset, path)


def read_slice(path: str | Path, name: str, chain: int, draws: slice) -> np.ndarray:
    """Reads some draws of one chain of a leaf, and no other bytes than those and the header.

    Args:
        path: a shard.
        name: of the leaf.
        chain: index from 0.
        draws: a slice of the shard's draws, with step 1.

    Returns:
        `(draw, …)`, in the dtype in which it is stored.

    Raises:
        StoreCorrupt: if the file is not a shard with that leaf. Checksums are not looked at.
        IndexError: if there is no such chain.
        ValueError: if the slice has a step.
    """
    path = Path(path)
    with reading(path) as (fd, size):
        tensor = read_header(fd, size, path).get(name)
        if tensor is None or len(tensor.shape) < 2:
            raise StoreCorrupt(f"{path} has no leaf {name!r} with axes for chain and draw")
        start, stop, step = draws.indices(tensor.shape[1])
        if step != 1:
            raise ValueError(f"draws must be a slice with step 1, got {draws}")
        if not 0 <= chain < tensor.shape[0]:
            raise IndexError(f"chain {chain} of leaf {name!r}: {path} has chains 0 to {tensor.shape[0] - 1}")
        out = np.empty((max(0, stop - start), *tensor.shape[2:]), tensor.dtype)
        read_rows(fd, tensor, chain, start, out, path)
        return out


def read_shard(path: str | Path) -> dict[str, np.ndarray]:
    """All arrays of a shard; StoreCorrupt if it is not one. Checksums are not looked at."""
    path = Path(path)
    with reading(path) as (fd, size):
        return read_arrays(fd, size, path)


def read_arrays(fd: int, size: int, path: Path) -> dict[str, np.ndarray]:
    """The same of a file that is open, of which `size` bytes are known to be there."""
    arrays = {}
    for name, tensor in read_header(fd, size, path).items():
        arrays[name] = np.empty(tensor.shape, tensor.dtype)
        read_into(fd, as_bytes(arrays[name]), tensor.offset, path)
    return arrays
