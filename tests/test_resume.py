"""Runs with a store: killed, interrupted, extended, refused, and read; in the end the draws of an unbroken run."""

import errno
import faulthandler
import functools
import gc
import itertools
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
import warnings
import weakref
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import smilax as sx
from smilax import buffers, exporting, feeds, recording, running
from smilax import store as stores
from smilax.store import files

# Programs are compiled for every case; precision has a case of its own.
pytestmark = pytest.mark.once

RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 3)).astype(np.float32)
Y = (X @ np.array([1.0, -0.5, 0.3]) + 0.3 * RNG.normal(size=64)).astype(np.float32)
START = {"w": np.zeros(3, np.float32), "b": np.zeros((), np.float32)}


def make_posterior(scale=1.0, noise=0.3, num_data=64):
    return sx.Posterior(
        log_prior=lambda p: -0.5 * (jnp.sum(p["w"] ** 2) + p["b"] ** 2) / scale**2,
        log_likelihood=lambda p, batch: -0.5 * ((batch[1] - batch[0] @ p["w"] - p["b"]) / noise) ** 2,
        num_data=num_data,
    )


POSTERIOR = make_posterior()
ALGORITHM = sx.sgld(POSTERIOR, 1e-3)
SETTINGS = {"num_chains": 2, "num_warmup": 0, "num_samples": 100, "thinning": 7, "batch_size": 16}


def run(path=None, **changes):
    settings = SETTINGS | {"algorithm": ALGORITHM, "data": (X, Y), "params": START, "key": 0} | changes
    key, algorithm, data, params = (settings.pop(name) for name in ("key", "algorithm", "data", "params"))
    key = jax.random.key(key) if isinstance(key, int) else key
    return sx.sample(key, algorithm, data, params, store=path, progress_bar=False, **settings)


def resume(path, algorithm=ALGORITHM, data=(X, Y), **more):
    return sx.resume(path, algorithm, data, progress_bar=False, **more)


def assert_same(a, b, what=("draws", "info", "warmup_info", "state")):
    for name in what:
        mine, other = jax.tree.leaves(getattr(a, name)), jax.tree.leaves(getattr(b, name))
        assert len(mine) == len(other)
        for x, y in zip(mine, other, strict=True):
            np.testing.assert_array_equal(np.asarray(x), np.asarray(y), strict=not np.isscalar(x), err_msg=name)


@pytest.fixture(autouse=True)
def fast_disk(monkeypatch):
    """Without fsync, which is against power cuts: what a process has written outlives it in any case."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)


@functools.cache
def unbroken(num_warmup=0):
    """The run in memory of most tests; it may have another number of chunks, which does not matter."""
    return run(num_warmup=num_warmup)


class Stop(Exception):
    pass


def break_off(monkeypatch, chunks):
    """Makes the run die after so many chunks, as far as one process can: nothing is committed on the way out."""
    count = [0]
    original = running.Phase.run

    def run_chunk(self, *args):
        count[0] += 1
        if count[0] > chunks:
            raise Stop
        return original(self, *args)

    monkeypatch.setattr(running.Phase, "run", run_chunk)


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks that end anywhere: 5 steps, 40, and then one at a time."""
    monkeypatch.setattr(running, "FIRST_CHUNK", 5)
    monkeypatch.setattr(running, "CHUNK_SECONDS", 0.0)


# Children: this file as a program.

LONG = {"num_chains": 2, "num_warmup": 150, "num_samples": 2000, "thinning": 3, "batch_size": 16}
# For thirty kills: so many steps that the last one still hits a run that is going on.
LONGEST = LONG | {"num_samples": 20_000}
SAMPLERS = {"psmile": lambda: sx.psmile(POSTERIOR), "ismile": lambda: sx.ismile(POSTERIOR)}


def child(sampler, path, chunk_seconds):
    running.CHUNK_SECONDS = float(chunk_seconds)
    if sampler == "psmile":
        os.fsync = lambda fd: None
    algorithm = SAMPLERS[sampler]()
    manifest = Path(path, "manifest.json")
    if manifest.exists() and sx.store.read(path).manifest.state is not None:
        result = sx.resume(path, algorithm, (X, Y), progress_bar=False)
    else:
        options = sx.Store(path, interval=0)
        lengths = LONGEST if sampler == "ismile" else LONG
        result = sx.sample(jax.random.key(0), algorithm, (X, Y), START, store=options, progress_bar=False, **lengths)
    print("draws", result.num_draws, result.interrupted)


CHILDREN = []


@pytest.fixture(autouse=True)
def no_orphans():
    """A test that fails leaves no child behind."""
    yield
    while CHILDREN:
        child = CHILDREN.pop()
        child.kill()
        child.communicate()


def start(cache, *args, **environment):
    environment = os.environ | environment | cache | {"PYTHONPATH": str(Path(sx.__file__).parent.parent)}
    # A child that hangs says where, and ends.
    command = [sys.executable, "-X", "faulthandler", __file__, *map(str, args)]
    CHILDREN.append(
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    )
    return CHILDREN[-1]


def wait_until(condition, process, seconds=120.0):
    end = time.monotonic() + seconds
    while not condition() and process.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.002)


