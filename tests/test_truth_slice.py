"""A slice of the truth suite (`make truth`): ismile and pSMILE on a regression whose posterior is known."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytestmark = [pytest.mark.once, pytest.mark.optimised]

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def suite():
    sys.path.insert(0, str(ROOT))
    try:
        from benchmarks.truth import glm, runner, samplers, target
    finally:
        sys.path.remove(str(ROOT))
    return glm, runner, samplers, target


@pytest.fixture(scope="module")
def regression(suite):
    """The linear regression with short runs, and its closed-form moments."""
    target = replace(suite[0].linear(), num_warmup=4000, num_samples=8000)
    return target, target.reference(target)


def test_closed_form_is_that_of_the_density(regression):
    # The gradient at the mean is zero, and the density falls by half along any direction of one standard deviation.
    import jax
    import jax.numpy as jnp

    target, reference = regression
    mean = jnp.asarray(reference.mean, jnp.float32)

    def density(w):
        return target.log_density(w, jnp.float32)

    gradient, hessian = jax.grad(density)(mean), jax.hessian(density)(mean)
    variance = np.diag(np.linalg.inv(-np.asarray(hessian, np.float64)))
    np.testing.assert_allclose(variance, reference.variance, rtol=1e-3)
    np.testing.assert_allclose(np.asarray(gradient) * np.sqrt(reference.variance), 0, atol=0.01)


def test_ismile_has_the_right_moments_where_psmile_has_not(suite, regression):
    _, runner, samplers, truth = suite
    target, reference = regression
    # With this much damping the geometry alone is far from the noise's: were noise and friction not matched to it,
    # the smallest ratio would be .35.
    (moments,), _, _ = runner.run_ismile(target, reference, {"noise_floor": 30.0}, 1)
    ismile = truth.scores(moments, reference, "moments")
    steps = np.asarray([0.01, 0.02])
    ((small, large),), _ = runner.run_grid(target, samplers.SAMPLERS["psmile_naive"], reference, steps, 1, 4)
    psmile = [truth.scores(m, reference, "moments") for m in (small, large)]

    assert ismile["bias_mean"] < 0.004
    assert ismile["bias_square"] < 0.004
    # At another temperature all ratios leave this range.
    assert ismile["ratio_min"] > 0.85
    assert ismile["ratio_max"] < 1.15
    # The directions with little batch noise are frozen.
    assert min(row["ratio_min"] for row in psmile) < 0.5
    assert min(row["bias_square"] for row in psmile) > 5 * ismile["bias_square"]


def test_scores_know_a_wrong_temperature(suite):
    truth = suite[3]
    rng = np.random.default_rng(0)
    mean, scale = np.asarray([0.0, 3.0]), np.asarray([1.0, 0.1])
    reference = truth.gaussian_reference(mean, scale**2, "closed form")
    for temperature in (1.0, 1.5):
        x = rng.normal(size=(4, 2, 20_000, 2)) * scale * temperature**0.5
        found = truth.scores(truth.Moments(x.mean(axis=2), (x**2).mean(axis=2)), reference, "moments")
        assert abs(found["ratio_min"] - temperature) < 0.03
        assert abs(found["ratio_max"] - temperature) < 0.03
        assert found["bias_mean"] < 1e-3
        # (v' − v)² / (4 m² v + 2 v²) with v' = T v: half a (T − 1)² where the mean is zero.
        expected = (temperature - 1) ** 2 * np.mean(scale**4 / reference.square_variance)
        assert found["bias_square"] == pytest.approx(expected, rel=0.1, abs=1e-3)
