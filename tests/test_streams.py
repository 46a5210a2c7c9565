"""Batches from the host: the draws of rows on the device, read ahead, and taken up again where they were."""

import functools
import threading
import time
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import smilax as sx
from smilax import feeds, running
from smilax.streams import Reader

pytestmark = pytest.mark.once

RNG = np.random.default_rng(0)
N, D, B = 96, 3, 16
X = RNG.normal(size=(N, D)).astype(np.float32)
Y = (X @ np.array([1.0, -0.5, 0.3]) + 0.3 * RNG.normal(size=N)).astype(np.float32)
POSTERIOR = sx.Posterior(
    lambda w: -0.5 * jnp.sum(w**2), lambda w, batch: -0.5 * ((batch[1] - batch[0] @ w) / 0.3) ** 2, num_data=N
)
ALGORITHM = sx.sgld(POSTERIOR, 1e-4)
SETTINGS = {"num_chains": 3, "num_warmup": 20, "num_samples": 60, "thinning": 7, "progress_bar": False}


def run(data, algorithm=ALGORITHM, **changes):
    settings = {"batch_size": B} | SETTINGS | changes
    return sx.sample(jax.random.key(0), algorithm, data, jnp.zeros(D, jnp.float32), **settings)


def epochs(number):
    """Batches of an epoch, a function of its number alone."""
    for rows in np.array_split(np.random.default_rng(number).permutation(N), N // B):
        yield X[rows], Y[rows]


class Loader:
    """An iterable that keeps its place, as torchdata's StatefulDataLoader does."""

    def __init__(self):
        self.epoch, self.done = 0, 0

    def __iter__(self):
        while self.done < N // B:
            batch = list(epochs(self.epoch))[self.done]
            self.done += 1
            yield batch
        self.epoch, self.done = self.epoch + 1, 0

    def state_dict(self):
        return {"epoch": self.epoch, "done": self.done}

    def load_state_dict(self, state):
        self.epoch, self.done = state["epoch"], state["done"]


@pytest.mark.parametrize(("order", "method"), [("independent", "vectorized"), ("epochs", "sequential")])
def test_rows_on_disk_give_the_draws_of_rows_on_the_device(tmp_path, monkeypatch, order, method):
    monkeypatch.setattr(feeds, "MOST_STEPS", 11)
    paths = []
    for name, array in (("x", X), ("y", Y)):
        np.save(tmp_path / f"{name}.npy", array)
        paths.append(np.load(tmp_path / f"{name}.npy", mmap_mode="r"))
    mapped = sx.Batches(tuple(paths), order=order)
    assert mapped.streamed
    assert not sx.Batches((X, Y)).streamed
    reference = run(sx.Batches((X, Y), order=order), chain_method=method)
    np.testing.assert_array_equal(run(mapped, chain_method=method).draws, reference.draws)


def test_a_transform_is_applied_to_rows_from_the_host_too():
    def transform(key, batch):
        return batch[0] + 0.1 * jax.random.normal(key, batch[0].shape, batch[0].dtype), batch[1]

    plain, streamed = (run(sx.Batches((X, Y), transform=transform, on_host=on_host)) for on_host in (False, True))
    np.testing.assert_array_equal(streamed.draws, plain.draws)


def test_every_chain_sees_the_batches_of_the_stream_in_order(monkeypatch):
    monkeypatch.setattr(feeds, "MOST_STEPS", 7)
    seen = [batch for number in range(2) for batch in epochs(number)]

    def step(state, batch):
        return ALGORITHM.step(jax.random.key(0), state, batch)[0]

    state = ALGORITHM.init(jax.random.key(1), jnp.zeros(D, jnp.float32))
    recorded = sx.SamplingAlgorithm(
        init=lambda key, params: state,
        warmup=lambda key, state, batch, fraction: ALGORITHM.warmup(key, state, batch, fraction),
        step=lambda key, state, batch: (step(state, batch), ALGORITHM.step(key, state, batch)[1]),
        config=ALGORITHM.config,
        posterior=POSTERIOR,
    )
    result = run(sx.Stream(epochs, N), recorded, num_warmup=0, num_samples=2 * N // B, thinning=1)
    for i, batch in enumerate(seen):
        state = jax.jit(step)(state, jax.tree.map(jnp.asarray, batch))
        np.testing.assert_allclose(result.draws[:, i], np.tile(state.params, (3, 1)), rtol=1e-5, atol=1e-6)


def test_all_kinds_of_sources_and_sizes_of_pieces_give_the_same_batches():
    def odd(number):
        """The same rows in pieces of seven, the last one short."""
        order = np.random.default_rng(number).permutation(N)
        for start in range(0, N, 7):
            yield X[order[start : start + 7]], Y[order[start : start + 7]]

    reference = run(sx.Stream(epochs, N)).draws
    lists = [batch for number in range(20) for batch in epochs(number)]

    def partial(epoch, seed=0):
        return epochs(epoch + seed)

    for source in (
        odd, Loader(), lists, lambda: iter(lists), lambda: lists, lambda epoch: list(epochs(epoch)),
        partial, functools.partial(partial, seed=0), lambda epoch=7: epochs(epoch), lambda unused=3: lists,
    ):  # fmt: skip
        np.testing.assert_array_equal(run(sx.Stream(source, N)).draws, reference)


@pytest.mark.parametrize("make", [lambda: epochs, Loader], ids=["function of the epoch", "state_dict"])
def test_a_resumed_run_sees_the_batches_of_an_unbroken_one(tmp_path, monkeypatch, make):
    monkeypatch.setattr(feeds, "MOST_STEPS", 5)
    reference = run(sx.Stream(epochs, N), num_samples=120)
    run(sx.Stream(make(), N), store=tmp_path / "run")
    longer = sx.resume(tmp_path / "run", ALGORITHM, sx.Stream(make(), N), num_samples=120, progress_bar=False)
    np.testing.assert_array_equal(np.asarray(longer.draws), reference.draws)


def test_a_source_that_cannot_go_back_says_so(tmp_path):
    lists = list(epochs(0))
    run(sx.Stream(lists, N), store=tmp_path / "run")
    with pytest.warns(UserWarning, match="begins anew"):
        longer = sx.resume(tmp_path / "run", ALGORITHM, sx.Stream(lists, N), num_samples=120, progress_bar=False)
    assert longer.num_draws == 120 // 7
    assert np.isfinite(np.asarray(longer.draws)).all()


def test_a_place_within_a_piece_is_found_again():
    def pieces(number):
        yield from np.split(np.arange(30) + 100 * number, 3)

    stream = sx.Stream(pieces, 30)
    reader = Reader(stream, 4)
    for _ in range(11):
        again = Reader(stream, 4, reader.place())
        np.testing.assert_array_equal(reader.next(), again.next())
        np.testing.assert_array_equal(Reader(stream, 4, again.place()).next(), Reader(stream, 4, reader.place()).next())


def test_reading_goes_on_while_the_device_works(monkeypatch):
    monkeypatch.setattr(feeds, "MOST_STEPS", 4)
    threads, taken = set(), []

    def slow(number):
        for batch in epochs(number):
            threads.add(threading.current_thread().name)
            time.sleep(0.002)
            taken.append(1)
            yield batch

    run(sx.Stream(slow, N), num_samples=40, thinning=1)
    assert "smilax data" in threads
    # No further ahead than a few blocks, however long the run: memory is bounded.
    assert len(taken) <= 60 + 4 * 4 + N // B
    # Nothing is left behind.
    assert not [t for t in threading.enumerate() if t.name == "smilax data"]


def test_an_error_in_the_source_is_the_error_of_the_run():
    def broken(number):
        if number:
            raise OSError("the disk is gone")
        yield from epochs(0)

    with pytest.raises(OSError, match="the disk is gone"):
        run(sx.Stream(broken, N))
    with pytest.raises(ValueError, match="yields no batch"):
        run(sx.Stream([], N), batch_size=None)
    with pytest.raises(TypeError, match="iterated only once"):
        sx.Stream(iter([X]), N)
    with pytest.raises(ValueError, match="common leading axis"):
        run(sx.Stream([(X, Y[:3])], N))


def test_what_needs_independent_batches_or_arrays_says_so():
    with pytest.raises(ValueError, match="independent from step to step"):
        run(sx.Stream(epochs, N), sx.ismile(POSTERIOR))
    with pytest.raises(ValueError, match="posterior.num_data = 96"):
        run(sx.Stream(epochs, N + 1))
    with pytest.raises(TypeError, match=r"sx\.Stream"):
        sx.diagnose(run(sx.Stream(epochs, N)), ALGORITHM, sx.Stream(epochs, N))
    bad = np.where(np.arange(N)[:, None] == 0, np.nan, X)
    with pytest.raises(ValueError, match="data"):
        run(sx.Batches((bad, Y), on_host=True))


def test_independent_streams_serve_ismile():
    def endless():
        rng = np.random.default_rng(0)
        while True:
            rows = rng.integers(0, N, B)
            yield X[rows], Y[rows]

    stream = sx.Stream(endless, N, order="independent", replacement=True)
    result = run(stream, sx.ismile(POSTERIOR, replacement=True), num_warmup=2000, num_samples=4000, thinning=1)
    covariance = np.linalg.inv(X.T @ X / 0.09 + np.eye(D))
    np.testing.assert_allclose(
        result.draws.reshape(-1, D).astype(np.float64).var(0) / np.diag(covariance), 1, atol=0.25
    )


def test_one_program_serves_all_blocks(monkeypatch):
    monkeypatch.setattr(feeds, "MOST_STEPS", 4)
    monkeypatch.setattr(running, "CHUNK_SECONDS", 0.0)
    compiled = []
    original = jax.stages.Lowered.compile
    monkeypatch.setattr(jax.stages.Lowered, "compile", lambda *a, **k: compiled.append(1) or original(*a, **k))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        posterior = sx.Posterior(POSTERIOR.log_prior, POSTERIOR.log_likelihood, num_data=N)
        run(sx.Stream(epochs, N), sx.sgld(posterior, 1e-4))
    # The density at the start, the sampler's init, warm-up and sampling.
    assert len(compiled) == 4


def test_a_source_of_several_arguments_is_refused():
    with pytest.raises(TypeError, match="a function of the epoch's number or of nothing, got epoch, rows"):
        sx.Stream(lambda epoch, rows: epochs(epoch), N)


def test_data_frames_on_the_host_give_the_draws_of_arrays():
    pd = pytest.importorskip("pandas")
    index = np.random.default_rng(1).permutation(N)
    frame, series = pd.DataFrame(X, columns=list("abc"), index=index), pd.Series(Y, index=index)
    found = run(sx.Batches((frame, series), on_host=True)).draws
    np.testing.assert_array_equal(found, run((X, Y)).draws)


@pytest.mark.parametrize("source", [lambda: epochs, Loader], ids=["function", "loader"])
def test_going_on_from_a_result_goes_on_in_the_stream(source, tmp_path, monkeypatch):
    monkeypatch.setattr(feeds, "MOST_STEPS", 4)
    stream = functools.partial(sx.Stream, num_rows=N, order="epochs")
    settings = {"batch_size": B, "num_chains": 2, "num_warmup": 0, "progress_bar": False}
    whole = run(stream(source()), **settings | {"num_samples": 30, "thinning": 1})
    own = stream(source())
    parts = [run(own, **settings | {"num_samples": 7, "thinning": 1})]
    for number in (8, 15):
        parts.append(
            sx.sample(
                jax.random.key(0),
                ALGORITHM,
                own,
                parts[-1],
                num_warmup=0,
                num_samples=number,
                thinning=1,
                batch_size=B,
                progress_bar=False,
                store=None if number == 8 else tmp_path / "run",
            )  # fmt: skip
        )
    np.testing.assert_array_equal(parts[0].join(*parts[1:]).draws, whole.draws)


def test_going_on_in_a_source_without_a_place_warns():
    batches = list(epochs(0))
    stream = sx.Stream(batches, N, order="epochs")
    first = run(stream)
    with pytest.warns(UserWarning, match="it begins anew"):
        sx.sample(
            jax.random.key(0), ALGORITHM, stream, first, num_warmup=0, num_samples=7, thinning=7, batch_size=B,
            progress_bar=False,
        )  # fmt: skip


class Counted:
    """A source that counts the batches taken from it, each of which takes a while."""

    def __init__(self, seconds=0.0):
        self.taken, self.seconds = 0, seconds

    def __iter__(self):
        for batch in epochs(0):
            self.taken += 1
            time.sleep(self.seconds)
            yield batch


def test_no_more_is_read_than_the_run_needs():
    source = Counted()
    run(sx.Stream(source, num_rows=N))
    # One a step, and one to look at for each of several checks.
    steps = SETTINGS["num_warmup"] + SETTINGS["num_samples"] // 7 * 7
    assert steps <= source.taken <= steps + 4
    assert not [thread for thread in threading.enumerate() if thread.name == "smilax data"]


def test_a_slow_source_does_not_keep_the_first_step_waiting(monkeypatch):
    monkeypatch.setattr(feeds, "BLOCK_SECONDS", 0.1)
    lengths = []
    original = feeds.Block

    def block(data, stop, place, first):
        lengths.append(stop - first)
        return original(data, stop, place, first)

    monkeypatch.setattr(feeds, "Block", block)
    slow = run(sx.Stream(Counted(0.05), num_rows=N))
    assert set(lengths) == {feeds.LEAST_STEPS}
    np.testing.assert_array_equal(slow.draws, run(sx.Stream(Counted(), num_rows=N)).draws)


def test_a_batch_that_is_not_finite_is_named():
    def source(epoch):
        for number, (x, y) in enumerate(epochs(epoch)):
            yield np.where(number == 4, np.nan, x).astype(np.float32), y

    with pytest.raises(ValueError, match=r"the stream's batch for step 4, data\[0\] must be finite"):
        run(sx.Stream(source, num_rows=N))


def test_wide_integers_on_the_host_are_looked_at_where_they_are_read(tmp_path):
    codes = np.lib.format.open_memmap(tmp_path / "codes.npy", "w+", np.int64, (N,))
    codes[:] = np.arange(N) % 3
    posterior = sx.Posterior(lambda w: -0.5 * jnp.sum(w**2), lambda w, code: -0.5 * (1.0 - w[code]) ** 2, num_data=N)
    options = {"algorithm": sx.sgld(posterior, 1e-4)}
    fine = run(codes, **options)
    np.testing.assert_array_equal(fine.draws, run(np.asarray(codes), **options).draws)
    codes[40] = 2**33
    with pytest.raises(ValueError, match="must fit int32"):
        run(codes, **options)
