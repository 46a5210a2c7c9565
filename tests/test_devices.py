"""Parallel chains: on eight simulated devices, and in two processes, they are what they are on one device."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

import smilax as sx
from smilax import store
from smilax.geometry.choice import NAMES
from smilax.meshes import check_mesh, default_mesh

# The child processes use float64 always.
pytestmark = pytest.mark.once

SCRIPT = Path(__file__).with_name("on_devices.py")
ALGORITHMS = [
    "psmile",
    "smile",
    "psmile_naive",
    "smile_naive",
    "mclmc",
    "sgld",
    "sghmc",
    *(f"ismile-{g}" for g in NAMES),
]


def start(*args, cache=None):
    environment = os.environ | (cache or {})
    command = [sys.executable, SCRIPT, *args]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process):
    out, err = process.communicate(timeout=900)
    assert process.returncode == 0, err[-4000:]
    return out


def on_eight_devices(*cases):
    assert finish(start(*cases)).split("\n")[:-1] == [f"{case} done" for case in cases]


def test_results_are_those_of_one_device():
    on_eight_devices("psmile:10:4x2", "placed")


@pytest.mark.truth
@pytest.mark.parametrize("name", ALGORITHMS)
def test_results_of_every_algorithm_are_those_of_one_device(name):
    on_eight_devices(f"{name}:8:8x1:4x2:2x4:1x8", f"{name}:3:2x4:1x8", f"{name}:10:8x1:4x2")


@pytest.mark.truth
def test_what_devices_hold_and_what_they_tell_one_another():
    # Over "data" sums only; leaves of one chain over several devices; and batches from the host.
    on_eight_devices("programs", "sharded", "from_host")


@pytest.mark.truth
def test_two_processes_find_the_same_draws_and_write_one_store(tmp_path, cache):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    processes = [start("process", str(number), address, str(tmp_path), cache=cache) for number in range(2)]
    try:
        outputs = [finish(process).splitlines()[-1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert outputs[0] == outputs[1]
    manifest = store.read(tmp_path / "2").manifest
    # Of three chains on two devices the first has two; reports are written by process 0.
    assert {s.chains for s in manifest.shards if s.group == "draws"} == {(0, 2), (2, 3)}
    assert {s.chains for s in manifest.shards if s.group == "info"} == {None}
    assert {s.chains for s in store.read(tmp_path / "1").manifest.shards if s.group == "draws"} == {(0, 3)}
    for name in "12":
        assert store.verify(tmp_path / name) == []
        assert not list((tmp_path / name).glob(".tmp-*"))
    draws = sx.load(tmp_path / "2").draws["w"]
    numbers = np.array([float.fromhex(word) for word in outputs[0].split()])
    np.testing.assert_allclose(np.asarray(draws).ravel(), numbers[: draws.size], rtol=1e-9)
    np.testing.assert_array_equal(draws[2, 1:3], np.asarray(draws)[2, 1:3])


def test_meshes():
    device = np.array(jax.devices()[:1])
    explicit = jax.make_mesh((1,), ("chain",), axis_types=(AxisType.Explicit,), devices=device)
    mesh = check_mesh(explicit, 3, 10, None)
    assert dict(mesh.shape) == {"chain": 1, "data": 1} and set(mesh.axis_types) == {AxisType.Auto}
    assert default_mesh(3, 10).shape["chain"] == 1
    with pytest.raises(ValueError, match="mesh has the axes .*batch.*; others are for shard_params"):
        check_mesh(Mesh(device, ("batch",)), 3, 10, None)
    with pytest.raises(TypeError, match="mesh must be a jax.sharding.Mesh or None, got 4"):
        check_mesh(4, 3, 10, None)
    with pytest.raises(TypeError, match="shard_params must be a function"):
        check_mesh(None, 3, 10, "model")


def run(tmp_path=None, **changes):
    posterior = sx.Posterior(lambda m: -0.5 * jnp.sum(m**2), lambda m, x: x @ m, 100)
    algorithm, x = sx.sgld(posterior, 1e-3), np.ones((100, 2), np.float32)
    settings = {"num_chains": 3, "num_warmup": 5, "num_samples": 10, "batch_size": 10, "progress_bar": False} | changes
    return algorithm, x, sx.sample(jax.random.key(0), algorithm, x, jnp.zeros(2), **settings)


@pytest.mark.truth
def test_one_device_is_a_mesh_too(tmp_path):
    *_, reference = run()
    algorithm, x, result = run(chain_method="parallel", store=tmp_path / "run", num_samples=6)
    assert result.config["chain_method"] == "parallel"
    longer = sx.resume(tmp_path / "run", algorithm, x, num_samples=10, progress_bar=False)
    np.testing.assert_allclose(np.asarray(longer.draws), reference.draws, rtol=1e-5)
    with pytest.raises(ValueError, match="mesh and shard_params are for chain_method"):
        run(mesh=default_mesh(3, 10))
    with pytest.raises(ValueError, match="shard_params needs a mesh"):
        algorithm, x, _ = run(store=tmp_path / "other")
        sx.resume(tmp_path / "other", algorithm, x, shard_params=lambda path, leaf: None)


def test_initialize_checks_its_arguments():
    assert not sx.distributed.initialize()
    with pytest.raises(ValueError, match="belong together: process_id missing"):
        sx.distributed.initialize("localhost:1234", 2)
    with pytest.raises(ValueError, match="coordinator must be \"host:port\", got 'localhost'"):
        sx.distributed.initialize("localhost", 2, 0)
    with pytest.raises(ValueError, match="process_id must be from 0 to 1, got 2"):
        sx.distributed.initialize("localhost:1234", 2, 2)


@pytest.mark.truth
def test_the_example_of_the_documentation_runs():
    page = (Path(__file__).resolve().parent.parent / "docs" / "devices.md").read_text()
    (block,) = re.findall(r"^```python\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE)
    scope = {"__name__": "devices"}
    exec(block, scope)
    assert scope["result"].draws.shape == (8, 20, 3)


def test_shards_with_some_of_the_chains(tmp_path):
    path = tmp_path / "run"
    writers = [store.StoreWriter.create(path, config={}, num_chains=3, versions={}, share=store.Share(0, 2, (0, 2)))]
    writers.append(store.StoreWriter.attend(path, store.Share(1, 2, (2, 3))))
    blocks = [np.arange(24.0).reshape(3, 4, 2) + 100 * n for n in range(2)]
    for block in blocks:
        for writer in writers:
            writer.append("draws", {"w": block[slice(*writer.share.chains)]})
            writer.append("info", {"step": block[..., 0]})
            writer.commit({"x": np.zeros(1)}, {})
    for writer in reversed(writers):
        writer.close()
    # Taken up by one process, which then writes all chains.
    with store.StoreWriter.open(path) as writer:
        writer.append("draws", {"w": blocks[0]})
        writer.append("info", {"step": blocks[0][..., 0]})
        writer.commit({"x": np.zeros(1)}, {})
    whole = np.concatenate([*blocks, blocks[0]], axis=1)
    contents = store.read(path)
    array = contents.arrays()["w"]
    np.testing.assert_array_equal(array, whole)
    np.testing.assert_array_equal(array[2, 3:9:2], whole[2, 3:9:2])
    np.testing.assert_array_equal(array[[0, 2], :, 1], whole[[0, 2], :, 1])
    np.testing.assert_array_equal(contents.arrays("info")["step"], whole[..., 0])
    (lost,) = [s.file for s in contents.manifest.shards if s.group == "draws" and s.chains == (2, 3) and s.start == 4]
    (path / lost).unlink()
    np.testing.assert_array_equal(store.read(path).arrays()["w"][:2], whole[:2])
    with pytest.raises(store.StoreCorrupt, match="draws 4:8 of chains 2:3 of group 'draws' are lost"):
        store.read(path).arrays()["w"][2]


@pytest.mark.parametrize(
    ("chains", "message"),
    [
        ([[0, 2], [0, 1]], "start must be 4, where the one before ends"),
        ([[0, 2], [2, 4]], "chains must be of the 3 chains"),
        ([[0, 2], [2, 2]], "a range of chains that is not empty"),
        ([[0, 2], None], "start must be 0|where the one before ends"),
        ([[0, 1], [2, 3]], "such that all chains end at the same draw"),
    ],
)
def test_ranges_of_chains_have_to_fit(tmp_path, chains, message):
    with store.StoreWriter.create(tmp_path / "run", config={}, num_chains=3, versions={}) as writer:
        writer.append("draws", {"w": np.zeros((3, 4, 2))})
        writer.commit({"x": np.zeros(1)}, {})
    file = tmp_path / "run" / "manifest.json"
    content = json.loads(file.read_text())
    shard = content["shards"][0]
    content["shards"] = [shard | {"chains": c, "file": f"draws-{n}.safetensors"} for n, c in enumerate(chains)]
    file.write_text(json.dumps(content))
    with pytest.raises(store.StoreCorrupt, match=message):
        store.read(tmp_path / "run")
