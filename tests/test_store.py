"""The draw store on disk: what goes in comes out, and nothing that happens to the files goes unnoticed."""

import errno
import json
import multiprocessing
import os
import shutil
import struct
import subprocess
import sys
import threading
import time
import tracemalloc
from pathlib import Path

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from smilax import store
from smilax.store import commits, files
from smilax.store.header import HEADER_LIMIT

pytestmark = pytest.mark.once

CHAINS = 3
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def block(rng, draws, chains=CHAINS):
    return {
        "['w'][0]": rng.standard_normal((chains, draws, 4, 5)).astype(np.float32),
        "double": rng.standard_normal((chains, draws)),
        "count": rng.integers(-9, 9, (chains, draws, 2), dtype=np.int32),
        "flag": rng.random((chains, draws)) < 0.5,
        "brain": rng.standard_normal((chains, draws, 3)).astype(BFLOAT16),
        "none": np.zeros((chains, draws, 0), np.float32),
    }


def state(n):
    return {"key": np.arange(4, dtype=np.uint32) + n, "x": np.full((CHAINS, 7), n, np.float32), "step": np.array(n)}


def joined(blocks):
    return {name: np.concatenate([b[name] for b in blocks], axis=1) for name in blocks[0]}


def create(path, **more):
    return store.StoreWriter.create(path, num_chains=CHAINS, config={"a": (1, 2)}, versions={"smilax": "0"}, **more)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def made(tmp_path, rng):
    """A store of five shards of ten draws, and what is in it."""
    blocks = [block(rng, 10) for _ in range(5)]
    with create(tmp_path / "run") as writer:
        for n, b in enumerate(blocks):
            writer.append("draws", b)
            writer.commit(state(n), {"step": n})
    return tmp_path / "run", joined(blocks)


def shards_of(path):
    return [path / shard.file for shard in store.read(path).manifest.shards]


def edit(path, change):
    manifest = json.loads((path / "manifest.json").read_text())
    change(manifest)
    (path / "manifest.json").write_text(json.dumps(manifest))


def assert_same(found, expected):
    assert isinstance(found, np.ndarray | np.generic)
    assert found.dtype == expected.dtype
    assert np.array_equal(found, expected)


# What goes in comes out.


def test_round_trip(made):
    path, whole = made
    contents = store.read(path)
    assert contents.num_draws() == 50 and contents.num_draws("info") == 0 and contents.arrays("info") == {}
    assert contents.manifest.status == "running" and contents.manifest.config == {"a": [1, 2]}
    arrays = contents.arrays("draws")
    assert list(arrays) == list(whole)
    for name, expected in whole.items():
        lazy = arrays[name]
        assert (lazy.shape, lazy.dtype, lazy.ndim) == (expected.shape, expected.dtype, expected.ndim)
        assert (lazy.size, lazy.nbytes, len(lazy)) == (expected.size, expected.nbytes, len(expected))
        assert_same(np.asarray(lazy), expected)
    arrays, position = contents.state()
    assert position == {"step": 4}
    for name, expected in state(4).items():
        assert_same(arrays[name], expected)
    assert sorted(p.name for p in path.iterdir() if p.name.startswith("state")) == [contents.manifest.state.file]
    assert store.verify(path) == []


def test_shards_are_safetensors(made):
    path, whole = made
    first = load_file(shards_of(path)[0])
    for name, expected in whole.items():
        assert_same(first[name], expected[:, :10])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_smaller_floats(tmp_path, rng, dtype):
    b = block(rng, 6)
    with create(tmp_path) as writer:
        writer.append("draws", b, dtype=dtype)
        writer.commit({}, {})
    arrays = store.read(tmp_path).arrays("draws")
    small = BFLOAT16 if dtype == "bfloat16" else np.dtype(dtype)
    for name, expected in b.items():
        if expected.dtype in (np.float32, np.float64) and expected.dtype.itemsize > small.itemsize:
            assert f"stored={dtype}" in repr(arrays[name])
            expected = expected.astype(small).astype(expected.dtype)
        assert_same(np.asarray(arrays[name]), expected)
        assert_same(arrays[name][1, 2:5], expected[1, 2:5])


def test_a_number_too_large_for_float16(tmp_path):
    with create(tmp_path) as writer:
        writer.append("draws", {"x": np.full((CHAINS, 1), np.inf, np.float32)}, dtype="float16")
        with pytest.raises(ValueError, match=r"'x' holds 100000.*float16"):
            writer.append("draws", {"x": np.full((CHAINS, 1), 1e5, np.float32)}, dtype="float16")


