"""The posterior predictive against mixtures written out in NumPy and SciPy."""

import gc
import weakref
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.special import expit, logsumexp, softmax

from smilax.bnn import bnn
from smilax.likelihoods import Bernoulli, Categorical, Gaussian, Poisson, StudentT
from smilax.models import mlp
from smilax.network import Network
from smilax.packing import pack
from smilax.posterior import Posterior
from smilax.predict import Prediction, predict, predicting, streaming
from smilax.predict import prediction as module
from smilax.priors import Normal

CHAINS, DRAWS, ROWS, FEATURES = 3, 40, 23, 2
TOTAL = CHAINS * DRAWS
DTYPE = jnp.zeros(()).dtype
TOLERANCE = 1e-5 if DTYPE == np.float32 else 1e-9


def linear(posterior_likelihood, weights, x=None, likelihood=None, **options):
    """The prediction of a linear network with these draws of its weights."""
    size = weights.shape[3:]
    network = Network(lambda key: jnp.zeros((FEATURES, *size)), lambda w, x: x @ w)
    posterior = bnn(network, posterior_likelihood, Normal(0.0, 1.0), num_data=100)
    draws = {"network": weights.astype(DTYPE)}
    if likelihood is not None:
        draws["likelihood"] = likelihood
    x = inputs() if x is None else x
    return predict(posterior, SimpleNamespace(draws=draws), x, **options)


def inputs():
    return np.random.default_rng(1).normal(size=(ROWS, FEATURES)).astype(DTYPE)


def weights(*outputs, scale=1.0):
    return scale * np.random.default_rng(2).normal(size=(CHAINS, DRAWS, FEATURES, *outputs)).astype(DTYPE)


def log_scales():
    return (np.random.default_rng(3).normal(size=(CHAINS, DRAWS)) * 0.3 - 0.5).astype(DTYPE)


def outputs_of(w):
    """All network outputs in float64, shape (draws of all chains, rows, ...)."""
    return np.einsum("rf,cdf...->cdr...", inputs().astype(float), w.astype(float)).reshape(TOTAL, ROWS, *w.shape[3:])


def gaussian(**options):
    """A mixture of TOTAL Gaussians in every row, and its components' means and standard deviations."""
    prediction = linear(Gaussian(), weights(), likelihood={"log_scale": log_scales()}, **options)
    return prediction, outputs_of(weights()), np.exp(log_scales().astype(float)).reshape(TOTAL, 1)


def gaussian_targets():
    return (2.0 * np.random.default_rng(4).normal(size=ROWS)).astype(DTYPE)


def test_moments_of_a_gaussian_mixture():
    prediction, means, sds = gaussian(batch_size=10)
    np.testing.assert_allclose(prediction.mean, means.mean(0), atol=TOLERANCE)
    np.testing.assert_allclose(prediction.aleatoric, np.full(ROWS, (sds**2).mean()), rtol=TOLERANCE)
    np.testing.assert_allclose(prediction.epistemic, means.var(0), rtol=TOLERANCE)
    np.testing.assert_allclose(prediction.std, np.sqrt(means.var(0) + (sds**2).mean()), rtol=TOLERANCE)
    assert all(isinstance(a, np.ndarray) and a.dtype == DTYPE for a in (prediction.mean, prediction.std))


def test_log_prob_and_cdf_of_a_gaussian_mixture():
    prediction, means, sds = gaussian(batch_size=10)
    y = gaussian_targets()
    density = logsumexp(stats.norm.logpdf(y.astype(float), means, sds), axis=0) - np.log(TOTAL)
    np.testing.assert_allclose(prediction.log_prob(y), density, rtol=10 * TOLERANCE, atol=10 * TOLERANCE)
    np.testing.assert_allclose(prediction.cdf(y), stats.norm.cdf(y, means, sds).mean(0), atol=TOLERANCE)
    grid = np.stack([y, y + 1, y - 2])
    np.testing.assert_allclose(prediction.cdf(grid), stats.norm.cdf(grid[:, None], means, sds).mean(1), atol=TOLERANCE)


