"""BlackJAX's kernels in `sx.sample`, and smilax's samplers in BlackJAX's loops, against closed forms."""

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import smilax as sx

# Rows of mean CENTRE and covariance N·I exactly, so that with prior precisions TAU the posterior is
# N(CENTRE / (1 + TAU), 1 / (1 + TAU)), and batch noise is isotropic.
DIM, NUM_DATA = 4, 400
CENTRE, TAU = np.linspace(-1, 1, DIM), np.linspace(0, 3, DIM)
MEAN, VARIANCE = CENTRE / (1 + TAU), 1 / (1 + TAU)


pytestmark = pytest.mark.once


def make_rows():
    z = np.random.default_rng(0).normal(size=(NUM_DATA, DIM))
    z -= z.mean(axis=0)
    z = np.linalg.solve(np.linalg.cholesky(z.T @ z / NUM_DATA), z.T).T
    return CENTRE + np.sqrt(NUM_DATA) * z


ROWS = make_rows()
POSTERIOR = sx.Posterior(
    log_prior=lambda m: -0.5 * jnp.sum(jnp.asarray(TAU, m.dtype) * m**2),
    log_likelihood=lambda m, rows: -0.5 * jnp.sum((rows - m[None]) ** 2, axis=-1) / NUM_DATA,
    num_data=NUM_DATA,
)
# The same on a tree, in float32 whatever JAX's default is.
TREE_POSTERIOR = sx.Posterior(
    lambda p: -0.5 * (jnp.sum(p["a"] ** 2) + jnp.sum(p["b"] ** 2)),
    lambda p, rows: -0.5 * jnp.sum((rows - p["a"][None] * p["b"]) ** 2, axis=-1) / NUM_DATA,
    NUM_DATA,
)
TREE_ROWS = ROWS.astype(np.float32)
TREE_START = {"a": jnp.zeros(DIM, jnp.float32), "b": jnp.ones((), jnp.float32)}
# Energy of the mode, less a little.
ROWS_ENERGY = 0.5 * np.sum((ROWS - CENTRE) ** 2) / NUM_DATA
FLOOR = 0.5 * np.sum(TAU * MEAN**2 + (MEAN - CENTRE) ** 2) + ROWS_ENERGY - 0.5
KERNELS = {
    "sgld": (blackjax.sgld, 0.02, {}),
    "sghmc": (blackjax.sghmc, 0.1, {"num_integration_steps": 8, "alpha": 0.5}),
    "sgnht": (blackjax.sgnht, 0.05, {"alpha": 0.5}),
    # Contour SGLD: with zeta = 0 it is sgld.
    "csgld_flat": (blackjax.csgld, 0.02, {"zeta": 0}),
    "csgld": (
        blackjax.csgld,
        0.02,
        {"zeta": 0.75, "num_partitions": 40, "energy_gap": 1.0, "min_energy": float(FLOOR), "step_size_stoch": 1e-3},
    ),
}


def sample(algorithm, **changes):
    settings = {
        "num_chains": 8,
        "num_warmup": 1000,
        "num_samples": 20_000,
        "thinning": 10,
        "batch_size": None,
    } | changes
    return sx.sample(jax.random.key(1), algorithm, ROWS, jnp.asarray(MEAN), progress_bar=False, **settings)


def stationary(name):
    """Variances over the posterior's at the kernel's own stationary law, in closed form where there is one."""
    _, eps, settings = KERNELS[name]
    precision = 1 + TAU
    if name == "sgld":
        return 2 / (2 - eps * precision)
    if name != "sghmc":
        return np.ones(DIM)
    # Explicit Euler steps of (x, p) from p ~ N(0, 1), which gain energy: a linear recursion.
    friction, ratios = settings["alpha"], []
    for curvature in precision:
        move = np.array([[1, eps], [-eps * curvature, 1 - friction * eps]])
        power, noise = np.eye(2), np.zeros((2, 2))
        for _ in range(settings["num_integration_steps"]):
            noise = move @ noise @ move.T + np.diag([0, 2 * friction * eps])
            power = move @ power
        ratios.append(curvature * (power[0, 1] ** 2 + noise[0, 0]) / (1 - power[0, 0] ** 2))
    return np.array(ratios)


