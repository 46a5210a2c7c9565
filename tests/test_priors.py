import math

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
import scipy.integrate
import scipy.stats as st

from smilax import priors as pr
from smilax.structure import leaf_paths

PARAMS = {
    "likelihood": {"log_scale": jnp.asarray(0.3)},
    "network": {"layers": [{"weight": jnp.linspace(-2.0, 2.0, 6).reshape(2, 3), "bias": jnp.array([0.1, -0.7])}]},
}
PATHS = ["likelihood/log_scale", "network/layers/0/bias", "network/layers/0/weight"]
FLAT = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(PARAMS)]).astype(float)

CLOSED = [
    (pr.Normal(), st.norm()),
    (pr.Normal(0.5, 0.1), st.norm(0.5, 0.1)),
    (pr.Laplace(-0.2, 0.7), st.laplace(-0.2, 0.7)),
    (pr.StudentT(3.0), st.t(3.0)),
    (pr.StudentT(5, 0.5, 2.0), st.t(5, 0.5, 2.0)),
]


@pytest.mark.parametrize("prior, truth", CLOSED, ids=lambda x: repr(x)[:30])
def test_log_prob_agrees_with_scipy(prior, truth):
    value = prior.log_prob(PARAMS)
    assert value.shape == ()
    np.testing.assert_allclose(value, truth.logpdf(FLAT).sum(), rtol=1e-5)


@pytest.mark.parametrize("prior, truth", CLOSED, ids=lambda x: repr(x)[:30])
@pytest.mark.once
def test_samples_follow_the_prior(prior, truth):
    like = {"a": jnp.zeros((100, 20)), "b": jnp.zeros(2000)}
    draw = prior.sample(jax.random.key(0), like)
    assert jax.tree.map(jnp.shape, draw) == jax.tree.map(jnp.shape, like)
    values = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(draw)])
    assert st.kstest(values, truth.cdf).pvalue > 1e-3
    assert abs(np.corrcoef(values[:2000], values[2000:])[0, 1]) < 0.1


@pytest.mark.parametrize("prior, truth", [CLOSED[1], CLOSED[3], CLOSED[4]], ids=lambda x: repr(x)[:30])
def test_precision_is_the_mean_curvature(prior, truth):
    def curvature(x, h=1e-3):
        return -(truth.logpdf(x + h) - 2 * truth.logpdf(x) + truth.logpdf(x - h)) / h**2 * truth.pdf(x)

    centre, width = float(truth.median()), 200 * prior.scale
    expected = scipy.integrate.quad(curvature, centre - width, centre + width, points=[centre], limit=500)[0]
    assert jax.tree.leaves(prior.precision(PARAMS)) == pytest.approx([expected] * 3, rel=1e-3)


def test_precision_of_laplace_is_that_of_its_kink():
    # -d² log p is 2 / b times a delta at the centre, where the density is 1 / (2 b).
    assert pr.Laplace(0.3, 0.5).precision(PARAMS["likelihood"]) == {"log_scale": 4.0}


def test_flat_is_zero_and_cannot_be_sampled():
    assert pr.Flat().log_prob(PARAMS) == 0
    assert all(math.isnan(p) for p in jax.tree.leaves(pr.Flat().precision(PARAMS)))
    with pytest.raises(ValueError, match="improper"):
        pr.Flat().sample(jax.random.key(0), PARAMS)


def test_leaves_of_two_dtypes_add_up():
    params = {"a": jnp.ones(3, jnp.float32), "b": jnp.ones(3, jnp.float16)}
    value = pr.Normal().log_prob(params)
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, st.norm().logpdf(1.0) * 6, rtol=1e-3)
    assert jax.tree.map(lambda x: x.dtype, pr.Normal().sample(jax.random.key(0), params)) == {
        "a": jnp.float32,
        "b": jnp.float16,
    }


def test_by_path_takes_the_first_match():
    prior = pr.by_path({"*/bias": pr.Flat(), "network/*": pr.Normal(0.0, 0.5), "likelihood/log_scale": pr.Laplace()})
    expected = st.norm(0, 0.5).logpdf(FLAT[3:]).sum() + st.laplace().logpdf(FLAT[0])
    np.testing.assert_allclose(prior.log_prob(PARAMS), expected, rtol=1e-5)
    precision = prior.precision(PARAMS)
    assert precision["likelihood"]["log_scale"] == 1.0
    assert precision["network"]["layers"][0]["weight"] == 4.0
    assert math.isnan(precision["network"]["layers"][0]["bias"])
    assert leaf_paths(PARAMS) == PATHS


def test_by_path_names_leaves_and_patterns_left_over():
    with pytest.raises(ValueError, match="no pattern matches .*network/layers/0/bias"):
        pr.by_path({"*/weight": pr.Normal(), "likelihood/*": pr.Normal()}).log_prob(PARAMS)
    with pytest.raises(ValueError, match=r"no parameter is left for the patterns \['decoder/\*'\]"):
        pr.by_path({"decoder/*": pr.Normal(), "*": pr.Normal()}).log_prob(PARAMS)
    with pytest.raises(ValueError, match=r"no parameter is left for the patterns \['\*/bias'\]"):
        pr.by_path({"*": pr.Normal(), "*/bias": pr.Normal()}).log_prob(PARAMS)
    with pytest.raises(ValueError, match="dictionary"):
        pr.by_path({})
    with pytest.raises(TypeError, match="prior must be"):
        pr.by_path({"*": 3.0})


