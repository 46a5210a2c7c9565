"""Metrics against closed forms, scikit-learn and numbers worked out by hand."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.special import betaln, softmax
from sklearn.metrics import accuracy_score, brier_score_loss, log_loss, roc_auc_score

import smilax as sx
from smilax import metrics
from smilax.bnn import bnn
from smilax.likelihoods import Bernoulli, Categorical, Gaussian, Poisson, StudentT
from smilax.network import Network
from smilax.predict import predict
from smilax.predict import prediction as module
from smilax.priors import Normal

DTYPE = jnp.zeros(()).dtype


def constant(likelihood, outputs, **options):
    """A prediction whose draws have exactly these outputs, shape (draws, rows, ...)."""
    outputs = np.asarray(outputs, DTYPE)
    rows = np.arange(outputs.shape[1])
    network = Network(lambda key: jnp.zeros(outputs.shape[1:]), lambda table, x: table[x])
    posterior = bnn(network, likelihood, Normal(0.0, 1.0), num_data=100)
    return predict(posterior, {"network": outputs}, rows, **options)


def mixture(means, scales, **options):
    """Rows that are Gaussian mixtures with these components, both of shape (components, rows)."""
    return constant(Gaussian(scale="input"), np.stack([means, np.log(scales)], axis=-1), **options)


def crps_of_gaussians(y, means, scales):
    """The closed form for one mixture (Grimit et al. 2006), E|X - y| - E|X - X'|/2."""

    def mean_abs(mean, scale):
        return 2 * scale * stats.norm.pdf(mean / scale) + mean * (2 * stats.norm.cdf(mean / scale) - 1)

    pairs = mean_abs(means[:, None] - means, np.hypot(scales[:, None], scales))
    return np.mean(mean_abs(y - means, scales)) - np.mean(pairs) / 2


def some_probs(rows=200, classes=4, seed=0):
    rng = np.random.default_rng(seed)
    probs = softmax(2 * rng.normal(size=(rows, classes)), axis=1)
    return probs, rng.integers(0, classes, rows)