def test_log_prob_far_in_the_tail_does_not_underflow():
    prediction, means, sds = gaussian()
    y = np.full(ROWS, 200.0, DTYPE)
    density = logsumexp(stats.norm.logpdf(200.0, means, sds), axis=0) - np.log(TOTAL)
    np.testing.assert_allclose(prediction.log_prob(y), density, rtol=1e-4)


@pytest.mark.parametrize("q", [0.001, 0.05, 0.5, 0.9, 0.9999])
def test_quantiles_invert_the_cdf(q):
    prediction, means, sds = gaussian(batch_size=10)
    value = prediction.quantile(q)
    assert value.shape == (ROWS,)
    # By the slope where the quantile is, an error of the cdf is an error of the quantile.
    cdf, pdf = stats.norm.cdf(value, means, sds).mean(0), stats.norm.pdf(value, means, sds).mean(0)
    assert np.all(np.abs(cdf - q) / pdf < 1e-3 * prediction.std)
    assert np.all(np.abs(cdf - q) < 1e-5)


def test_quantiles_of_separated_narrow_components():
    centres = np.zeros((CHAINS, DRAWS, FEATURES), DTYPE)
    centres[..., 0] = np.array([-100.0, 0.0, 3.0])[:, None]
    prediction = linear(Gaussian(scale=0.01), centres, x=np.array([[1.0, 0.0]], DTYPE))
    np.testing.assert_allclose(prediction.quantile([1 / 6, 0.5, 5 / 6])[:, 0], [-100.0, 0.0, 3.0], atol=2e-3)