def marker(path):
    """Changes with every commit."""
    try:
        return os.stat(path / "manifest.json").st_ino
    except FileNotFoundError:
        return None


@pytest.mark.parametrize(
    ("kills", "sampler"), [(3, "psmile"), pytest.param(30, "ismile", marks=pytest.mark.truth)], ids=["3", "30"]
)
def test_killed_at_random_instants(kills, sampler, tmp_path, cache):
    reference = sx.sample(
        jax.random.key(0), SAMPLERS[sampler](), (X, Y), START, progress_bar=False,
        **(LONGEST if sampler == "ismile" else LONG),
    )  # fmt: skip
    path, rng, last = tmp_path / "run", np.random.default_rng(kills), {}
    positions = set()
    for n in range(kills):
        process = start(cache, sampler, path, 0.0)
        if n % 3 == 0:
            # While importing, checking, or compiling.
            time.sleep(rng.uniform(0, 2.5))
        else:
            seen = marker(path)
            wait_until(lambda seen=seen: marker(path) not in (None, seen), process)
            time.sleep(rng.exponential(0.2))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if marker(path) is None:
            continue
        contents = sx.store.read(path)
        assert contents.manifest.status == "running" or kills < 30
        for group in ("draws", "info", "warmup_info"):
            count = contents.num_draws(group)
            assert count >= last.get(group, 0)
            last[group] = count
        if contents.manifest.state is not None:
            positions.add((contents.state()[1]["phase"], contents.state()[1]["done"]))
        assert sx.store.verify(path) == []
        for name, array in contents.arrays().items():
            np.testing.assert_array_equal(np.asarray(array), reference.draws[name][:, : array.shape[1]])
    out, err = start(cache, sampler, path, 0.5).communicate(timeout=120)
    assert f"draws {reference.num_draws} False" in out, err
    assert len(positions) > kills // 3 and (kills < 30 or last["draws"] > 0)
    loaded = sx.load(path)
    assert_same(loaded, reference, ("draws", "info", "warmup_info"))
    state = sx.store.read(path).state()[0]
    for x, y in zip([state[name] for name in sorted(state)], jax.tree.leaves(reference.state.chains), strict=True):
        np.testing.assert_array_equal(x, y, strict=True)
    manifest = sx.store.read(path).manifest
    assert manifest.status == "finished"
    assert {p.name for p in path.iterdir()} == manifest.files | {"manifest.json", "lock"}


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_run_that_can_be_taken_up(signum, tmp_path, cache):
    path = tmp_path / "run"
    process = start(cache, "psmile", path, 0.0)
    wait_until(lambda: marker(path) is not None and sx.store.read(path).num_draws() > 0, process)
    process.send_signal(signum)
    out, err = process.communicate(timeout=120)
    if signum == signal.SIGINT:
        assert process.returncode == 0 and "True" in out, err
        assert "UserWarning: interrupted" in err
    else:
        assert process.returncode == 1 and out == ""
    assert "sx.resume(" in err and "Traceback" not in err
    loaded = sx.load(path)
    assert loaded.interrupted and f"{loaded.num_draws} draws a chain" in err
    whole = sx.sample(jax.random.key(0), SAMPLERS["psmile"](), (X, Y), START, progress_bar=False, **LONG)
    assert_same(resume(path, SAMPLERS["psmile"]()), whole)


# Taking up and extending.


def test_a_store_changes_nothing(tmp_path):
    assert_same(run(tmp_path / "run", num_warmup=40), unbroken(40))


@pytest.mark.parametrize("chunks", [0, 1, 2, 3, 20, 50])
def test_broken_off_after_some_chunks(chunks, tmp_path, small_chunks, monkeypatch):
    with monkeypatch.context() as patch:
        break_off(patch, chunks)
        with pytest.raises(Stop):
            run(sx.Store(tmp_path / "run", interval=0), num_warmup=40)
    whole = unbroken(40)
    assert_same(resume(tmp_path / "run"), whole)
    assert_same(sx.load(tmp_path / "run"), whole, ("draws", "info", "warmup_info"))


def test_records_of_a_long_warm_up_go_on_inside_a_record(tmp_path, small_chunks, monkeypatch):
    monkeypatch.setattr(running, "WARMUP_RECORDS", 9)
    with monkeypatch.context() as patch:
        break_off(patch, 1)
        with pytest.raises(Stop):
            run(sx.Store(tmp_path / "run", interval=0), num_warmup=76)
    whole = run(num_warmup=76)
    assert whole.warmup_info.accepted.shape == (2, 9)
    assert_same(resume(tmp_path / "run"), whole)


@pytest.mark.parametrize("num_warmup", [0, 40])
def test_a_finished_run_can_be_made_longer(num_warmup, tmp_path, small_chunks):
    run(tmp_path / "run", num_warmup=num_warmup, num_samples=31)
    middle = resume(tmp_path / "run", num_samples=45)
    assert (middle.num_draws, middle.config["num_samples"]) == (6, 45)
    assert_same(resume(tmp_path / "run", num_samples=100), unbroken(num_warmup))


def test_resuming_a_finished_run_gives_it_back(tmp_path):
    whole = run(tmp_path / "run", num_warmup=40)
    again = resume(tmp_path / "run")
    assert_same(again, whole)
    assert not again.interrupted and again.path == tmp_path / "run"