INDICES = [
    (),
    0,
    -1,
    (slice(None), 17),
    (1, slice(5, 33)),
    (slice(0, 2), slice(None, None, 7)),
    (slice(None, None, -1), slice(40, 3, -3)),
    (slice(None), slice(9, 9)),
    (slice(3, 1), slice(0, 5)),
    (Ellipsis, -1),
    (0, Ellipsis),
    (1, [3, 44, 3, -1]),
    (slice(None), np.array([[0, 49], [10, 9]])),
    ([2, 0], slice(None)),
    (slice(None), np.arange(50) % 3 == 0),
    (slice(None), []),
]


@pytest.mark.parametrize("index", INDICES, ids=str)
def test_index(made, index):
    path, whole = made
    arrays = store.read(path).arrays("draws")
    for name, expected in whole.items():
        if expected.shape[-1] or index != (Ellipsis, -1):
            assert_same(arrays[name][index], expected[index])


@pytest.mark.parametrize("gap", [0, 1 << 16])
def test_random_indices(made, rng, monkeypatch, gap):
    monkeypatch.setattr("smilax.store.lazy._GAP_BYTES", gap)
    path, whole = made
    lazy, expected = store.read(path).arrays("draws")["['w'][0]"], whole["['w'][0]"]

    def part(length):
        kind = rng.integers(4)
        if kind == 0:
            return int(rng.integers(-length, length))
        if kind == 1:
            return rng.integers(-length, length, rng.integers(4))
        ends = [None if rng.random() < 0.3 else int(rng.integers(-length - 2, length + 2)) for _ in range(2)]
        return slice(*ends, int(rng.choice([-7, -2, -1, 1, 1, 2, 5])))

    for _ in range(200):
        index = tuple(part(n) for n in expected.shape[: rng.integers(5)])
        try:
            answer = expected[index]
        except IndexError:  # arrays of different lengths
            continue
        assert_same(lazy[index], answer)


@pytest.mark.parametrize(
    "index", [3, -4, (0, 50), (0, [50]), (0, 0, 4), (0, 0, 0, 0, 0), None, True, (0, 1.5)], ids=str
)
def test_index_out_of_bounds(made, index):
    lazy = store.read(made[0]).arrays("draws")["['w'][0]"]
    with pytest.raises((IndexError, TypeError)):
        lazy[index]


def test_arithmetic_and_functions_read_it_all(made):
    path, whole = made
    lazy, expected = store.read(path).arrays("draws")["double"], whole["double"]
    assert_same(lazy * 2 - 1, expected * 2 - 1)
    assert_same(lazy == expected, np.ones(expected.shape, bool))
    assert_same(np.exp(-lazy), np.exp(-expected))
    for name in ("mean", "std", "sum", "max"):
        assert_same(np.asarray(getattr(lazy, name)(axis=1)), getattr(expected, name)(axis=1))
    assert_same(np.mean(lazy, axis=(0, 1)), expected.mean((0, 1)))
    assert_same(lazy.reshape(-1), expected.reshape(-1))
    with pytest.raises(AttributeError, match="LazyArray has no attribute 'argmax'; np.asarray reads the array"):
        lazy.argmax()


def test_indices_of_other_kinds(made):
    path, whole = made
    lazy, expected = store.read(path).arrays("draws")["['w'][0]"], whole["['w'][0]"]
    assert expected.ndim == 4
    mask = np.zeros(expected.shape[2:], bool)
    mask[0, -1] = mask[-1, 0] = True
    assert_same(lazy[:, :, mask], expected[:, :, mask])
    assert_same(lazy[:, 2:5, (0, 1)], expected[:, 2:5, (0, 1)])
    assert_same(lazy[:, :, jnp.asarray([1, 0])], expected[:, :, [1, 0]])


def test_copy_false(made):
    with pytest.raises(ValueError, match="on disk"):
        np.asarray(store.read(made[0]).arrays("draws")["double"], copy=False)


def test_a_slice_reads_what_it_needs(made, monkeypatch):
    path, whole = made
    contents = store.read(path)
    lazy = contents.arrays("draws")["double"]
    lazy[0, 12]  # verifies that shard
    read = []
    real = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, buffers, at: read.append(real(fd, buffers, at)) or read[-1])
    assert lazy[1, 13:17].tolist() == whole["double"][1, 13:17].tolist()
    assert read == [4 * 8]


