"""The manifest: what a store holds. Replacing `manifest.json` is the only way in which anything becomes part of it."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args

from smilax.store.errors import StoreCorrupt, StoreMissing, StoreVersion
from smilax.store.files import read_into, reading, write_file
from smilax.store.header import CODES, FLOATS, is_index, is_shape, to_dtype

FORMAT = "smilax-draws"
VERSION = 1
NAME = "manifest.json"
GROUPS = ("draws", "info", "warmup_info")
Status = Literal["running", "finished", "interrupted"]

# Names of files can only be of this form, so a manifest cannot point outside of its directory.
FILE = re.compile(r"[a-z_]+-[0-9]+\.safetensors")
_CHECKSUM = re.compile(r"crc32:[0-9a-f]{8}")
_SIZE_LIMIT = 1 << 28


@dataclass(frozen=True)
class Leaf:
    """One array of a group: shape of one draw of one chain; dtype as stored and as it was, in NumPy's names."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    original_dtype: str

    @property
    def nbytes(self) -> int:
        """Stored bytes of one draw of one chain."""
        return math.prod(self.shape) * to_dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Shard:
    """A file with draws `start:stop` of a group, all leaves, and the chains of a range; None stands for all."""

    file: str
    group: str
    start: int
    stop: int
    bytes: int
    checksum: str
    chains: tuple[int, int] | None = None


@dataclass(frozen=True)
class StateFile:
    """The file with what is needed to go on after the last draw, and the position it belongs to, JSON-able."""

    file: str
    bytes: int
    checksum: str
    position: dict[str, Any]


@dataclass(frozen=True)
class Manifest:
    """What a store holds.

    Attributes:
        num_chains: chains of every leaf.
        status: of the run: "running", "finished" or "interrupted". A run that was killed is still "running".
        config: anything JSON-able; the store does not look at it.
        versions: of the software that wrote it, JSON-able.
        leaves: by group.
        shards: by group; what the file before holds of a chain, the next goes on from, and all chains end at one draw.
        state: None before the first commit that had one.
    """

    num_chains: int
    status: Status = "running"
    config: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, Any] = field(default_factory=dict)
    leaves: Mapping[str, tuple[Leaf, ...]] = field(default_factory=dict)
    shards: tuple[Shard, ...] = ()
    state: StateFile | None = None

    def num_draws(self, group: str = "draws") -> int:
        """Draws per chain that a group holds."""
        return max((shard.stop for shard in self.shards if shard.group == group), default=0)

    @property
    def files(self) -> set[str]:
        """Names of all files that belong to the store, other than the manifest and the lock."""
        return {shard.file for shard in self.shards} | ({self.state.file} if self.state else set())

    def write(self, directory: Path) -> None:
        """Makes this the store's content, durably. OSError if it cannot be written, TypeError if it is not JSON."""
        content = {"format": FORMAT, "version": VERSION} | asdict(self)
        write_file(directory, NAME, [memoryview(json.dumps(content, indent=1).encode())])

    @classmethod
    def read(cls, directory: str | Path) -> "Manifest":
        """Reads and validates the manifest of a directory.

        Raises:
            StoreMissing: if there is none.
            StoreVersion: if it is of a newer version than this one.
            StoreCorrupt: if anything in it is not as it must be.
        """
        path = Path(directory) / NAME
        if not path.is_symlink() and not path.exists():
            raise StoreMissing(_missing(Path(directory)))
        with reading(path) as (fd, size):
            if size > _SIZE_LIMIT:
                raise StoreCorrupt(f"{path} has {size} bytes; a manifest has at most {_SIZE_LIMIT}")
            raw = bytearray(size)
            read_into(fd, memoryview(raw), 0, path)
        try:
            content = json.loads(raw.decode())
        except (ValueError, RecursionError) as error:
            raise StoreCorrupt(f"{path} is not JSON: {error}") from error
        return _validated(content, path)


