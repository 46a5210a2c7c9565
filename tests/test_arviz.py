"""`to_arviz`: what ArviZ gets is what the run holds, and ArviZ's own functions work on it."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

import smilax as sx
from smilax.diagnostics.convergence import bulk_ess, split_rhat
from smilax.result import info_of

pytest.importorskip("arviz_base")
pytestmark = pytest.mark.once

rng = np.random.default_rng(0)
X = rng.normal(size=(60, 2)).astype(np.float32)
Y = (X @ np.array([1.0, -0.5], np.float32) + 0.5 * rng.normal(size=60)).astype(np.float32)
NETWORK = sx.bnn(
    sx.models.mlp(2, 1, hidden=(3,)), sx.likelihoods.Gaussian(0.5), sx.priors.Normal(0.0, 1.0), num_data=60
)
PLAIN = sx.Posterior(
    lambda w: -0.5 * jnp.sum(w**2), lambda w, batch: -0.5 * (batch[1] - batch[0] @ w) ** 2, num_data=60
)


@pytest.fixture(scope="module")
def plain():
    return sx.sample(
        jax.random.key(0), sx.ismile(PLAIN), (X, Y), jnp.zeros(2, jnp.float32), num_chains=4, num_warmup=500,
        num_samples=400, thinning=4, batch_size=20, progress_bar=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def network():
    members = jax.vmap(NETWORK.init)(jax.random.split(jax.random.key(0), 2))
    return sx.sample(
        jax.random.key(0), sx.psmile_naive(NETWORK, 0.01), (X, Y), members, num_warmup=20, num_samples=30,
        batch_size=20, progress_bar=False,
    )  # fmt: skip


def test_groups_hold_what_the_run_does(plain):
    tree = sx.to_arviz(plain, PLAIN, (X, Y))
    np.testing.assert_array_equal(tree.posterior["params"].values, plain.draws)
    np.testing.assert_array_equal(tree.sample_stats["lp"].values, plain.info.log_density)
    np.testing.assert_array_equal(tree.sample_stats["diverging"].values, plain.info.accepted < 1)
    np.testing.assert_array_equal(tree.warmup_sample_stats["step_size"].values, plain.warmup_info.step_size)
    draws = np.asarray(plain.draws, np.float64)
    wanted = -0.5 * (Y - draws @ X.T) ** 2
    np.testing.assert_allclose(tree.log_likelihood["y"].values, wanted, atol=1e-4)
    assert json.loads(tree.attrs["config"]) == plain.config
    assert set(tree.observed_data.data_vars) == {"data.0", "data.1"}


def test_a_network_gets_predictions(network):
    tree = sx.to_arviz(network, NETWORK, (X, Y, np.full(60, 2.0, np.float32)), x_new=X[:7])
    prediction = sx.predict(NETWORK, network, X)
    mean = prediction.outputs[..., 0].astype(np.float64)
    np.testing.assert_allclose(tree.log_likelihood["y"].values, 2 * norm.logpdf(Y, mean, 0.5), rtol=1e-4, atol=1e-4)
    samples = tree.posterior_predictive["y"]
    assert samples.dims == ("chain", "draw", "row") and samples.shape == (2, 30, 60)
    # Each draw's sample is about that draw's mean, with the likelihood's noise: 3,600 of them.
    z = (samples.values - mean) / 0.5
    assert abs(z.mean()) < 4 / 60 and abs(z.std() - 1) < 0.05
    assert tree.predictions["y_new"].shape == (2, 30, 7)
    assert tree.predictions["y_new"].dims == ("chain", "draw", "row_new")
    assert tree.predictions_constant_data["x_new"].dims[0] == "row_new"
    column = sx.to_arviz(network, NETWORK, (X, Y[:, None]))
    np.testing.assert_array_equal(column.observed_data["y"].values, Y)
    np.testing.assert_array_equal(tree.observed_data["y"].values, Y)
    np.testing.assert_array_equal(tree.predictions_constant_data["x_new"].values, X[:7])
    weight = tree.posterior["network.layers.0.weight"]
    assert weight.shape == (2, 30, 3, 2)


def test_summaries_and_thinning(network):
    tree = sx.to_arviz(network, content="summaries", thinning=3)
    weight = np.asarray(network.draws["network"].layers[0].weight, np.float64)[:, 2::3]
    np.testing.assert_allclose(tree.posterior["network.layers.0.weight.mean"].values, weight.mean((2, 3)))
    np.testing.assert_allclose(tree.posterior["network.layers.0.weight.rms"].values, np.sqrt((weight**2).mean((2, 3))))
    assert tree.sample_stats.sizes["draw"] == 10
    np.testing.assert_array_equal(tree.sample_stats["lp"].values, network.info.log_density[:, 2::3])


def test_bad_input_is_named(plain, network):
    with pytest.raises(TypeError, match="result must be what sx.sample returned, got dict"):
        sx.to_arviz({})
    with pytest.raises(TypeError, match="data is of use with the posterior only"):
        sx.to_arviz(plain, data=(X, Y))
    with pytest.raises(TypeError, match="x_new is for a posterior from sx.bnn, got Posterior"):
        sx.to_arviz(plain, PLAIN, x_new=X)
    with pytest.raises(ValueError, match='content must be "auto", "draws" or "summaries", got \'all\''):
        sx.to_arviz(plain, content="all")
    with pytest.raises(ValueError, match="thinning = 500 keeps none of 100 draws"):
        sx.to_arviz(plain, thinning=500)
    with pytest.raises(ValueError, match="num_data = 60, but data has 50 rows"):
        sx.to_arviz(plain, PLAIN, (X[:50], Y[:50]))
    with pytest.raises(ValueError, match="log_likelihood would take 96,000 bytes, more than max_memory=50,000"):
        sx.to_arviz(plain, PLAIN, (X, Y), max_memory=50_000)


def test_a_stored_run(tmp_path, network):
    members = jax.vmap(NETWORK.init)(jax.random.split(jax.random.key(0), 2))
    sx.sample(
        jax.random.key(0), sx.psmile_naive(NETWORK, 0.01), (X, Y), members, num_warmup=20, num_samples=30,
        batch_size=20, progress_bar=False, store=tmp_path / "run",
    )  # fmt: skip
    loaded = sx.to_arviz(sx.load(tmp_path / "run"), NETWORK, (X, Y))
    direct = sx.to_arviz(network, NETWORK, (X, Y))
    for group in ("posterior", "log_likelihood", "posterior_predictive"):
        assert direct[group].to_dataset().equals(loaded[group].to_dataset()), group


def test_arviz_stats_works_on_it(plain):
    stats = pytest.importorskip("arviz_stats")
    tree = sx.to_arviz(plain, PLAIN, (X, Y))
    values = np.asarray(plain.draws, np.float64)
    # Distances from the median are rounded to the draws' precision there, which swaps ranks.
    np.testing.assert_allclose(stats.rhat(tree)["params"].values, split_rhat(values), rtol=1e-3)
    np.testing.assert_allclose(stats.ess(tree, method="bulk")["params"].values, bulk_ess(values), rtol=1e-3)
    loo = stats.loo(tree)
    # With 60 rows and two parameters leave-one-out is near the log predictive density less two parameters' worth.
    lppd = np.log(np.mean(np.exp(np.asarray(tree.log_likelihood["y"].values, np.float64)), axis=(0, 1))).sum()
    assert 0 < lppd - loo.elpd < 4
    assert loo.n_data_points == 60


def test_arviz_plots_works_on_it(plain):
    plots = pytest.importorskip("arviz_plots")
    tree = sx.to_arviz(plain, PLAIN, (X, Y))
    collection = plots.plot_trace(tree, backend="matplotlib")
    assert collection is not None
    collection = plots.plot_trace(sx.to_arviz(plain, content="summaries"), backend="matplotlib")
    assert collection is not None


def test_names_that_arviz_cannot_tell_apart_are_refused(plain):
    leaf = np.zeros((2, 3))
    for draws in ({"a.b": leaf, "a": {"b": leaf}}, {"chain": leaf, "x": leaf}):
        with pytest.raises(ValueError, match="cannot be told apart in ArviZ"):
            sx.to_arviz(replace(plain, draws=draws))


def test_reports_that_say_nothing_are_left_out_and_nested_ones_are_named(network):
    info = network.info._asdict() | {"energy_error": np.full_like(network.info.log_density, np.nan)}
    info["extra"] = {"norm": network.info.log_density + 1}
    stats = sx.to_arviz(replace(network, info=info_of(info))).sample_stats
    assert "energy_error" not in stats and "energy_error" in sx.to_arviz(network).sample_stats
    np.testing.assert_array_equal(stats["extra.norm"].values, network.info.log_density + 1)