def test_quantile_shapes_and_intervals():
    prediction, *_ = gaussian()
    three = prediction.quantile([0.05, 0.5, 0.95])
    assert three.shape == (3, ROWS)
    assert np.all(np.diff(three, axis=0) > 0)
    lower, upper = prediction.interval(0.9)
    np.testing.assert_allclose(np.stack([lower, upper]), three[[0, 2]], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(prediction.quantile(0.5), three[1])


def test_several_targets_are_marginal_in_cdf_and_joint_in_log_prob():
    w = weights(2)
    prediction = linear(Gaussian(scale=0.5), w)
    means = outputs_of(w)
    y = np.random.default_rng(5).normal(size=(ROWS, 2)).astype(DTYPE)
    assert prediction.mean.shape == prediction.variance.shape == (ROWS, 2)
    np.testing.assert_allclose(prediction.cdf(y), stats.norm.cdf(y, means, 0.5).mean(0), atol=TOLERANCE)
    assert prediction.quantile([0.1, 0.2, 0.3]).shape == (3, ROWS, 2)
    cdf = stats.norm.cdf(prediction.quantile(0.3), means, 0.5).mean(0)
    np.testing.assert_allclose(cdf, 0.3, atol=1e-5)
    density = logsumexp(stats.norm.logpdf(y.astype(float), means, 0.5).sum(-1), axis=0) - np.log(TOTAL)
    np.testing.assert_allclose(prediction.log_prob(y), density, rtol=1e-4, atol=1e-5)


def test_student_t():
    prediction = linear(StudentT(df=5.0, scale=0.5), weights())
    means, y = outputs_of(weights()), gaussian_targets()
    t = stats.t(5, means, 0.5)
    np.testing.assert_allclose(prediction.cdf(y), t.cdf(y).mean(0), atol=TOLERANCE)
    np.testing.assert_allclose(prediction.variance, means.var(0) + 0.25 * 5 / 3, rtol=1e-5)
    np.testing.assert_allclose(t.cdf(prediction.quantile(0.95)).mean(0), 0.95, atol=1e-5)
    density = logsumexp(t.logpdf(y.astype(float)), axis=0) - np.log(TOTAL)
    np.testing.assert_allclose(prediction.log_prob(y), density, rtol=1e-4, atol=1e-5)


def test_scale_from_the_input():
    w = weights(2, scale=0.3)
    prediction = linear(Gaussian(scale="input"), w)
    means, log_sds = np.moveaxis(outputs_of(w), -1, 0)
    assert prediction.mean.shape == (ROWS,)
    np.testing.assert_allclose(prediction.aleatoric, np.exp(2 * log_sds).mean(0), rtol=1e-5)
    cdf = stats.norm.cdf(prediction.quantile(0.2), means, np.exp(log_sds)).mean(0)
    np.testing.assert_allclose(cdf, 0.2, atol=1e-5)


def test_counts():
    w = weights(scale=0.7)
    prediction = linear(Poisson(), w, batch_size=10)
    rates = np.exp(outputs_of(w))
    y = np.random.default_rng(6).poisson(rates.mean(0))
    np.testing.assert_allclose(prediction.mean, rates.mean(0), rtol=1e-5)
    np.testing.assert_allclose(prediction.variance, rates.mean(0) + rates.var(0), rtol=1e-4)
    np.testing.assert_allclose(prediction.cdf(y), stats.poisson.cdf(y, rates).mean(0), atol=TOLERANCE)
    density = logsumexp(stats.poisson.logpmf(y, rates), axis=0) - np.log(TOTAL)
    np.testing.assert_allclose(prediction.log_prob(y), density, rtol=1e-4, atol=1e-5)
    for q in (0.01, 0.5, 0.9, 0.999):
        k = prediction.quantile(q)
        assert np.all(k == np.round(k)) and np.all(k >= 0)
        assert np.all(stats.poisson.cdf(k, rates).mean(0) >= q - 1e-6)
        assert np.all(stats.poisson.cdf(k - 1, rates).mean(0) < q + 1e-6)


def test_categorical():
    w = weights(4)
    prediction = linear(Categorical(), w, batch_size=10)
    p = softmax(outputs_of(w), axis=-1)
    y = np.random.default_rng(7).integers(0, 4, ROWS)
    np.testing.assert_allclose(prediction.probs, p.mean(0), atol=TOLERANCE)
    np.testing.assert_allclose(prediction.mean, p.mean(0), atol=TOLERANCE)
    np.testing.assert_allclose(prediction.epistemic, p.var(0), atol=TOLERANCE)
    np.testing.assert_allclose(prediction.variance, p.mean(0) * (1 - p.mean(0)), atol=TOLERANCE)
    total, conditional = stats.entropy(p.mean(0), axis=-1), stats.entropy(p, axis=-1).mean(0)
    np.testing.assert_allclose(prediction.entropy, total, atol=TOLERANCE)
    np.testing.assert_allclose(prediction.aleatoric_entropy, conditional, atol=TOLERANCE)
    np.testing.assert_allclose(prediction.mutual_information, total - conditional, atol=TOLERANCE)
    assert prediction.mutual_information.dtype == DTYPE
    np.testing.assert_allclose(prediction.log_prob(y), np.log(p.mean(0))[np.arange(ROWS), y], atol=10 * TOLERANCE)


def test_certain_classes_have_no_entropy():
    prediction = linear(Categorical(), 1e6 * weights(3))
    assert np.all(np.isfinite(prediction.entropy))
    np.testing.assert_allclose(prediction.aleatoric_entropy, 0.0, atol=1e-6)


@pytest.mark.parametrize("outputs", [(), (1,)])
def test_bernoulli(outputs):
    w = weights(*outputs)
    prediction = linear(Bernoulli(), w)
    p = expit(outputs_of(w).reshape(TOTAL, ROWS)).mean(0)
    y = np.random.default_rng(8).integers(0, 2, ROWS)
    np.testing.assert_allclose(prediction.probs, np.stack([1 - p, p], axis=-1), atol=TOLERANCE)
    np.testing.assert_allclose(prediction.mean, p, atol=TOLERANCE)
    np.testing.assert_allclose(np.exp(prediction.log_prob(y)), np.where(y == 1, p, 1 - p), atol=TOLERANCE)


@pytest.mark.parametrize("outputs", [(), (1,)])
@pytest.mark.parametrize("column", [False, True])
def test_rows_and_columns_of_targets_are_matched_never_broadcast(outputs, column):
    prediction = linear(Gaussian(scale=0.5), weights().reshape((CHAINS, DRAWS, FEATURES, *outputs)))
    y = gaussian_targets()
    density = logsumexp(stats.norm.logpdf(y.astype(float), outputs_of(weights()), 0.5), axis=0) - np.log(TOTAL)
    given = y[:, None] if column else y
    assert prediction.mean.shape == (ROWS,)
    assert prediction.log_prob(given).shape == (ROWS,)
    np.testing.assert_allclose(prediction.log_prob(given), density, rtol=1e-4, atol=1e-5)
    assert prediction.cdf(given).shape == given.shape


def statistics(prediction):
    y = gaussian_targets()
    return {
        "mean": prediction.mean,
        "epistemic": prediction.epistemic,
        "aleatoric": prediction.aleatoric,
        "log_prob": prediction.log_prob(y),
        "cdf": prediction.cdf(y),
        "quantile": prediction.quantile([0.1, 0.7]),
        "sample": prediction.sample(jax.random.key(3), 50),
        "outputs of chain": prediction.chain(1).mean,
        "log_prob of chain": prediction.chain(-1).log_prob(y),
        "rows": prediction.rows(3, 9).quantile(0.4),
    }


def test_streaming_gives_the_same_numbers_as_the_cache(monkeypatch):
    # So small that there are several blocks of draws, the last one padded, and several parts of rows.
    monkeypatch.setattr(predicting, "BLOCK_BYTES", 75 * DTYPE.itemsize)
    monkeypatch.setattr(module, "PART_BYTES", 2000)
    cached, streamed = gaussian(batch_size=8)[0], gaussian(batch_size=8, max_memory=0)[0]
    assert TOTAL % cached._stream.draw_block and cached._stream.draw_block > 1
    assert len(list(cached._parts(100))) > 1
    expected, found = statistics(cached), statistics(streamed)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    assert streamed._stream.cache is None and streamed.chain(0)._stream.cached() is None
    assert cached._stream.cache is not None


@pytest.mark.once
def test_block_sizes_do_not_matter(monkeypatch):
    expected = statistics(gaussian()[0])
    monkeypatch.setattr(predicting, "BLOCK_BYTES", 1)
    monkeypatch.setattr(module, "PART_BYTES", 1)
    found = statistics(gaussian(batch_size=5)[0])
    for name in expected.keys() - {"sample"}:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, atol=1e-5, err_msg=name)