def _missing(directory: Path) -> str:
    if not directory.exists():
        return f"{directory} does not exist"
    if not directory.is_dir():
        return f"{directory} is a file; a store is a directory, the one that `store=` named"
    inside = sorted(str(path.parent) for path in directory.glob(f"*/{NAME}"))
    hint = f"; these do: {', '.join(inside[:5])}" if inside else ""
    return f"{directory} holds no store, there is no {NAME} in it{hint}"


def _wrong(path: Path, where: str, got: Any, allowed: str) -> NoReturn:
    raise StoreCorrupt(f"{path}: {where} must be {allowed}, got {str(got)[:200]!r}")


def _fields(content: Any, path: Path, where: str, names: tuple[str, ...]) -> list[Any]:
    """The values of `names` in a JSON object; others are ignored."""
    if type(content) is not dict:
        _wrong(path, where, content, "an object")
    for name in names:
        if name not in content:
            raise StoreCorrupt(f"{path}: {where} lacks {name!r}")
    return [content[name] for name in names]


def _dict(content: Any, path: Path, where: str) -> dict[str, Any]:
    return content if type(content) is dict else _wrong(path, where, content, "an object")


def _list(content: Any, path: Path, where: str) -> list[Any]:
    return content if type(content) is list else _wrong(path, where, content, "a list")


def _file(content: Any, path: Path, where: str) -> str:
    if type(content) is str and FILE.fullmatch(content):
        return content
    _wrong(path, f"{where}.file", content, f"a name of the form {FILE.pattern}")


def _sized(size: Any, checksum: Any, path: Path, where: str) -> tuple[int, str]:
    if not is_index(size):
        _wrong(path, f"{where}.bytes", size, "a number of bytes")
    if type(checksum) is not str or not _CHECKSUM.fullmatch(checksum):
        _wrong(path, f"{where}.checksum", checksum, f"of the form {_CHECKSUM.pattern}")
    return size, checksum


def _leaf(content: Any, path: Path, where: str) -> Leaf:
    name, shape, dtype, original = _fields(content, path, where, ("name", "shape", "dtype", "original_dtype"))
    if type(name) is not str:
        _wrong(path, f"{where}.name", name, "a string")
    if not is_shape(shape):
        _wrong(path, f"{where}.shape", shape, "a list of sizes")
    for key, value in (("dtype", dtype), ("original_dtype", original)):
        if type(value) is not str or value not in CODES:
            _wrong(path, f"{where}.{key}", value, f"one of {', '.join(CODES)}")
    if original != dtype and not (original in FLOATS and dtype in FLOATS):
        _wrong(path, f"{where}.original_dtype", original, f"{dtype}, or both of them floating-point")
    return Leaf(name, tuple(shape), dtype, original)


def _leaves(content: Any, path: Path, group: str) -> tuple[Leaf, ...]:
    where = f"leaves.{group}"
    found = tuple(_leaf(leaf, path, f"{where}[{i}]") for i, leaf in enumerate(_list(content, path, where)))
    if len({leaf.name for leaf in found}) < len(found):
        _wrong(path, where, [leaf.name for leaf in found], "of different names")
    return found


def _shard(content: Any, path: Path, where: str) -> Shard:
    keys = ("file", "group", "start", "stop", "bytes", "checksum")
    file, group, start, stop, size, checksum = _fields(content, path, where, keys)
    if type(group) is not str or group not in GROUPS:
        _wrong(path, f"{where}.group", group, f"one of {', '.join(GROUPS)}")
    if not is_index(start) or not is_index(stop) or start >= stop:
        _wrong(path, f"{where}.start and .stop", [start, stop], "a range of draws that is not empty")
    chains = content.get("chains")
    if chains is not None:
        if type(chains) is not list or len(chains) != 2 or not all(map(is_index, chains)) or chains[0] >= chains[1]:
            _wrong(path, f"{where}.chains", chains, "a range of chains that is not empty, or null")
        chains = (chains[0], chains[1])
    return Shard(_file(file, path, where), group, start, stop, *_sized(size, checksum, path, where), chains)


def _state(content: Any, path: Path) -> StateFile | None:
    if content is None:
        return None
    file, size, checksum, position = _fields(content, path, "state", ("file", "bytes", "checksum", "position"))
    sized = _sized(size, checksum, path, "state")
    return StateFile(_file(file, path, "state"), *sized, _dict(position, path, "state.position"))