def test_a_run_that_goes_on_from_a_result_can_be_taken_up(tmp_path, small_chunks, monkeypatch):
    first = run(num_samples=70)
    more = {"num_chains": None, "params": first, "num_warmup": 0, "num_samples": 30, "key": 1}
    with monkeypatch.context() as patch:
        break_off(patch, 0)
        with pytest.raises(Stop):
            run(sx.Store(tmp_path / "run", interval=0), **more)
    assert_same(resume(tmp_path / "run"), run(**more))


def test_keys_of_the_old_kind(tmp_path):
    key = jax.random.PRNGKey(3)
    run(tmp_path / "run", key=key, num_samples=30)
    assert_same(resume(tmp_path / "run", num_samples=100), run(key=key))


def test_a_signal_after_the_last_step_leaves_a_finished_run(tmp_path, monkeypatch):
    original = running.Run.execute

    def execute(self, *args):
        result = original(self, *args)
        os.kill(os.getpid(), signal.SIGINT)
        return result

    monkeypatch.setattr(running.Run, "execute", execute)
    result = run(tmp_path / "run")
    assert not result.interrupted and sx.store.read(tmp_path / "run").manifest.status == "finished"


def test_a_signal_before_the_first_step(tmp_path, monkeypatch):
    original = running.Run.init

    def init(self, params):
        os.kill(os.getpid(), signal.SIGINT)
        return original(self, params)

    with monkeypatch.context() as patch:
        patch.setattr(running.Run, "init", init)
        with pytest.warns(UserWarning, match="0 draws a chain are in .*sx.resume"):
            result = run(tmp_path / "run")
    assert result.interrupted and result.num_draws == 0 and result.info is None
    assert_same(resume(tmp_path / "run"), unbroken())


# Refusals.


def test_a_store_that_exists_is_refused(tmp_path):
    run(tmp_path / "run")
    with pytest.raises(sx.store.StoreExists, match="holds a store already"):
        run(tmp_path / "run")


