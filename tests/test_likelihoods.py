import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats as st

from smilax import likelihoods as lk

B = 7
RNG = np.random.default_rng(0)
LOC = RNG.normal(size=(B, 1))
LOG_SCALE = RNG.normal(size=(B, 1)) * 0.5
Y = RNG.normal(size=B)
TOLERANCE = 1e-12 if jax.config.jax_enable_x64 else 2e-5


def as_default(x):
    return jnp.asarray(x, jnp.result_type(float))


def assert_close(a, b, tolerance=TOLERANCE):
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=tolerance, atol=tolerance)


def scaled(family, how, **kwargs):
    """A likelihood with its params, outputs and scales (B,) for each way to have a scale."""
    loc = as_default(LOC)
    if how == "fixed":
        return family(scale=0.7, **kwargs), {}, loc, np.full(B, 0.7)
    if how == "learned":
        return family(**kwargs), {"log_scale": as_default(-0.3)}, loc, np.full(B, math.exp(-0.3))
    outputs = as_default(np.concatenate([LOC, LOG_SCALE], 1))
    return family(scale="input", **kwargs), {}, outputs, np.exp(LOG_SCALE[:, 0])


HOWS = ["fixed", "learned", "input"]


@pytest.mark.parametrize("how", HOWS)
def test_gaussian_agrees_with_scipy(how):
    likelihood, params, outputs, scale = scaled(lk.Gaussian, how)
    truth = st.norm(LOC[:, 0], scale)
    assert_close(likelihood.log_prob(params, outputs, as_default(Y)), truth.logpdf(Y))
    assert_close(likelihood.cdf(params, outputs, as_default(Y)), truth.cdf(Y))
    mean, variance = likelihood.mean_and_variance(params, outputs)
    assert_close(mean, truth.mean())
    assert_close(variance, truth.var())


@pytest.mark.parametrize("df", [2.5, 4.0, 30.0])
@pytest.mark.parametrize("how", HOWS)
def test_student_t_agrees_with_scipy(how, df):
    likelihood, params, outputs, scale = scaled(lk.StudentT, how, df=df)
    truth = st.t(df, LOC[:, 0], scale)
    assert_close(likelihood.log_prob(params, outputs, as_default(Y)), truth.logpdf(Y))
    assert_close(likelihood.cdf(params, outputs, as_default(Y)), truth.cdf(Y))
    mean, variance = likelihood.mean_and_variance(params, outputs)
    assert_close(mean, truth.mean())
    assert_close(variance, truth.var())


def test_student_t_cdf_at_the_centre_and_far_out():
    value = np.array([-1e4, -30.0, -1.0, -1e-4, 0.0, 1e-4, 1.0, 30.0, 1e4])
    found = lk.StudentT(df=4.0, scale=1.0).cdf({}, jnp.zeros(9), as_default(value))
    assert_close(found, st.t(4.0).cdf(value), 1e-6)
    np.testing.assert_allclose(found[:2], st.t(4.0).cdf(value[:2]), rtol=1e-4)


def test_categorical_agrees_with_scipy():
    logits, y = as_default(RNG.normal(size=(B, 4)) * 3), np.arange(B) % 4
    likelihood = lk.Categorical()
    p = np.asarray(likelihood.probs({}, logits))
    assert_close(p.sum(1), np.ones(B))
    truth = scipy.special.log_softmax(np.asarray(logits, float), axis=1)[np.arange(B), y]
    for dtype in (np.int32, np.uint8):
        assert_close(likelihood.log_prob({}, logits, jnp.asarray(y, dtype)), truth, 1e-5)
    mean, variance = likelihood.mean_and_variance({}, logits)
    assert_close(mean, p)
    assert_close(variance, p * (1 - p))


def test_categorical_sums_over_tokens():
    logits, y = as_default(RNG.normal(size=(B, 3, 4))), jnp.asarray(RNG.integers(0, 4, (B, 3)))
    parts = [lk.Categorical().log_prob({}, logits[:, t], y[:, t]) for t in range(3)]
    assert_close(lk.Categorical().log_prob({}, logits, y), sum(parts))
    lk.Categorical().check(np.asarray(y), logits.shape)


def test_categorical_keeps_extreme_logits_finite():
    logits = jnp.array([[1e4, -1e4], [-1e4, 1e4]])
    y = jnp.array([0, 0])
    value, gradient = jax.value_and_grad(lambda o: jnp.sum(lk.Categorical().log_prob({}, o, y)))(logits)
    assert value == -2e4
    assert bool(jnp.all(jnp.isfinite(gradient)))


