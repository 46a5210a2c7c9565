"""What every sampler must do, in one table, and what some of them do besides.

A new algorithm is one more line in `CASES`.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import smilax as sx

# The shared target: the mean of 6-dimensional rows with known covariance N·I, under a Gaussian prior of unequal
# precisions. The rows' own covariance is exactly N·I too, so batch noise is isotropic, of variance N/B - 1 per
# component, and the posterior is N(CENTRE / (1 + TAU), 1 / (1 + TAU)).
DIM, NUM_DATA, BATCH_SIZE = 6, 1000, 20
CENTRE, TAU = np.linspace(-1, 1, DIM), np.linspace(0, 3, DIM)
MEAN, VARIANCE = CENTRE / (1 + TAU), 1 / (1 + TAU)


def make_rows():
    z = np.random.default_rng(0).normal(size=(NUM_DATA, DIM))
    z -= z.mean(axis=0)
    z = np.linalg.solve(np.linalg.cholesky(z.T @ z / NUM_DATA), z.T).T
    return CENTRE + np.sqrt(NUM_DATA) * z


ROWS = make_rows()


def make_posterior(temperature=1.0):
    return sx.Posterior(
        log_prior=lambda m: -0.5 * jnp.sum(jnp.asarray(TAU, m.dtype) * m**2),
        log_likelihood=lambda m, rows: -0.5 / temperature * jnp.sum((rows - m[None]) ** 2, axis=-1) / NUM_DATA,
        num_data=NUM_DATA,
    )


POSTERIOR = make_posterior()

# The same kind of target on a tree of parameters, for one step at a time.
TREE_DATA = 40
TREE_ROWS = (
    np.random.default_rng(1).normal(size=(TREE_DATA, 2)).astype(np.float32),
    np.random.default_rng(2).normal(size=TREE_DATA).astype(np.float32),
)
TREE_POSTERIOR = sx.Posterior(
    log_prior=lambda p: -0.5 * (jnp.sum(p["w"][0] ** 2) + jnp.sum(p["w"][1] ** 2) + p["b"] ** 2),
    log_likelihood=lambda p, batch: -0.5 * (batch[1] - jnp.tanh(batch[0] @ p["w"][0]) @ p["w"][1] - p["b"]) ** 2,
    num_data=TREE_DATA,
)


def tree_params():
    rng = np.random.default_rng(3)
    numbers = {"w": (rng.normal(size=(2, 3)), rng.normal(size=3)), "b": rng.normal()}
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), numbers)


def tree_batch(size=None):
    return jax.tree.map(lambda x: jnp.asarray(x[:size]), TREE_ROWS)


@dataclass(frozen=True)
class Case:
    """One line of the table.

    Attributes:
        make: `make(posterior, step_size)`.
        step_size: right for the shared target.
        batch_size: None for a full-batch sampler.
        scheduled: whether the step size may be a schedule.
        num_samples, num_chains, num_warmup: how long to run on the shared target.
        variance_tolerance: relative, per coordinate.
    """

    make: Callable[[sx.Posterior, Any], sx.SamplingAlgorithm]
    step_size: float
    batch_size: int | None = BATCH_SIZE
    scheduled: bool = True
    num_samples: int = 20_000
    num_chains: int = 8
    num_warmup: int = 500
    variance_tolerance: float = 0.1


CASES = {
    "smile_naive": Case(sx.smile_naive, 0.12),
    "psmile_naive": Case(sx.psmile_naive, 0.12),
    "smile": Case(sx.smile, 0.15, scheduled=False),
    "psmile": Case(sx.psmile, 0.15, scheduled=False),
    "mclmc": Case(sx.mclmc, 0.8, batch_size=None, num_samples=5_000),
    "mile": Case(
        lambda p, eps: sx.mclmc(p, eps, energy_variance=(1e-3, 1e-3)),
        1e-2,
        batch_size=None,
        scheduled=False,
        num_samples=5_000,
        num_warmup=1000,
    ),
    "ismile": Case(lambda p, eps: sx.ismile(p, initial_step_size=eps), 1e-2, scheduled=False, num_warmup=2000),
    # Batches large enough that their noise, which these two only dilute, stays within the tolerance.
    "sgld": Case(sx.sgld, 0.02, batch_size=500, num_samples=40_000),
    "sghmc": Case(lambda p, eps: sx.sghmc(p, eps, momentum_decay=0.2), 0.1, batch_size=500, num_samples=40_000),
    "psgld": Case(sx.psgld, 3e-5, batch_size=500, num_samples=40_000),
    # These two take account of the batch noise.
    "adaptive_sghmc": Case(sx.adaptive_sghmc, 0.1, num_samples=40_000),
    "sgnht": Case(sx.sgnht, 0.05, batch_size=100, num_samples=40_000),
    "csgld": Case(
        lambda p, eps: sx.csgld(p, eps, cycle_length=2000, exploration=0.1, final_step_size=eps / 4),
        0.03,
        batch_size=500,
        scheduled=False,
        num_samples=40_000,
        num_warmup=0,
    ),
    "nuts": Case(
        lambda p, eps: sx.nuts(p, initial_step_size=eps), 1e-2, batch_size=None, scheduled=False, num_samples=1_000
    ),
}
TUNED = {"smile": sx.smile, "psmile": sx.psmile}

every_algorithm = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
every_scheduled = pytest.mark.parametrize(
    "case", [case for case in CASES.values() if case.scheduled], ids=[k for k, case in CASES.items() if case.scheduled]
)
every_tuned = pytest.mark.parametrize("make", TUNED.values(), ids=TUNED.keys())


# ---------------------------------------------------------------------------------------------------------------------
# The right posterior


def shortcomings(case, posterior=POSTERIOR, **changes):
    """What is wrong with a run on the shared target: a list of complaints, empty if it is right.

    Means must lie within four standard errors, these taken from the scatter of the chains and themselves small;
    variances, about the true mean, within the case's tolerance.
    """
    settings = {"batch_size": case.batch_size, "num_samples": case.num_samples} | changes
    result = sx.sample(
        jax.random.key(1), case.make(posterior, case.step_size), ROWS, jnp.asarray(MEAN), num_chains=case.num_chains,
        num_warmup=case.num_warmup, thinning=5, progress_bar=False, **settings,
    )  # fmt: skip
    if case.make is CASES["csgld"].make:
        result = result.select(~result.info.exploring)
    standard = (np.asarray(result.draws, np.float64) - MEAN) / np.sqrt(VARIANCE)
    means, squares = standard.mean(axis=1), (standard**2).mean(axis=1)
    # One number for all coordinates: eight chains alone make a poor estimate.
    error = np.sqrt((means.var(axis=0, ddof=1) / case.num_chains).mean())
    offset, ratio = np.abs(means.mean(axis=0)).max(), squares.mean(axis=0)
    complaints = []
    if error > 0.05:
        complaints.append(f"the chains' means scatter: standard error {error:.3f} sd")
    if offset > 4 * error:
        complaints.append(f"a mean is {offset:.3f} sd off, standard error {error:.3f}")
    if np.abs(ratio - 1).max() > case.variance_tolerance:
        complaints.append(f"variances are {np.round(ratio, 3)} times the true ones")
    return complaints


@pytest.mark.optimised
@pytest.mark.once
@every_algorithm
def test_samples_the_posterior(case):
    assert shortcomings(case) == []


@pytest.mark.optimised
@pytest.mark.once
@pytest.mark.parametrize("name", ["smile_naive", "psmile_naive"])
def test_the_check_finds_out_a_sampler_without_noise(name):
    # All rows at each step and no refreshment: deterministic dynamics, which circle without ever mixing.
    assert any("variances" in text for text in shortcomings(CASES[name], batch_size=None, num_samples=5_000))


@pytest.mark.optimised
@pytest.mark.once
def test_the_check_finds_out_a_wrong_temperature():
    complaints = shortcomings(CASES["psmile_naive"], make_posterior(temperature=0.5))
    assert any("variances" in text for text in complaints)


def stationary_variance(transition, noise):
    """S = T S Tᵀ + Q of a linear recursion, by the doubling that sums its series."""
    covariance, power = noise, transition
    for _ in range(40):
        covariance, power = covariance + power @ covariance @ power.T, power @ power
    return covariance[0, 0]


def sgld_variance(eps, curvature, batch_noise, temperature):
    return stationary_variance(
        np.array([[1 - eps * curvature]]), np.array([[2 * eps * temperature + eps**2 * batch_noise]])
    )


def sghmc_variance(eps, curvature, batch_noise, temperature, decay=0.2):
    # (x, p) with p' = (1 - α) p - ε k x + noise and x' = x + ε p'.
    momentum = np.array([-eps * curvature, 1 - decay])
    transition = np.stack([np.array([1.0, 0.0]) + eps * momentum, momentum])
    both = np.array([eps, 1.0])
    return stationary_variance(transition, np.outer(both, both) * (2 * decay * temperature + eps**2 * batch_noise))


@pytest.mark.optimised
@pytest.mark.once
@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize(
    "make, variance, step_size",
    [
        (lambda eps, t: sx.sgld(POSTERIOR, eps, temperature=t), sgld_variance, 0.1),
        (lambda eps, t: sx.sghmc(POSTERIOR, eps, momentum_decay=0.2, temperature=t), sghmc_variance, 0.2),
    ],
    ids=["sgld", "sghmc"],
)
def test_langevin_variances_are_those_of_the_linear_recursion(make, variance, step_size, temperature):
    # Steps so long, and batches so small, that discretisation and batch noise change the variances by half and more.
    batch_size = 100
    result = sx.sample(
        jax.random.key(3), make(step_size, temperature), ROWS, jnp.asarray(MEAN, jnp.float32), num_chains=8,
        num_warmup=500, num_samples=40_000, thinning=5, batch_size=batch_size, progress_bar=False,
    )  # fmt: skip
    # A batch of B of the N rows without replacement: N I/N² times N²/B (1 - B/N) N/(N - 1).
    noise = NUM_DATA / batch_size * (1 - batch_size / NUM_DATA) * NUM_DATA / (NUM_DATA - 1)
    expected = np.array([variance(step_size, 1 + tau, noise, temperature) for tau in TAU])
    measured = ((np.asarray(result.draws, np.float64) - MEAN) ** 2).mean(axis=(0, 1))
    np.testing.assert_allclose(measured / expected, 1, atol=0.05)
    assert (np.abs(expected / (temperature * VARIANCE) - 1) > 0.15).all()


def scaled_sgld_variance(state, eps, curvature, batch_noise, temperature):
    # Chain by chain and coordinate by coordinate, with the V that warm-up left.
    scale = 1 / (1e-5 + np.sqrt(state.square / (1 - 0.99 ** state.averaged[:, None])))
    decay = 1 - eps * scale * curvature
    return (2 * eps * scale * temperature + (eps * scale) ** 2 * batch_noise) / (1 - decay**2)


def scaled_sghmc_variance(state, eps, curvature, batch_noise, temperature, decay=0.05):
    square = np.asarray(state.square, np.float64)
    drawn = np.maximum(2 * decay * temperature * eps**2 / np.sqrt(square) - eps**4, 0)
    variances = np.zeros_like(square)
    for index, v in np.ndenumerate(square):
        # (x, v) with v' = (1 - α) v - ε² k x / √V + noise and x' = x + v'.
        velocity = np.array([-(eps**2) * curvature[index[1]] / np.sqrt(v), 1 - decay])
        transition = np.stack([np.array([1.0, 0.0]) + velocity, velocity])
        variances[index] = stationary_variance(transition, np.full((2, 2), drawn[index] + eps**4 / v * batch_noise))
    return variances


def thermostat_variance(state, eps, curvature, batch_noise, temperature):
    # The friction that gives the momenta their temperature, and what it makes of the position, as in the recursion.
    def heat(friction):
        return (1 - friction / 2) * np.mean([both(k, friction)[1] for k in curvature])

    def both(k, friction):
        momentum = np.array([-eps * k, 1 - friction])
        transition = np.stack([np.array([1.0, 0.0]) + eps * momentum, momentum])
        direction = np.array([eps, 1.0])
        noise = np.outer(direction, direction) * (2 * 0.05 * temperature + eps**2 * batch_noise)
        return stationary_variance(transition, noise), stationary_variance(transition[::-1, ::-1], noise[::-1, ::-1])

    low, high = 0.01, 0.99
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if heat(middle) > temperature else (low, middle)
    np.testing.assert_allclose(np.mean(state.friction), low, atol=0.03)
    return np.array([[both(k, low)[0] for k in curvature]])


@pytest.mark.optimised
@pytest.mark.once
@pytest.mark.parametrize(
    "make, variance, step_size",
    [
        (sx.psgld, scaled_sgld_variance, 1e-4),
        (sx.adaptive_sghmc, scaled_sghmc_variance, 0.25),
        (sx.sgnht, thermostat_variance, 0.15),
    ],
    ids=["psgld", "adaptive_sghmc", "sgnht"],
)
def test_adaptive_variances_are_those_of_their_recursions(make, variance, step_size):
    batch_size, temperature = 100, 0.5
    result = sx.sample(
        jax.random.key(3), make(POSTERIOR, step_size, temperature=temperature), ROWS, jnp.asarray(MEAN, jnp.float32),
        num_chains=8, num_warmup=1000, num_samples=40_000, thinning=5, batch_size=batch_size, progress_bar=False,
    )  # fmt: skip
    noise = NUM_DATA / batch_size * (1 - batch_size / NUM_DATA) * NUM_DATA / (NUM_DATA - 1)
    expected = variance(result.state.chains, step_size, 1 + TAU, noise, temperature).mean(axis=0)
    measured = ((np.asarray(result.draws, np.float64) - MEAN) ** 2).mean(axis=(0, 1))
    np.testing.assert_allclose(measured / expected, 1, atol=0.07)
    off = np.abs(expected / (temperature * VARIANCE) - 1)
    # The thermostat is right at steps where the others are not: the average of momenta is that of positions.
    assert (off < 0.02).all() if make is sx.sgnht else (off > 0.1).all()


# ---------------------------------------------------------------------------------------------------------------------
# Pure functions of a pytree


def close(a, b, rtol=1e-4, atol=1e-4):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(np.asarray(x), np.asarray(y), rtol=rtol, atol=atol)


def same_position(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a.params), jax.tree.leaves(b.params), strict=True))


def all_finite(tree):
    return all(np.isfinite(x).all() for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating))


def structure(tree):
    return jax.tree.map(lambda x: (jnp.shape(x), jnp.result_type(x)), tree)


@every_algorithm
def test_state_keeps_its_shapes_and_dtypes(case, key):
    # In a float64 session this tells whether anything is promoted behind a float32 model's back.
    params, batch = tree_params(), tree_batch()
    algorithm = case.make(TREE_POSTERIOR, 1e-2)
    start = jax.eval_shape(algorithm.init, key, params)
    assert structure(start.params) == structure(params)
    stepped, info = jax.eval_shape(algorithm.step, key, start, batch)
    warmed, warm_info = jax.eval_shape(algorithm.warmup, key, start, batch, jnp.asarray(0.5, jnp.float32))
    assert structure(stepped) == structure(warmed) == structure(start)
    assert info._fields[: len(sx.Info._fields)] == sx.Info._fields
    assert structure(info) == structure(warm_info)
    for value in (*jax.tree.leaves(start), *info):
        assert value.dtype == jnp.float32 or not jnp.issubdtype(value.dtype, jnp.floating)
    assert all(value.shape == () for value in info)


@every_algorithm
def test_runs_under_jit_vmap_and_scan(case, key):
    batch = tree_batch()
    algorithm = case.make(TREE_POSTERIOR, 1e-2)
    steps, chains = 3, 2
    keys = jax.random.split(key, (steps, chains))
    starts = jax.jit(jax.vmap(algorithm.init, in_axes=(0, None)))(keys[0], tree_params())

    def advance(states, keys):
        return jax.vmap(algorithm.step, in_axes=(0, 0, None))(keys, states, batch)

    together, infos = jax.jit(lambda states: jax.lax.scan(advance, states, keys))(starts)
    assert infos.energy_error.shape == (steps, chains)
    step = jax.jit(algorithm.step)
    first = state = jax.tree.map(lambda leaf: leaf[0], starts)
    for t in range(steps):
        state, info = step(keys[t, 0], state, batch)
        assert info.accepted == 1
        close(jax.tree.map(lambda leaf, t=t: leaf[t, 0], infos), info)
    assert not same_position(state, first)
    close(jax.tree.map(lambda leaf: leaf[0], together), state)


@pytest.mark.once
@every_algorithm
def test_chains_go_their_own_ways(case):
    result = sx.sample(
        jax.random.key(0), case.make(TREE_POSTERIOR, 1e-2), TREE_ROWS, tree_params(), num_chains=3, num_warmup=0,
        num_samples=30, thinning=3, batch_size=None if case.batch_size is None else 8, progress_bar=False,
    )  # fmt: skip
    assert structure(jax.tree.map(lambda x: x[0, 0], result.draws)) == structure(tree_params())
    assert len(np.unique(result.draws["b"])) == 30
    assert all_finite(result.draws)
    json.dumps(result.config)


# ---------------------------------------------------------------------------------------------------------------------
# What goes wrong


@every_algorithm
def test_a_batch_that_is_not_finite_is_rejected_without_a_trace(case, key):
    algorithm = case.make(TREE_POSTERIOR, 1e-2)
    batch = tree_batch()
    step, warmup = jax.jit(algorithm.step), jax.jit(algorithm.warmup)
    before, _ = step(key, jax.jit(algorithm.init)(key, tree_params()), batch)
    advances = (step, lambda *args: warmup(*args, jnp.asarray(0.5, jnp.float32)))
    # The square of the last one is infinite in float32.
    for advance, bad in product(advances, (np.nan, np.inf, 1e30)):
        after, info = advance(key, before, (batch[0], batch[1].at[2].set(bad)))
        assert info.accepted == 0
        assert same_position(after, before)
        assert all_finite(after)
        onward, info = advance(key, after, batch)
        assert info.accepted == 1
        assert all_finite(onward)
        assert not same_position(onward, after)


@every_algorithm
def test_one_dimension_is_refused_where_nothing_can_turn(case, key):
    algorithm = case.make(TREE_POSTERIOR, 1e-2)
    if algorithm.config["name"] in ("smile_naive", "psmile_naive", "smile", "psmile", "mclmc", "ismile"):
        with pytest.raises(ValueError, match="at least 2 numbers"):
            algorithm.init(key, jnp.ones(1))
    else:
        assert algorithm.init(key, jnp.ones(1)).params.shape == (1,)


@pytest.mark.optimised
@pytest.mark.once
def test_one_parameter_is_sampled():
    # A normal mean with a flat prior.
    x = np.random.default_rng(0).normal(size=50).astype(np.float32)
    posterior = sx.Posterior(lambda m: 0, lambda m, x: -0.5 * (x - m[0]) ** 2, 50)
    for make in (lambda p: sx.sghmc(p, 0.05, 0.2), sx.nuts):
        result = sx.sample(
            jax.random.key(0), make(posterior), x, jnp.zeros(1), num_chains=4, num_warmup=500, num_samples=4000,
            progress_bar=False,
        )  # fmt: skip
        draws = np.asarray(result.draws, np.float64)
        np.testing.assert_allclose(draws.mean(), x.mean(), atol=0.01)
        np.testing.assert_allclose(draws.var(), 1 / 50, rtol=0.1)


@pytest.mark.optimised
@pytest.mark.once
@pytest.mark.parametrize(("step_size", "decay"), [(0.1, 0.3), (0.02, 0.3)])
def test_the_thermostat_does_not_cool_positions(step_size, decay):
    # A standard normal without batch noise; momenta of variance T would make it 0.82, at any step size.
    posterior = sx.Posterior(lambda x: -0.5 * jnp.sum(x**2), lambda x, batch: jnp.zeros(len(batch)), 1)
    result = sx.sample(
        jax.random.key(0), sx.sgnht(posterior, step_size, decay), np.zeros((1, 1), np.float32), jnp.zeros(100),
        num_chains=8, num_warmup=2000, num_samples=8000, thinning=20, progress_bar=False,
    )  # fmt: skip
    np.testing.assert_allclose(np.mean(np.asarray(result.draws, np.float64) ** 2), 1, atol=0.02)


@pytest.mark.parametrize(
    "make",
    [
        lambda p, x: sx.sgld(p, 1e-3, temperature=x(1.0)),
        lambda p, x: sx.psgld(p, 1e-3, decay=x(0.9), damping=x(1e-3), temperature=x(1.0)),
        lambda p, x: sx.csgld(p, x(1e-3), cycle_length=9, exploration=x(0.2), final_step_size=x(1e-4)),
        lambda p, x: sx.sghmc(p, 1e-3, x(0.1), x(1.0)),
        lambda p, x: sx.adaptive_sghmc(p, 1e-3, x(0.1), x(1.0)),
        lambda p, x: sx.sgnht(p, 1e-3, x(0.1), x(1.0)),
        lambda p, x: sx.psmile(p, 1e-3, scale_floor=x(0.1)),
        lambda p, x: sx.mclmc(p, 1e-3, length=x(1.0)),
        lambda p, x: sx.nuts(p, target_acceptance=x(0.8), initial_step_size=x(0.1)),
        lambda p, x: sx.ismile(p, accuracy=x(0.03), noise_floor=x(1.0), shrinkage=x(0.1), max_reject=x(5.0)),
    ],
)
def test_numpy_settings_widen_nothing(make, key):
    with jax.enable_x64(True):
        algorithm = make(TREE_POSTERIOR, np.float64)
        start = jax.eval_shape(algorithm.init, key, tree_params())
        after = jax.eval_shape(lambda s: algorithm.step(key, s, tree_batch())[0], start)
        warm = jax.eval_shape(lambda s: algorithm.warmup(key, s, tree_batch(), jnp.float32(0.5))[0], start)
    for state in (after, warm):
        assert [x.dtype for x in jax.tree.leaves(state)] == [x.dtype for x in jax.tree.leaves(start)]


@every_algorithm
def test_parameters_that_are_not_floating_point_are_refused(case, key):
    with pytest.raises(TypeError, match="floating-point"):
        case.make(TREE_POSTERIOR, 1e-2).init(key, {"w": jnp.ones(3), "n": jnp.arange(3)})


@every_tuned
@pytest.mark.parametrize(
    "name, value",
    [
        *[("reset", value) for value in (0.0, -0.1, 1.1, float("nan"), "high", True)],
        *[("adapt", value) for value in (-0.1, 1.1, float("nan"), "much")],
        *[("rate", value) for value in (0.0, 1.0, -0.02, float("nan"), "fast")],
        *[("weight", value) for value in (0.0, 1.5, float("nan"), None)],
    ],
)
def test_settings_of_the_tuner_are_checked(make, name, value):
    with pytest.raises((TypeError, ValueError), match=name):
        make(TREE_POSTERIOR, 1e-2, **{name: value})


@every_tuned
def test_a_tuned_sampler_refuses_a_schedule(make):
    with pytest.raises(TypeError, match="not a schedule"):
        make(TREE_POSTERIOR, lambda count: 1e-2)


def tree_csgld(**settings):
    return sx.csgld(TREE_POSTERIOR, 1e-2, **{"cycle_length": 10} | settings)


@pytest.mark.parametrize(
    "make, name, value",
    [
        *[(sx.psgld, "decay", value) for value in (1.0, -0.1, float("nan"), "long")],
        *[(sx.psgld, "damping", value) for value in (0.0, -1.0, None)],
        *[(make, "temperature", 0.0) for make in (sx.psgld, sx.adaptive_sghmc, sx.sgnht)],
        *[(make, "momentum_decay", value) for make in (sx.adaptive_sghmc, sx.sgnht) for value in (0.0, 1.5, "much")],
        *[(lambda _, __, **kw: tree_csgld(**kw), "exploration", value) for value in (-0.1, 1.0, float("nan"))],
        *[(lambda _, __, **kw: tree_csgld(**kw), "final_step_size", value) for value in (-1e-9, 1.0, "small")],
        *[(lambda _, __, **kw: tree_csgld(**kw), "cycle_length", value) for value in (0, 1.5, None)],
        *[(lambda p, _, **kw: sx.nuts(p, **kw), "target_acceptance", value) for value in (0.0, 1.0, "high")],
        *[(lambda p, _, **kw: sx.nuts(p, **kw), "initial_step_size", value) for value in (0.0, float("inf"))],
        *[(lambda p, _, **kw: sx.nuts(p, **kw), "max_doublings", value) for value in (0, 2.5)],
    ],
)
def test_settings_are_checked(make, name, value):
    with pytest.raises((TypeError, ValueError), match=name):
        make(TREE_POSTERIOR, 1e-2, **{name: value})


@pytest.mark.parametrize(
    "settings", [{"num_cycles": 4}, {"num_steps": 100}, {"cycle_length": 5, "num_cycles": 4, "num_steps": 100}]
)
def test_cycles_are_given_once(settings):
    with pytest.raises(ValueError, match="either as cycle_length"):
        tree_csgld(**{"cycle_length": None} | settings)


def test_cycles_follow_the_cosine_and_explore_without_noise(key):
    algorithm = sx.csgld(TREE_POSTERIOR, 1e-2, num_cycles=2, num_steps=20, exploration=0.3, final_step_size=1e-3)
    start = algorithm.init(key, tree_params())

    def run(key):
        return jax.lax.scan(lambda s, k: algorithm.step(k, s, tree_batch()), start, jax.random.split(key, 20))

    _, info = run(key)
    place = np.arange(20) % 10 / 10
    np.testing.assert_allclose(info.step_size, 1e-3 + 9e-3 * (1 + np.cos(np.pi * place)) / 2, rtol=1e-5)
    np.testing.assert_array_equal(info.exploring, place < 0.25)
    np.testing.assert_array_equal(info.cycle, np.arange(20) // 10)
    _, other = run(jax.random.fold_in(key, 1))
    # The density of the step before tells when the noise began: after three steps.
    same = np.asarray(info.log_density) == np.asarray(other.log_density)
    assert same[:4].all()
    assert not same[4:].any()


def test_draws_are_selected_alike_in_all_chains():
    result = sx.sample(
        jax.random.key(0), tree_csgld(exploration=0.5), TREE_ROWS, tree_params(), num_chains=2, num_warmup=0,
        num_samples=20, batch_size=8, progress_bar=False,
    )  # fmt: skip
    exploring = np.asarray(result.info.exploring)
    kept = result.select(~exploring)
    np.testing.assert_array_equal(kept.draws["b"], np.asarray(result.draws["b"])[:, ~exploring[0]])
    assert kept.num_draws == 10
    assert not kept.info.exploring.any()
    np.testing.assert_array_equal(result.select(~exploring[0]).draws["b"], kept.draws["b"])
    for keep, text in (
        (np.zeros(20, bool), "no draw"),
        (np.ones(19, bool), "of shape"),
        (np.ones(20), "boolean"),
        (np.eye(2, 20, dtype=bool), "same for all chains"),
    ):
        with pytest.raises(ValueError, match=text):
            result.select(keep)


@pytest.mark.parametrize("floor", [0.0, 0.1])
def test_noise_scale_has_its_floor(key, floor):
    # The first leaf is all but unknown to the data: by the published rule its scale is far below the others'.
    posterior = sx.Posterior(
        lambda p: -0.5 * jnp.sum(p["dead"] ** 2),
        lambda p, rows: -0.5 * jnp.sum((rows - p["alive"][None]) ** 2, axis=-1),
        NUM_DATA,
    )
    params = {"dead": jnp.zeros(2, jnp.float32), "alive": jnp.zeros(DIM, jnp.float32)}
    algorithm = sx.psmile_naive(posterior, 1e-4, scale_floor=floor)
    rows = jnp.asarray(ROWS, jnp.float32).reshape(-1, BATCH_SIZE, DIM)

    state = algorithm.init(key, params)
    state, _ = jax.lax.scan(lambda s, batch: algorithm.step(key, s, batch), state, jnp.tile(rows, (40, 1, 1)))
    squares = state.scale.squares()
    square = [np.asarray(x, np.float64) for x in (squares["dead"], squares["alive"])]
    np.testing.assert_allclose(np.concatenate(square).mean(), 1, rtol=1e-4)
    quiet = np.sqrt(square[0])
    assert (quiet < 1e-3).all() if floor == 0 else np.allclose(quiet, floor, rtol=0.02)
    assert algorithm.config["scale_floor"] == floor


def test_a_batch_that_is_not_all_of_the_data_is_refused(key):
    algorithm = sx.nuts(TREE_POSTERIOR)
    with pytest.raises(ValueError, match="all 40 rows"):
        algorithm.step(key, algorithm.init(key, tree_params()), tree_batch(30))
    with pytest.raises(ValueError, match="batch_size must be None or 40"):
        sx.sample(key, algorithm, TREE_ROWS, tree_params(), num_chains=2, num_warmup=1, num_samples=1, batch_size=30)


@pytest.mark.optimised
@pytest.mark.once
def test_nuts_finds_masses_and_step_size():
    scales = np.logspace(-2, 1, 8)
    posterior = sx.Posterior(
        lambda x: -0.5 * jnp.sum((x / jnp.asarray(scales, x.dtype)) ** 2), lambda x, rows: jnp.zeros(len(rows)), 10
    )
    result = sx.sample(
        jax.random.key(0), sx.nuts(posterior), np.zeros(10, np.float32), jnp.zeros(8, jnp.float32), num_chains=4,
        num_warmup=600, num_samples=500, progress_bar=False,
    )  # fmt: skip
    found = np.asarray(result.state.chains.variance)
    np.testing.assert_allclose(np.log(found[:, 1:] / scales[1:] ** 2), 0, atol=0.6)
    assert 0.7 < result.info.acceptance_rate.mean() < 0.95
    assert not np.asarray(result.info.diverging).any()
    # With the right masses a trajectory is as short as on a standard normal law.
    assert np.mean(result.info.num_leapfrogs) < 16
    # Leapfrog energy errors are what the acceptance rate says they are.
    assert 0 < np.std(result.info.energy_error) < 1


@pytest.mark.parametrize("length", [0.0, -1.0, float("inf"), float("nan"), "long", lambda count: 1.0])
def test_length_of_mclmc_is_checked(length):
    with pytest.raises((TypeError, ValueError), match="length"):
        sx.mclmc(TREE_POSTERIOR, 1e-2, length=length)


@pytest.mark.parametrize("value", [0.5, (0.5,), (0.5, 0.0), (float("nan"), 0.1), ("much", 0.1), (0.5, float("inf"))])
def test_energy_variance_of_mclmc_is_checked(value):
    with pytest.raises((TypeError, ValueError), match="energy_variance"):
        sx.mclmc(TREE_POSTERIOR, 1e-2, energy_variance=value)
    with pytest.raises(TypeError, match="not a schedule"):
        sx.mclmc(TREE_POSTERIOR, lambda count: 1e-2, energy_variance=(0.5, 0.1))


@pytest.mark.parametrize("value", [-0.1, 1.0, float("nan"), "low"])
@pytest.mark.parametrize("make", [sx.psmile, sx.psmile_naive])
def test_scale_floor_is_checked(make, value):
    with pytest.raises((TypeError, ValueError), match="scale_floor"):
        make(TREE_POSTERIOR, 1e-2, scale_floor=value)


# ---------------------------------------------------------------------------------------------------------------------
# Step sizes and settings


@every_scheduled
def test_step_size_may_be_a_schedule(case, key):
    algorithm = case.make(TREE_POSTERIOR, lambda count: 0.1 / (1 + count.astype(jnp.float32)))
    state = algorithm.init(key, tree_params())
    _, info = jax.lax.scan(lambda s, k: algorithm.step(k, s, tree_batch()), state, jax.random.split(key, 4))
    np.testing.assert_allclose(info.step_size, 0.1 / np.arange(1, 5), rtol=1e-6)
    json.dumps(dict(algorithm.config))


@every_scheduled
def test_a_schedule_may_return_a_python_number(case, key):
    # As `optax.constant_schedule` does.
    algorithm = case.make(TREE_POSTERIOR, optax.constant_schedule(0.05))
    _, info = jax.jit(algorithm.step)(key, algorithm.init(key, tree_params()), tree_batch())
    assert info.step_size == jnp.float32(0.05)


@every_algorithm
def test_config_is_json(case):
    config = json.loads(json.dumps(dict(case.make(TREE_POSTERIOR, np.float64(1e-2)).config)))
    assert config["name"] in CASES
    assert config["initial_step_size" if config["name"] in ("ismile", "nuts") else "step_size"] == 1e-2


@pytest.mark.once
@pytest.mark.parametrize("make, adapt_after_warmup", [(sx.smile, False), (sx.psmile, False), (sx.psmile, True)])
def test_tuned_step_size_moves_in_warmup_and_then_stays(make, adapt_after_warmup):
    result = sx.sample(
        jax.random.key(0), make(POSTERIOR, 0.2, adapt_after_warmup=adapt_after_warmup), ROWS,
        jnp.asarray(MEAN, jnp.float32), num_chains=2, num_warmup=300, num_samples=300, batch_size=BATCH_SIZE,
        progress_bar=False,
    )  # fmt: skip
    for warm, sampled in zip(result.warmup_info.step_size, result.info.step_size, strict=True):
        assert len(np.unique(warm)) > 5
        assert (len(np.unique(sampled)) > 5) if adapt_after_warmup else (len(np.unique(sampled)) == 1)
    # A step is undone now and then, by the very rule.
    assert 0.9 < result.info.accepted.mean() < 1


def published_step(x, u, cached, eps, gradient):
    """One step without preconditioner in float64 numpy, and its change of kinetic energy; u on the unit sphere."""

    def kick(u, g, h):
        size = np.linalg.norm(g)
        delta, c = h * size / (len(u) - 1), u @ g / size
        grown = np.cosh(delta) + c * np.sinh(delta)
        return (u + (np.sinh(delta) + c * (np.cosh(delta) - 1)) * g / size) / grown, (len(u) - 1) * np.log(grown)

    share = sx.microcanonical.LAMBDA
    kinetic = 0.0
    if cached is not None:
        u, kinetic = kick(u, cached, share * eps)
    x = x + eps / 2 * u
    u, change = kick(u, gradient(x), (1 - 2 * share) * eps)
    x, kinetic = x + eps / 2 * u, kinetic + change
    u, change = kick(u, gradient(x), share * eps)
    return x, u, kinetic + change


def rows_density(x, rows):
    """The log density of `POSTERIOR` on a batch, and its gradient, in float64."""
    differences = rows - x
    density = -0.5 * np.sum(TAU * x**2) - 0.5 * np.sum(differences**2) / len(rows)
    return density, -TAU * x + differences.mean(axis=0)


@pytest.mark.parametrize("energy", ["between_batches", "one_batch"])
def test_what_the_tuner_compares(energy, key):
    eps, rows = 0.7, [ROWS[:20], ROWS[20:40]]
    algorithm = sx.smile(POSTERIOR, eps, weight=0.25, energy=energy)
    state = algorithm.init(key, jnp.asarray(MEAN, jnp.float32))
    x, u, cached, density = MEAN, np.asarray(state.momentum, np.float64), None, None
    between, within = [], []
    for batch in rows:
        x, u, kinetic = published_step(x, u, cached, eps, lambda x, batch=batch: rows_density(x, batch)[1])
        before, (density, cached) = density, rows_density(x, batch)
        between.append(None if before is None else abs(kinetic - (density - before)))
        state, info = algorithm.step(key, state, jnp.asarray(batch, jnp.float32))
        np.testing.assert_allclose(state.params, x, rtol=1e-4)
        np.testing.assert_allclose(info.log_density, density, rtol=1e-4)
        within.append(abs(info.energy_error))
    if energy == "between_batches":
        # The first step has nothing to compare with.
        assert int(state.tuner.num_steps) == 1
        np.testing.assert_allclose(state.tuner.mean, 0.25 * between[1], rtol=1e-3)
    else:
        assert int(state.tuner.num_steps) == 2
        np.testing.assert_allclose(state.tuner.mean, 0.25 * (0.75 * within[0] + within[1]), rtol=1e-5)


@pytest.mark.once
@pytest.mark.parametrize("make", [sx.smile, sx.psmile])
def test_an_undone_step_leaves_no_density_and_a_hopeless_start_is_left(make, key):
    algorithm = make(POSTERIOR, 1e30)
    state = algorithm.init(key, jnp.asarray(MEAN, jnp.float32))
    batch = jnp.asarray(ROWS[:20], jnp.float32)
    after, info = algorithm.warmup(key, state, batch, 0.0)
    assert info.accepted == 0
    assert np.isnan(after.log_density)
    np.testing.assert_array_equal(after.params, state.params)
    np.testing.assert_allclose(after.tuner.step_size, 0.98e30, rtol=1e-5)


@pytest.mark.optimised
@pytest.mark.once
def test_the_tuner_falls_faster_on_one_batch_than_between_batches():
    """The step size after 10,000 steps from 0.15: batch noise hides what the integrator's own error would do."""
    last = {
        energy: sx.sample(
            jax.random.key(0), sx.psmile(POSTERIOR, 0.15, energy=energy), ROWS.astype(np.float32), jnp.zeros(DIM),
            num_chains=4, num_warmup=10_000, num_samples=10, batch_size=BATCH_SIZE, progress_bar=False,
        ).info.step_size[:, -1]
        for energy in ("between_batches", "one_batch")
    }  # fmt: skip
    assert np.median(last["one_batch"]) < 0.02 < np.median(last["between_batches"])