def test_a_run_killed_before_its_first_commit_was_none(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(stores.StoreWriter, "commit", lambda *args, **more: (_ for _ in ()).throw(Stop))
        with pytest.raises(Stop):
            run(tmp_path / "run")
    assert (tmp_path / "run" / "manifest.json").exists()
    with pytest.raises(sx.store.StoreCorrupt, match="no state to go on from"):
        resume(tmp_path / "run")
    assert_same(run(tmp_path / "run"), unbroken())


def test_shorter_than_it_was_to_be(tmp_path):
    run(tmp_path / "run")
    with pytest.raises(ValueError, match="num_samples must be at least 100"):
        resume(tmp_path / "run", num_samples=99)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"algorithm": sx.sgld(POSTERIOR, 2e-3)}, "step_size = 0.002 .the store: 0.001"),
        ({"algorithm": sx.psmile(POSTERIOR)}, "name = 'psmile' .the store: 'sgld'"),
        ({"algorithm": sx.sgld(make_posterior(scale=1.1), 1e-3)}, "log_prior .* the prior differs"),
        ({"algorithm": sx.sgld(make_posterior(noise=0.31), 1e-3)}, "log_likelihood .* likelihood or network differ"),
        ({"algorithm": sx.sgld(make_posterior(num_data=65), 1e-3)}, "num_data 65, the store: 64"),
        ({"data": (X, np.where(np.arange(64) == 63, Y + 1e-3, Y).astype(np.float32))}, "other numbers"),
        ({"data": (X[::-1], Y[::-1])}, "other order of rows"),
        ({"data": (X[:63], Y[:63])}, r"\[63, 3\]"),
        ({"data": (X.astype(np.float64), Y)}, "float64"),
        ({"data": sx.Batches((X, Y), order="epochs")}, "'order': 'epochs'"),
        ({"data": sx.Batches((X, Y), replacement=True)}, "'replacement': True"),
        ({"data": sx.Batches((X, Y), transform=lambda key, batch: batch)}, "'transform': True"),
    ],
    ids=lambda value: value.replace(" ", "-") if isinstance(value, str) else next(iter(value)),
)
def test_what_is_not_the_run_s_is_refused(changes, message, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "to-be-refused"
    if not path.exists():
        run(path)
    with pytest.raises(ValueError, match=message):
        resume(path, **changes)
    assert sx.store.read(path).manifest.status == "finished"


def test_schedules_are_told_apart_by_their_values(tmp_path):
    def algorithm(decay):
        return sx.sgld(POSTERIOR, lambda count: 1e-3 / (1 + decay * count.astype(jnp.float32)))

    run(tmp_path / "run", algorithm=algorithm(0.1), num_samples=50)
    with pytest.raises(ValueError, match="step_size = '<lambda>: 0.001, 0.000333"):
        resume(tmp_path / "run", algorithm(0.2), num_samples=100)
    assert_same(resume(tmp_path / "run", algorithm(0.1), num_samples=100), run(algorithm=algorithm(0.1)))


def test_a_large_data_set_does_not_hide_the_prior(tmp_path):
    def posterior(scale):
        return sx.Posterior(
            lambda m: -0.5 * jnp.sum(m**2) / scale**2 - 2 * jnp.log(scale),
            lambda m, x: -100.0 - 0.5 * jnp.sum((x - m[None]) ** 2, axis=-1),
            num_data=100_000,
        )

    x = np.zeros((100_000, 2), np.float32)
    run(tmp_path / "run", algorithm=sx.sgld(posterior(1.0), 1e-6), data=x, params=np.zeros(2, np.float32))
    with pytest.raises(ValueError, match="the prior differs"):
        resume(tmp_path / "run", sx.sgld(posterior(2.0), 1e-6), x)


def test_the_prior_is_compared_under_a_transform_too(tmp_path):
    data = sx.Batches((X, Y), transform=lambda key, batch: (batch[0] + 1, batch[1]))
    run(tmp_path / "run", data=data, num_samples=20)
    with pytest.raises(ValueError, match="the prior differs"):
        resume(tmp_path / "run", sx.sgld(make_posterior(scale=1.1), 1e-3), data)
    other = sx.Batches((X, Y), transform=lambda key, batch: (batch[0] + 2, batch[1]))
    with pytest.raises(ValueError, match="log_likelihood"):
        resume(tmp_path / "run", data=other)
    assert resume(tmp_path / "run", data=data).num_draws == 2


def test_arrays_take_the_order_of_the_run(tmp_path):
    settings = {"data": sx.Batches((X, Y), order="epochs"), "algorithm": sx.sgld(POSTERIOR, 1e-3)}
    run(tmp_path / "run", num_samples=50, **settings)
    assert_same(resume(tmp_path / "run", num_samples=100), run(**settings))


def test_one_run_at_a_time(tmp_path):
    run(tmp_path / "run")
    with stores.StoreWriter.open(tmp_path / "run"):
        with pytest.raises(sx.store.StoreLocked, match=str(os.getpid())):
            resume(tmp_path / "run")
        assert sx.load(tmp_path / "run").num_draws == 14


def test_extended_by_another_run_just_now(tmp_path, monkeypatch):
    run(tmp_path / "run", num_samples=20)
    original = stores.StoreWriter.open

    def slow(path, **more):
        monkeypatch.setattr(stores.StoreWriter, "open", original)
        resume(path, num_samples=90)
        return original(path, **more)

    monkeypatch.setattr(stores.StoreWriter, "open", slow)
    with pytest.raises(sx.store.StoreLocked, match="another run just now"):
        resume(tmp_path / "run", num_samples=40)
    assert sx.load(tmp_path / "run").config["num_samples"] == 90


def test_a_loaded_result_is_no_start(tmp_path):
    run(tmp_path / "run")
    with pytest.raises(ValueError, match="only loaded: go on from its store with sx.resume"):
        run(params=sx.load(tmp_path / "run"), num_chains=None)


def test_a_store_of_something_else_is_named(tmp_path):
    stores.StoreWriter.create(tmp_path / "run", config={"a": 1}, num_chains=2, versions={}).close()
    with pytest.raises(sx.store.StoreCorrupt, match="not the store of a run.*settings, key"):
        sx.load(tmp_path / "run")


@pytest.mark.parametrize("damage", [{"structure": {"dict": {"w": 0}}}, {"posterior": {}}, {"stored": 3}])
def test_a_manifest_that_contradicts_itself(damage, tmp_path):
    run(tmp_path / "run")
    manifest = tmp_path / "run" / "manifest.json"
    content = json.loads(manifest.read_text())
    content["config"] |= damage
    manifest.write_text(json.dumps(content))
    with pytest.raises(sx.store.StoreCorrupt, match="does not describe a run"):
        sx.load(tmp_path / "run")


# What is kept.


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_rounded_draws_and_an_exact_state(dtype, tmp_path):
    whole = unbroken()
    run(sx.Store(tmp_path / "run", dtype=dtype), num_samples=50)
    result = resume(tmp_path / "run", num_samples=100)
    assert_same(result, whole, ("info", "warmup_info", "state"))
    rounded = jax.tree.map(lambda x: x.astype(sx.store.manifest.to_dtype(dtype)).astype(np.float32), whole.draws)
    for x, y in zip(jax.tree.leaves(result.draws), jax.tree.leaves(rounded), strict=True):
        np.testing.assert_array_equal(np.asarray(x), y, strict=True)


@pytest.mark.parametrize("select", ["w", ["w*", "none"], lambda path: path == "w"], ids=["glob", "globs", "function"])
def test_only_some_leaves(select, tmp_path):
    whole = unbroken()
    run(sx.Store(tmp_path / "run", select=select), num_samples=50)
    result = resume(tmp_path / "run", num_samples=100)
    assert list(result.draws) == ["w"]
    np.testing.assert_array_equal(np.asarray(result.draws["w"]), whole.draws["w"])
    assert_same(result, whole, ("info", "warmup_info", "state"))
    assert sx.load(tmp_path / "run").draws["w"].shape == (2, 14, 3)


def test_none_of_the_leaves(tmp_path):
    with pytest.raises(ValueError, match=r"select keeps none of the parameters \['b', 'w'\]"):
        run(sx.Store(tmp_path / "run", select="weights"))
    assert not (tmp_path / "run").exists()


class Weights(NamedTuple):
    first: jax.Array
    second: jax.Array


NETWORKS = {
    "models": sx.models.mlp(3, 1, hidden=(4,)),
    "nested": sx.Network(
        lambda key: {"a": [Weights(jax.random.normal(key, (3, 4)), jnp.ones((4,)))], "b": jnp.ones((4, 1))},
        lambda p, x: jnp.tanh(x @ p["a"][0].first + p["a"][0].second[None]) @ p["b"],
    ),
    "integers": sx.Network(
        lambda key: {n: jax.random.normal(key, (3, 1)) for n in (1, 2, 10)}, lambda p, x: x @ (p[1] + p[2] - p[10])
    ),
}


def network_posterior(network):
    return sx.bnn(network, sx.likelihoods.Gaussian(), sx.priors.Normal(0.0, 1.0), 64)


def network_run(path, posterior, **more):
    data, params = (X, Y[:, None]), posterior.init(jax.random.key(1))
    settings = {"algorithm": sx.sgld(posterior, 1e-4), "data": data, "params": params, "num_samples": 70} | more
    return run(path, **settings)


@pytest.mark.parametrize("name", NETWORKS)
def test_predictions_from_a_store(name, tmp_path):
    posterior = network_posterior(NETWORKS[name])
    memory = network_run(None, posterior)
    stored = network_run(tmp_path / "run", posterior, num_samples=35)
    longer = resume(tmp_path / "run", sx.sgld(posterior, 1e-4), (X, Y[:, None]), num_samples=70)
    assert_same(longer, memory)
    # What sample and resume give back has the containers of the parameters, what load gives back plain ones.
    for result in (stored, longer):
        assert jax.tree.structure(result.draws) == jax.tree.structure(memory.draws)
    expected = sx.predict(posterior, memory, X).mean
    for result in (longer, sx.load(tmp_path / "run")):
        np.testing.assert_array_equal(sx.predict(posterior, result, X).mean, expected)


def test_predictions_need_all_leaves(tmp_path):
    posterior = network_posterior(NETWORKS["models"])
    network_run(sx.Store(tmp_path / "run", select="network/layers/1/*"), posterior)
    with pytest.raises(ValueError, match="only some leaves.*likelihood/log_scale, network/layers/0/weight"):
        sx.predict(posterior, sx.load(tmp_path / "run"), X)


def tuple_posterior():
    return sx.Posterior(
        lambda p: -0.5 * (jnp.sum(p.first**2) + jnp.sum(p.second**2)),
        lambda p, batch: -0.5 * (batch[1] - batch[0] @ p.first - p.second) ** 2,
        64,
    )


def test_containers_that_only_the_user_can_make(tmp_path):
    start = Weights(np.zeros(3, np.float32), np.zeros((), np.float32))
    algorithm = sx.sgld(tuple_posterior(), 1e-3)
    run(tmp_path / "run", algorithm=algorithm, params=start, num_samples=50)
    assert list(sx.load(tmp_path / "run").draws) == ["first", "second"]
    with pytest.raises(ValueError, match="give params"):
        resume(tmp_path / "run", algorithm, num_samples=100)
    with pytest.raises(ValueError, match=r"params has leaves \['b', 'w'\], but those of the store are \['first'"):
        resume(tmp_path / "run", algorithm, num_samples=100, params=START)
    result = resume(tmp_path / "run", algorithm, num_samples=100, params=start)
    assert isinstance(result.draws, Weights)
    assert_same(result, run(algorithm=algorithm, params=start))


def simple(unpack):
    """A posterior of two numbers wherever they are."""
    return sx.Posterior(
        lambda p: -0.5 * jnp.sum(unpack(p) ** 2), lambda p, x: -0.5 * jnp.sum((x - unpack(p)[None]) ** 2, -1), 64
    )


@pytest.mark.parametrize(
    ("params", "unpack", "names"),
    [
        (np.zeros(2, np.float32), lambda p: p, ["params"]),
        ({"": np.zeros(2, np.float32)}, lambda p: p[""], ["params"]),
        ({"a/b": np.zeros(2, np.float32), "a": {"c": np.zeros(2, np.float32)}}, lambda p: p["a/b"] + p["a"]["c"],
         ["a/c", "a/b"]),
        ({"": {"": np.zeros(2, np.float32)}}, lambda p: p[""][""], ["/"]),
        ((np.zeros(2, np.float32), None, []), lambda p: p[0], ["0"]),
        ({"ä ' \\": np.zeros(2, np.float32)}, lambda p: p["ä ' \\"], ["ä ' \\"]),
    ],
    ids=["array", "empty", "slash", "empties", "tuple", "signs"],
)  # fmt: skip
def test_names_of_leaves(params, unpack, names, tmp_path):
    algorithm, data = sx.sgld(simple(unpack), 1e-3), np.ones((64, 2), np.float32)
    stored = run(tmp_path / "run", algorithm=algorithm, data=data, params=params)
    loaded = sx.load(tmp_path / "run")
    assert list(sx.store.read(tmp_path / "run").arrays()) == names
    assert jax.tree.structure(loaded.draws) == jax.tree.structure(stored.draws) == jax.tree.structure(params)
    assert_same(resume(tmp_path / "run", algorithm, data), stored)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"a/b": np.zeros(2, np.float32), "a": {"b": np.zeros(2, np.float32)}}, "the same path: .'a/b', 'a/b'"),
        ({"__metadata__": np.zeros(2, np.float32)}, "__metadata__"),
    ],
)
def test_names_that_cannot_be(params, message, tmp_path):
    posterior = simple(lambda p: jax.tree.leaves(p)[0])
    with pytest.raises(ValueError, match=message):
        data = np.ones((64, 2), np.float32)
        run(tmp_path / "run", algorithm=sx.sgld(posterior, 1e-3), data=data, params=params)
    assert not (tmp_path / "run").exists()