def test_bernoulli_agrees_with_scipy():
    logits, y = as_default(RNG.normal(size=(B, 1)) * 2), np.arange(B) % 2
    likelihood = lk.Bernoulli()
    truth = st.bernoulli(1 / (1 + np.exp(-np.asarray(logits[:, 0], float))))
    for targets in (y, y.astype(bool), y.astype(float)):
        assert_close(likelihood.log_prob({}, logits, jnp.asarray(targets)), truth.logpmf(y))
    mean, variance = likelihood.mean_and_variance({}, logits)
    assert_close(mean, truth.mean())
    assert_close(variance, truth.var())
    assert_close(likelihood.probs({}, logits), np.stack([1 - truth.mean(), truth.mean()], 1))


def test_poisson_agrees_with_scipy():
    log_rate, y = as_default(RNG.normal(size=(B, 1))), RNG.integers(0, 6, B)
    truth = st.poisson(np.exp(np.asarray(log_rate[:, 0], float)))
    likelihood = lk.Poisson()
    assert_close(likelihood.log_prob({}, log_rate, jnp.asarray(y)), truth.logpmf(y))
    for shift in (-0.5, 0.0, 0.5):
        assert_close(likelihood.cdf({}, log_rate, as_default(y + shift)), truth.cdf(y + shift), 1e-5)
    assert_close(likelihood.cdf({}, log_rate, as_default(np.full(B, -1.0))), np.zeros(B))
    mean, variance = likelihood.mean_and_variance({}, log_rate)
    assert_close(mean, truth.mean())
    assert_close(variance, truth.var())


CASES = {
    "gaussian": scaled(lk.Gaussian, "fixed")[:3],
    "gaussian-learned": scaled(lk.Gaussian, "learned")[:3],
    "gaussian-input": scaled(lk.Gaussian, "input")[:3],
    "t": scaled(lk.StudentT, "fixed", df=8.0)[:3],
    "t-input": scaled(lk.StudentT, "input", df=8.0)[:3],
    "bernoulli": (lk.Bernoulli(), {}, as_default(LOC)),
    "poisson": (lk.Poisson(), {}, as_default(LOC)),
}


@pytest.mark.parametrize("name", CASES)
def test_samples_have_the_moments(name):
    likelihood, params, outputs = CASES[name]
    n = 20_000
    draws = jax.vmap(lambda key: likelihood.sample(key, params, outputs))(jax.random.split(jax.random.key(1), n))
    draws = np.asarray(draws, float)
    mean, variance = (np.asarray(x) for x in likelihood.mean_and_variance(params, outputs))
    assert draws.shape == (n, *mean.shape)
    assert np.all(np.abs(draws.mean(0) - mean) < 5 * np.sqrt(variance / n))
    spread = (draws - mean) ** 2
    assert np.all(np.abs(spread.mean(0) - variance) < 6 * spread.std(0) / math.sqrt(n))


def test_categorical_samples_have_the_class_frequencies():
    logits = as_default(RNG.normal(size=(B, 3)))
    keys = jax.random.split(jax.random.key(1), 20_000)
    draws = np.asarray(jax.vmap(lambda key: lk.Categorical().sample(key, {}, logits))(keys))
    assert draws.shape == (20_000, B)
    frequencies = np.stack([(draws == k).mean(0) for k in range(3)], 1)
    np.testing.assert_allclose(frequencies, lk.Categorical().probs({}, logits), atol=0.02)


@pytest.mark.parametrize("name", CASES)
def test_gradients_agree_with_finite_differences(name):
    likelihood, params, outputs = CASES[name]
    y = jnp.asarray(np.arange(B) % 2)

    def total(params, outputs):
        return float(jnp.sum(likelihood.log_prob(params, outputs, y)))

    gradient = jax.grad(lambda o: jnp.sum(likelihood.log_prob(params, o, y)))(outputs)
    h = 1e-5 if jax.config.jax_enable_x64 else 1e-2
    for i in range(outputs.size):
        step = jnp.zeros(outputs.size, outputs.dtype).at[i].set(h).reshape(outputs.shape)
        slope = (total(params, outputs + step) - total(params, outputs - step)) / (2 * h)
        assert abs(slope - gradient.ravel()[i]) < 1e-7 + 2e-3 * (1 + abs(slope)) * (h > 1e-3) + 1e-6 * abs(slope)


