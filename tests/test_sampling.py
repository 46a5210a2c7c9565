"""The run loop: what a chain draws depends on its own number, its key and nothing else."""

import gc
import os
import signal
import time
import weakref
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import smilax as sx
from smilax import compiling, running
from smilax.progress import Progress

# Programs are compiled for every case, and nothing here depends on the precision.
pytestmark = pytest.mark.once

RNG = np.random.default_rng(0)
X = RNG.normal(size=(120, 3)).astype(np.float32)
Y = (X @ np.array([1.0, -0.5, 0.3]) + 0.3 * RNG.normal(size=120)).astype(np.float32)
POSTERIOR = sx.Posterior(
    log_prior=lambda p: -0.5 * jnp.sum(p["w"] ** 2) - 0.5 * p["b"] ** 2,
    log_likelihood=lambda p, batch: -0.5 * ((batch[1] - batch[0] @ p["w"] - p["b"]) / 0.3) ** 2,
    num_data=120,
)
# One for all tests, so that they share its programs.
ALGORITHM = sx.psmile(POSTERIOR, step_size=1e-2)
START = {"w": jnp.zeros(3, jnp.float32), "b": jnp.zeros((), jnp.float32)}


def run(num_chains=3, **changes):
    settings = {"num_warmup": 60, "num_samples": 90, "thinning": 7, "batch_size": 30, "progress_bar": False} | changes
    algorithm = settings.pop("algorithm", ALGORITHM)
    key, data = settings.pop("key", jax.random.key(0)), settings.pop("data", (X, Y))
    return sx.sample(key, algorithm, data, settings.pop("params", START), num_chains=num_chains, **settings)


def same(a, b, chains):
    return all(
        np.array_equal(x[:chains], y[:chains])
        for x, y in zip(jax.tree.leaves(a.draws), jax.tree.leaves(b.draws), strict=True)
    )


def test_shapes_and_records():
    result = run()
    assert result.draws["w"].shape == (3, 12, 3)
    assert result.draws["b"].shape == (3, 12)
    assert isinstance(result.draws["w"], np.ndarray)
    assert result.info.energy_error.shape == (3, 12)
    assert result.warmup_info.step_size.shape == (3, 60)
    assert result.state.step == 60 + 84
    assert result.state.chains.momentum.buffer.shape == (3, 4)
    assert not result.interrupted
    assert result.config["algorithm"]["name"] == "psmile"
    # What a chain draws is where it was, and its log density is the one reported.
    assert len(np.unique(result.draws["b"])) == 36


@pytest.mark.parametrize("method", ["vectorized", "sequential"])
def test_a_chain_is_the_same_alone_and_among_others(method):
    reference = run(5, chain_method=method)
    for num_chains in (1, 2):
        assert same(run(num_chains, chain_method=method), reference, num_chains)
    assert not np.array_equal(reference.draws["w"][0], reference.draws["w"][1])


def test_chains_with_convolutions_take_turns_on_a_cpu():
    assert run(2).config["chain_method"] == "vectorized"
    posterior = sx.Posterior(
        lambda p: -0.5 * jnp.sum(p["kernel"] ** 2), lambda p, x: -0.5 * (x - jnp.sum(p["kernel"])) ** 2, 8
    )
    start = {"kernel": jnp.zeros((2, 2, 1, 3))}
    settings = {"num_warmup": 2, "num_samples": 3, "batch_size": 4, "progress_bar": False}
    both = [
        sx.sample(jax.random.key(0), sx.psmile(posterior), jnp.arange(8.0), start, num_chains=2, **settings, **method)
        for method in ({}, {"chain_method": "sequential"})
    ]
    expected = "sequential" if jax.default_backend() == "cpu" else "vectorized"
    assert both[0].config["chain_method"] == expected
    assert both[0].config == both[1].config
    assert same(*both, 2)
    with pytest.raises(ValueError, match='"auto", "vectorized", "sequential" or "parallel"'):
        run(chain_method="quick")