def test_the_tuner_refuses_an_unknown_energy():
    with pytest.raises(ValueError, match="energy must be one of .*between_batches.*got 'both'"):
        sx.psmile(POSTERIOR, 1e-2, energy="both")


# ---------------------------------------------------------------------------------------------------------------------
# Eight simulated devices: `python test_samplers.py` is run by the test below


def compare_with_one_device():
    """Every algorithm's steps with the batch spread over eight devices, against the same steps on one."""
    assert jax.device_count() == 8
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    batch = tree_batch()
    for name, case in CASES.items():
        algorithm = case.make(TREE_POSTERIOR, 1e-2)
        start = jax.jit(algorithm.init)(jax.random.key(0), tree_params())
        step = jax.jit(algorithm.step)

        def run(state, batch, step=step):
            for i in range(4):
                state, info = step(jax.random.key(i), state, batch)
            return state, info

        spread = jax.device_put(batch, rows)
        assert len(spread[0].sharding.device_set) == 8
        state, info = run(jax.device_put(start, everywhere), spread)
        assert info.accepted == 1
        close((state, info), run(start, batch))
        print("same:", name)


@pytest.mark.truth
def test_eight_devices_take_the_same_steps_as_one():
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    run = subprocess.run(
        [sys.executable, Path(__file__).resolve()],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split("\n")[:-1] == [f"same: {name}" for name in CASES]


if __name__ == "__main__":
    compare_with_one_device()


@pytest.mark.once
def test_a_schedule_that_is_none_is_refused_where_it_is_given():
    for schedule, error, match in (
        (lambda count: -1e-3, ValueError, r"step_size\(count\) must be positive and finite, and for 0 is -0.001"),
        (lambda count: None, TypeError, r"must return one number, and for 0 returns a NoneType"),
        (lambda count: jnp.ones(1), TypeError, r"must return one number, and for 0 returns an array of shape \(1,\)"),
    ):
        with pytest.raises(error, match=match):
            sx.sgld(TREE_POSTERIOR, schedule)


@pytest.mark.once
def test_step_sizes_may_be_compared_side_by_side(key):
    def moved(step_size):
        algorithm = sx.sgld(TREE_POSTERIOR, lambda count: step_size)
        state, _ = algorithm.step(key, algorithm.init(key, tree_params()), tree_batch())
        return state.params

    together = jax.vmap(moved)(jnp.asarray([1e-3, 1e-2], jnp.float32))
    for k, step_size in enumerate((1e-3, 1e-2)):
        alone = moved(jnp.asarray(step_size, jnp.float32))
        jax.tree.map(lambda a, b, k=k: np.testing.assert_allclose(a[k], b, rtol=1e-5), together, alone)