# (output shape, target shape) that belong together, and that do not
REGRESSION = [lk.Gaussian(scale=1.0), lk.Gaussian(), lk.StudentT(), lk.Bernoulli(), lk.Poisson()]
MATCHING = [((5,), (5,)), ((5, 1), (5,)), ((5,), (5, 1)), ((5, 1), (5, 1)), ((5, 3), (5, 3)), ((1, 1), (1,))]
DIFFERENT = [
    ((5, 3), (5,)),
    ((5,), (5, 3)),
    ((5, 1), (5, 5)),
    ((5, 3), (5, 1)),
    ((5,), (4,)),
    ((5, 1), (1, 5)),
    ((5,), ()),
]


@pytest.mark.parametrize("likelihood", REGRESSION, ids=repr)
@pytest.mark.parametrize("shapes", MATCHING)
def test_scalar_targets_match_outputs_of_either_rank(likelihood, shapes):
    def shape_of(function, *args):
        return jax.tree.map(lambda x: x.shape, jax.eval_shape(function, likelihood.init(), outputs, *args))

    outputs, y = jnp.zeros(shapes[0]), jnp.ones(shapes[1])
    assert shape_of(likelihood.log_prob, y) == shapes[1][:1]
    likelihood.check(np.asarray(y), shapes[0])
    if likelihood.kind != "classification":
        assert shape_of(likelihood.cdf, y) == shapes[1]
    target = shapes[0][:1] if shapes[0][1:] == (1,) else shapes[0]
    assert shape_of(likelihood.mean_and_variance) == (target, target)
    assert shape_of(functools.partial(likelihood.sample, jax.random.key(0))) == target
    assert shape_of(likelihood.fit_residual, y) == jax.tree.map(jnp.shape, likelihood.init())


@pytest.mark.parametrize("likelihood", REGRESSION, ids=repr)
@pytest.mark.parametrize("shapes", DIFFERENT)
def test_other_shapes_are_refused_and_both_named(likelihood, shapes):
    outputs, y = jnp.zeros(shapes[0]), jnp.ones(shapes[1])
    for call in (
        lambda: likelihood.log_prob(likelihood.init(), outputs, y),
        lambda: likelihood.check(np.asarray(y), shapes[0]),
    ):
        with pytest.raises(ValueError) as error:
            call()
        assert str(shapes[0]) in str(error.value)
        assert str(shapes[1]) in str(error.value)


@pytest.mark.parametrize("family", [lk.Gaussian, lk.StudentT])
def test_scale_from_the_input_takes_two_outputs_a_target(family):
    likelihood = family(scale="input")
    for output_shape, y_shape in [((5, 2), (5,)), ((5, 2), (5, 1)), ((5, 6), (5, 3))]:
        y = jnp.ones(y_shape)
        assert likelihood.log_prob({}, jnp.zeros(output_shape), y).shape == (5,)
        likelihood.check(np.asarray(y), output_shape)
    assert likelihood.mean_and_variance({}, jnp.zeros((5, 2)))[0].shape == (5,)
    assert likelihood.mean_and_variance({}, jnp.zeros((5, 6)))[1].shape == (5, 3)
    for output_shape, y_shape in [
        ((5,), (5,)),
        ((4,), (2,)),
        ((5, 1), (5,)),
        ((5, 3), (5,)),
        ((5, 4), (5,)),
        ((5, 2), (5, 2)),
    ]:
        with pytest.raises(ValueError, match="outputs"):
            likelihood.log_prob({}, jnp.zeros(output_shape), jnp.ones(y_shape))
        with pytest.raises(ValueError, match="outputs"):
            likelihood.check(np.ones(y_shape), output_shape)
    with pytest.raises(ValueError, match=r"2 \* K"):
        likelihood.mean_and_variance({}, jnp.zeros((5, 3)))


def test_several_targets_sum_to_one_value_an_example():
    outputs, y = as_default(RNG.normal(size=(B, 3))), as_default(RNG.normal(size=(B, 3)))
    assert_close(lk.Gaussian(scale=0.7).log_prob({}, outputs, y), st.norm(outputs, 0.7).logpdf(y).sum(1), 1e-5)


@pytest.mark.parametrize("shape", [(5,), (5, 1), (5, 4, 1)])
def test_categorical_refuses_other_shapes(shape):
    with pytest.raises(ValueError, match=r"outputs of shape .* targets of shape"):
        lk.Categorical().log_prob({}, jnp.zeros((5, 4) if len(shape) > 1 else (5,)), jnp.zeros(shape, int))


