import jax
import numpy as np
import pytest

from smilax.experiments.analytical import LAWS, NOISES, TARGETS, Setting, biases, noise_factors
from smilax.experiments.analytical.figures import bias_figure, mixture_figure
from smilax.experiments.analytical.mixture import CENTRES, Visits, _count, log_density

pytestmark = pytest.mark.once


def draws_of(name, count=400_000):
    rng = np.random.default_rng(0)
    if name == "rosenbrock":
        a = rng.normal(1, 1, (count, 5))
        return np.concatenate([a, a**2 + 0.1**0.5 * rng.normal(size=a.shape)], axis=1)
    if name == "funnel":
        theta = 3 * rng.normal(size=(count, 1))
        return np.concatenate([theta, np.exp(theta / 2) * rng.normal(size=(count, 9))], axis=1)
    return rng.multivariate_normal(np.zeros(10), TARGETS["gaussian"]().covariance, count)


@pytest.mark.parametrize("name", TARGETS)
def test_moments_of_the_targets(name):
    target, squares = TARGETS[name](), draws_of(name)[:, : TARGETS[name]().scored] ** 2
    np.testing.assert_allclose(squares.mean(0), target.second, rtol=0.05)
    np.testing.assert_allclose(squares.var(0), target.variance, rtol=0.1)
    if name == "rosenbrock":
        np.testing.assert_allclose(target.second[[0, 5]], [2, 10.1], rtol=1e-6)
        np.testing.assert_allclose(target.variance[[0, 5]], [6, 668.02], rtol=1e-4)


@pytest.mark.parametrize("name", ["rosenbrock", "gaussian"])
def test_covariances_of_the_targets(name):
    target = TARGETS[name]()
    np.testing.assert_allclose(np.cov(draws_of(name).T), target.covariance, atol=0.02 * np.abs(target.covariance).max())


@pytest.mark.parametrize("name", TARGETS)
def test_densities_have_a_mean_gradient_of_zero(name):
    # E[∇ log p] = 0 under p, which fails for a density that is not that of the draws.
    draws = draws_of(name, 20_000).astype(np.float32)
    gradients = np.asarray(jax.vmap(jax.grad(TARGETS[name]().log_density))(draws), np.float64)
    error = gradients.std(0) / len(draws) ** 0.5
    assert (np.abs(gradients.mean(0)) < 4.5 * error).all()


@pytest.mark.parametrize("name", LAWS)
def test_laws_of_the_noise_have_unit_variance(name, key):
    noise = np.asarray(LAWS[name](key, (400_000,)), np.float64)
    assert abs(noise.mean()) < 0.01
    assert noise.var() == pytest.approx(1, abs=0.03)
    skewness = (noise**3).mean()
    assert skewness == pytest.approx(1.75 if name == "lognormal" else 0, abs=0.3)


def test_fisher_noise_is_proportional_to_the_precision():
    covariance = TARGETS["gaussian"]().covariance
    factors = noise_factors(covariance)
    assert set(factors) == set(NOISES)
    fisher = factors["fisher"] @ factors["fisher"].T
    np.testing.assert_allclose(fisher @ covariance, 256 * np.eye(10), atol=1e-6)


@pytest.mark.truth
def test_biases_against_what_is_known(tmp_path):
    settings = [Setting("gaussian", noise, "gaussian", "psmile_naive") for noise in ("isotropic", "fisher")]
    found = biases(settings, 2, 5000, grids={"psmile_naive": [1e-7, 0.464]})
    isotropic, fisher = found[settings[0]], found[settings[1]]
    # A chain that stays at zero has the bias E²/(2E²).
    np.testing.assert_allclose(isotropic[0], 0.5, rtol=1e-3)
    assert isotropic[1].max() < 0.25
    assert fisher[1].min() > 0.3
    bias_figure(found, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_modes_are_counted(tmp_path):
    draws = np.zeros((2, 3, 2), np.float32)
    draws[0] = CENTRES[[0, 1, 1]]
    draws[1] = [[1.0, 1.0], [50.0, 0.0], CENTRES[24]]
    modes, together = _count(draws)
    # (1, 1) is √2 from four centres: nearer than two standard deviations to none.
    assert (modes.tolist(), together) == ([2, 1], 3)
    mixture_figure(Visits(draws, modes, together), tmp_path / "m.png")
    assert (tmp_path / "m.png").stat().st_size > 1000


def test_the_mixture_is_highest_at_its_centres():
    points = np.zeros((25, 10), np.float32)
    points[:, :2] = CENTRES
    gradients = np.asarray(jax.vmap(jax.grad(log_density))(points))
    assert np.abs(gradients).max() < 0.01