class TestCRPS:
    def test_one_gaussian(self):
        y = np.linspace(-6, 9, 31)
        mean, scale = np.full(31, 1.5), np.full(31, 0.7)
        z = (y - mean) / scale
        truth = scale * (z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - 1 / np.sqrt(np.pi))
        prediction = mixture(mean[None], scale[None])
        for i in range(0, 31, 3):
            assert metrics.crps(prediction.rows(i, i + 1), y[i : i + 1]) == pytest.approx(truth[i], rel=1e-5)
        assert metrics.crps(prediction, y) == pytest.approx(truth.mean(), rel=1e-5)

    @pytest.mark.parametrize("width", [1.0, 0.2, 0.02])
    def test_three_components(self, width):
        means, scales = np.array([-1.0, 0.3, 2.0]), width * np.array([0.5, 1.0, 1.5])
        y = np.linspace(-3, 4, 29)
        truth = np.array([crps_of_gaussians(value, means, scales) for value in y])
        prediction = mixture(np.tile(means[:, None], 29), np.tile(scales[:, None], 29))
        for i in range(0, 29, 4):
            assert metrics.crps(prediction.rows(i, i + 1), y[i : i + 1]) == pytest.approx(truth[i], rel=2e-4)
        assert metrics.crps(prediction, y) == pytest.approx(truth.mean(), rel=5e-5)

    @pytest.mark.parametrize("spread", [0.01, 1.0, 10.0])
    def test_many_components(self, spread):
        rng = np.random.default_rng(0)
        means, scales = spread * rng.normal(size=(200, 40)), rng.uniform(0.2, 2.0, (200, 40))
        y = 3 * rng.normal(size=40)
        truth = np.mean([crps_of_gaussians(y[i], means[:, i], scales[:, i]) for i in range(40)])
        assert metrics.crps(mixture(means, scales), y) == pytest.approx(truth, rel=5e-5)

    def test_large_offset(self):
        # In float32 a point on the axis is known to 0.004 here: that has to be taken into account.
        y, mean = np.array([50_000.0, 50_001.0]), np.full((1, 2), 50_000.0)
        truth = np.mean([crps_of_gaussians(v, np.array([50_000.0]), np.array([0.5])) for v in y])
        assert metrics.crps(mixture(mean, np.full((1, 2), 0.5)), y) == pytest.approx(truth, rel=5e-3)

    def test_heavy_tails(self):
        # The closed form of Jordan, Krueger and Lerch (2019) for Student's t.
        df, y = 3.0, np.array([-8.0, -1.0, 0.0, 0.5, 40.0])
        tail = 2 * np.sqrt(df) / (df - 1) * np.exp(betaln(0.5, df - 0.5) - 2 * betaln(0.5, df / 2))
        truth = y * (2 * stats.t.cdf(y, df) - 1) + 2 * stats.t.pdf(y, df) * (df + y**2) / (df - 1) - tail
        prediction = constant(StudentT(df=df, scale=1.0), np.zeros((1, 5)))
        for i in range(5):
            assert metrics.crps(prediction.rows(i, i + 1), y[i : i + 1]) == pytest.approx(truth[i], rel=1e-3)

    def test_several_targets(self):
        rng = np.random.default_rng(0)
        means, y = rng.normal(size=(5, 10, 2)), rng.normal(size=(10, 2))
        truth = np.mean(
            [[crps_of_gaussians(y[i, k], means[:, i, k], np.full(5, 0.5)) for k in (0, 1)] for i in range(10)]
        )
        assert metrics.crps(constant(Gaussian(scale=0.5), means), y) == pytest.approx(truth, rel=5e-5)

    @pytest.mark.parametrize("log_rate", [-2.0, 1.0, 4.0])
    def test_counts(self, log_rate):
        rng = np.random.default_rng(0)
        log_rates = log_rate + 0.3 * rng.normal(size=(6, 20))
        y = rng.poisson(np.exp(log_rate), 20)
        y[0] = 1000
        k = np.arange(5000)
        cdf = stats.poisson.cdf(k[:, None, None], np.exp(log_rates)).mean(1)
        truth = np.sum((cdf - (y <= k[:, None])) ** 2, axis=0).mean()
        assert metrics.crps(constant(Poisson(), log_rates), y) == pytest.approx(truth, rel=1e-4)

    def test_more_counts_than_are_summed_singly(self):
        rates, y = np.array([10.0, 800.0, 3000.0]), np.array([5, 900, 4000])
        k = np.arange(6000)
        cdf = stats.poisson.cdf(k[:, None, None], rates[:, None]).mean(1)
        truth = np.sum((cdf - (y <= k[:, None])) ** 2, axis=0).mean()
        prediction = constant(Poisson(), np.tile(np.log(rates)[:, None], 3))
        assert metrics.crps(prediction, y) == pytest.approx(truth, rel=1e-3)

    def test_parts_of_rows(self, monkeypatch):
        rng = np.random.default_rng(0)
        means, scales, y = rng.normal(size=(9, 40)), rng.uniform(0.2, 2.0, (9, 40)), rng.normal(size=40)
        whole = metrics.crps(mixture(means, scales), y)
        monkeypatch.setattr(module, "PART_BYTES", 1)
        parts = metrics.crps(mixture(means, scales, batch_size=7, max_memory=0), y)
        assert parts == pytest.approx(whole, rel=1e-6)