def check_moments(draws, expected=1.0):
    """Means within four standard errors, from the scatter of chains, and variances within a tenth."""
    standard = (np.asarray(draws, np.float64) - MEAN) / np.sqrt(VARIANCE)
    means, squares = standard.mean(axis=1), (standard**2).mean(axis=1)
    error = np.sqrt((means.var(axis=0, ddof=1) / len(means)).mean())
    assert error < 0.07
    assert np.abs(means.mean(axis=0)).max() < 4 * error
    np.testing.assert_allclose(squares.mean(axis=0) / expected, 1, atol=0.1)


@pytest.mark.parametrize("name", ["sgld", "sghmc", "sgnht"])
def test_kernels_sample_the_posterior(name):
    kernel, step_size, settings = KERNELS[name]
    lengths = {"num_samples": 4000, "thinning": 2} if name == "sghmc" else {}
    result = sample(sx.from_blackjax(kernel, POSTERIOR, step_size, **settings), **lengths)
    assert np.all(result.info.accepted == 1)
    np.testing.assert_allclose(result.info.step_size, step_size, rtol=1e-6)
    check_moments(result.draws, expected=stationary(name))


def test_contours_are_those_of_the_energy():
    kernel, step_size, settings = KERNELS["csgld"]
    algorithm = sx.from_blackjax(kernel, POSTERIOR, step_size, **settings)
    result = sample(algorithm, num_warmup=10, num_samples=200, thinning=10, num_chains=4)
    draws = np.asarray(result.draws, np.float64)
    energy = 0.5 * np.sum(TAU * draws**2 + (draws - CENTRE) ** 2, axis=-1) + ROWS_ENERGY
    # In float32 an energy at the border of two partitions may fall on either side.
    place = np.clip((energy - FLOOR) / settings["energy_gap"] + 1, 1, settings["num_partitions"] - 1)
    inside = np.abs(place - np.round(place)) > 1e-2
    np.testing.assert_array_equal(result.info.partition[inside], np.floor(place[inside]))
    assert len(np.unique(result.info.partition)) > 3
    state = result.state.chains.kernel
    last = settings["zeta"] * np.log(state.energy_pdf[np.arange(4), state.energy_idx])
    np.testing.assert_allclose(result.info.log_weight[:, -1], last, rtol=1e-5)


def test_batch_noise_reaches_the_kernel():
    # x' = (1 − ελ) x + ε (g's noise) + √(2ε) z: in closed form (2 + ε Σ) / (λ (2 − ελ)), Σ = N/B − 1.
    eps, size = 0.02, 8
    draws = sample(sx.from_blackjax(blackjax.sgld, POSTERIOR, eps), batch_size=size).draws
    precision, noise = 1 + TAU, (NUM_DATA / size - 1) * NUM_DATA / (NUM_DATA - 1)
    expected = (2 + eps * noise) / (precision * (2 - eps * precision))
    found = np.mean((np.asarray(draws, np.float64) - MEAN) ** 2, axis=(0, 1))
    assert expected[0] > 1.3
    np.testing.assert_allclose(found, expected, rtol=0.1)


@pytest.mark.parametrize("name", ["sgld", "csgld_flat"])
def test_sgld_takes_the_steps_of_ours(name):
    kernel, _, settings = KERNELS[name]

    def step_size(count):
        return 0.02 / (1 + count.astype(jnp.float32))

    theirs, ours = sx.from_blackjax(kernel, POSTERIOR, step_size, **settings), sx.sgld(POSTERIOR, step_size)
    a, b = (algorithm.init(jax.random.key(0), jnp.asarray(MEAN)) for algorithm in (theirs, ours))
    for n in range(3):
        a, info = theirs.step(jax.random.key(n), a, jnp.asarray(ROWS))
        b, expected = ours.step(jax.random.key(n), b, jnp.asarray(ROWS))
        np.testing.assert_allclose(a.params, b.params, rtol=1e-6)
        np.testing.assert_allclose(info.log_density, expected.log_density, rtol=1e-6)
        np.testing.assert_allclose(info.step_size, 0.02 / (1 + n), rtol=1e-6)