@pytest.mark.parametrize("method", ["vectorized", "sequential"])
def test_chunks_do_not_matter(method, monkeypatch):
    reference = run(chain_method=method)
    monkeypatch.setattr(running, "FIRST_CHUNK", 5)
    monkeypatch.setattr(running, "CHUNK_SECONDS", 0.0)
    assert same(run(chain_method=method), reference, 3)
    monkeypatch.setattr(running, "SLOT_BYTES", 1)
    assert same(run(chain_method=method), reference, 3)


def test_each_phase_is_compiled_once(monkeypatch):
    monkeypatch.setattr(running, "CHUNK_SECONDS", 0.0)
    compiled = []
    original = jax.stages.Lowered.compile
    monkeypatch.setattr(jax.stages.Lowered, "compile", lambda *a, **k: compiled.append(1) or original(*a, **k))
    traces = []

    def log_likelihood(p, batch):
        traces.append(1)
        return POSTERIOR.log_likelihood(p, batch)

    def fresh():
        return sx.psmile(sx.Posterior(POSTERIOR.log_prior, log_likelihood, 120), step_size=1e-2)

    algorithm = fresh()
    run(algorithm=algorithm, num_samples=200)
    # The density at the start, the sampler's init, warm-up and sampling.
    assert len(compiled) == 4
    short = len(traces)
    # Of the same sampler nothing is compiled again.
    run(algorithm=algorithm, num_samples=200, key=jax.random.key(1))
    assert len(compiled) == 4 and len(traces) == short
    traces.clear()
    run(algorithm=fresh(), num_samples=2000)
    assert len(traces) == short


def test_programs_go_with_their_sampler():
    algorithm = sx.psmile(POSTERIOR, step_size=1e-2)
    run(algorithm=algorithm)
    step = weakref.ref(algorithm.step)
    assert step() in compiling._PROGRAMS
    del algorithm
    gc.collect()
    assert step() is None


def test_going_on_is_the_same_as_never_having_stopped():
    # A schedule of the step count shows that the count goes on as well.
    algorithm = sx.psmile_naive(POSTERIOR, step_size=lambda count: 0.01 / (1 + count.astype(jnp.float32) / 100))
    whole = run(algorithm=algorithm, num_samples=140, thinning=7)
    first = run(algorithm=algorithm, num_samples=70, thinning=7)
    second = run(None, algorithm=algorithm, params=first, num_warmup=0, num_samples=70, thinning=7)
    np.testing.assert_array_equal(np.concatenate([first.draws["w"], second.draws["w"]], 1), whole.draws["w"])
    assert second.state.step == whole.state.step == 200


@pytest.mark.parametrize("key", [None, 0, np.zeros(2, np.uint32), jax.random.split(jax.random.key(0))])
def test_what_is_no_random_key_is_refused(key):
    with pytest.raises(TypeError, match="key must be one JAX random key, such as jax.random.key"):
        run(key=key)
    with pytest.raises(TypeError, match="key must be one JAX random key, such as jax.random.key"):
        sx.train_ensemble(key, POSTERIOR, (X, Y), (X, Y), num_members=1, init_params=START)


def test_without_packing_and_with_it_agree(monkeypatch):
    packed = run(num_warmup=0, num_samples=5, thinning=1)
    monkeypatch.setattr("smilax.running.packable", lambda params: False)
    plain = run(num_warmup=0, num_samples=5, thinning=1)
    # Start velocities come from the same key but in another layout, so only the laws agree; shapes must.
    assert jax.tree.map(np.shape, packed.draws) == jax.tree.map(np.shape, plain.draws)
    assert np.isfinite(plain.info.log_density).all()