def test_fit_residual_of_a_gaussian_is_the_root_mean_square():
    likelihood, params, outputs, _ = scaled(lk.Gaussian, "learned")
    fitted = likelihood.fit_residual(params, outputs, as_default(Y))
    assert_close(np.exp(fitted["log_scale"]), np.sqrt(np.mean((Y - LOC[:, 0]) ** 2)), 1e-5)
    weight = np.arange(B) + 1.0
    fitted = likelihood.fit_residual(params, outputs, as_default(Y), as_default(weight))
    assert_close(np.exp(fitted["log_scale"]), np.sqrt(np.average((Y - LOC[:, 0]) ** 2, weights=weight)), 1e-5)
    outputs, y = as_default(RNG.normal(size=(B, 3))), as_default(RNG.normal(size=(B, 3)))
    assert_close(
        np.exp(likelihood.fit_residual(params, outputs, y)["log_scale"]), np.sqrt(np.mean((y - outputs) ** 2)), 1e-5
    )
    exact = likelihood.fit_residual(params, outputs, outputs)["log_scale"]
    assert np.isfinite(exact)


@pytest.mark.parametrize("df", [2.1, 4.0])
def test_fit_residual_of_a_student_t_is_the_maximum_likelihood_scale(df):
    y = st.t(df).rvs(size=400, random_state=1) * 3.0
    y[0] = 1e3
    fitted = lk.StudentT(df=df).fit_residual({"log_scale": jnp.zeros(())}, jnp.zeros(400), as_default(y))
    assert_close(np.exp(fitted["log_scale"]), st.t.fit(y, fix_df=df, floc=0.0)[2], 1e-3)


def test_fit_residual_leaves_what_is_not_learned():
    for likelihood in (lk.Gaussian(scale=2.0), lk.Categorical(), lk.Poisson()):
        assert likelihood.init() == {}
        assert not likelihood.learned
        assert likelihood.fit_residual({}, jnp.zeros((3, 2)), jnp.zeros(3)) == {}


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf"), "output", True, (1.0,)])
@pytest.mark.parametrize("family", [lk.Gaussian, lk.StudentT])
def test_scales_that_are_none_are_refused(family, scale):
    with pytest.raises(ValueError, match="scale"):
        family(scale=scale)


@pytest.mark.parametrize("df", [2.0, 0.0, float("inf"), float("nan")])
def test_degrees_of_freedom_without_a_variance_are_refused(df):
    with pytest.raises(ValueError, match="df"):
        lk.StudentT(df=df)


def test_check_names_the_offending_target():
    y = np.ones((5, 2))
    y[3, 1] = np.inf
    with pytest.raises(ValueError, match="row 3, column 1.* inf"):
        lk.Gaussian().check(y, (5, 2))
    with pytest.raises(ValueError, match=r"0 to 3 .*row 2.* is 4"):
        lk.Categorical().check(np.array([0, 3, 4, 5]), (4, 4))
    with pytest.raises(ValueError, match="row 0.* is -1"):
        lk.Categorical().check(np.array([-1, 3]), (2, 4))
    with pytest.raises(ValueError, match="0 or 1.*row 1.* is 2"):
        lk.Bernoulli().check(np.array([1, 2]), (2,))
    with pytest.raises(ValueError, match="counts.*row 1.* is 0.5"):
        lk.Poisson().check(np.array([1, 0.5]), (2,))
    with pytest.raises(ValueError, match="counts.*row 0.* is -1"):
        lk.Poisson().check(np.array([-1, 5]), (2,))


def test_check_refuses_targets_of_the_wrong_type():
    words = np.array(["a", "b"])
    for likelihood in (lk.Gaussian(), lk.StudentT(), lk.Categorical(), lk.Bernoulli(), lk.Poisson()):
        with pytest.raises(TypeError, match="y"):
            likelihood.check(words, (2, 2) if isinstance(likelihood, lk.Categorical) else (2,))
    with pytest.raises(TypeError, match="integer class labels"):
        lk.Categorical().check(np.array([0.0, 1.0]), (2, 2))
    with pytest.raises(TypeError, match="integer class labels"):
        lk.Categorical().log_prob({}, jnp.zeros((2, 2)), jnp.zeros(2))


