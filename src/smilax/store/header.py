"""The header of a safetensors file, written and parsed without believing it.

A file is eight bytes of header length (little-endian), the header in JSON, {name: {"dtype", "shape", "data_offsets"}},
and the tensors' bytes, which must cover the rest of the file without gap or overlap. The `safetensors` package reads
what is written here; it is not used for reading because it maps or reads whole tensors, where we want slices of them.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from smilax.store.errors import StoreCorrupt
from smilax.store.files import read_into

# NumPy name -> safetensors code.
CODES = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "uint16": "U16",
    "int16": "I16",
    "float16": "F16",
    "bfloat16": "BF16",
    "uint32": "U32",
    "int32": "I32",
    "float32": "F32",
    "uint64": "U64",
    "int64": "I64",
    "float64": "F64",
    "complex64": "C64",
}
FLOATS = ("bfloat16", "float16", "float32", "float64")
_NAMES = {code: name for name, code in CODES.items()}
_FIELDS = {"dtype", "shape", "data_offsets"}
# Some 60,000 tensors. What JSON makes of a header takes several times its size, so this bounds memory too.
HEADER_LIMIT = 1 << 22
_MAX_NDIM = 32
_MAX_SIZE = 1 << 60


class Tensor(NamedTuple):
    """Where a tensor is: dtype, shape, and its first byte counted from the start of the file."""

    dtype: np.dtype
    shape: tuple[int, ...]
    offset: int

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return math.prod(self.shape) * self.dtype.itemsize


def to_dtype(name: str) -> np.dtype:
    """The little-endian dtype of a name in CODES."""
    return np.dtype(ml_dtypes.bfloat16) if name == "bfloat16" else np.dtype(name).newbyteorder("<")


def is_index(value: Any) -> bool:
    """Whether a JSON value is a non-negative integer of at most 60 bits."""
    return type(value) is int and 0 <= value < _MAX_SIZE


def is_shape(value: Any) -> bool:
    """Whether a JSON value is a shape that NumPy can index, also where one of its sides is 0."""
    if type(value) is not list or len(value) > _MAX_NDIM or not all(map(is_index, value)):
        return False
    return math.prod(max(1, side) for side in value) < _MAX_SIZE


def encode(arrays: Mapping[str, tuple[np.dtype, tuple[int, ...]]]) -> tuple[bytes, list[str]]:
    """Length and header of a file with these dtypes and shapes, and the order in which their bytes have to follow.

    Raises:
        TypeError: for a dtype that the format does not have.
        ValueError: for a name that the format reserves.
    """
    for name, (dtype, _) in arrays.items():
        if dtype.name not in CODES:
            raise TypeError(f"array {name!r} has dtype {dtype}; a store holds {', '.join(CODES)}")
        if name == "__metadata__":
            raise ValueError("an array of a store must not be called '__metadata__', which safetensors reserves")
    # Wide numbers first keeps every tensor aligned, as safetensors itself does.
    order = sorted(arrays, key=lambda name: -arrays[name][0].itemsize)
    entries, offset = {}, 0
    for name in order:
        dtype, shape = arrays[name]
        end = offset + math.prod(shape) * dtype.itemsize
        entries[name] = {"dtype": CODES[dtype.name], "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-(len(header) + 8) % 64)
    if len(header) > HEADER_LIMIT:
        raise ValueError(
            f"{len(arrays)} arrays need a header of {len(header)} bytes; at most {HEADER_LIMIT} are allowed"
        )
    return len(header).to_bytes(8, "little") + header, order


def _tensor(entry: Any, data: int) -> Tensor | None:
    """The tensor that an entry describes, or None."""
    if type(entry) is not dict or set(entry) != _FIELDS or not is_shape(entry["shape"]):
        return None
    code, offsets = entry["dtype"], entry["data_offsets"]
    if type(code) is not str or code not in _NAMES or type(offsets) is not list or len(offsets) != 2:
        return None
    tensor = Tensor(to_dtype(_NAMES[code]), tuple(entry["shape"]), data + offsets[0]) if is_index(offsets[0]) else None
    return tensor if tensor and is_index(offsets[1]) and offsets[1] - offsets[0] == tensor.nbytes else None


def read_header(fd: int, size: int, path: Path) -> dict[str, Tensor]:
    """The tensors of an open file of `size` bytes.

    Nothing is allocated before the header's length has been compared with the file's, and every tensor returned lies
    inside of the file.

    Raises:
        StoreCorrupt: if it is not a safetensors file of exactly that size.
    """
    prefix = bytearray(8)
    read_into(fd, memoryview(prefix), 0, path)
    length = int.from_bytes(prefix, "little")
    if length > min(size - 8, HEADER_LIMIT):
        raise StoreCorrupt(
            f"{path} claims a header of {length} bytes; the file has {size} and a header at most {HEADER_LIMIT}"
        )
    raw = bytearray(length)
    read_into(fd, memoryview(raw), 8, path)
    try:
        entries = json.loads(raw.decode())
    except (ValueError, RecursionError) as error:
        raise StoreCorrupt(f"{path} has a header that is not JSON: {error}") from error
    if type(entries) is not dict:
        raise StoreCorrupt(f"{path} has a header that is not a JSON object")
    entries.pop("__metadata__", None)
    tensors = {}
    for name, entry in entries.items():
        tensor = _tensor(entry, 8 + length)
        if tensor is None:
            raise StoreCorrupt(f"{path} describes tensor {name[:80]!r} as {str(entry)[:200]}, which is impossible")
        tensors[name] = tensor
    end = 8 + length
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].offset, item[1].nbytes)):
        if tensor.offset != end:
            raise StoreCorrupt(f"{path} has tensor {name[:80]!r} at byte {tensor.offset}, where {end} must be next")
        end += tensor.nbytes
    if end != size:
        raise StoreCorrupt(f"{path} has {size} bytes, but its header accounts for {end}")
    return tensors