class TestRegression:
    def prediction(self):
        rng = np.random.default_rng(0)
        means, scales = rng.normal(size=(50, 300)), rng.uniform(0.5, 1.5, (50, 300))
        return mixture(means, scales), means, scales, 1.4 * rng.normal(size=300)

    def test_rmse(self):
        prediction, means, _, y = self.prediction()
        assert metrics.rmse(prediction, y) == pytest.approx(np.sqrt(np.mean((means.mean(0) - y) ** 2)), rel=1e-5)
        assert metrics.rmse(prediction, y[:, None]) == metrics.rmse(prediction, y)

    def test_lppd(self):
        prediction, means, scales, y = self.prediction()
        truth = np.mean(np.log(stats.norm.pdf(y, means, scales).mean(0)))
        assert metrics.lppd(prediction, y) == pytest.approx(truth, rel=1e-5)
        assert metrics.perplexity(prediction, y) == pytest.approx(np.exp(-truth), rel=1e-5)

    @pytest.mark.parametrize("level", [0.5, 0.9])
    def test_coverage(self, level):
        prediction, means, scales, y = self.prediction()
        cdf = stats.norm.cdf(y, means, scales).mean(0)
        truth = np.mean(np.abs(cdf - 0.5) <= level / 2)
        assert metrics.coverage(prediction, y, level) == pytest.approx(truth, abs=1e-12)

    def test_calibrated_prediction_is_covered_as_claimed(self):
        rng = np.random.default_rng(0)
        means = rng.normal(size=(1, 4000))
        prediction = constant(Gaussian(scale=0.5), means)
        y = means[0] + 0.5 * rng.normal(size=4000)
        assert metrics.coverage(prediction, y, level=0.8) == pytest.approx(0.8, abs=0.025)

    def test_risk_is_ordered_by_variance(self):
        # Variances 1, 4, 9 in the order b, c, a; squared errors 4 (b), 0 (c), 1 (a).
        prediction = mixture(np.zeros((1, 3)), np.array([[3.0, 1.0, 2.0]]))
        curve = metrics.risk_coverage_curve(prediction, [1.0, 2.0, 0.0])
        np.testing.assert_allclose(curve.coverage, [1 / 3, 2 / 3, 1])
        np.testing.assert_allclose(curve.risk, [4, 2, 5 / 3])
        assert metrics.aurc(prediction, [1.0, 2.0, 0.0]) == pytest.approx((4 + 2 + 5 / 3) / 3)


