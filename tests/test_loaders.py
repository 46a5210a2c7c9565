"""Batches from PyTorch and TensorFlow themselves, where they are installed; tests/test_streams.py has look-alikes."""

import importlib
import json
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import smilax as sx
from smilax import feeds, places

pytestmark = [
    pytest.mark.once,
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated"),
]

RNG = np.random.default_rng(0)
N, D, B = 50, 3, 16
X = RNG.normal(size=(N, D)).astype(np.float32)
Y = (X @ np.array([1.0, -0.5, 0.3]) + 0.3 * RNG.normal(size=N)).astype(np.float32)
POSTERIOR = sx.Posterior(
    lambda w: -0.5 * jnp.sum(w**2), lambda w, batch: -0.5 * ((batch[1] - batch[0] @ w) / 0.3) ** 2, num_data=N
)
ALGORITHM = sx.sgld(POSTERIOR, 1e-3)


def need(name):
    """The library, or the test is skipped; what it warns of while it is imported is its own affair."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip(name.partition(".")[0])
        return importlib.import_module(name)


def run(source, num_samples=40, **changes):
    return sx.sample(
        jax.random.key(0), ALGORITHM, sx.Stream(source, N), jnp.zeros(D, jnp.float32), num_chains=2, num_warmup=7,
        num_samples=num_samples, thinning=3, batch_size=B, progress_bar=False, **changes,
    )  # fmt: skip


def in_order():
    for start in range(0, N, 10):
        yield X[start : start + 10], Y[start : start + 10]


def tensors(torch):
    return torch.utils.data.TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))


def test_a_data_loader_of_pytorch(tmp_path):
    torch = need("torch")
    data = tensors(torch)
    loader = torch.utils.data.DataLoader(data, batch_size=10)
    np.testing.assert_array_equal(run(loader).draws, run(in_order).draws)
    shuffled = torch.utils.data.DataLoader(data, batch_size=10, shuffle=True)
    run(shuffled, 20, store=tmp_path / "run")
    with pytest.warns(UserWarning, match="begins anew"):
        longer = sx.resume(tmp_path / "run", ALGORITHM, sx.Stream(shuffled, N), num_samples=40, progress_bar=False)
    assert np.isfinite(np.asarray(longer.draws)).all()


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.truth)])
def test_a_stateful_data_loader_goes_on_where_it_was(tmp_path, monkeypatch, workers):
    torch, stateful = need("torch"), need("torchdata.stateful_dataloader")
    samplers = need("torchdata.stateful_dataloader.sampler")
    monkeypatch.setattr(feeds, "MOST_STEPS", 5)
    data = tensors(torch)

    def loader():
        # With a generator of its own: DataLoader draws other numbers too from the one that it is given.
        sampler = samplers.RandomSampler(data, generator=torch.Generator().manual_seed(1))
        context = {"multiprocessing_context": "spawn"} if workers else {}
        return stateful.StatefulDataLoader(data, batch_size=10, sampler=sampler, num_workers=workers, **context)

    whole = run(loader())
    run(loader(), 20, store=tmp_path / "run")
    longer = sx.resume(tmp_path / "run", ALGORITHM, sx.Stream(loader(), N), num_samples=40, progress_bar=False)
    np.testing.assert_array_equal(np.asarray(longer.draws), whole.draws)


def test_a_data_set_of_tensorflow():
    tf = need("tensorflow")
    dataset = tf.data.Dataset.from_tensor_slices((X, Y)).batch(10).prefetch(2)
    np.testing.assert_array_equal(run(dataset).draws, run(in_order).draws)


def test_states_of_sources_as_json():
    state = {
        "a": [1, 2.5, None, True, "text", b"\x00\xff"],
        "b": (1, (2, [3])),
        3: np.arange(6, dtype=np.uint8).reshape(2, 3),
        "scalar": np.float32(0.1),
        "dict": {"numpy": {}},
    }
    found = places.decode(json.loads(json.dumps(places.encode(state))))
    np.testing.assert_equal(found, state)
    assert found[3].dtype == np.uint8 and found["scalar"].dtype == np.float32 and type(found["b"]) is tuple
    with pytest.raises(TypeError, match="builtins.set, which cannot be stored"):
        places.encode([{1, 2}])


class Odd:
    """A source with a state that no store can hold."""

    def __iter__(self):
        yield from in_order()

    def state_dict(self):
        return {"place": object()}

    def load_state_dict(self, state):
        pass


def test_a_state_that_cannot_be_stored_is_refused_at_the_door(tmp_path):
    run(Odd())
    with pytest.raises(TypeError, match="source: its state holds a builtins.object"):
        run(Odd(), store=tmp_path / "run")
    assert not (tmp_path / "run").exists()