def test_chains_and_steps_have_keys_of_their_own():
    algorithm = sx.from_blackjax(blackjax.sgnht, POSTERIOR, 0.05)
    result = sample(algorithm, num_chains=3, num_warmup=0, num_samples=3, thinning=1)
    assert len({tuple(draw) for draw in np.asarray(result.draws).reshape(-1, DIM)}) == 9
    # Momenta at the start and the noise of the first step are independent of each other.
    keys = jax.random.split(jax.random.key(0), 200)

    def pair(key):
        first, second = jax.random.split(key)
        state = algorithm.init(first, jnp.asarray(MEAN))
        moved, _ = algorithm.step(second, state, jnp.asarray(ROWS))
        return state.kernel.momentum, moved.kernel.momentum - state.kernel.momentum

    start, change = jax.jit(jax.vmap(pair))(keys)
    # The gradient vanishes at the mean, and friction is weak: what is left is noise.
    assert abs(np.corrcoef(np.ravel(start), np.ravel(change))[0, 1]) < 0.15


@pytest.mark.parametrize("name", ["sgld", "sgnht"])
def test_steps_into_nowhere_are_undone(name):
    posterior = sx.Posterior(lambda m: jnp.sum(jnp.sqrt(m)), lambda m, rows: jnp.zeros(len(rows), m.dtype), NUM_DATA)
    kernel, _, settings = KERNELS[name]
    algorithm = sx.from_blackjax(kernel, posterior, 1e-3, **settings)
    state = algorithm.init(jax.random.key(0), -jnp.ones(DIM))
    moved, info = jax.jit(algorithm.step)(jax.random.key(1), state, jnp.zeros((4, DIM)))
    assert info.accepted == 0
    np.testing.assert_array_equal(moved.params, state.params)
    assert moved.num_steps == 1


@pytest.mark.once
@pytest.mark.parametrize("name", KERNELS)
def test_states_keep_their_types(name):
    kernel, step_size, settings = KERNELS[name]
    algorithm = sx.from_blackjax(kernel, TREE_POSTERIOR, step_size, **settings)
    state = algorithm.init(jax.random.key(0), TREE_START)
    moved, _ = jax.eval_shape(algorithm.step, jax.random.key(1), state, jnp.asarray(TREE_ROWS))
    assert jax.tree.structure(moved) == jax.tree.structure(state)
    assert [leaf.dtype for leaf in jax.tree.leaves(moved)] == [leaf.dtype for leaf in jax.tree.leaves(state)]
    assert all(leaf.dtype in (np.float32, np.int32) for leaf in jax.tree.leaves(state))


@pytest.mark.once
def test_a_run_is_resumed(tmp_path):
    kernel, step_size, settings = KERNELS["csgld"]
    algorithm = sx.from_blackjax(kernel, TREE_POSTERIOR, step_size, **settings)

    def run(store, num_samples):
        return sx.sample(
            jax.random.key(0), algorithm, TREE_ROWS, TREE_START, num_chains=2, num_warmup=0, num_samples=num_samples,
            batch_size=40, store=store, progress_bar=False,
        )  # fmt: skip

    run(tmp_path / "short", 10)
    longer = sx.resume(tmp_path / "short", algorithm, TREE_ROWS, num_samples=20, progress_bar=False)
    np.testing.assert_array_equal(np.asarray(longer.draws["a"]), np.asarray(run(None, 20).draws["a"]))


def test_a_blackjax_loop_takes_our_steps():
    ours = sx.psmile(POSTERIOR, 0.1)
    theirs = sx.to_blackjax(ours)
    assert isinstance(theirs, blackjax.base.SamplingAlgorithm)
    rows = jnp.asarray(ROWS[:40])
    a, b = ours.init(jax.random.key(0), jnp.asarray(MEAN)), theirs.init(jnp.asarray(MEAN), jax.random.key(0))
    ours, step = sx.SamplingAlgorithm(ours.init, jax.jit(ours.warmup), jax.jit(ours.step), {}), jax.jit(theirs.step)
    for n in range(25):
        key = jax.random.key(n)
        a, expected = ours.warmup(key, a, rows, jnp.float32(n / 25))
        b, info = step(key, b, rows, n / 25)
    np.testing.assert_allclose(b.position, a.params, rtol=1e-5)
    np.testing.assert_allclose(info.step_size, expected.step_size, rtol=1e-5)
    a, expected = ours.step(jax.random.key(30), a, rows)
    b, info = step(jax.random.key(30), b, rows)
    np.testing.assert_allclose(b.position, a.params, rtol=1e-5)
    np.testing.assert_allclose(info.energy_error, expected.energy_error, rtol=1e-3, atol=1e-5)


