"""What the figures show is what the metrics say."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import matplotlib.style
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from scipy.stats import norm

import smilax as sx
from smilax.diagnostics import Row
from smilax.diagnostics.convergence import split_rhat
from smilax.predict.pointwise import pointwise_log_prob

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


PLAIN = sx.Posterior(
    lambda w: -0.5 * jnp.sum(w**2), lambda w, x: -0.5 * jnp.sum((x - w[None]) ** 2, axis=-1), num_data=100
)


def run(posterior=PLAIN, algorithm=sx.psmile_naive, **settings):
    x = np.random.default_rng(0).normal(size=(100, 2)).astype(np.float32)
    lengths = {"num_chains": 2, "num_warmup": 20, "num_samples": 40, "thinning": 2, "batch_size": 10} | settings
    return sx.sample(
        jax.random.key(0),
        algorithm(posterior, step_size=0.05),
        x,
        jnp.zeros(2, jnp.float32),
        progress_bar=False,
        **lengths,
    )


@pytest.fixture(scope="module")
def result():
    return run()


def named(axes):
    return {line.get_label(): line for line in axes.lines}


def test_coverage_band_is_the_binomial_one(regression):
    prediction, y = regression
    (band,) = sx.plots.coverage({"a": prediction}, y).collections
    # At a level of one half, of 40 targets: 1.96 √(0.25/40).
    at = band.get_paths()[0].vertices
    at = at[np.isclose(at[:, 0], 0.5)][:, 1]
    np.testing.assert_allclose([at.min(), at.max()], 0.5 + np.array([-1, 1]) * 1.96 * 0.5 / 40**0.5)


def test_risk_coverage_by_hand():
    confidence = np.array([0.99, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6])
    probs = np.stack([confidence, 1 - confidence], axis=1)
    labels = np.array([0, 0, 1, 0, 0, 1, 1])
    lines = named(sx.plots.risk_coverage({"a": probs}, labels))
    area = np.mean([0, 0, 1 / 3, 1 / 4, 1 / 5, 2 / 6, 3 / 7])
    curve = lines[f"a (area {area:.3g})"]
    np.testing.assert_allclose(curve.get_xdata(), [5 / 7, 6 / 7, 1])
    np.testing.assert_allclose(curve.get_ydata(), [1 / 5, 2 / 6, 3 / 7])
    (chance,) = [line for line in lines.values() if list(line.get_ydata()) == [3 / 7] * 2]
    assert list(chance.get_xdata()) == [0, 1]


def test_bands_are_the_quantiles_in_order_of_the_input():
    posterior = sx.bnn(sx.models.mlp(1, 1), sx.likelihoods.Gaussian(0.5), sx.priors.Normal(0.0, 1.0), num_data=9)
    members = jax.vmap(posterior.init)(jax.random.split(jax.random.key(0), 3))
    x = np.random.default_rng(0).normal(size=9).astype(np.float32)
    prediction = sx.predict(posterior, members, x[:, None])
    axes = sx.plots.bands(prediction, x, np.zeros(9, np.float32), levels=(0.8,))
    order = np.argsort(x)
    lines = named(axes)
    np.testing.assert_array_equal(lines["mean"].get_xdata(), x[order])
    np.testing.assert_array_equal(lines["mean"].get_ydata(), np.ravel(prediction.mean)[order])
    (band,) = axes.collections
    vertices = band.get_paths()[0].vertices
    for place, low, high in zip(x, *map(np.ravel, prediction.interval(0.8)), strict=True):
        at = vertices[np.isclose(vertices[:, 0], place, atol=1e-7)][:, 1]
        np.testing.assert_allclose([at.min(), at.max()], [low, high], rtol=1e-6)
    with pytest.raises(ValueError, match=r"x must have shape \(9,\), one number per row, got \(3,\)"):
        sx.plots.bands(prediction, x[:3])


def test_epistemic_against_aleatoric(regression):
    prediction, y = regression
    lines = named(sx.plots.epistemic_aleatoric(prediction, y, level=0.5))
    rows = np.concatenate([lines["row"].get_ydata(), lines["outside the 50% interval"].get_ydata()])
    np.testing.assert_allclose(np.sort(rows), np.sort(np.sqrt(np.ravel(prediction.epistemic))), rtol=1e-6)
    # The likelihood's standard deviation is fixed.
    np.testing.assert_allclose(lines["row"].get_xdata(), 0.5, rtol=1e-6)
    outside = round((1 - sx.metrics.coverage(prediction, y, 0.5)) * 40)
    assert len(lines["outside the 50% interval"].get_xdata()) == outside


def test_trace_by_hand(result):
    axes = sx.plots.trace(result, "log_density", points=6)
    steps = axes.lines[1].get_xdata()
    # A record per warm-up step, and one per two steps after: stretches of ten steps.
    np.testing.assert_array_equal(steps, [10, 20, 30, 40, 50, 60])
    warm, drawn = (np.asarray(info.log_density, np.float64)[1] for info in (result.warmup_info, result.info))
    # As many records in each.
    some = np.linspace(0, 9, 5).round().astype(int)
    wanted = [*warm.reshape(2, 10)[:, some].mean(1), *drawn.reshape(4, 5).mean(1)]
    np.testing.assert_allclose(axes.lines[1].get_ydata(), wanted)
    axes = sx.plots.trace(result, "energy_error", points=6)
    energy = np.asarray(result.info.energy_error, np.float64)[0].reshape(4, 5)
    np.testing.assert_allclose(axes.lines[0].get_ydata()[2:], np.sqrt((energy**2).mean(1)))
    assert axes.get_yscale() == "log"
    np.testing.assert_allclose(sx.plots.trace(result, "step_size").lines[0].get_ydata(), 0.05, rtol=1e-6)


def test_trace_shows_what_the_energy_is_aimed_at():
    result = run(algorithm=lambda posterior, step_size: sx.ismile(posterior, target_eevpd=2e-4), num_warmup=200)
    line = named(sx.plots.trace(result, "energy_error"))["aimed at"]
    assert line.get_ydata()[0] == pytest.approx((2e-4 * 2) ** 0.5)


def test_rhat_histogram_counts_what_split_rhat_gives(result):
    axes = sx.plots.rhat(result)
    wanted = split_rhat(np.asarray(result.draws, np.float64))
    counts = np.array([bar.get_height() for bar in axes.patches if bar.get_height() > 0])
    assert counts.sum() == len(wanted) == 2
    edges = [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in axes.patches if bar.get_height() > 0]
    for value in wanted:
        assert any(low - 1e-9 <= value <= high + 1e-9 for low, high in edges)
    assert f"parameters, worst {wanted.max():.3f}" in axes.get_legend().get_texts()[0].get_text()


def test_lppd_by_draws_by_hand():
    posterior = sx.bnn(sx.models.mlp(2, 1), sx.likelihoods.Gaussian(0.5), sx.priors.Normal(0.0, 1.0), num_data=40)
    draws = jax.vmap(jax.vmap(posterior.init))(jax.random.split(jax.random.key(0), (3, 5)))
    x = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
    y = np.random.default_rng(1).normal(size=40).astype(np.float32)

    class Draws:
        pass

    Draws.draws = draws
    prediction = sx.predict(posterior, Draws, x)
    density = norm.pdf(y, prediction.outputs[..., 0].astype(np.float64), 0.5)
    np.testing.assert_allclose(pointwise_log_prob(prediction, y), np.log(density), rtol=1e-4, atol=1e-4)

    def lppd(chains, number):
        return np.log(density[chains, :number].mean((0, 1))).mean()

    lines = named(sx.plots.lppd_by_draws(prediction, y, references={"other": -9.0}))
    np.testing.assert_array_equal(lines["3 chains"].get_xdata(), [1, 2, 4, 5])
    np.testing.assert_allclose(lines["3 chains"].get_ydata(), [lppd(slice(3), n) for n in (1, 2, 4, 5)], rtol=1e-5)
    assert lines["3 chains"].get_ydata()[-1] == pytest.approx(sx.metrics.lppd(prediction, y), rel=1e-5)
    alone = np.mean([[lppd(slice(c, c + 1), n) for n in (1, 2, 4, 5)] for c in range(3)], axis=0)
    np.testing.assert_allclose(lines["1 chain"].get_ydata(), alone, rtol=1e-5)
    # One pair is all that three chains have.
    np.testing.assert_allclose(lines["2 chains"].get_ydata()[-1], lppd(slice(2), 5), rtol=1e-5)
    assert list(lines["other"].get_ydata()) == [-9, -9]


def test_noise_isotropy_shows_the_diagnosis():
    leaves = {
        "['network'].layers[0].weight": {"omega": 1.5, "standard_error": 0.1, "variance_ratio": 1.5},
        "['network'].layers[0].bias": {"omega": 0.8, "standard_error": 0.05, "variance_ratio": 0.8},
    }
    row = Row("noise per leaf", 1.9, "", "", "bad", "", leaves)
    axes = sx.plots.noise_isotropy(sx.Diagnosis("a run", (row,)))
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "network/layers/0/weight",
        "network/layers/0/bias",
    ]
    (bars,) = axes.containers
    np.testing.assert_allclose(bars.lines[0].get_xdata(), [1.5, 0.8])
    np.testing.assert_allclose([np.ptp(s[:, 0]) / 2 for s in bars.lines[2][0].get_segments()], [0.2, 0.1])
    low, high = axes.get_xlim()
    assert low < 0.7 and high > 1.7
    with pytest.raises(ValueError, match="the diagnosis has no noise per leaf"):
        sx.plots.noise_isotropy(sx.Diagnosis("a run", ()))


def test_colours_follow_the_background():
    probs, labels = np.array([[0.9, 0.1]] * 10), np.zeros(10, int)
    assert sx.plots.reliability({"a": probs}, labels).lines[1].get_color() == sx.plots.COLORS[0]
    with matplotlib.style.context("dark_background"):
        assert sx.plots.reliability({"a": probs}, labels).lines[1].get_color() == sx.plots.DARK_COLORS[0]
    axes = Figure(facecolor="black").add_subplot(facecolor="none")
    assert sx.plots.reliability({"a": probs}, labels, ax=axes) is axes
    assert axes.lines[1].get_color() == sx.plots.DARK_COLORS[0]


def contrast(color, ground):
    """As in the Web Content Accessibility Guidelines 2."""

    def luminance(color):
        rgb = np.array(to_rgb(color))
        return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]

    low, high = sorted((luminance(color), luminance(ground)))
    return (high + 0.05) / (low + 0.05)


def test_colours_are_seen_on_their_ground():
    # Two is what Okabe and Ito's two lightest have on white; the others, which come first, have more.
    assert min(contrast(color, "white") for color in sx.plots.COLORS) > 2
    assert min(contrast(color, "white") for color in sx.plots.COLORS[:3]) > 3
    assert min(contrast(color, "black") for color in sx.plots.DARK_COLORS) > 7


def test_legends_cover_no_data(regression, result):
    prediction, y = regression
    for axes in (
        sx.plots.coverage({"a": prediction}, y),
        sx.plots.intervals(prediction, y),
        sx.plots.trace(result),
        sx.plots.lppd_by_draws(prediction, y),
    ):
        figure = axes.get_figure()
        FigureCanvasAgg(figure).draw()
        legend, frame = axes.get_legend().get_window_extent(), axes.get_window_extent()
        assert legend.y1 <= frame.y0 and legend.y1 <= axes.xaxis.label.get_window_extent().y0 + 1
        assert legend.y0 >= 0


def test_bad_input_is_named(regression, result):
    prediction, y = regression
    with pytest.raises(TypeError, match="predictions must be a dictionary by label, got Prediction"):
        sx.plots.coverage(prediction, y)
    with pytest.raises(ValueError, match="predictions must be 1 to 6 by label, got 7"):
        sx.plots.risk_coverage({str(n): prediction for n in range(7)}, y)
    with pytest.raises(
        ValueError, match="quantity must be one of 'log_density', 'step_size', 'energy_error', got 'lp'"
    ):
        sx.plots.trace(result, "lp")
    with pytest.raises(ValueError, match="sgld reports no finite energy_error"):
        sx.plots.trace(run(algorithm=sx.sgld), "energy_error")
    with pytest.raises(ValueError, match="R-hat needs 4 draws a chain, got 3"):
        sx.plots.rhat(run(num_samples=6))
    with pytest.raises(TypeError, match="result must be what sx.sample returned, got dict"):
        sx.plots.rhat({})
    with pytest.raises(TypeError, match="lppd_by_draws needs a Prediction, got int"):
        sx.plots.lppd_by_draws(3, y)


def test_coverage_of_calibrated_counts_is_in_its_band():
    # One draw, so that the predictive distribution is a Poisson of known rate; its intervals hold more than they claim.
    rate, rows = 0.7, 4000
    network = sx.Network(
        lambda key: {"log_rate": jnp.full((), np.log(rate))}, lambda p, x: p["log_rate"] + 0 * x[:, :1]
    )
    posterior = sx.bnn(network, sx.likelihoods.Poisson(), sx.priors.Normal(0.0, 1.0), num_data=rows)
    members = jax.vmap(posterior.init)(jax.random.split(jax.random.key(0), 1))
    prediction = sx.predict(posterior, members, np.zeros((rows, 1), np.float32))
    y = np.random.default_rng(0).poisson(rate, rows)
    assert sx.metrics.coverage(prediction, y, 0.5) > 0.8
    line = sx.plots.coverage({"a": prediction}, y).lines[1]
    level, observed = np.asarray(line.get_xdata()), np.asarray(line.get_ydata())
    np.testing.assert_array_less(np.abs(observed - level), 3 * np.sqrt(level * (1 - level) / rows))
    # And of a rate that is not theirs it is not.
    wrong = np.asarray(sx.plots.coverage({"a": prediction}, 3 * y).lines[1].get_ydata())
    assert np.abs(wrong - level).max() > 0.1


def test_uncertainty_of_sequences_is_one_curve():
    network = sx.models.gpt(vocab_size=5, context=6, layers=1, heads=1, width=4)
    posterior = sx.bnn(network, sx.likelihoods.Categorical(), sx.priors.Normal(0.0, 1.0), num_data=7)
    members = jax.vmap(posterior.init)(jax.random.split(jax.random.key(0), 3))
    prediction = sx.predict(posterior, members, np.zeros((7, 6), np.int32))
    lines = sx.plots.uncertainty({"a": prediction}, {"a": prediction}).lines
    assert len(lines) == 2 and len(lines[0].get_xdata()) == 42
    assert (np.diff(lines[0].get_xdata()) >= 0).all()


def test_energy_errors_of_warm_up_alone(result):
    unknown = np.full_like(np.asarray(result.info.energy_error), np.nan)
    warm = np.asarray(result.warmup_info.energy_error).copy()
    warm[:, ::2] = 0
    changed = replace(
        result,
        info=result.info._replace(energy_error=unknown),
        warmup_info=result.warmup_info._replace(energy_error=warm),
    )
    axes = sx.plots.trace(changed, "energy_error", points=4)
    assert axes.get_title() == "Energy error in warm-up" and axes.get_xlim()[1] == 20
    assert axes.get_yscale() == "log"
    measured = warm[0].reshape(4, 5).astype(np.float64)
    wanted = [np.sqrt((part[part != 0] ** 2).mean()) for part in measured]
    np.testing.assert_allclose(axes.lines[0].get_ydata(), wanted)


def test_targets_that_are_not_finite_are_refused(regression):
    prediction, y = regression
    for plot in (lambda y: sx.plots.coverage({"a": prediction}, y), lambda y: sx.plots.intervals(prediction, y)):
        with pytest.raises(ValueError, match="y"):
            plot(np.where(np.arange(40) == 3, np.nan, y))