def test_chains_start_where_they_are_told():
    starts = {"w": jnp.arange(6.0, dtype=jnp.float32).reshape(2, 3), "b": jnp.array([5.0, -5.0], jnp.float32)}
    algorithm = sx.smile_naive(POSTERIOR, 1e-5)
    result = run(None, params=starts, num_warmup=0, num_samples=1, thinning=1, algorithm=algorithm)
    np.testing.assert_allclose(result.draws["w"][:, 0], starts["w"], atol=1e-4)
    # The caller's arrays are not donated.
    assert float(starts["b"][0]) == 5


def test_ctrl_c_returns_what_was_drawn(monkeypatch):
    original = Progress.update

    def update(self, steps, infos, filled, warming_up):
        original(self, steps, infos, filled, warming_up)
        if not warming_up:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Progress, "update", update)
    monkeypatch.setattr(running, "FIRST_CHUNK", 32)
    before = signal.getsignal(signal.SIGINT)
    with pytest.warns(UserWarning, match="interrupted: 4 draws a chain were kept"):
        result = run(num_samples=10**6)
    assert result.interrupted
    assert (result.num_draws, result.state.step) == (4, 60 + 32)
    assert signal.getsignal(signal.SIGINT) is before
    monkeypatch.undo()
    # The interrupted run can go on where it was, and ends as if nothing had happened.
    rest = run(None, params=result, num_warmup=0, num_samples=10, thinning=1)
    np.testing.assert_array_equal(rest.draws["w"][:, -1], run(num_samples=42, thinning=42).draws["w"][:, 0])


def test_ctrl_c_in_warmup_leaves_no_draws(monkeypatch):
    monkeypatch.setattr(Progress, "update", lambda *args: os.kill(os.getpid(), signal.SIGINT))
    with pytest.warns(UserWarning, match="interrupted: 0 draws"):
        result = run()
    assert result.draws["w"].shape == (3, 0, 3)
    # However long a step is, the first one is a chunk of its own.
    assert result.state.step == 1


def test_progress_bar_says_how_it_goes(capfd):
    run(progress_bar=True)
    line = capfd.readouterr().err
    assert "sampling: 100%" in line
    assert "|dE|=" in line
    assert "rejects=" in line


def test_mclmc_takes_all_data():
    result = run(algorithm=sx.mclmc(POSTERIOR, step_size=0.01), batch_size=None)
    assert result.config["batch_size"] == 120
    with pytest.raises(ValueError, match="full-batch sampler: batch_size must be None or 120, got 30"):
        run(algorithm=sx.mclmc(POSTERIOR, step_size=0.01), batch_size=30)
    changing = sx.Batches((X, Y), transform=lambda key, batch: batch)
    with pytest.raises(ValueError, match="mclmc needs the same density at each step, but data has a transform"):
        run(algorithm=sx.mclmc(POSTERIOR, step_size=0.01), batch_size=None, data=changing)


def test_ismile_needs_two_rows():
    with pytest.raises(ValueError, match="batch_size must be at least 2, got 1"):
        run(algorithm=sx.ismile(POSTERIOR), batch_size=1)