class Recorder:
    """A lazy array on disk, as it were: it records how many draws each slice asks for."""

    def __init__(self, array, log):
        self.array, self.log = array, log
        self.shape, self.dtype = array.shape, array.dtype

    def __getitem__(self, index):
        part = self.array[index]
        self.log.append(part.shape[0])
        return part

    def __array__(self, dtype=None, copy=None):
        raise AssertionError("converted as a whole")


@pytest.mark.parametrize("num_draws", [40, 4000])
@pytest.mark.once
def test_memory_does_not_grow_with_the_number_of_draws(num_draws, monkeypatch):
    monkeypatch.setattr(predicting, "BLOCK_BYTES", 8 * ROWS * DTYPE.itemsize)
    log, blocks = [], []
    accumulate = streaming.accumulate

    def recording(*args):
        blocks.append(sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(args[3:])))
        return accumulate(*args)

    monkeypatch.setattr(streaming, "accumulate", recording)
    w = np.random.default_rng(2).normal(size=(CHAINS, num_draws, FEATURES)).astype(DTYPE)
    posterior = bnn(Network(lambda key: jnp.zeros(2), lambda w, x: x @ w), Gaussian(), Normal(0.0, 1.0), num_data=10)
    draws = {"network": w, "likelihood": {"log_scale": np.zeros((CHAINS, num_draws), DTYPE)}}
    lazy = jax.tree.map(lambda leaf: Recorder(leaf, log), draws)
    prediction = predict(posterior, SimpleNamespace(draws=lazy), inputs(), max_memory=0)
    means = np.einsum("rf,cdf->cdr", inputs().astype(float), w.astype(float)).reshape(-1, ROWS)
    np.testing.assert_allclose(prediction.mean, means.mean(0), atol=1e-4)
    prediction.log_prob(gaussian_targets())
    prediction.sample(jax.random.key(0), 20)
    assert max(log) <= 8
    assert max(blocks) < 3000 * DTYPE.itemsize / 4