def test_scalar_numpyro_distributions_become_closed_forms():
    assert pr.as_prior(dist.Normal(0.0, 2.0)) == pr.Normal(0.0, 2.0)
    assert pr.as_prior(dist.Laplace(1.0, 2.0)) == pr.Laplace(1.0, 2.0)
    assert pr.as_prior(dist.StudentT(3.0, 1.0, 2.0)) == pr.StudentT(3.0, 1.0, 2.0)
    prior = pr.Normal()
    assert pr.as_prior(prior) is prior


NUMPYRO = [
    dist.Cauchy(0.0, 1.0),
    dist.Logistic(0.5, 2.0),
    dist.Normal(np.array([0.0, 0.1, 0.2]), np.array([1.0, 2.0, 3.0])),
    dist.Normal(0.0, 1.0).expand([2, 3]).to_event(2),
    dist.Laplace(np.zeros(3), 0.5).to_event(1),
    dist.StudentT(4.0, np.zeros(3), 1.0),
    dist.MultivariateNormal(np.zeros(3), covariance_matrix=np.diag([1.0, 4.0, 0.25])),
    dist.MixtureSameFamily(
        dist.Categorical(probs=np.array([0.3, 0.7])), dist.Normal(np.zeros(2), np.array([1.0, 0.1]))
    ),
]


@pytest.mark.parametrize("distribution", NUMPYRO, ids=lambda d: type(d).__name__)
def test_numpyro_distributions_cover_the_trailing_axes(distribution):
    prior, leaf = pr.as_prior(distribution), PARAMS["network"]["layers"][0]["weight"]
    value, gradient = jax.jit(jax.value_and_grad(prior.log_prob))({"w": leaf})
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        expected = distribution.log_prob(np.asarray(leaf)).sum()
    np.testing.assert_allclose(value, expected, rtol=1e-4)
    assert value.dtype == leaf.dtype
    assert gradient["w"].shape == leaf.shape
    draw = prior.sample(jax.random.key(0), {"w": leaf})["w"]
    assert draw.shape == leaf.shape
    assert draw.dtype == leaf.dtype
    assert len(np.unique(draw)) == leaf.size


def test_precision_of_numpyro_distributions():
    found = [pr.as_prior(d).precision(jnp.zeros((2, 3))) for d in NUMPYRO]
    assert np.isnan(found[0]) and np.isnan(found[1]) and np.isnan(found[7])
    assert found[2] == pytest.approx(np.mean([1, 1 / 4, 1 / 9]))
    assert found[3:7] == pytest.approx([1.0, 4.0, 5 / 7, np.mean([1, 1 / 4, 4])], rel=1e-5)


def test_numpyro_distributions_of_other_shapes_are_refused():
    prior = pr.as_prior(NUMPYRO[2])
    for params in ({"w": jnp.zeros((3, 2))}, {"w": jnp.zeros(())}, {"w": jnp.zeros(4)}):
        with pytest.raises(ValueError, match=r"'w'.*\(3,\)"):
            prior.log_prob(params)
    with pytest.raises(ValueError, match="'network/layers/0/bias'"):
        pr.by_path({"*/bias": NUMPYRO[6], "*": pr.Normal()}).log_prob(PARAMS)


def test_priors_on_part_of_the_line_are_refused():
    for distribution in (dist.HalfNormal(1.0), dist.Uniform(-1.0, 1.0), dist.Poisson(1.0)):
        with pytest.raises(ValueError, match="all real numbers"):
            pr.as_prior(distribution)
    for other in (1.0, "normal", dist.Normal, None):
        with pytest.raises(TypeError, match="prior must be"):
            pr.as_prior(other)


def test_arguments_out_of_range_are_refused():
    for make in (lambda s: pr.Normal(0.0, s), lambda s: pr.Laplace(0.0, s), lambda s: pr.StudentT(3.0, 0.0, s)):
        for scale in (0.0, -1.0, float("nan"), float("inf")):
            with pytest.raises(ValueError, match="scale"):
                make(scale)
        with pytest.raises(TypeError, match="scale"):
            make(np.ones(3))
    with pytest.raises(ValueError, match="df"):
        pr.StudentT(0.0)
    with pytest.raises(ValueError, match="loc"):
        pr.Normal(float("nan"))


def test_under_jit_and_vmap():
    params = {"a": jnp.ones((4, 3)), "b": jnp.zeros((4, 2, 3))}
    for prior in (pr.Normal(), pr.StudentT(4.0), pr.as_prior(NUMPYRO[2])):
        value = jax.jit(jax.vmap(prior.log_prob))(params)
        assert value.shape == (4,)