class TestClassification:
    def test_scikit_learn_agrees(self):
        probs, y = some_probs()
        assert metrics.accuracy(probs, y) == accuracy_score(y, probs.argmax(1))
        assert metrics.lppd(probs, y) == pytest.approx(-log_loss(y, probs, labels=range(4)))
        assert metrics.perplexity(probs, y) == pytest.approx(np.exp(log_loss(y, probs, labels=range(4))))
        with pytest.raises(ValueError, match="y"):
            metrics.perplexity(probs, [])
        by_class = [brier_score_loss(y == k, probs[:, k]) for k in range(4)]
        assert metrics.brier(probs, y) == pytest.approx(sum(by_class))

    def test_two_classes_count_twice_in_brier(self):
        probs, y = some_probs(classes=2)
        assert metrics.brier(probs, y) == pytest.approx(2 * brier_score_loss(y, probs[:, 1]))

    def test_predictions_are_scored_by_their_mixture(self):
        logits = np.random.default_rng(0).normal(size=(7, 50, 3))
        probs, y = softmax(logits, axis=-1).mean(0), np.random.default_rng(1).integers(0, 3, 50)
        prediction = constant(Categorical(), logits)
        for name in ("lppd", "accuracy", "brier", "ece", "aurc", "perplexity"):
            metric = getattr(metrics, name)
            assert metric(prediction, y) == pytest.approx(metric(probs, y), rel=1e-4, abs=1e-6), name
        assert isinstance(metrics.accuracy(prediction, y), float)

    def test_bernoulli(self):
        logits = np.random.default_rng(0).normal(size=(7, 50, 1))
        y = np.random.default_rng(1).integers(0, 2, 50)
        p = (1 / (1 + np.exp(-logits[..., 0]))).mean(0)
        prediction = constant(Bernoulli(), logits)
        assert metrics.accuracy(prediction, y) == accuracy_score(y, p > 0.5)
        assert metrics.brier(prediction, y) == pytest.approx(2 * brier_score_loss(y, p), rel=1e-5)
        assert metrics.accuracy(prediction, y.astype(bool)[:, None]) == metrics.accuracy(prediction, y)

    def test_tokens(self):
        # Targets (rows, T): perplexity is that of a token.
        logits = np.tile(np.log([0.5, 0.25, 0.25]), (2, 6, 4, 1))
        y = np.tile([0, 1, 2, 0], (6, 1))
        prediction = constant(Categorical(), logits)
        assert metrics.accuracy(prediction, y) == 0.5
        assert metrics.perplexity(prediction, y) == pytest.approx(2**1.5, rel=1e-5)

    def test_ece_by_hand(self):
        # Ten bins. 0.62 and 0.68 fall in (0.6, 0.7], accuracy 1/2, confidence 0.65: gap 0.15. 0.91, 0.95, 0.96 fall in
        # (0.9, 1], accuracy 1, confidence 0.94: gap 0.06. 0.5 falls in (0.4, 0.5], its class is the first: gap 0.5.
        confidence = np.array([0.62, 0.68, 0.91, 0.95, 0.96, 0.5])
        probs = np.stack([confidence, 1 - confidence], axis=1)
        y = [0, 1, 0, 0, 0, 0]
        assert metrics.ece(probs, y, num_bins=10) == pytest.approx((2 * 0.15 + 3 * 0.06 + 0.5) / 6)
        curve = metrics.reliability_curve(probs, y, num_bins=10)
        np.testing.assert_array_equal(curve.num_rows, [0, 0, 0, 0, 1, 0, 2, 0, 0, 3])
        np.testing.assert_allclose(curve.confidence[[4, 6, 9]], [0.5, 0.65, 0.94])
        np.testing.assert_allclose(curve.accuracy[[4, 6, 9]], [1, 0.5, 1])
        assert np.isnan(curve.accuracy[0]) and np.isnan(curve.confidence[0])

    def test_ece_bins_by_predicted_confidence(self):
        # All wrong with confidence 0.9; binned by the true class's probability they would seem calibrated.
        probs = np.tile([0.9, 0.1], (10, 1))
        assert metrics.ece(probs, np.ones(10, int)) == pytest.approx(0.9)

    @pytest.mark.optimised
    @pytest.mark.parametrize("rows", [5, 200, 20_000])
    @pytest.mark.parametrize("classes", [2, 10])
    def test_ece_by_chance_is_the_mean_over_labels_drawn_from_the_prediction(self, rows, classes):
        # Five rows: the whole law of each bin; 20,000: normal in some bins and not in others. Confidence from 1/K to 1.
        rng = np.random.default_rng(rows)
        probs = rng.dirichlet(np.full(classes, 0.2), rows)
        draws = min(15_000, 400_000 // rows) if rows < 1000 else 400
        found = []
        for _ in range(draws):
            labels = (probs.cumsum(axis=1) < rng.random((rows, 1))).sum(axis=1)
            found.append(metrics.ece(probs, np.minimum(labels, classes - 1)))
        error = np.std(found) / draws**0.5
        assert metrics.ece_by_chance(probs) == pytest.approx(np.mean(found), abs=4 * error)
        assert error < 0.02 * np.mean(found)

    def test_ece_by_chance_of_few_errors(self):
        # 1,000 rows that are wrong with probability 1e-4: Poisson, E|X - 0.1| = 0.2 exp(-0.1) to one in 10^4.
        probs = np.tile([1 - 1e-4, 1e-4], (1000, 1))
        assert metrics.ece_by_chance(probs) == pytest.approx(0.2 * np.exp(-0.1) / 1000, rel=1e-3)
        assert metrics.ece_by_chance(np.eye(3)) == 0

    def test_certain_and_right(self):
        probs = np.eye(3)
        assert (metrics.ece(probs, [0, 1, 2]), metrics.brier(probs, [0, 1, 2])) == (0.0, 0.0)
        assert metrics.lppd(probs, [0, 1, 1]) == -np.inf

    def test_aurc_by_hand(self):
        probs = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.3, 0.7]])
        # Confidence 0.9 right, 0.8 wrong, 0.7 right, 0.6 wrong.
        curve = metrics.risk_coverage_curve(probs, [0, 1, 0, 1])
        np.testing.assert_allclose(curve.risk, [0, 1 / 2, 1 / 3, 2 / 4])
        assert metrics.aurc(probs, [0, 1, 0, 1]) == pytest.approx((1 / 2 + 1 / 3 + 2 / 4) / 4)

    def test_ties_do_not_depend_on_the_order(self):
        probs, y = some_probs()
        probs = np.round(probs, 1)
        probs[:, 0] += 1 - probs.sum(1)
        probs, y = probs[probs.min(1) >= 0], y[probs.min(1) >= 0]
        order = np.random.default_rng(0).permutation(len(y))
        assert metrics.aurc(probs, y) == pytest.approx(metrics.aurc(probs[order], y[order]), rel=1e-12)
        # All equally confident: the error rate at any coverage.
        same = np.tile([0.4, 0.6], (4, 1))
        np.testing.assert_allclose(metrics.risk_coverage_curve(same, [0, 1, 1, 1]).risk, 0.25)