# One file.


def test_draws_in_one_file(tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "PIECE_BYTES", 100)
    run(sx.Store(tmp_path / "run", dtype="bfloat16"))
    for name, result in (("memory", unbroken()), ("store", sx.load(tmp_path / "run"))):
        file = tmp_path / f"{name}.safetensors"
        sx.save_draws(file, result)
        found = safetensors.numpy.load_file(file)
        assert list(found) == list(result.draws)
        for leaf, wanted in result.draws.items():
            np.testing.assert_array_equal(found[leaf], np.asarray(wanted), strict=True)
    with pytest.raises(TypeError, match="result must be what sample, resume or load returned, got dict"):
        sx.save_draws(tmp_path / "other", {})
    with pytest.raises(FileNotFoundError):
        sx.save_draws(tmp_path / "none" / "file", result)


# Reading while it is written, and memory.


def test_a_growing_number_of_draws(tmp_path, small_chunks):
    seen, done = [], threading.Event()

    def look():
        while not done.is_set():
            try:
                draws = sx.load(tmp_path / "run").draws["w"]
                np.asarray(draws)
                seen.append(draws.shape[1])
            except sx.store.StoreMissing:
                pass
            time.sleep(0.005)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        thread = threading.Thread(target=look)
        thread.start()
        try:
            run(sx.Store(tmp_path / "run", interval=0), num_samples=200, thinning=1)
        finally:
            done.set()
            thread.join()
    assert seen == sorted(seen) and len(set(seen)) > 5 and seen[-1] <= 200