def test_what_a_likelihood_does_not_have_is_a_type_error():
    for likelihood in (lk.Categorical(), lk.Bernoulli()):
        with pytest.raises(TypeError, match="cumulative"):
            likelihood.cdf({}, jnp.zeros((2, 2)), jnp.zeros(2))
    for likelihood in (lk.Gaussian(), lk.StudentT(), lk.Poisson()):
        with pytest.raises(TypeError, match="class probabilities"):
            likelihood.probs({}, jnp.zeros(2))
    assert [k().kind for k in (lk.Gaussian, lk.StudentT, lk.Categorical, lk.Bernoulli, lk.Poisson)] == [
        "regression",
        "regression",
        "classification",
        "classification",
        "count",
    ]


@pytest.mark.parametrize("likelihood", [*REGRESSION, lk.Categorical()], ids=repr)
def test_one_compilation_serves_a_vmap(likelihood):
    classes = isinstance(likelihood, lk.Categorical)
    outputs = jnp.zeros((3, 5, 2)) if classes else jnp.zeros((3, 5, 1))
    y = jnp.zeros(5, int)
    params = jax.tree.map(lambda x: jnp.zeros(3), likelihood.init())
    value = jax.jit(jax.vmap(lambda p, o: likelihood.log_prob(p, o, y)))(params, outputs)
    assert value.shape == (3, 5)
    assert value.dtype == outputs.dtype


@pytest.mark.parametrize("rate", [3.0, 400.0, 600.0, 1e4, 1e6])
def test_poisson_distribution_function_at_any_rate(rate):
    sd = np.sqrt(rate)
    counts = np.floor(np.maximum(rate + sd * np.array([-4.0, -2.0, -0.5, 0.0, 0.5, 2.0, 4.0]), 0))
    outputs = jnp.full(len(counts), np.log(rate))
    exact = st.poisson.cdf(counts, np.exp(np.asarray(outputs, np.float64)))
    got = lk.Poisson().cdf({}, outputs, jnp.asarray(counts, outputs.dtype))
    # In float32 the log rate itself is known to one part in 10⁷ of its size, √rate times that in the argument.
    np.testing.assert_allclose(got, exact, atol=2e-5 + 4 * float(jnp.finfo(outputs.dtype).eps) * np.log(rate) * sd)


@pytest.mark.parametrize("df", [250.0, 300.0, 1e3, 1e5, 1e7])
def test_student_t_cdf_at_many_degrees_of_freedom(df):
    value = np.linspace(-8, 8, 101)
    found = lk.StudentT(df=df, scale=1.0).cdf({}, jnp.zeros(101), as_default(value))
    np.testing.assert_allclose(found, st.t(df).cdf(value), atol=3e-5 if found.dtype == jnp.float32 else 1e-9)


@pytest.mark.parametrize("mean", [1.0, 20.0, 1e4, 1e6, 1e8])
def test_poisson_at_large_counts(mean):
    # In single precision y log λ − λ − log y! is off by nats at 10⁶, and its slope with it.
    y = np.array([0, 1, *np.round(mean * np.linspace(0.9, 1.1, 5))]).astype(np.int32)
    log_rate = jnp.full((len(y), 1), np.log(mean), jnp.float32)
    exact = np.exp(np.asarray(log_rate, np.float64)[:, 0])
    # What rounding of the logarithm of the rate does to it.
    slope = np.abs(y - exact)
    found = np.asarray(lk.Poisson().log_prob({}, log_rate, jnp.asarray(y)), np.float64)
    wanted = st.poisson.logpmf(y, exact)
    np.testing.assert_array_less(np.abs(found - wanted), 1e-4 + 1e-5 * np.abs(wanted) + 3e-6 * slope)
    assert (found[1:] <= 0).all()
    gradient = jax.grad(lambda x: lk.Poisson().log_prob({}, x, jnp.asarray(y)).sum())(log_rate)[:, 0]
    np.testing.assert_allclose(gradient, y - exact, rtol=1e-3, atol=1e-5 * mean)


def test_poisson_numbers_of_large_rates():
    rate = 1e9
    drawn = lk.Poisson().sample(jax.random.key(0), {}, jnp.full((20_000, 1), np.log(rate), jnp.float32))
    drawn = np.asarray(drawn, np.float64) / np.exp(float(np.float32(np.log(rate))))
    np.testing.assert_allclose(drawn.mean(), 1, atol=1e-6)
    np.testing.assert_allclose(drawn.var() * rate, 1, rtol=0.05)


def test_variance_of_a_sure_yes():
    _, variance = lk.Bernoulli().mean_and_variance({}, jnp.array([[18.0], [-18.0]]))
    np.testing.assert_allclose(variance, scipy.special.expit(-18.0), rtol=1e-5)