class TestAUROC:
    @pytest.mark.parametrize("digits", [8, 1])
    def test_scikit_learn_agrees(self, digits):
        rng = np.random.default_rng(0)
        inside, outside = np.round(rng.normal(size=80), digits), np.round(rng.normal(size=50) + 0.7, digits)
        truth = roc_auc_score(np.r_[np.zeros(80), np.ones(50)], np.r_[inside, outside])
        assert metrics.auroc(inside, outside) == pytest.approx(truth, rel=1e-12)

    def test_predictions(self):
        rng = np.random.default_rng(0)
        certain, doubtful = rng.normal(size=(9, 30)), 2 * rng.normal(size=(9, 20))
        truth = metrics.auroc(certain.var(0), doubtful.var(0))
        predictions = (constant(Gaussian(scale=1.0), outputs) for outputs in (certain, doubtful))
        assert metrics.auroc(*predictions) == pytest.approx(truth)
        inside, outside = (constant(Categorical(), rng.normal(size=(9, n, 3))) for n in (30, 20))
        truth = metrics.auroc(inside.mutual_information, outside.mutual_information)
        assert metrics.auroc(inside, outside) == truth

    @pytest.mark.parametrize("scores", [[], [0.1, np.nan]])
    def test_refuses(self, scores):
        with pytest.raises(ValueError, match="scores_out must be numbers, at least one"):
            metrics.auroc([1.0], scores)


class TestErrors:
    @pytest.mark.parametrize("name", ["accuracy", "brier", "ece", "reliability_curve"])
    def test_no_classification(self, name):
        with pytest.raises(TypeError, match=f"{'reliability_curve' if name == 'ece' else name} needs a classification"):
            getattr(metrics, name)(constant(Gaussian(scale=1.0), np.zeros((2, 3))), [0, 1, 1])

    @pytest.mark.parametrize("name", ["rmse", "crps", "coverage"])
    def test_no_regression(self, name):
        with pytest.raises(TypeError, match=f"{name} needs numeric targets"):
            getattr(metrics, name)(constant(Categorical(), np.zeros((2, 3, 2))), [0, 1, 1])
        with pytest.raises(TypeError, match=f"{name} needs a Prediction, got ndarray"):
            getattr(metrics, name)(np.zeros((3, 2)), [0, 1, 1])

    def test_labels(self):
        probs, y = some_probs(rows=5)
        with pytest.raises(ValueError, match=r"y of shape \(4,\) does not fit"):
            metrics.accuracy(probs, y[:4])
        with pytest.raises(ValueError, match="labels from 0 to 3, got 4 in row 2"):
            metrics.brier(probs, [0, 1, 4, 0, 0])
        with pytest.raises(ValueError, match="got -1 in row 0"):
            metrics.ece(probs, [-1, 1, 2, 0, 0])
        with pytest.raises(TypeError, match="integer labels"):
            metrics.accuracy(probs, [0.5, 1, 2, 0, 0])
        with pytest.raises(TypeError, match="integer labels"):
            metrics.accuracy(probs, list("abcde"))

    @pytest.mark.parametrize("probs", [np.ones(3), np.ones((3, 1)), np.zeros((0, 2)), np.full((3, 3), 0.5)])
    def test_probabilities(self, probs):
        with pytest.raises(ValueError, match="probabilities must"):
            metrics.accuracy(probs, [0, 1, 1])
        with pytest.raises(ValueError, match="probabilities must"):
            metrics.accuracy(np.array([[-0.5, 1.5], [np.nan, 1.0]]), [0, 1])

    def test_targets(self):
        prediction = constant(Gaussian(scale=1.0), np.zeros((2, 3)))
        for name in ("rmse", "crps", "coverage"):
            with pytest.raises(ValueError, match=r"y of shape \(3, 3\) does not fit"):
                getattr(metrics, name)(prediction, np.zeros((3, 3)))
            with pytest.raises(ValueError, match="y must be finite"):
                getattr(metrics, name)(prediction, [0.0, np.nan, 1.0])

    def test_options(self):
        probs, y = some_probs()
        with pytest.raises(ValueError, match="num_bins must be at least 1, got 0"):
            metrics.ece(probs, y, num_bins=0)
        with pytest.raises(ValueError, match="num_bins must be at least 1, got 0"):
            metrics.ece_by_chance(probs, num_bins=0)
        with pytest.raises(ValueError, match="level must be"):
            metrics.coverage(constant(Gaussian(scale=1.0), np.zeros((2, 3))), np.zeros(3), level=1.0)