def test_one_compilation(monkeypatch):
    traces = []

    def apply(w, x):
        traces.append(x.shape)
        return x @ w

    monkeypatch.setattr(predicting, "BLOCK_BYTES", 75 * DTYPE.itemsize)
    posterior = bnn(Network(lambda key: jnp.zeros(2), apply), Gaussian(scale=1.0), Normal(0.0, 1.0), num_data=10)
    prediction = predict(posterior, SimpleNamespace(draws={"network": weights()}), inputs(), batch_size=8, max_memory=0)
    for _ in range(2):
        prediction.log_prob(gaussian_targets())
    assert prediction.mean.shape == (ROWS,)
    assert len(traces) == 2  # once to learn the shape of the outputs, once to compile


def test_the_network_runs_once_where_its_outputs_fit():
    runs = []

    def apply(w, x):
        jax.debug.callback(lambda: runs.append(1))
        return x @ w

    posterior = bnn(Network(lambda key: jnp.zeros(2), apply), Gaussian(scale=1.0), Normal(0.0, 1.0), num_data=10)
    prediction = predict(posterior, {"network": weights()[0, :1]}, inputs())
    prediction.quantile(0.5)
    prediction.chain(0).log_prob(gaussian_targets())
    jax.effects_barrier()
    assert len(runs) == 1


def test_chains():
    prediction, means, sds = gaussian(batch_size=10)
    assert (prediction.num_chains, prediction.num_draws, prediction.num_rows) == (CHAINS, DRAWS, ROWS)
    means, sds = means.reshape(CHAINS, DRAWS, ROWS), sds.reshape(CHAINS, DRAWS, 1)
    y = gaussian_targets()
    for k, chain in enumerate(prediction.chains):
        assert isinstance(chain, Prediction) and (chain.num_chains, chain.num_draws) == (1, DRAWS)
        np.testing.assert_allclose(chain.mean, means[k].mean(0), atol=TOLERANCE)
        np.testing.assert_allclose(chain.cdf(y), stats.norm.cdf(y, means[k], sds[k]).mean(0), atol=TOLERANCE)
    np.testing.assert_allclose(prediction.outputs, means, atol=10 * TOLERANCE)
    np.testing.assert_array_equal(prediction.chain(2).outputs, prediction.outputs[2:])
    with pytest.raises(IndexError, match="chain must be below 3"):
        prediction.chain(3)


def test_outputs_beyond_the_memory():
    size = TOTAL * ROWS * DTYPE.itemsize
    with pytest.raises(ValueError, match=f"take {size} bytes, more than max_memory={size - 1}"):
        _ = gaussian(max_memory=size - 1)[0].outputs
    prediction, means, _ = gaussian(max_memory=size - 1)
    np.testing.assert_allclose(prediction.chain(1).outputs[0], means[DRAWS : 2 * DRAWS], atol=10 * TOLERANCE)


def test_rows():
    prediction, *_ = gaussian(batch_size=10)
    whole = prediction.quantile(0.3)
    np.testing.assert_allclose(prediction.rows(5, 12).quantile(0.3), whole[5:12], rtol=1e-6)
    np.testing.assert_allclose(gaussian(max_memory=0)[0].rows(5, 12).mean, prediction.mean[5:12], rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="0 <= start < stop <= 23"):
        prediction.rows(4, 4)


def test_an_ensemble_is_one_draw_per_chain():
    members = {"network": jnp.asarray(weights()[0])}
    network = Network(lambda key: jnp.zeros(FEATURES), lambda w, x: x @ w)
    posterior = bnn(network, Gaussian(scale=0.5), Normal(0.0, 1.0), num_data=100)
    prediction = predict(posterior, members, inputs())
    assert (prediction.num_chains, prediction.num_draws) == (DRAWS, 1)
    np.testing.assert_allclose(prediction.mean, outputs_of(weights())[:DRAWS].mean(0), atol=TOLERANCE)
    # The same ones, packed as the run loop packs them.
    packed = jax.vmap(lambda w: pack({"network": w, "likelihood": {"unused": jnp.zeros((), w.dtype)}}))(
        members["network"]
    )
    np.testing.assert_array_equal(predict(posterior, packed, inputs()).mean, prediction.mean)