def test_bound_to_data_it_runs_in_blackjax_own_loop():
    # The posterior, from a function of BlackJAX that knows nothing of batches.
    algorithm = sx.to_blackjax(sx.psmile_naive(POSTERIOR, 0.12), ROWS, batch_size=20)

    def run(key):
        _, (states, _) = blackjax.util.run_inference_algorithm(
            key, algorithm, num_steps=10_000, initial_position=jnp.asarray(MEAN)
        )
        return states.position[1000::5]

    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        check_moments(jax.vmap(run)(jax.random.split(jax.random.key(0), 8)))


def test_bound_to_data_batch_and_noise_have_different_keys():
    def step(key, state, batch):
        return state, (jax.random.key_data(key), batch, None)

    def warmup(key, state, batch, fraction):
        return state, (jax.random.key_data(key), batch, fraction)

    seen = sx.SamplingAlgorithm(lambda key, x: x, warmup, step, {"name": "x", "batches": "mini"})
    algorithm = sx.to_blackjax(seen, np.arange(100), batch_size=10)
    state = algorithm.init(jnp.zeros(2), jax.random.key(0))
    (_, (one, first, none)), (_, (two, second, _)) = (algorithm.step(jax.random.key(n), state) for n in (1, 2))
    assert len(set(np.asarray(first).tolist())) == 10
    assert set(np.asarray(first).tolist()) != set(np.asarray(second).tolist())
    assert not np.array_equal(one, two)
    assert not np.array_equal(one, jax.random.key_data(jax.random.key(1)))
    assert none is None
    # Told how far warm-up has come, it warms up, on the same batch.
    _, (_, third, fraction) = algorithm.step(jax.random.key(1), state, 0.25)
    np.testing.assert_array_equal(third, first)
    assert fraction == 0.25


@pytest.mark.once
@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: sx.from_blackjax(blackjax.nuts, POSTERIOR, 0.1), TypeError, "blackjax.sgld.*sx.nuts"),
        (lambda: sx.from_blackjax(blackjax.sgld, len, 0.1), TypeError, "posterior must be a Posterior"),
        (lambda: sx.from_blackjax(blackjax.sgld, POSTERIOR, -1.0), ValueError, "step_size must be positive"),
        (lambda: sx.from_blackjax(blackjax.sghmc, POSTERIOR, 0.1, alhpa=1.0), TypeError, "did you mean 'alpha'"),
        (
            lambda: sx.from_blackjax(blackjax.sgld, POSTERIOR, 0.1, alpha=1.0),
            TypeError,
            "takes no 'alpha'.*temperature",
        ),
        (lambda: sx.from_blackjax(blackjax.sghmc, POSTERIOR, 0.1, alpha="1"), TypeError, "alpha must be a number"),
        (lambda: sx.to_blackjax(POSTERIOR), TypeError, "algorithm must be a SamplingAlgorithm"),
        (lambda: sx.to_blackjax(sx.sgld(POSTERIOR, 0.1)).init(jnp.zeros(4)), TypeError, "sgld needs a key"),
        (lambda: sx.to_blackjax(sx.sgld(POSTERIOR, 0.1), batch_size=3), ValueError, "batch_size is of use with data"),
        (lambda: sx.to_blackjax(sx.sgld(POSTERIOR, 0.1), ROWS[:9]), ValueError, "num_data = 400, but data has 9"),
        (lambda: sx.to_blackjax(sx.mclmc(POSTERIOR, 0.1), ROWS, batch_size=9), ValueError, "mclmc needs all 400 rows"),
        (
            lambda: sx.to_blackjax(sx.sgld(POSTERIOR, 0.1), sx.Batches(ROWS, order="epochs")),
            ValueError,
            "independent batches",
        ),
    ],
)
def test_errors_say_what_is_wrong(call, error, match):
    with pytest.raises(error, match=match):
        call()


@pytest.mark.parametrize("name", ["sgld", "sghmc", "sgnht"])
def test_parameters_in_single_precision_in_a_session_of_double(name):
    kernel, eps, settings = KERNELS[name]
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        algorithm = sx.from_blackjax(kernel, TREE_POSTERIOR, eps, **settings)
        state = algorithm.init(jax.random.key(0), TREE_START)
        for number in range(2):
            state, info = algorithm.step(jax.random.key(number), state, jnp.asarray(TREE_ROWS))
        assert info.accepted == 1
        assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {np.dtype(np.float32)}
        assert not np.array_equal(state.params["a"], TREE_START["a"])
