import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from smilax.tuning import (
    QuantileRule,
    VarianceRule,
    gamma_quantile,
    quantile_init,
    quantile_update,
    variance_init,
    variance_update,
)


@pytest.mark.parametrize("shape", [0.8, 2.0, 30.0])
@pytest.mark.parametrize("probability", [0.1, 0.5, 0.93, 0.98])
def test_wilson_hilferty_against_scipy(shape, probability):
    got = gamma_quantile(jnp.asarray(shape * 3.0), jnp.asarray(shape * 9.0), probability)
    np.testing.assert_allclose(got, stats.gamma.ppf(probability, shape, scale=3), rtol=0.03, atol=0.05)


def test_quantile_of_a_very_skewed_law_is_not_negative():
    assert float(gamma_quantile(jnp.asarray(1.0), jnp.asarray(50.0), 0.02)) == 0


def run(errors, rule=None, adapt=True, valid=None):
    rule = rule or QuantileRule()
    valid = jnp.ones(len(errors), bool) if valid is None else valid

    def step(state, error):
        state, accepted = quantile_update(rule, state, error[0], error[1], adapt)
        return state, (state.step_size, accepted)

    errors = jnp.asarray(errors, jnp.float32)
    return jax.lax.scan(step, quantile_init(jnp.asarray(0.1, jnp.float32)), (errors, valid))[1]


def test_undoes_the_share_asked_for():
    errors = stats.gamma.rvs(2, size=50_000, random_state=0)
    _, accepted = run(errors, QuantileRule(reset=0.95), adapt=False)
    assert abs(float(np.mean(~np.asarray(accepted[100:]))) - 0.05) < 0.01


def test_moves_by_its_rate_after_ten_steps_and_only_when_adapting():
    errors = [1.0, 1.1, 0.9] * 4 + [100.0]
    sizes, accepted = run(errors)
    np.testing.assert_allclose(sizes[:10], 0.1, rtol=1e-6)
    np.testing.assert_allclose(sizes[-1], sizes[-2] * 0.98, rtol=1e-6)
    assert not bool(accepted[-1])
    np.testing.assert_allclose(run(errors, adapt=False)[0], 0.1, rtol=1e-6)


def test_a_step_that_is_not_finite_is_undone_and_leaves_no_trace():
    errors = [1.0, 1.1, 0.9] * 10 + [np.nan] + [1.0, 1.1, 0.9] * 10
    valid = jnp.isfinite(jnp.asarray(errors))
    sizes, accepted = run(errors, valid=valid)
    assert not bool(accepted[30])
    assert np.isfinite(sizes).all()
    assert bool(accepted[31:].all())
    np.testing.assert_allclose(sizes[30], sizes[29] * 0.98, rtol=1e-6)


@pytest.mark.once
def test_drift_of_the_rule_under_batch_noise_alone():
    """With exact moments of a half-normal E (docs/theory.md), and as the rule behaves when it forgets slowly."""
    mean, variance = np.sqrt(2 / np.pi), 1 - 2 / np.pi
    shape, share = mean**2 / variance, 2 * 0.1 / 3

    def quantile(z):
        return mean * max(1 - 1 / (9 * shape) + z / (3 * np.sqrt(shape)), 0) ** 3

    low, high = (quantile(stats.norm.ppf(p)) for p in (share / 2, 1 - share))
    expected = (1 - 2 * stats.norm.sf(low)) * np.log(1.02) + 2 * stats.norm.sf(high) * np.log(0.98)
    assert expected == pytest.approx(-6.45e-5, rel=0.01)
    errors = np.abs(np.random.default_rng(0).normal(size=(8, 200_000)))
    drifts = [np.log(np.asarray(run(chain, QuantileRule(weight=1e-3))[0])[[20_000, -1]]) for chain in errors]
    found = [(last - first) / 180_000 for first, last in drifts]
    assert abs(np.mean(found) - expected) < 4 * np.std(found) / np.sqrt(len(found))
    assert np.std(found) / np.sqrt(len(found)) < 2e-5