def test_inputs_may_be_a_pytree():
    network = Network(lambda key: jnp.zeros(FEATURES), lambda w, x: x["a"] @ w + x["b"])
    posterior = bnn(network, Gaussian(scale=0.5), Normal(0.0, 1.0), num_data=100)
    x = {"a": inputs(), "b": np.arange(ROWS, dtype=DTYPE)}
    for max_memory in (0, 2**20):
        prediction = predict(posterior, {"network": weights()[0]}, x, batch_size=10, max_memory=max_memory)
        np.testing.assert_allclose(prediction.mean, outputs_of(weights())[:DRAWS].mean(0) + np.arange(ROWS), rtol=1e-5)
    with pytest.raises(ValueError, match=r"same number of rows, got \[22, 23\]"):
        predict(posterior, {"network": weights()[0]}, x | {"b": x["b"][1:]})


def test_precision_follows_the_draws():
    prediction = linear(Gaussian(scale=0.5), weights(), x=inputs().astype(np.float64))
    assert prediction.mean.dtype == DTYPE


def test_half_precision_is_averaged_in_single():
    w = jnp.asarray(np.full((4000, FEATURES), 0.5), jnp.bfloat16)
    posterior = bnn(Network(lambda key: w[0], lambda w, x: x @ w), Gaussian(scale=0.5), Normal(0.0, 1.0), num_data=9)
    prediction = predict(posterior, {"network": w}, jnp.ones((2, FEATURES), jnp.bfloat16))
    assert prediction.mean.dtype == np.float32
    np.testing.assert_array_equal(prediction.mean, 1.0)


def test_many_draws_in_float32():
    # A plain sum of squares would lose this variance entirely: it is 1e-10 of the squared mean.
    w = np.zeros((1, 20_000, FEATURES))
    w[0, :, 0] = 1000.0 + 0.01 * np.random.default_rng(0).choice([-1.0, 1.0], 20_000)
    prediction = linear(Gaussian(scale=1.0), w, x=np.array([[1.0, 0.0]], DTYPE))
    np.testing.assert_allclose(prediction.epistemic, w.astype(DTYPE).astype(float)[..., 0].var(), rtol=1e-3)


def test_samples_follow_the_mixture():
    prediction, means, sds = gaussian(batch_size=10)
    samples = prediction.sample(jax.random.key(0), 2000)
    assert samples.shape == (2000, ROWS) and samples.dtype == DTYPE
    # The probability integral transform of every row is uniform.
    for row in range(0, ROWS, 7):
        u = stats.norm.cdf(samples[:, row, None], means[:, row], sds[:, 0]).mean(1)
        assert stats.kstest(u, "uniform").pvalue > 1e-3
    covariance = np.cov(means.T, bias=True) + np.eye(ROWS) * (sds**2).mean()
    error = np.abs(np.cov(samples.T) - covariance).max()
    assert error < 0.25 * covariance.max(), "rows of one sample come from one draw"


@pytest.mark.once
def test_samples_of_counts_and_classes():
    w = weights(3)
    samples = linear(Categorical(), w).sample(jax.random.key(0), 4000)
    frequency = np.stack([(samples == k).mean(0) for k in range(3)], axis=-1)
    np.testing.assert_allclose(frequency, softmax(outputs_of(w), axis=-1).mean(0), atol=0.05)
    samples = linear(Poisson(), weights(scale=0.5)).sample(jax.random.key(0), 4000)
    np.testing.assert_allclose(samples.mean(0), np.exp(outputs_of(weights(scale=0.5))).mean(0), rtol=0.15)


def test_a_diverged_draw_is_seen():
    w = weights()
    w[0, 0] = np.nan
    prediction = linear(Gaussian(scale=1.0), w)
    for value in (prediction.mean, prediction.log_prob(gaussian_targets()), prediction.quantile(0.5)):
        assert np.all(np.isnan(value))
    assert np.all(np.isfinite(prediction.chain(1).quantile(0.5)))
    assert np.all(np.isnan(linear(Poisson(), w).quantile(0.5)))


def test_repr():
    assert repr(gaussian()[0]) == "Prediction(kind='regression', chains=3, draws=40, rows=23)"