def test_read_and_write_a_shard(tmp_path, rng):
    b = block(rng, 8)
    size, checksum = store.write_shard(tmp_path, "draws-1.safetensors", b)
    path = tmp_path / "draws-1.safetensors"
    assert size == path.stat().st_size and checksum.startswith("crc32:")
    for name, expected in b.items():
        assert_same(store.read_slice(path, name, 1, slice(2, 5)), expected[1, 2:5])
        assert_same(store.read_shard(path)[name], expected)
    with pytest.raises(IndexError, match="chains 0 to 2"):
        store.read_slice(path, "double", 3, slice(None))
    with pytest.raises(store.StoreCorrupt, match="no leaf 'absent'"):
        store.read_slice(path, "absent", 0, slice(None))


def test_large_commits_are_split(tmp_path, rng, monkeypatch):
    monkeypatch.setattr(commits, "SHARD_BYTES", 1000)
    blocks = [{"x": rng.standard_normal((CHAINS, n, 4)).astype(np.float32)} for n in (7, 1, 40, 15)]
    with create(tmp_path) as writer:
        for b in blocks:
            writer.append("draws", b)
        assert writer.num_draws() == 63 and writer.num_draws("info") == 0
        writer.commit({}, {})
        writer.flush()
        assert writer.manifest.num_draws() == 63
    manifest = store.read(tmp_path).manifest
    assert len(manifest.shards) == 4 and max(s.stop - s.start for s in manifest.shards) * CHAINS * 16 <= 1000
    assert_same(np.asarray(store.read(tmp_path).arrays("draws")["x"]), joined(blocks)["x"])


def test_groups(tmp_path, rng):
    with create(tmp_path) as writer:
        assert store.read(tmp_path).num_draws() == 0
        writer.append("warmup_info", {"e": rng.random((CHAINS, 2))})
        writer.append("draws", {"x": np.zeros((CHAINS, 0, 5))})
        writer.commit({}, {})
        writer.append("info", {"e": rng.random((CHAINS, 3))})
        writer.update_config(seconds=1.5)
        writer.commit({}, {}, "finished")
    contents = store.read(tmp_path)
    assert [contents.num_draws(g) for g in ("draws", "info", "warmup_info")] == [0, 3, 2]
    assert np.asarray(contents.arrays("draws")["x"]).shape == (CHAINS, 0, 5)
    assert contents.manifest.status == "finished" and contents.manifest.config == {"a": [1, 2], "seconds": 1.5}
    with pytest.raises(ValueError, match="group must be one of"):
        contents.arrays("others")


def test_going_on(made, rng):
    path, whole = made
    (path / "draws-000099.safetensors").write_bytes(b"orphan")
    (path / ".tmp-draws-000100.safetensors").write_bytes(b"temporary")
    (path / "notes.txt").write_text("mine")
    assert store.read(path).num_draws() == 50
    more = block(rng, 4)
    with store.StoreWriter.open(path) as writer:
        assert not {p.name for p in path.iterdir()} & {"draws-000099.safetensors", ".tmp-draws-000100.safetensors"}
        assert writer.num_draws() == 50
        writer.append("draws", more)
        writer.commit(state(9), {"step": 9}, status="interrupted")
    assert (path / "notes.txt").exists()
    contents = store.read(path)
    assert contents.manifest.status == "interrupted" and contents.state()[1] == {"step": 9}
    for name, lazy in contents.arrays("draws").items():
        assert_same(np.asarray(lazy), np.concatenate([whole[name], more[name]], axis=1))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros((2, 5))}, r"3 chains, got \(2, 5\)"),
        ({"x": np.zeros(3)}, r"shape \(chain, draw"),
        ({"x": np.zeros((3, 5), object)}, "has dtype object"),
        ({"x": np.zeros((3, 5)), "y": np.zeros((3, 4))}, "4 draws"),
        ({"x": np.zeros((3, 5), np.float32)}, "other leaves"),
        ({"y": np.zeros((3, 5))}, "other leaves"),
    ],
)
def test_blocks_that_do_not_fit(tmp_path, arrays, message):
    with create(tmp_path) as writer:
        writer.append("draws", {"x": np.zeros((3, 1))})
        with pytest.raises((ValueError, TypeError), match=message):
            writer.append("draws", arrays)
        with pytest.raises(ValueError, match="group must be one of"):
            writer.append("state", {})
        with pytest.raises(TypeError, match="position must be JSON-able"):
            writer.commit({}, {"x": object()})
        with pytest.raises(ValueError, match="dtype must be one of"):
            writer.append("draws", {"x": np.zeros((3, 1))}, dtype="int8")
    with pytest.raises(store.StoreError, match="closed"):
        writer.commit({}, {})


