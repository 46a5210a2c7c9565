"""The configurational temperature against what it is of draws whose law is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import smilax as sx
from smilax.diagnostics.temperature import temperature_row, temperatures

RNG = np.random.default_rng(0)
N, B, D = 200, 32, 6
DTYPE = np.float64 if jax.config.jax_enable_x64 else np.float32
ROWS = (RNG.normal(size=(N, D)) * np.linspace(0.5, 2, D)).astype(DTYPE)
TARGETS = (ROWS @ RNG.normal(size=D) + RNG.normal(size=N)).astype(DTYPE)
POSTERIOR = sx.Posterior(
    lambda p: -0.5 * (jnp.sum(p["a"] ** 2) + jnp.sum(p["b"] ** 2)),
    lambda p, batch: -0.5 * (batch[1] - batch[0] @ jnp.concatenate([p["a"], p["b"]])) ** 2,
    N,
)
COVARIANCE = np.linalg.inv(ROWS.T @ ROWS + np.eye(D))
MEAN = COVARIANCE @ (ROWS.T @ TARGETS)
DATA = sx.Batches((ROWS, TARGETS))


def gaussian(scales, chains=4, draws=400, seed=1):
    """Draws of the posterior, stretched by these factors along its principal axes; two arrays of two and four."""
    values, vectors = np.linalg.eigh(COVARIANCE)
    z = np.random.default_rng(seed).normal(size=(chains, draws, D))
    x = (MEAN + (z * np.sqrt(values) * scales) @ vectors.T).astype(DTYPE)
    return {"a": x[..., :2], "b": x[..., 2:]}


def of(draws, number=1600, **changes):
    return temperatures(jax.random.key(2), POSTERIOR, draws, DATA, B, number, **changes)


@pytest.mark.parametrize("factor", [0.1, 1.0, 3.0])
def test_it_is_the_ratio_of_variances_on_a_gaussian(factor):
    found = of(gaussian(np.sqrt(factor)))
    assert abs(found.whole - factor) < 4 * found.whole_error
    assert found.whole_error < 0.07 * factor + 0.05
    assert found.num_draws == 1600
    np.testing.assert_array_less(np.abs(found.leaves - factor), 5 * found.leaves_error)


def test_it_is_their_mean_where_directions_differ():
    scales = np.sqrt(np.linspace(0.5, 4, D))
    found = of(gaussian(scales))
    assert abs(found.whole - np.mean(scales**2)) < 4 * found.whole_error


def test_few_draws_of_a_chain_do_not_bias_it():
    # Eight draws to a group, whose mean takes an eighth of the variance away.
    found = [of(gaussian(1.0, chains=4, draws=8, seed=seed), number=32).whole for seed in range(20)]
    assert abs(np.mean(found) - 1) < 4 * np.std(found) / 20**0.5
    assert np.std(found) / 20**0.5 < 0.1


def test_verdicts():
    assert temperature_row(of(gaussian(1.0))).verdict == "ok"
    hot = temperature_row(of(gaussian(np.sqrt(1.8))))
    assert hot.verdict == "warning" and "times in variance: take a smaller step size" in hot.advice
    assert temperature_row(of(gaussian(np.sqrt(6.0)))).verdict == "bad"
    cold = temperature_row(of(gaussian(np.sqrt(0.1))))
    assert cold.verdict == "warning" and "run longer" in cold.advice
    apart = gaussian(1.0)
    apart["a"] = apart["a"].mean((0, 1)) + 3 * (apart["a"] - apart["a"].mean((0, 1)))
    assert "hottest ['a']" in temperature_row(of(apart)).text


def test_draws_that_are_too_few_or_not_finite_are_left_out():
    assert of(gaussian(1.0, chains=4, draws=7)) is None
    assert temperature_row(None).verdict == "n/a"
    draws = gaussian(1.0, chains=5)
    draws["b"][2] = np.nan
    assert abs(of(draws).whole - 1) < 4 * of(draws).whole_error
    assert of({name: leaf[2:3] for name, leaf in draws.items()}) is None


@pytest.mark.once
def test_a_sampler_with_too_long_steps_is_seen(key):
    curvature = np.linalg.eigvalsh(np.linalg.inv(COVARIANCE))[-1]
    start = {"a": jnp.asarray(MEAN[:2], DTYPE), "b": jnp.asarray(MEAN[2:], DTYPE)}
    options = {"num_chains": 4, "num_warmup": 500, "num_samples": 8000, "thinning": 20, "batch_size": B}
    for share, verdict in ((0.03, "ok"), (1.2, "bad")):
        algorithm = sx.sgld(POSTERIOR, float(share / curvature))
        result = sx.sample(key, algorithm, (ROWS, TARGETS), start, progress_bar=False, **options)
        draws = np.concatenate([np.asarray(result.draws[name]).reshape(-1, n) for name, n in (("a", 2), ("b", 4))], 1)
        ratio = np.trace(np.cov(draws.T) @ np.linalg.inv(COVARIANCE)) / D
        row = sx.diagnose(result, algorithm, (ROWS, TARGETS))["temperature"]
        assert row.verdict == verdict
        assert row.value == pytest.approx(ratio, abs=0.15 * ratio)