class TestErrors:
    def test_posterior_of_no_network(self):
        posterior = Posterior(lambda p: 0.0, lambda p, batch: batch, num_data=3)
        with pytest.raises(TypeError, match="sx.bnn, got Posterior; .* map your own function"):
            predict(posterior, {"network": weights()}, inputs())

    @pytest.mark.parametrize(
        ("x", "message"),
        [
            (np.ones((3, 5)), r"cannot be applied to x, rows of shape \(5,\)"),
            (np.zeros((0, 2)), r"x must have at least one row .* got shape \(0, 2\)"),
            (np.array([[0.0, 1.0], [2.0, np.nan]]), r"x must be finite, .*row 1, column 1"),
            (np.array([[np.inf, 1.0]]), "x must be finite, .*row 0, column 0"),
        ],
    )
    def test_inputs(self, x, message):
        with pytest.raises(ValueError, match=message):
            linear(Gaussian(scale=1.0), weights(), x=x)

    def test_inputs_that_are_no_numbers(self):
        with pytest.raises(TypeError, match="x must be numbers"):
            linear(Gaussian(scale=1.0), weights(), x=np.array([["a", "b"]]))

    @pytest.mark.parametrize(
        ("draws", "message"),
        [
            ({"network": np.zeros((2, 0, 2))}, "at least one draw, got 2 chains of 0 draws"),
            ({"network": np.zeros((2, 3, 2)), "likelihood": {"log_scale": np.zeros((2, 4))}}, "agree in their leading"),
            ({"network": np.zeros(2)}, r"leading axes \('chain', 'draw'\), got a leaf of shape \(2,\)"),
            ({"network": np.zeros((2, 3, 2))}, r"keys \['network', 'likelihood'\], got keys \['network'\]"),
            (np.zeros((2, 3, 2)), "got a ndarray"),
        ],
    )
    def test_draws(self, draws, message):
        posterior = bnn(Network(lambda key: jnp.zeros(2), lambda w, x: x @ w), Gaussian(), Normal(0.0, 1.0), num_data=9)
        with pytest.raises(ValueError, match=message):
            predict(posterior, SimpleNamespace(draws=draws), inputs())

    def test_outputs_of_the_wrong_length(self):
        posterior = bnn(
            Network(lambda k: jnp.zeros(2), lambda w, x: w), Gaussian(scale=1.0), Normal(0.0, 1.0), num_data=9
        )
        with pytest.raises(ValueError, match=r"one output per row, got shape \(2,\) for 23 rows"):
            predict(posterior, {"network": np.zeros((4, 2), DTYPE)}, inputs())

    def test_options(self):
        with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
            gaussian(batch_size=0)
        with pytest.raises(TypeError, match="batch_size must be an integer, got 2.5"):
            gaussian(batch_size=2.5)
        with pytest.raises(ValueError, match="max_memory"):
            gaussian(max_memory=-1)
        with pytest.raises(ValueError, match="num_samples must be at least 1"):
            gaussian()[0].sample(jax.random.key(0), 0)

    @pytest.mark.parametrize("q", [0.0, 1.0, -0.1, [0.5, 1.5], np.nan, [], [[0.5]]])
    def test_quantile(self, q):
        with pytest.raises(ValueError, match="q must be a probability strictly between 0 and 1"):
            gaussian()[0].quantile(q)

    def test_interval(self):
        with pytest.raises(ValueError, match="level must be strictly between 0 and 1, got 90"):
            gaussian()[0].interval(90)

    def test_targets(self):
        prediction, *_ = gaussian()
        with pytest.raises(ValueError, match=r"y must have 23 rows, as many as x, got shape \(22,\)"):
            prediction.log_prob(np.zeros(22))
        with pytest.raises(ValueError, match="finite"):
            prediction.log_prob(np.full(ROWS, np.nan))
        for y in (np.zeros((ROWS, 2)), np.zeros((ROWS, ROWS))):
            with pytest.raises(ValueError):
                prediction.log_prob(y)
        with pytest.raises(ValueError, match=r"y of shape \(22,\) does not fit .* shape \(23,\)"):
            prediction.cdf(np.zeros(22))

    def test_wrong_kind(self):
        classes = linear(Categorical(), weights(3))
        for call in (lambda: classes.quantile(0.5), lambda: classes.interval(), lambda: classes.cdf(np.zeros(ROWS))):
            with pytest.raises(TypeError, match="this is a classification"):
                call()
        for name in ("probs", "entropy", "aleatoric_entropy", "mutual_information"):
            with pytest.raises(TypeError, match="this is a regression"):
                getattr(gaussian()[0], name)