def test_due(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    with create(tmp_path) as writer:
        due = []
        for second in range(1, 40_000):
            clock[0] = second
            if writer.due():
                due.append(second)
                writer._committed = second
        gaps = np.diff([0, *due])
        assert gaps[0] == 1 and gaps[-1] == 60 and 5 in gaps and (np.diff(gaps) >= 0).all()
        monkeypatch.setattr("smilax.store.writer.SHARD_BYTES", 100)
        assert not writer.due()
        writer.append("draws", {"x": np.zeros((CHAINS, 9))})
        assert writer.due()


# Crashes and faults in writing.


def failing(monkeypatch, name, error, at=lambda path: True):
    real = getattr(os, name)

    def broken(path, *args, **more):
        if at(path):
            raise OSError(error, os.strerror(error), None if isinstance(path, int) else str(path))
        return real(path, *args, **more)

    monkeypatch.setattr(os, name, broken)


@pytest.mark.parametrize("which", ["draws-", "state-", "manifest"])
def test_crash_before_the_manifest(made, rng, monkeypatch, which):
    path, whole = made
    writer = store.StoreWriter.open(path)
    with monkeypatch.context() as patch:
        failing(patch, "replace", errno.EIO, lambda p: which in str(p))
        writer.append("draws", block(rng, 3))
        writer.commit(state(8), {"step": 8})
        with pytest.raises(store.StoreUnwritable, match="the 50 draws per chain committed before stay readable"):
            writer.flush()
        with pytest.raises(store.StoreUnwritable):
            writer.append("draws", block(rng, 3))
        with pytest.raises(store.StoreUnwritable):
            writer.commit(state(8), {})
        writer.close()
    assert not list(path.glob(".tmp-*"))
    contents = store.read(path)
    assert contents.num_draws() == 50 and contents.state()[1] == {"step": 4}
    for name, lazy in contents.arrays("draws").items():
        assert_same(np.asarray(lazy), whole[name])
    with store.StoreWriter.open(path) as writer:
        assert {p.name for p in path.iterdir()} == writer.manifest.files | {"lock", "manifest.json"}


KILLED = """
import os, random, signal, sys, time
import jax.numpy as jnp
import numpy as np
from smilax import store

def write(path):
    try:
        writer = store.StoreWriter.open(path)
    except store.StoreMissing:
        writer = store.StoreWriter.create(path, num_chains=2, config={}, versions={})
    while True:
        n = writer.num_draws()
        for group in ("draws", "info"):
            writer.append(group, {"x": np.tile(np.arange(n, n + 3.0), (2, 1))})
        writer.commit({"n": np.array(n + 3)}, {"n": n + 3})

path = sys.argv[1]
random.seed(0)
before = 0
for _ in range(30):
    pid = os.fork()
    if pid == 0:
        write(path)
    time.sleep(random.uniform(0.0, 0.08))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    try:
        contents = store.read(path)
    except store.StoreMissing:
        assert before == 0
        continue
    draws = contents.num_draws()
    assert draws >= before and contents.num_draws("info") == draws and store.verify(path) == []
    for group in ("draws", "info") if draws else ():
        assert (np.asarray(contents.arrays(group)["x"]) == np.arange(draws)).all()
    if draws:
        found, position = contents.state()
        assert found["n"] == position["n"] == draws
    before = draws
store.StoreWriter.open(path).close()
assert set(os.listdir(path)) == store.read(path).manifest.files | {"lock", "manifest.json"}
print("draws", before)
"""


@pytest.mark.once
def test_killed_at_any_instant(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(Path(store.__file__).parents[2])}
    command = [sys.executable, "-c", KILLED, str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0 and int(done.stdout.split()[-1]) > 0, done.stderr


def test_arrays_of_any_layout(tmp_path, rng):
    whole = rng.standard_normal((6, 8, 4))
    arrays = {
        "strided": whole[::2, ::3],
        "fortran": np.asfortranarray(whole),
        "vector": whole[:, 0, 0],
        "big": whole.astype(">f8"),
        "scalar": np.float32(3),
    }
    store.write_shard(tmp_path, "state-1.safetensors", arrays)
    for name, found in store.read_shard(tmp_path / "state-1.safetensors").items():
        assert np.array_equal(found, arrays[name]) and found.dtype.isnative


def test_disk_full(made, rng, monkeypatch):
    path, whole = made
    with monkeypatch.context() as patch, pytest.raises(store.StoreFull, match=f"{path}: the disk is full"):
        failing(patch, "writev", errno.ENOSPC)
        with store.StoreWriter.open(path) as writer:
            writer.append("draws", block(rng, 3))
            writer.commit(state(8), {"step": 8})
    assert_same(np.asarray(store.read(path).arrays("draws")["double"]), whole["double"])


@pytest.mark.once
def test_a_file_system_that_is_full(tmp_path, rng):
    """The real thing, where mounting is allowed."""
    script = f"""
import sys, subprocess, numpy as np
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", {str(tmp_path)!r}], check=True)
from smilax import store
from pathlib import Path
path = Path({str(tmp_path)!r}) / "run"
x = np.arange(60000.0).reshape(1, -1)
with store.StoreWriter.create(path, num_chains=1, config={{}}, versions={{}}) as writer:
    writer.append("draws", {{"x": x}}); writer.commit({{}}, {{}}); writer.flush()
    writer.append("draws", {{"x": np.concatenate([x, x, x], 1)}}); writer.commit({{}}, {{}})
    try:
        writer.flush()
    except store.StoreFull as error:
        print(error)
assert (np.asarray(store.read(path).arrays("draws")["x"]) == x).all() and store.verify(path) == []
with store.StoreWriter.open(path) as writer:
    writer.append("draws", {{"x": x[:, :5]}}); writer.commit({{}}, {{}}, "finished")
assert store.read(path).num_draws() == 60005
print("passed")
"""
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-m", "true"], capture_output=True).returncode:
        pytest.skip("no mount namespaces here")
    environment = os.environ | {"PYTHONPATH": str(Path(store.__file__).parents[2])}
    command = [unshare, "-m", sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if "mount failed" in done.stderr or "permission denied" in done.stderr.lower():
        pytest.skip("mounting is not allowed here")
    assert "the disk is full" in done.stdout and "passed" in done.stdout, done.stderr


@pytest.mark.parametrize("error", [errno.EROFS, errno.EACCES])
def test_read_only_directory(made, tmp_path, monkeypatch, error):
    real = os.open

    def read_only(path, flags, *args, **more):
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise OSError(error, os.strerror(error), str(path))
        return real(path, flags, *args, **more)

    monkeypatch.setattr(os, "open", read_only)
    with pytest.raises(store.StoreUnwritable, match=str(made[0])):
        store.StoreWriter.open(made[0])
    with pytest.raises(store.StoreUnwritable, match="nothing was written"):
        create(tmp_path / "new")
    assert store.verify(made[0]) == []


def test_short_writes(tmp_path, rng, monkeypatch):
    real = os.writev
    monkeypatch.setattr(os, "writev", lambda fd, pieces: real(fd, [pieces[0][:7]]))
    b = block(rng, 4)
    store.write_shard(tmp_path, "draws-1.safetensors", b)
    for name, expected in b.items():
        assert_same(store.read_shard(tmp_path / "draws-1.safetensors")[name], expected)


# One writer, many readers.


def test_two_writers(made, tmp_path):
    path, _ = made
    with store.StoreWriter.open(path):
        with pytest.raises(store.StoreLocked, match=f"process {os.getpid()}"):
            store.StoreWriter.open(path)
        code = f"from smilax import store; store.StoreWriter.open({str(path)!r})"
        environment = os.environ | {"PYTHONPATH": str(Path(store.__file__).parents[2])}
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
        assert f"StoreLocked: {path} is being written by process {os.getpid()}" in other.stderr
    store.StoreWriter.open(path).close()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::RuntimeWarning")  # forking a process with threads
def test_a_forked_worker_does_not_keep_the_lock(made):
    writer = store.StoreWriter.open(made[0])
    done = multiprocessing.get_context("fork").Event()
    worker = multiprocessing.get_context("fork").Process(target=done.wait, args=(60,))
    worker.start()
    try:
        time.sleep(0.2)
        writer.close()
        store.StoreWriter.open(made[0]).close()
        assert worker.is_alive(), "it must still have had what it inherited"
    finally:
        done.set()
        worker.join()


def test_existing_directories(made, tmp_path):
    with pytest.raises(store.StoreExists, match="holds a store already"):
        create(made[0])
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("")
    with pytest.raises(store.StoreExists, match=r"holds no store, but 'thesis.tex'"):
        create(tmp_path / "other")
    assert not (tmp_path / "other" / "lock").exists()
    for reader in (store.read, store.StoreWriter.open, store.verify):
        with pytest.raises(store.StoreMissing, match="holds no store"):
            reader(tmp_path / "other")
        with pytest.raises(store.StoreMissing, match="nowhere does not exist"):
            reader(tmp_path / "nowhere")
        with pytest.raises(store.StoreMissing, match="thesis.tex is a file; a store is a directory"):
            reader(tmp_path / "other" / "thesis.tex")
        with pytest.raises(store.StoreMissing, match=f"holds no store.*; these do: {made[0]}"):
            reader(made[0].parent)
    # Killed before its first manifest.
    (tmp_path / "early").mkdir()
    (tmp_path / "early" / "lock").write_text("1")
    (tmp_path / "early" / ".tmp-manifest.json").write_text("{")
    create(tmp_path / "early").close()


def test_reading_while_writing(tmp_path):
    stop = threading.Event()
    seen = []

    def watch():
        while not stop.is_set():
            contents = store.read(tmp_path)
            if contents.manifest.state is None:
                continue
            found, position = contents.state()
            x = np.asarray(contents.arrays("draws")["x"])
            assert x.shape == (CHAINS, position["draws"]) and (x == np.arange(x.shape[1])).all()
            assert found["n"] == position["draws"]
            seen.append(x.shape[1])

    with create(tmp_path) as writer:
        errors = []
        watcher = threading.Thread(target=lambda: _catch(watch, errors))
        watcher.start()
        for n in range(60):
            writer.append("draws", {"x": np.tile(np.arange(2 * n, 2 * n + 2.0), (CHAINS, 1))})
            writer.commit({"n": np.array(2 * n + 2)}, {"draws": 2 * n + 2})
        writer.flush()
        stop.set()
        watcher.join()
    assert not errors and seen and seen == sorted(seen)


def _catch(f, errors):
    try:
        f()
    except BaseException as error:
        errors.append(error)
        raise


def test_a_state_replaced_meanwhile(made):
    contents = store.read(made[0])
    with store.StoreWriter.open(made[0]) as writer:
        writer.commit(state(7), {"step": 7})
    assert contents.state()[1] == {"step": 7}
    assert contents.manifest == store.read(made[0]).manifest


def test_a_slow_disk_slows_the_run_and_memory_is_flat(tmp_path, monkeypatch):
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: time.sleep(0.005) or real(fd))
    size = 1 << 20
    with create(tmp_path) as writer:
        start, waits = time.perf_counter(), []
        tracemalloc.start()
        for _ in range(12):
            writer.append("draws", {"x": np.zeros((CHAINS, 1, size // 8 // CHAINS))})
            begin = time.perf_counter()
            writer.commit({}, {})
            waits.append(time.perf_counter() - begin)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        writer.flush()
        # Each commit takes at least five fsyncs: shard, state, directory, manifest, directory.
        assert time.perf_counter() - start >= 12 * 5 * 0.005
        assert min(waits) < 0.005 < max(waits)
    assert peak < 6 * size
    assert store.read(tmp_path).num_draws() == 12


# Damage.


def flip(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("kind", ["truncated", "longer", "flipped", "header", "missing", "link", "pipe", "directory"])
def test_damaged_shard(made, tmp_path, kind):
    path, whole = made
    shard = shards_of(path)[2]
    if kind == "truncated":
        os.truncate(shard, shard.stat().st_size - 1)
    elif kind == "longer":
        shard.write_bytes(shard.read_bytes() + b"\0")
    elif kind == "flipped":
        flip(shard, -1)
    elif kind == "header":
        flip(shard, 20)
    else:
        content = shard.read_bytes()
        shard.unlink()
        if kind == "link":
            (tmp_path / "elsewhere").write_bytes(content)
            shard.symlink_to(tmp_path / "elsewhere")
        elif kind == "pipe":
            os.mkfifo(shard)
        elif kind == "directory":
            shard.mkdir()
    contents = store.read(path)
    for name, lazy in contents.arrays("draws").items():
        if whole[name].size == 0:
            continue
        with pytest.raises(store.StoreCorrupt, match=rf"draws 20:30 of group 'draws' are lost: .*{shard.name}"):
            np.asarray(lazy)
        with pytest.raises(store.StoreCorrupt, match="other draws can still be read"):
            lazy[0, 25]
        assert_same(lazy[:, :20], whole[name][:, :20])
        assert_same(lazy[:, 30:], whole[name][:, 30:])
    assert store.verify(path) == [shard.name]


def test_damage_after_the_first_look(made):
    path, _ = made
    lazy = store.read(path).arrays("draws")["double"]
    np.asarray(lazy)
    flip(shards_of(path)[1], -1)
    with pytest.raises(store.StoreCorrupt, match="checksum"):
        lazy[0, 12]
    assert store.read(path, check=False).arrays("draws")["double"][0, 12] is not None


def test_damaged_state(made):
    path, _ = made
    contents = store.read(path)
    file = path / contents.manifest.state.file
    flip(file, -1)
    with pytest.raises(store.StoreCorrupt, match=f"{file.name} has checksum"):
        contents.state()
    assert store.verify(path) == [file.name]
    file.unlink()
    with pytest.raises(store.StoreCorrupt, match="missing"):
        contents.state()
    assert store.verify(path) == [file.name]


def test_no_state_yet(tmp_path):
    create(tmp_path).close()
    with pytest.raises(store.StoreCorrupt, match="no state to go on from"):
        store.read(tmp_path).state()


# Hostile manifests and shards.


def test_newer_version(made):
    edit(made[0], lambda m: m.update(version=7, shards="a form not invented yet"))
    for reader in (store.read, store.StoreWriter.open, store.verify):
        with pytest.raises(store.StoreVersion, match="version 7; this smilax reads up to version 1"):
            reader(made[0])


def setting(*path):
    *inner, last, value = path

    def change(manifest):
        for key in inner:
            manifest = manifest[key]
        manifest[last] = value

    return change


HUGE = 10**30
MANIFESTS = {
    "format": setting("format", "zarr"),
    "version": setting("version", "1"),
    "chains": setting("num_chains", 0),
    "chains bool": setting("num_chains", True),
    "many chains": setting("num_chains", 2**40),
    "status": setting("status", "done"),
    "status type": setting("status", ["running"]),
    "config": setting("config", []),
    "versions": setting("versions", None),
    "leaves": setting("leaves", []),
    "group": setting("leaves", "others", []),
    "leaf": setting("leaves", "draws", 0, "w"),
    "leaf name": setting("leaves", "draws", 0, "name", 3),
    "leaf twice": setting("leaves", "draws", 0, "name", "double"),
    "leaf shape": setting("leaves", "draws", 0, "shape", [-4, -5]),
    "leaf shape huge": setting("leaves", "draws", 0, "shape", [HUGE]),
    "leaf shape overflow": setting("leaves", "draws", 0, "shape", [2**32, 2**32, 0]),
    "leaf shape large": setting("leaves", "draws", 0, "shape", [4, 500]),
    "leaf dtype": setting("leaves", "draws", 0, "dtype", "object"),
    "leaf cast": setting("leaves", "draws", 0, "original_dtype", "int32"),
    "shards": setting("shards", {}),
    "shard": setting("shards", 1, []),
    "up": setting("shards", 1, "file", "../secret-1.safetensors"),
    "absolute": setting("shards", 1, "file", "/etc/passwd"),
    "newline": setting("shards", 1, "file", "draws-000001.safetensors\n"),
    "same file": setting("shards", 1, "file", "draws-000001.safetensors"),
    "shard group": setting("shards", 1, "group", "state"),
    "shard group type": setting("shards", 1, "group", {}),
    "gap": setting("shards", 1, "start", 11),
    "empty": setting("shards", 1, "stop", 10),
    "too many": setting("shards", 4, "stop", 10**9),
    "huge": setting("shards", 4, "stop", HUGE),
    "float": setting("shards", 4, "stop", 50.0),
    "small": setting("shards", 4, "bytes", 10),
    "checksum": setting("shards", 4, "checksum", "md5:00"),
    "no leaves": setting("leaves", {}),
    "state": setting("state", "file"),
    "state up": setting("state", "file", "../state-000010.safetensors"),
    "state position": setting("state", "position", 3),
    "state bytes": setting("state", "bytes", -1),
    "lacking": lambda m: m.pop("shards"),
    "lacking in shard": lambda m: m["shards"][0].pop("stop"),
}


@pytest.mark.parametrize("change", MANIFESTS.values(), ids=MANIFESTS)
def test_hostile_manifest(made, change):
    edit(made[0], change)
    for reader in (store.read, store.StoreWriter.open, store.verify):
        with pytest.raises(store.StoreCorrupt, match=r"manifest\.json"):
            reader(made[0])


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 200_000, b"3", b'{"format": 1e9999}', b"1" * 9999])
def test_manifest_that_is_none(made, content):
    (made[0] / "manifest.json").write_bytes(content)
    with pytest.raises(store.StoreCorrupt, match=r"manifest\.json"):
        store.read(made[0])


def test_manifest_that_is_a_link(made, tmp_path):
    (made[0] / "manifest.json").rename(tmp_path / "elsewhere")
    (made[0] / "manifest.json").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(store.StoreCorrupt, match="symbolic link"):
        store.read(made[0])


def shard_bytes(header, data=b"\0" * 24, length=None):
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def entry(shape=(3, 1), begin=0, end=24, dtype="F64", **more):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]} | more


SHARDS = {
    "empty": b"",
    "short": b"\0" * 7,
    "no header": b"\0" * 8,
    "huge header": shard_bytes({}, length=2**64 - 1),
    "header beyond the file": shard_bytes({"x": entry()}, length=500),
    "not JSON": shard_bytes(b"{{{{"),
    "not UTF-8": shard_bytes(b'{"\xff": 3}'),
    "deep": shard_bytes(b"[" * 100_000),
    "list": shard_bytes([]),
    "no entry": shard_bytes({"x": 3}),
    "unknown dtype": shard_bytes({"x": entry(dtype="F8")}),
    "dtype of a wrong type": shard_bytes({"x": entry(dtype=["F64"])}),
    "lacking": shard_bytes({"x": {"dtype": "F64", "shape": [3, 1]}}),
    "more": shard_bytes({"x": entry(code="import os")}),
    "negative offsets": shard_bytes({"x": entry(begin=-8, end=16)}),
    "float offsets": shard_bytes({"x": entry(end=24.0)}),
    "true": shard_bytes({"x": entry(begin=False)}),
    "reversed": shard_bytes({"x": entry(begin=24, end=0)}),
    "beyond the end": shard_bytes({"x": entry(shape=(3, 2), end=48)}),
    "not to the end": shard_bytes({"x": entry(shape=(2, 1), end=16)}),
    "gap": shard_bytes({"x": entry((1, 1), 0, 8), "y": entry((1, 1), 16, 24)}),
    "overlap": shard_bytes({"x": entry((2, 1), 0, 16), "y": entry((2, 1), 8, 24)}),
    "the same twice": shard_bytes({"x": entry(), "y": entry()}),
    "shape that is not its bytes": shard_bytes({"x": entry(shape=(3, 2))}),
    "negative shape": shard_bytes({"x": entry(shape=(-3, -1))}),
    "product overflows": shard_bytes({"x": entry(shape=(2**32 + 3, 2**32, 1), end=24)}),
    "overflow hidden by a zero": shard_bytes({"x": entry(), "y": entry((2**40, 2**40, 0), 24, 24)}),
    "many axes": shard_bytes({"x": entry(shape=(3, 1, *[1] * 100))}),
    "long number": shard_bytes(b'{"x": ' + b"9" * 5000 + b"}"),
}


@pytest.mark.parametrize("content", SHARDS.values(), ids=SHARDS)
def test_hostile_shard(tmp_path, content):
    path = tmp_path / "draws-000001.safetensors"
    path.write_bytes(content)
    tracemalloc.start()
    for reader in (store.read_shard, lambda p: store.read_slice(p, "x", 0, slice(None))):
        with pytest.raises(store.StoreCorrupt, match=path.name):
            reader(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * len(content) + 200_000
    # The same with a manifest that vouches for it.
    with store.StoreWriter.create(tmp_path / "run", num_chains=3, config={}, versions={}) as writer:
        writer.append("draws", {"x": np.ones((3, 1))})
        writer.commit({}, {})
    shard = shards_of(tmp_path / "run")[0]
    shard.write_bytes(content)
    with files.reading(shard) as (fd, size):
        checksum = files.checksum(fd, size, shard)
    edit(tmp_path / "run", lambda m: m["shards"][0].update(bytes=len(content), checksum=checksum))
    with pytest.raises(store.StoreCorrupt):
        np.asarray(store.read(tmp_path / "run").arrays("draws")["x"])


def test_a_header_of_any_length_is_not_believed(tmp_path):
    path = tmp_path / "draws-000001.safetensors"
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", 2 * HEADER_LIMIT))
        file.truncate(4 * HEADER_LIMIT)
    with pytest.raises(store.StoreCorrupt, match="claims a header"):
        store.read_shard(path)


def test_shard_of_other_leaves(made):
    path, _ = made
    edit(path, lambda m: m["leaves"]["draws"][0].update(shape=[5, 4]))
    with pytest.raises(store.StoreCorrupt, match=r"must have leaf .* as float32\[3, 10, 5, 4\]"):
        np.asarray(store.read(path).arrays("draws")["['w'][0]"])


def test_a_huge_claim_allocates_nothing(made):
    """Sizes are looked at before memory is taken."""
    path, _ = made

    def change(manifest):
        manifest["leaves"]["draws"] = [
            {"name": "double", "shape": [10**9], "dtype": "float64", "original_dtype": "float64"}
        ]
        for shard in manifest["shards"]:
            shard["bytes"] = 10**13

    edit(path, change)
    tracemalloc.start()
    with pytest.raises(store.StoreCorrupt, match="but the manifest says 10000000000000"):
        np.asarray(store.read(path).arrays("draws")["double"])
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()