def nan_at(row, column):
    x = X.copy()
    x[row, column] = np.nan
    return x


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"data": (nan_at(17, 2), Y)}, ValueError, r"row 17, column 2"),
        ({"data": (X, Y[:-1])}, ValueError, r"different numbers of rows: \[120, 119\]"),
        ({"data": (X[:100], Y[:100])}, ValueError, "posterior.num_data = 120, but data has 100 rows"),
        ({"batch_size": 121}, ValueError, "batch_size = 121 exceeds the 120 rows"),
        ({"thinning": 100}, ValueError, "thinning = 100 keeps no draw of num_samples = 90"),
        ({"thinning": 0}, ValueError, "thinning must be at least 1, got 0"),
        ({"num_samples": 0}, ValueError, "num_samples must be at least 1"),
        ({"num_warmup": -1}, ValueError, "num_warmup must be at least 0"),
        ({"num_warmup": 1.5}, TypeError, "num_warmup must be an integer"),
        ({"num_chains": 0}, ValueError, "num_chains must be at least 1"),
        ({"chain_method": "parallel?"}, ValueError, "chain_method must be"),
        ({"algorithm": "psmile"}, TypeError, "algorithm must be a SamplingAlgorithm"),
        ({"params": {"w": jnp.zeros(3, jnp.int32), "b": jnp.zeros(())}}, TypeError, r"params\['w'\] has dtype int32"),
        ({"params": {}}, ValueError, "params holds no arrays"),
        ({"params": {"w": jnp.zeros((0,))}}, ValueError, "must hold at least one number"),
        (
            {"num_chains": None, "params": {"w": jnp.zeros((2, 3)), "b": jnp.zeros(3)}},
            ValueError,
            "one leading chain axis in every leaf",
        ),
        ({"num_chains": None, "params": START}, ValueError, "give num_chains to start"),
        ({"params": {"w": jnp.zeros(3), "b": jnp.array(jnp.nan)}}, ValueError, "the log prior of chain 0 is nan"),
    ],
)
def test_bad_input_is_refused_at_the_door(changes, error, message):
    with pytest.raises(error, match=message):
        run(**changes)


def test_a_likelihood_that_is_not_finite_is_named():
    posterior = sx.Posterior(POSTERIOR.log_prior, lambda p, b: jnp.log(p["b"] - 1) + b[1] * 0, 120)
    with pytest.raises(ValueError, match="the log likelihood of chain 0 is nan at row 0"):
        run(algorithm=sx.psmile(posterior, step_size=1e-2))


@pytest.mark.parametrize("step_size", [0, -1e-3, float("nan"), float("inf")])
@pytest.mark.parametrize("make", [sx.smile_naive, sx.psmile_naive, sx.smile, sx.psmile, sx.mclmc])
def test_bad_step_sizes(make, step_size):
    with pytest.raises(ValueError, match="step_size must be positive and finite"):
        make(POSTERIOR, step_size=step_size)


def test_results_of_the_same_chains_are_joined():
    whole, first = run(thinning=9), run(num_samples=45, thinning=9)
    more = run(params=first, num_chains=None, num_warmup=0, num_samples=45, thinning=9)
    joined = first.join(more)
    assert same(joined, whole, 3)
    np.testing.assert_array_equal(joined.info.energy_error, whole.info.energy_error)
    assert joined.state.step == whole.state.step
    assert joined.seconds == first.seconds + more.seconds
    with pytest.raises(ValueError, match="differ in their number of chains: 3, but 2"):
        first.join(run(2))
    assert repr(joined) == "Result(psmile, 3 chains of 10 draws, 4 parameters)"


def test_chains_of_another_sampler_do_not_go_on():
    first = run(2)
    with pytest.raises(ValueError, match="a Result of psmile, whose chains have other states than those of sgld"):
        run(params=first, num_chains=None, algorithm=sx.sgld(POSTERIOR, 1e-4))
    last = jax.tree.map(lambda draws: draws[:, -1], first.draws)
    assert run(params=last, num_chains=None, algorithm=sx.sgld(POSTERIOR, 1e-4)).num_chains == 2


def network_posterior():
    return sx.bnn(sx.models.mlp(3, 1, hidden=(4,)), sx.likelihoods.Gaussian(), sx.priors.Normal(), num_data=120)


def test_parameters_that_are_not_the_posteriors_are_named():
    posterior = network_posterior()
    one = posterior.init(jax.random.key(0))
    members = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), one)
    algorithm = sx.psmile(posterior)
    with pytest.raises(ValueError, match="params has a leading axis of 2 .*: leave out num_chains=5"):
        run(5, algorithm=algorithm, params=members)
    with pytest.raises(ValueError, match="params has no chain axis: give num_chains"):
        run(None, algorithm=algorithm, params=one)
    with pytest.raises(ValueError, match="lacks likelihood/log_scale; posterior.init"):
        run(2, algorithm=algorithm, params={"network": one["network"]})
    other = sx.models.mlp(3, 1, hidden=(5,)).init(jax.random.key(0))
    with pytest.raises(ValueError, match=r"weight has shape \(5, 3\), and of one chain it should be \(4, 3\)"):
        run(2, algorithm=algorithm, params={**one, "network": other})