def test_nothing_keeps_the_draws(tmp_path, small_chunks, monkeypatch):
    blocks, most = [], [0]

    class Watched(np.ndarray):
        pass

    def alive():
        return sum(block() is not None for block in blocks)

    original = recording.StoreRecorder.add

    def add(self, group, block):
        if group == "draws":
            block = jax.tree.map(lambda x: x.view(Watched), block)
            blocks.extend(map(weakref.ref, jax.tree.leaves(block)))
            most[0] = max(most[0], alive())
        original(self, group, block)

    monkeypatch.setattr(recording.StoreRecorder, "add", add)
    monkeypatch.setattr(stores.StoreWriter, "due", lambda self: True)
    run(tmp_path / "run", num_samples=200, thinning=1)
    # Of 160 blocks: what is being handed over, what waits in the queue and what is being written.
    assert most[0] <= 8
    gc.collect()
    assert not alive()


def test_memory_is_not_that_of_the_draws(tmp_path, monkeypatch):
    posterior = sx.Posterior(
        lambda m: -0.5 * jnp.sum(m**2), lambda m, x: -0.5 * jnp.sum((x - m[None, :2]) ** 2, axis=-1), num_data=64
    )
    monkeypatch.setattr(running, "SLOT_BYTES", 2**21)
    # Mappings of their own would escape tracemalloc.
    monkeypatch.setattr(buffers, "LEAST_BYTES", 2**62)
    monkeypatch.setattr(stores.commits, "SHARD_BYTES", 2**22)
    monkeypatch.setattr(stores.writer, "SHARD_BYTES", 2**22)
    settings = {"algorithm": sx.sgld(posterior, 1e-5), "data": np.ones((64, 2), np.float32), "thinning": 1}
    tracemalloc.start()
    result = run(tmp_path / "run", params=np.zeros(2**17, np.float32), num_samples=120, **settings)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # Three blocks of 4 MB, what a chunk makes, and copies on the way; the draws are 126 MB.
    assert peak < 0.4 * result.draws.nbytes


# Faults.


@pytest.mark.parametrize(("code", "kind"), [(errno.ENOSPC, "StoreFull"), (errno.EIO, "StoreUnwritable")])
@pytest.mark.parametrize("after", [0, 9])
def test_the_disk_fails(code, kind, after, tmp_path, small_chunks, monkeypatch):
    count, original = [0], files._write

    def write(fd, pieces):
        count[0] += 1
        # The first manifest, then two or more files for each commit.
        if count[0] > 3 * after + 3:
            raise OSError(code, os.strerror(code))
        original(fd, pieces)

    with monkeypatch.context() as patch:
        patch.setattr(files, "_write", write)
        with pytest.raises(getattr(sx.store, kind), match="committed before stay readable"):
            run(sx.Store(tmp_path / "run", interval=0))
    whole, partial = unbroken(), sx.load(tmp_path / "run")
    assert partial.num_draws > 0 or not after
    np.testing.assert_array_equal(np.asarray(partial.draws["w"]), whole.draws["w"][:, : partial.num_draws])
    assert_same(resume(tmp_path / "run"), whole)