@pytest.mark.once
@pytest.mark.parametrize(
    "law, least, most",
    [(stats.t(5), -1e-3, -3e-4), (stats.laplace(), -np.inf, -3e-4), (stats.norm(2), 3e-4, 1e-3)],
    ids=["Student-t", "Laplace", "normal about 2"],
)
def test_drift_of_the_rule_where_the_energy_is_not_half_normal(law, least, most):
    """Heavy tails shrink the step size at least five times as fast as normal noise does; a large mean makes it grow."""
    errors = np.abs(law.rvs((4, 50_000), random_state=0))
    drifts = [np.log(np.asarray(run(chain)[0])[[1000, -1]]) for chain in errors]
    assert least < np.mean([(last - first) / 49_000 for first, last in drifts]) < most


SIZE, RIGHT = 20, 0.3  # parameters, and the step size at which EEVPD is on target


def steer(start, rejected, num_steps=4000):
    """Step sizes along a warm-up on a smooth target, EEVPD ∝ ε⁶, where the steps in `rejected` are rejects."""
    rule = VarianceRule(target=1e-4)
    normal = jax.random.normal(jax.random.key(0), (num_steps,), jnp.float32)

    def step(state, inputs):
        t, z, reject = inputs
        scale = jnp.sqrt(rule.target * SIZE) * jnp.exp(3 * (state.log_step - jnp.log(RIGHT)))
        # A step ten times too long is rejected, as the guardrail does.
        accepted = ~reject & (state.log_step < jnp.log(10 * RIGHT))
        state = variance_update(
            rule, state, scale * z, accepted, SIZE, t.astype(jnp.float32) / num_steps, jnp.asarray(100.0, jnp.float32)
        )
        return state, jnp.exp(state.log_step)

    steps = jnp.arange(num_steps, dtype=jnp.int32)
    rejects = jnp.isin(steps, jnp.asarray(rejected, jnp.int32))
    state, sizes = jax.lax.scan(step, variance_init(jnp.asarray(start, jnp.float32)), (steps, normal, rejects))
    return float(jnp.exp(state.average)), np.asarray(sizes)


@pytest.mark.parametrize("start", [1e-6, RIGHT, 10.0])
def test_variance_rule_finds_the_step_size_from_any_start(start):
    found, sizes = steer(start, [])
    assert found == pytest.approx(RIGHT, rel=0.03)
    np.testing.assert_allclose(sizes[500:], RIGHT, rtol=0.3)


@pytest.mark.parametrize("when", [1500, 2990, 3010, 3500, 3950])
def test_a_run_of_rejects_does_not_freeze_the_chain(when):
    found, sizes = steer(1e-2, np.arange(when, when + 40))
    assert found == pytest.approx(RIGHT, rel=0.1)
    # While it lasts the step does get shorter, as the chain may need that to leave.
    assert sizes[when + 39] < 0.9 * sizes[when - 1]


def test_many_rejects_shorten_the_step():
    found, _ = steer(1e-2, np.arange(0, 4000, 10))
    assert found < RIGHT / 3


def test_an_energy_whose_square_overflows_is_that_of_a_step_that_is_not_finite():
    errors = np.random.default_rng(0).normal(size=600)
    errors[100] = 1e30
    steps, accepted = run(errors)
    assert not accepted[100]
    ordinary = errors.copy()
    ordinary[100] = 0
    same = run(ordinary, valid=jnp.arange(600) != 100)
    np.testing.assert_array_equal(steps, same[0])
    np.testing.assert_array_equal(accepted, same[1])
    # The tuner goes on: it moves the step size, and undoes no more than it should.
    assert len(np.unique(np.asarray(steps)[200:])) > 1
    assert np.asarray(accepted)[200:].mean() > 0.9