def _check_shards(manifest: Manifest, path: Path) -> None:
    """Shards are contiguous, differ in their names, and are as large as the draws that they claim to hold."""
    # By group: where chains end, as `(first chain, last + 1, draws)`.
    fronts = {group: [(0, manifest.num_chains, 0)] for group in GROUPS}
    row = {group: sum(leaf.nbytes for leaf in leaves) for group, leaves in manifest.leaves.items()}
    for i, shard in enumerate(manifest.shards):
        where = f"shards[{i}] ({shard.file})"
        first, last = shard.chains or (0, manifest.num_chains)
        if last > manifest.num_chains:
            _wrong(path, f"{where}.chains", [first, last], f"of the {manifest.num_chains} chains")
        parts = [part for part in fronts[shard.group] if part[0] < last and part[1] > first]
        ends = sorted({end for *_, end in parts})
        if ends != [shard.start]:
            _wrong(path, f"{where}.start", shard.start, f"{ends[0]}, where the one before ends")
        if not manifest.leaves.get(shard.group):
            _wrong(path, f"{where}.group", shard.group, "a group with leaves")
        outside = [(a, b, end) for a, b, end in fronts[shard.group] if (a, b, end) not in parts]
        edges = [(parts[0][0], first, shard.start), (last, parts[-1][1], shard.start)]
        fronts[shard.group] = sorted([*outside, (first, last, shard.stop), *(e for e in edges if e[0] < e[1])])
        least = row[shard.group] * (last - first) * (shard.stop - shard.start)
        if shard.bytes < least:
            _wrong(path, f"{where}.bytes", shard.bytes, f"at least the {least} of its draws")
    if len(manifest.files) < len(manifest.shards) + (manifest.state is not None):
        _wrong(path, "shards", "a file twice", "of different files")
    for group, front in fronts.items():
        if len({end for *_, end in front}) > 1:
            _wrong(path, f"shards of {group}", front, "such that all chains end at the same draw")
    for group, leaves in manifest.leaves.items():
        for leaf in leaves:
            # NumPy cannot index more, even where a side of 0 makes it no bytes at all.
            if not is_shape([manifest.num_chains, manifest.num_draws(group), *leaf.shape]):
                _wrong(path, f"shape of leaf {leaf.name!r}", list(leaf.shape), "of a size that can be addressed")


def _validated(content: Any, path: Path) -> Manifest:
    form, version = _fields(content, path, "the manifest", ("format", "version"))
    if form != FORMAT:
        _wrong(path, "format", form, repr(FORMAT))
    if type(version) is not int or version < 1:
        _wrong(path, "version", version, "a positive integer")
    if version > VERSION:
        raise StoreVersion(f"{path} is of version {version}; this smilax reads up to version {VERSION}: update smilax")
    keys = ("num_chains", "status", "config", "versions", "leaves", "shards", "state")
    num_chains, status, config, versions, leaves, shards, state = _fields(content, path, "the manifest", keys)
    if not is_index(num_chains) or num_chains == 0:
        _wrong(path, "num_chains", num_chains, "a positive integer")
    if type(status) is not str or status not in get_args(Status):
        _wrong(path, "status", status, f"one of {', '.join(get_args(Status))}")
    unknown = set(_dict(leaves, path, "leaves")) - set(GROUPS)
    if unknown:
        _wrong(path, "leaves", sorted(unknown), f"of the groups {', '.join(GROUPS)}")
    manifest = Manifest(
        num_chains=num_chains,
        status=status,  # type: ignore[arg-type]
        config=_dict(config, path, "config"),
        versions=_dict(versions, path, "versions"),
        leaves={group: _leaves(found, path, group) for group, found in leaves.items()},
        shards=tuple(_shard(s, path, f"shards[{i}]") for i, s in enumerate(_list(shards, path, "shards"))),
        state=_state(state, path),
    )
    _check_shards(manifest, path)
    return manifest
