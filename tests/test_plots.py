"""What the figures show is what the metrics say."""

import jax
import numpy as np
import pytest

import smilax as sx

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def regression():
    posterior = sx.bnn(sx.models.mlp(2, 1), sx.likelihoods.Gaussian(0.5), sx.priors.Normal(0.0, 1.0), num_data=40)
    members = jax.vmap(posterior.init)(jax.random.split(jax.random.key(0), 3))
    x = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
    y = np.random.default_rng(1).normal(size=40).astype(np.float32)
    return sx.predict(posterior, members, x), y


def test_reliability_shows_accuracy_by_confidence():
    probs = np.array([[0.95, 0.05]] * 10 + [[0.55, 0.45]] * 10)
    labels = np.array([0] * 9 + [1] + [0] * 5 + [1] * 5)
    line = sx.plots.reliability({"a": probs}, labels, num_bins=10).lines[1]
    np.testing.assert_allclose(line.get_xdata(), [0.55, 0.95])
    np.testing.assert_allclose(line.get_ydata(), [0.5, 0.9])
    assert "ECE 0.050" in line.get_label()


def test_coverage_curve_agrees_with_the_metric(regression):
    prediction, y = regression
    line = sx.plots.coverage({"a": prediction}, y).lines[1]
    for level, observed in zip(line.get_xdata()[[3, 9, 17]], line.get_ydata()[[3, 9, 17]], strict=True):
        assert abs(observed - sx.metrics.coverage(prediction, y, level)) < 1e-9


def test_intervals_mark_the_targets_outside(regression):
    prediction, y = regression
    lines = {line.get_label(): line for line in sx.plots.intervals(prediction, y, level=0.5).lines}
    outside = len(lines["target outside"].get_xdata())
    assert outside == round((1 - sx.metrics.coverage(prediction, y, 0.5)) * 40)
    assert outside + len(lines["target"].get_xdata()) == 40
    assert (np.diff(lines["mean"].get_ydata()) >= 0).all()


def test_uncertainty_curves_are_distributions():
    posterior = sx.bnn(sx.models.mlp(2, 3), sx.likelihoods.Categorical(), sx.priors.Normal(0.0, 1.0), num_data=9)
    members = jax.vmap(posterior.init)(jax.random.split(jax.random.key(0), 3))
    near, far = (sx.predict(posterior, members, np.full((9, 2), s, np.float32)) for s in (0.1, 5))
    axes = sx.plots.uncertainty({"a": near}, {"a": far})
    assert len(axes.lines) == 2
    assert "AUROC" in axes.get_legend().get_texts()[0].get_text()
    for line in axes.lines:
        assert line.get_ydata()[-1] == 1