@pytest.mark.once
@pytest.mark.parametrize("far, log_scale", [(0.0, 0.0), (1e6, 0.0), (-1e7, 0.0), (0.0, 20.0), (0.0, 50.0)])
def test_crps_with_a_draw_that_is_far_off_or_very_wide(far, log_scale):
    means, scales = np.random.default_rng(3).normal(0, 0.2, 400), np.ones(400)
    means[7] += far
    scales[7] = np.exp(log_scale)
    network = sx.Network(lambda key: jnp.zeros(2), lambda w, x: jnp.broadcast_to(w, (len(x), 2)))
    posterior = sx.bnn(network, sx.likelihoods.Gaussian("input"), sx.priors.Normal(0.0, 1.0), num_data=10)
    weights = np.stack([means, np.log(scales)], axis=-1)[None].astype(jnp.zeros(()).dtype)
    prediction = sx.predict(posterior, SimpleNamespace(draws={"network": weights}), np.zeros((2, 1), weights.dtype))

    def expected(shift, spread):
        # E|Z| of a normal variable.
        z = shift / spread
        return 2 * spread * stats.norm.pdf(z) + shift * (2 * stats.norm.cdf(z) - 1)

    means, scales = means.astype(weights.dtype).astype(float), np.exp(weights[0, :, 1].astype(float))
    pairs = expected(means[:, None] - means, np.hypot(scales[:, None], scales))
    exact = expected(0.7 - means, scales).mean() - pairs.mean() / 2
    np.testing.assert_allclose(sx.metrics.crps(prediction, np.full(2, 0.7)), exact, rtol=1e-3)


@pytest.mark.once
def test_scores_of_a_lost_chain_are_refused_by_name():
    network = sx.Network(lambda key: jnp.zeros((2, 3)), lambda w, x: x @ w)
    posterior = sx.bnn(network, sx.likelihoods.Categorical(), sx.priors.Normal(0.0, 1.0), num_data=10)
    weights = np.zeros((2, 4, 2, 3), jnp.zeros(()).dtype)
    weights[1, 2] = np.nan
    x, y = np.ones((5, 2), weights.dtype), np.zeros(5, int)
    prediction = sx.predict(posterior, SimpleNamespace(draws={"network": weights}), x)
    for metric in (sx.metrics.accuracy, sx.metrics.ece, sx.metrics.brier, sx.metrics.aurc):
        with pytest.raises(ValueError, match="100% of the prediction is NaN, as a draw is not finite"):
            metric(prediction, y)
    assert sx.metrics.accuracy(prediction.chain(0), y) == 1