def test_draws_without_their_result_are_told_from_members():
    posterior = bnn(mlp(3, 1, hidden=(4,)), Gaussian(), Normal(), num_data=9)
    one = posterior.init(jax.random.key(0))
    draws = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (2, 5, *leaf.shape)), one)
    with pytest.raises(ValueError, match="give the whole result of sx.sample and not only its draws"):
        predict(posterior, draws, np.ones((4, 3)))
    other = jax.tree.map(lambda leaf: leaf[None], {**one, "network": mlp(3, 1, hidden=(5,)).init(jax.random.key(0))})
    with pytest.raises(ValueError, match=r"weight has shape \(1, 5, 3\) for \(member, ...\) of \(4, 3\)"):
        predict(posterior, other, np.ones((4, 3)))


def test_samples_are_of_the_draws_that_were_chosen():
    # As many samples as draws: some draws are chosen twice, and some not at all.
    for seed in range(5):
        key = jax.random.key(seed)
        cached, streamed = (gaussian(max_memory=most)[0].sample(key, TOTAL) for most in (2**29, 0))
        np.testing.assert_array_equal(cached, streamed)


@pytest.mark.parametrize("far", [1e3, 1e6, -1e7, 1e17])
def test_a_draw_that_is_far_off_moves_no_quantile(far):
    means = np.random.default_rng(5).normal(0, 0.2, TOTAL)
    means[7] = far
    prediction = of_mixture(means, np.zeros(TOTAL))
    for q in (0.05, 0.5, 0.95):
        found = prediction.quantile(q)[0]
        assert abs(stats.norm.cdf(found, means, 1.0).mean() - q) < 1e-4
    low, high = prediction.interval(0.9)
    assert -3 < low[0] < high[0] < 3


@pytest.mark.parametrize("log_scale", [10.0, 20.0, 50.0, 85.0])
def test_a_draw_that_is_very_wide_moves_no_quantile(log_scale):
    log_scales = np.zeros(TOTAL)
    log_scales[7] = log_scale
    prediction = of_mixture(np.zeros(TOTAL), log_scales)
    for q in (0.05, 0.5, 0.95):
        found = prediction.quantile(q)[0]
        assert abs(stats.norm.cdf(found, 0.0, np.exp(log_scales)).mean() - q) < 1e-4


def of_mixture(means, log_scales):
    """The prediction of Gaussians with these means and scales, a draw each."""
    network = Network(lambda key: jnp.zeros(2), lambda w, x: jnp.broadcast_to(w, (len(x), 2)))
    posterior = bnn(network, Gaussian("input"), Normal(0.0, 1.0), num_data=100)
    weights = np.stack([means, log_scales], axis=-1).astype(DTYPE).reshape(CHAINS, DRAWS, 2)
    return predict(posterior, SimpleNamespace(draws={"network": weights}), inputs())


def test_a_posterior_goes_when_nobody_needs_it():
    network = Network(lambda key: jnp.zeros((FEATURES,)), lambda w, x: x @ w)
    posterior = bnn(network, Gaussian(0.5), Normal(0.0, 1.0), num_data=100)
    draws = {"network": np.zeros((CHAINS, DRAWS, FEATURES), DTYPE)}
    prediction = predict(posterior, SimpleNamespace(draws=draws), inputs())
    assert np.isfinite(prediction.mean).all() and np.isfinite(prediction.quantile(0.3)).all()
    gone = weakref.ref(posterior)
    del posterior, prediction, network
    gc.collect()
    assert gone() is None


class Unhashable(Gaussian):
    """As a dataclass that compares by its fields and is not frozen."""

    __hash__ = None


def test_a_likelihood_without_a_hash_is_refused_before_anything_is_sampled():
    network = Network(lambda key: jnp.zeros((FEATURES,)), lambda w, x: x @ w)
    with pytest.raises(TypeError, match=r"Unhashable has none .*: make it a @dataclass\(frozen=True, eq=False\)"):
        bnn(network, Unhashable(0.5), Normal(0.0, 1.0), num_data=100)