def test_rows_that_depend_on_one_another_are_refused():
    def normalised(params, x):
        return ((x - x.mean(0)[None]) @ params["w"]) / jnp.ones(())

    network = sx.Network(lambda key: {"w": jnp.ones(3)}, normalised)
    posterior = sx.bnn(network, sx.likelihoods.Gaussian(scale=0.3), sx.priors.Normal(), num_data=120)
    with pytest.raises(ValueError, match="it must depend on its own row only"):
        run(2, algorithm=sx.psmile(posterior), params=posterior.init(jax.random.key(0)))


def test_chains_that_stand_still_are_warned_of():
    # So long a step overflows each time.
    algorithm = sx.psmile_naive(POSTERIOR, step_size=1e30)
    with pytest.warns(UserWarning, match="no step of all chains was accepted"):
        stuck = run(algorithm=algorithm, num_warmup=0)
    assert not stuck.info.accepted.any()


def test_samplers_ask_for_a_posterior():
    for make in (sx.ismile, sx.psmile, sx.nuts, lambda p: sx.sgld(p, 1e-3), lambda p: sx.sghmc(p, 1e-3)):
        with pytest.raises(
            TypeError, match="posterior must be one of sx.bnn, sx.from_numpyro or sx.Posterior, got Net"
        ):
            make(sx.models.mlp(3, 1))


def test_what_steps_of_ones_own_have_to_report():
    own = ALGORITHM._replace(step=lambda key, state, batch: (state, {"accepted": jnp.ones(())}))
    with pytest.raises(TypeError, match="info must be a NamedTuple with a field accepted, such as sx.Info, got dict"):
        run(algorithm=own)


class Truth(NamedTuple):
    """Reports of a sampler of one's own: no more than has to be, and a truth value."""

    accepted: jax.Array


def own_sampler(state_of=lambda params: params):
    def step(key, state, batch):
        accepted = jax.random.uniform(key) < 0.3
        return jax.tree.map(lambda x: x + accepted.astype(x.dtype), state), Truth(accepted)

    class State(NamedTuple):
        params: Any
        more: Any = None

    def whole(key, state, batch):
        params, info = step(key, state.params, batch)
        return state._replace(params=params), info

    return sx.SamplingAlgorithm(
        init=lambda key, params: State(params, state_of(key)),
        warmup=lambda key, state, batch, fraction: whole(key, state, batch),
        step=whole,
        config={"name": "own"},
    )


@pytest.mark.parametrize("progress_bar", [False, True])
def test_truth_values_are_averaged_and_the_bar_needs_no_energy(progress_bar):
    algorithm = own_sampler(lambda key: jnp.zeros(()))
    result = run(algorithm=algorithm, num_warmup=0, num_samples=2000, thinning=20, progress_bar=progress_bar)
    moved = np.diff(result.draws["b"], axis=1, prepend=0) / 20
    np.testing.assert_allclose(result.info.accepted, moved, atol=1e-6)
    assert 0.25 < result.info.accepted.mean() < 0.35


def test_typed_keys_in_a_state_are_refused_by_name():
    with pytest.raises(TypeError, match="its state holds typed random keys"):
        run(algorithm=own_sampler(lambda key: jax.random.key(0)))