def test_the_disk_is_full_before_the_first_commit(tmp_path, monkeypatch):
    count, original = [0], files._write

    def write(fd, pieces):
        count[0] += 1
        if count[0] > 1:
            raise OSError(errno.ENOSPC, "")
        original(fd, pieces)

    with monkeypatch.context() as patch:
        patch.setattr(files, "_write", write)
        with pytest.raises(sx.store.StoreFull):
            run(tmp_path / "run")
    assert_same(run(tmp_path / "run"), unbroken())


def test_numbers_that_do_not_fit_end_the_run_by_name(tmp_path):
    algorithm = sx.sgld(simple(lambda p: p - 1e5), 1e-5)
    data, params = np.zeros((64, 2), np.float32), np.full(2, 1e5, np.float32)
    with pytest.raises(ValueError, match="does not fit into float16"):
        run(sx.Store(tmp_path / "run", dtype="float16"), algorithm=algorithm, data=data, params=params)
    assert sx.load(tmp_path / "run").num_draws == 0


def test_closing_that_was_interrupted_keeps_the_lock(tmp_path, monkeypatch):
    writer = stores.StoreWriter.create(tmp_path / "run", config={}, num_chains=1, versions={})
    with monkeypatch.context() as patch:
        patch.setattr(writer._thread, "join", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            writer.close()
    with pytest.raises(sx.store.StoreLocked):
        stores.StoreWriter.open(tmp_path / "run")
    writer.close()
    stores.StoreWriter.open(tmp_path / "run").close()


# Diagnosis.


def test_diagnosis_of_stored_results(tmp_path):
    posterior, data = network_posterior(NETWORKS["models"]), (X, Y[:, None])
    memory, stored = network_run(None, posterior), network_run(tmp_path / "run", posterior)
    loaded, algorithm = sx.load(tmp_path / "run"), sx.sgld(posterior, 1e-4)
    for args in ((), (algorithm, data)):
        for result in (stored, loaded):
            mine, expected = sx.diagnose(result, *args), sx.diagnose(memory, *args)
            for name in ("split R-hat", "bulk ESS", "lost chains", "rejects"):
                assert mine[name].text == expected[name].text


def test_diagnosis_of_the_noise_needs_the_state(tmp_path):
    algorithm = sx.psmile(POSTERIOR)
    memory, stored = run(algorithm=algorithm), run(tmp_path / "run", algorithm=algorithm)
    row = sx.diagnose(sx.load(tmp_path / "run"), algorithm, (X, Y))["noise isotropy"]
    assert row.verdict == "n/a" and "state" in row.text
    expected = sx.diagnose(memory, algorithm, (X, Y))["noise isotropy"]
    for result in (stored, resume(tmp_path / "run", algorithm)):
        assert sx.diagnose(result, algorithm, (X, Y))["noise isotropy"].text == expected.text


def test_diagnosis_of_some_leaves(tmp_path):
    posterior, data = network_posterior(NETWORKS["models"]), (X, Y[:, None])
    algorithm = sx.psmile(posterior)
    result = network_run(sx.Store(tmp_path / "run", select="likelihood/*"), posterior, algorithm=algorithm)
    for each in (result, sx.load(tmp_path / "run")):
        diagnosis = sx.diagnose(each, algorithm, data)
        assert "parameters" in diagnosis["split R-hat"].text
        assert diagnosis["noise isotropy"].verdict == "n/a" or each is result


# Documentation.


@pytest.mark.truth
def test_the_example_of_the_documentation_runs():
    page = (Path(__file__).resolve().parent.parent / "docs" / "storage.md").read_text()
    (block,) = re.findall(r"^```python\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE)
    scope = {"__name__": "storage"}
    exec(block, scope)
    assert scope["prediction"].mean.shape[0] == 5
    shutil.rmtree(scope["folder"])


# Precision.


def double(path):
    """In a process with float64: dtypes in the threads of the run and on disk, and taking up."""
    wide = make_posterior()
    data, params = (X.astype(np.float64), Y.astype(np.float64)), jax.tree.map(np.float64, START)
    settings = {"algorithm": sx.psmile(wide), "data": data, "params": params, "num_chains": 4}
    whole = run(num_samples=70, **settings)
    run(path, num_samples=35, **settings)
    result = resume(path, sx.psmile(wide), data, num_samples=70)
    assert_same(result, whole)
    assert {leaf.dtype for leaf in jax.tree.leaves((result.draws, result.info))} == {np.dtype("float64")}


def test_float64(tmp_path, cache):
    path = tmp_path / "run"
    process = start(cache, "float64", path, JAX_ENABLE_X64="1")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    draws = sx.load(path).draws["w"]
    assert draws.dtype == np.float64 and np.asarray(draws).dtype == np.float64
    with pytest.raises(ValueError, match="JAX_ENABLE_X64=1"):
        resume(path, sx.psmile(make_posterior()))


def test_float64_in_a_context(tmp_path):
    # The context is that of one thread, and the chains are driven by others.
    data, params = (X.astype(np.float64), Y.astype(np.float64)), jax.tree.map(np.float64, START)
    settings = {"data": data, "params": params, "num_chains": 4}
    with jax.enable_x64(True):
        result = run(tmp_path / "run", **settings)
        assert_same(result, run(**settings))
    assert {leaf.dtype for leaf in jax.tree.leaves((result.draws, result.info))} == {np.dtype("float64")}


if __name__ == "__main__":
    faulthandler.dump_traceback_later(100, exit=True)
    double(sys.argv[2]) if sys.argv[1] == "float64" else child(*sys.argv[1:])


def test_wide_priors_are_told_apart(tmp_path):
    # In nats both are as good as constant.
    def algorithm(scale):
        log_prior = lambda m: -0.5 * jnp.sum(m**2) / scale**2  # noqa: E731
        return sx.sgld(sx.Posterior(log_prior, lambda m, x: -0.5 * jnp.sum((x - m[None]) ** 2, axis=-1), 20), 1e-3)

    x = np.zeros((20, 2), np.float32)
    run(tmp_path / "run", algorithm=algorithm(100.0), data=x, params=np.zeros(2, np.float32))
    with pytest.raises(ValueError, match="the prior differs"):
        resume(tmp_path / "run", algorithm(1000.0), x)
    resume(tmp_path / "run", algorithm(100.0), x)


def damage(path, group):
    """Turns a bit of the last byte of a group's first shard."""
    shard = sorted(path.glob(f"{group}-*.safetensors"))[0]
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(bytes(content))


@pytest.mark.parametrize("group", ["info", "warmup_info"])
def test_damaged_reports_leave_the_draws(tmp_path, group):
    whole = run(tmp_path / "run", num_warmup=20, num_samples=50)
    damage(tmp_path / "run", group)
    with pytest.warns(UserWarning, match=f"no reports of the steps, draws are not touched by that: .* group '{group}'"):
        loaded = sx.load(tmp_path / "run")
    assert getattr(loaded, group) is None
    assert_same(loaded, whole, ("draws",))
    with pytest.warns(UserWarning, match="no reports of the steps"):
        longer = resume(tmp_path / "run", num_samples=100)
    assert_same(longer, run(num_warmup=20), ("draws",))


class Inner(NamedTuple):
    norm: jax.Array


class Reports(NamedTuple):
    accepted: jax.Array
    extra: Inner


def test_reports_within_reports(tmp_path):
    def step(key, state, batch):
        state, info = ALGORITHM.step(key, state, batch)
        return state, Reports(info.accepted, Inner(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(state.params))))

    nested = sx.SamplingAlgorithm(
        ALGORITHM.init, lambda key, state, batch, fraction: step(key, state, batch), step, {"name": "nested"}, POSTERIOR
    )
    result = run(tmp_path / "run", algorithm=nested)
    squares = np.sum(np.asarray(result.draws["w"]) ** 2, axis=-1) + np.asarray(result.draws["b"]) ** 2
    np.testing.assert_allclose(result.info.extra["norm"], squares, rtol=1e-5)
    np.testing.assert_array_equal(sx.load(tmp_path / "run").info.extra["norm"], result.info.extra["norm"])


def test_a_store_is_found_from_another_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run("run", num_samples=50)
    loaded = sx.load("run")
    monkeypatch.chdir("/")
    assert_same(result, run(num_samples=50), ("draws",))
    assert_same(loaded, result, ("draws",))
    assert result.path == tmp_path / "run"


def test_a_result_from_a_store_can_be_pickled(tmp_path):
    result = run(tmp_path / "run", num_samples=50)
    copy = pickle.loads(pickle.dumps(result.info))
    assert copy._fields == result.info._fields
    np.testing.assert_array_equal(copy.log_density, result.info.log_density)


def failing_source(after):
    """Batches of the data, over and over, until a disk fails."""
    given = itertools.count()

    def epoch(number):
        for start in range(0, 64, 16):
            if next(given) >= after:
                raise OSError("the disk is gone")
            yield X[start : start + 16], Y[start : start + 16]

    return sx.Stream(epoch, num_rows=64)


def test_what_was_drawn_before_an_exception_is_not_lost(tmp_path, monkeypatch):
    # Blocks of ten steps, so that some are taken before the source fails.
    monkeypatch.setattr(feeds, "MOST_STEPS", 10)
    monkeypatch.setattr(running, "CHUNK_SECONDS", 1e9)
    with pytest.raises(OSError, match="the disk is gone") as caught:
        run(data=failing_source(60))
    kept = caught.value.result
    assert 0 < kept.num_draws < 14 and kept.interrupted
    assert f"{kept.num_draws} draws a chain were made before" in caught.value.__notes__[0]
    expected = run(data=failing_source(10**6))
    for mine, other in zip(jax.tree.leaves(kept.draws), jax.tree.leaves(expected.draws), strict=True):
        np.testing.assert_array_equal(mine, other[:, : kept.num_draws])
    with pytest.raises(OSError, match="the disk is gone"):
        run(sx.Store(tmp_path / "run", interval=1e9), data=failing_source(60))
    stored = sx.load(tmp_path / "run")
    assert stored.num_draws == kept.num_draws and stored.interrupted
    assert_same(sx.resume(tmp_path / "run", ALGORITHM, failing_source(10**6), progress_bar=False), expected, ("draws",))
