"""MILE's tuner finds what it says it finds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import smilax as sx
from smilax.geometry import Identity
from smilax.microcanonical import draw_velocity, drift_first
from smilax.mile import LENGTH_FACTOR, autocorrelation_time, mile_init, mile_update

DIM = 40
SCALES = np.linspace(0.5, 2, DIM)
ROWS = np.zeros(10, np.float32)
POSTERIOR = sx.Posterior(
    lambda x: -0.5 * jnp.sum((x / jnp.asarray(SCALES, x.dtype)) ** 2), lambda x, rows: jnp.zeros(len(rows), x.dtype), 10
)


@pytest.mark.parametrize("count", [400, 150])
def test_autocorrelation_time_is_that_of_an_autoregression(count):
    rng = np.random.default_rng(0)
    rho = np.repeat([0.0, 0.5, 0.8], 400)
    x = np.zeros((count, rho.size))
    x[0] = rng.normal(size=rho.size)
    for i in range(1, count):
        x[i] = rho * x[i - 1] + np.sqrt(1 - rho**2) * rng.normal(size=rho.size)
    # Rows that are not filled do not count, nor columns that stand still.
    trail = np.full((400, rho.size + 1), 99.0)
    trail[:count, :-1] = x
    trail[:count, -1] = 3
    time = autocorrelation_time(jnp.asarray(trail, jnp.float32), jnp.asarray(count))
    np.testing.assert_allclose(time, np.mean((1 + rho) / (1 - rho)), rtol=0.12)


def whole_step_errors(step_size, steps=4000):
    """ΔE of many steps at this step size, by densities in float64 on the host."""

    def step(carry, key):
        x, v = carry
        moved = drift_first(lambda x: POSTERIOR.value_and_grad(x, jnp.asarray(ROWS)), x, v, Identity(), step_size)
        v = draw_velocity(key, x, Identity())
        return (moved.params, v), (x, moved.params, moved.kinetic)

    start = jnp.asarray(SCALES, jnp.float32)
    keys = jax.random.split(jax.random.key(0), steps)
    _, (x, y, kinetic) = jax.lax.scan(step, (start, draw_velocity(keys[0], start, Identity())), keys)
    before, after = (0.5 * np.sum((np.asarray(z, np.float64) / SCALES) ** 2, axis=1) for z in (x, y))
    return np.asarray(kinetic, np.float64) + after - before


@pytest.mark.once
@pytest.mark.parametrize("target", [1e-3, 0.1])
@pytest.mark.parametrize("start", [1e-3, 1.0])
def test_step_size_has_the_energy_variance_asked_for(target, start):
    result = sx.sample(
        jax.random.key(1), sx.mclmc(POSTERIOR, start, energy_variance=(5 * target, target)), ROWS,
        jnp.asarray(SCALES, jnp.float32), num_chains=2, num_warmup=2000, num_samples=2, progress_bar=False,
    )  # fmt: skip
    tuner = result.state.chains.tuner
    errors = whole_step_errors(jnp.asarray(tuner.step_size[0]))
    # ε⁶ goes by it, so that a factor of three is 20 % in the step size.
    assert abs(np.log(np.mean(errors**2) / DIM / target)) < np.log(3)
    # At first the target is wider; but from below, where ε⁻⁶ is large, the mean of it forgets only slowly.
    if start == 1.0:
        assert np.median(result.warmup_info.step_size[:, 300:500]) > 1.05 * np.median(tuner.step_size)
    assert len(np.unique(result.info.step_size[0])) == 1


@pytest.mark.once
def test_length_is_the_distance_of_an_autocorrelation_time():
    result = sx.sample(
        jax.random.key(1), sx.mclmc(POSTERIOR, 0.1, energy_variance=(1e-3, 1e-3)), ROWS,
        jnp.asarray(SCALES, jnp.float32), num_chains=2, num_warmup=4000, num_samples=20_000, progress_bar=False,
    )  # fmt: skip
    tuner = result.state.chains.tuner
    # The chain goes on with another length than that whose time was measured, and such times depend on it weakly.
    trail = np.asarray(result.draws)[0]
    time = np.mean([autocorrelation_time(jnp.asarray(t), jnp.asarray(400)) for t in trail.reshape(50, 400, DIM)])
    assert abs(np.log(tuner.length[0] / (LENGTH_FACTOR * tuner.step_size[0] * time))) < np.log(2)


@pytest.mark.once
@pytest.mark.parametrize("length, num_warmup", [(None, 1), (None, 30), (3.0, 30)])
def test_length_given_is_kept_and_short_warmups_work(length, num_warmup):
    algorithm = sx.mclmc(POSTERIOR, 0.1, length, energy_variance=(0.5, 0.1))
    warmup = jax.jit(algorithm.warmup)
    state = algorithm.init(jax.random.key(0), jnp.asarray(SCALES, jnp.float32))
    for t in range(num_warmup):
        fraction = jnp.asarray(t / num_warmup, jnp.float32)
        state, _ = warmup(jax.random.key(t), state, jnp.asarray(ROWS), fraction)
    assert np.isfinite(state.tuner.step_size)
    assert np.isfinite(state.tuner.length)
    assert state.tuner.length > 0
    assert (state.tuner.length == 3.0) == (length is not None)


@pytest.mark.parametrize("step_size", [1e-1, 1e-3, 1e-5])
@pytest.mark.parametrize("energy", [1e10, 1e15, 1e18, 1e25])
def test_one_enormous_energy_shortens_the_step_and_is_got_over(step_size, energy):
    params, fraction = jnp.ones(5, jnp.float32), jnp.asarray(0.2, jnp.float32)
    state = mile_init(params, step_size, 1.0)
    for error in (energy, *(1e-3,) * 300):
        state = mile_update(state, params, jnp.float32(error), jnp.asarray(True), fraction, (0.5, 0.1), False)
        assert 0 < float(state.step_size) < jnp.inf
    assert float(state.step_size) > 1e-8