def test_batches_of_another_class_have_programs_of_their_own():
    class FirstRows(sx.Batches):
        def rows(self, key, step, batch_size):
            return jnp.arange(batch_size, dtype=jnp.int32)

    algorithm = sx.sgld(POSTERIOR, 1e-4)
    plain = run(algorithm=algorithm)
    mine = run(algorithm=algorithm, data=FirstRows((X, Y)))
    assert same(mine, run(algorithm=sx.sgld(POSTERIOR, 1e-4), data=FirstRows((X, Y))), 3)
    assert not same(mine, plain, 3)


def test_more_steps_than_can_be_counted_are_refused():
    with pytest.raises(ValueError, match="must be at most 2,147,483,647"):
        run(num_samples=3_000_000_000, thinning=1_000_000)


def test_draws_that_memory_cannot_hold_are_refused_before_the_warm_up():
    begin = time.perf_counter()
    with pytest.raises(MemoryError, match="num_samples = 2000000000, thinning = 1: .* GB, more than there is"):
        run(num_warmup=10**8, num_samples=2 * 10**9, thinning=1, params={"w": jnp.zeros(3), "b": jnp.zeros(())})
    assert time.perf_counter() - begin < 60


def test_only_numbers_are_taken():
    for data, match in (
        ((X.astype(object), Y), r"data\[0\] must be numbers, got an array of dtype object"),
        ((X, np.array(["a"] * 120)), r"data\[1\] must be numbers, got an array of dtype <U1"),
        ((X.astype(">f4"), Y), r"data\[0\] has dtype >f4, bytes in the order of other machines"),
    ):
        with pytest.raises(TypeError, match=match):
            run(data=data)
    with pytest.raises(TypeError, match=r"params\['w'\] must be numbers"):
        run(params={"w": np.array([None] * 3), "b": np.zeros(())})


def test_results_that_do_not_follow_one_another_are_not_joined():
    first = run()
    more = run(None, params=first, num_warmup=0)
    assert first.join(more).num_draws == 24
    with pytest.raises(ValueError, match=r"later\[0\] did not go on .* it began at step 0, and that ends at step 144"):
        first.join(run(key=jax.random.key(1)))
    with pytest.raises(ValueError, match=r"later\[1\] did not go on"):
        first.join(more, more)


def test_the_networks_own_parameters_are_named_as_such():
    posterior = sx.bnn(sx.models.mlp(3, 1, hidden=()), sx.likelihoods.Gaussian(0.3), sx.priors.Normal(0.0, 1.0), 120)
    params = posterior.init(jax.random.key(0))["network"]
    with pytest.raises(ValueError, match=r"params must be a dictionary with keys \['network'\], got a "):
        run(algorithm=sx.sgld(posterior, 1e-4), params=params)
    with pytest.raises(
        ValueError, match=r"init_params must be a dictionary with keys \['network'\], got keys \['net'\]"
    ):
        members = jax.tree.map(lambda leaf: leaf[None], {"net": params})
        sx.train_ensemble(jax.random.key(0), posterior, (X, Y), init_params=members)
    with pytest.raises(TypeError, match="init_params must be one pytree .* got a list of 2: stack the members"):
        sx.train_ensemble(jax.random.key(0), posterior, (X, Y), init_params=[{"network": params}] * 2)


def test_chains_are_selected():
    result = run()
    part = result.select(np.arange(12) % 2 == 0, chains=[2, 0])
    np.testing.assert_array_equal(part.draws["w"], result.draws["w"][[2, 0]][:, ::2])
    np.testing.assert_array_equal(part.info.log_density, result.info.log_density[[2, 0]][:, ::2])
    np.testing.assert_array_equal(part.warmup_info.log_density, result.warmup_info.log_density[[2, 0]])
    assert part.state is None and part.config["num_chains"] == 2
    assert result.select(chains=[1]).num_draws == 12
    for chains, error in (([0, 0], ValueError), ([], ValueError), ([3], IndexError)):
        with pytest.raises(error):
            result.select(chains=chains)
    with pytest.raises(ValueError, match="select needs keep, chains, or both"):
        result.select()
