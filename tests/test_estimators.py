"""scikit-learn estimators."""

import functools
import json
import subprocess
import sys

import jax
import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures
from sklearn.utils.estimator_checks import parametrize_with_checks

import smilax as sx

pytestmark = pytest.mark.once

# A sampler that compiles quickly stands in for ismile: what is tested here is the estimator around it.
QUICK = {
    "hidden": (8,), "num_chains": 2, "num_warmup": 0, "num_samples": 4, "max_epochs": 60,
    "algorithm": functools.partial(sx.sgld, step_size=1e-5),
}  # fmt: skip
# Two fits that weigh samples and repeat them differ in the numbers drawn.
STOCHASTIC = {
    f"check_sample_weight_equivalence_on_{kind}_data": "draws of a sampler agree in distribution only"
    for kind in ("dense", "sparse")
}
RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 3)) * np.array([1.0, 100.0, 0.01]) + 5
Y = (X - 5) @ np.array([1.0, 0.02, -50.0]) + 0.3 * RNG.normal(size=60)


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    """Dozens of shapes are compiled here, and each program runs for milliseconds."""
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.mark.filterwarnings("ignore")
@parametrize_with_checks(
    [sx.SmileRegressor(**QUICK), sx.SmileClassifier(**QUICK)], expected_failed_checks=lambda estimator: STOCHASTIC
)
def test_scikit_learn_checks(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def model():
    frame = pd.DataFrame(X, columns=["a", "b", "c"])
    return sx.SmileRegressor(**QUICK, random_state=0).fit(frame, Y)


def test_predictions_fit_each_other(model):
    frame = pd.DataFrame(X, columns=["a", "b", "c"])
    mean, std = model.predict(frame, return_std=True)
    quantiles = model.predict_quantiles(frame, [0.05, 0.5, 0.95])
    lower, upper = model.predict_interval(frame, 0.9)
    assert quantiles.shape == (60, 3)
    np.testing.assert_allclose(quantiles[:, 0], lower)
    np.testing.assert_allclose(quantiles[:, 2], upper)
    samples = model.sample_posterior(frame, 4000, random_state=0)
    assert samples.shape == (60, 4000)
    np.testing.assert_allclose(samples.mean(axis=1), mean, atol=0.1 * std.max())
    np.testing.assert_allclose(samples.std(axis=1), std, rtol=0.1)
    # The density of a fine grid of targets sums to one, in the targets' own units.
    grid = np.linspace(mean[0] - 8 * std[0], mean[0] + 8 * std[0], 512)
    density = np.exp(model.log_prob(frame.iloc[[0] * len(grid)], grid))
    assert density.sum() * (grid[1] - grid[0]) == pytest.approx(1, abs=1e-3)


def test_warm_start_draws_more_from_the_same_chains():
    model = sx.SmileRegressor(**QUICK, warm_start=True, random_state=0).fit(X, Y)
    first = {name: leaf.copy() for name, leaf in model.draws_.items()}
    # The chains survive a pickle.
    model = joblib.load(_dumped(model)).fit(X, Y)
    for name, leaf in model.draws_.items():
        assert leaf.shape[1] == 2 * first[name].shape[1]
        np.testing.assert_array_equal(leaf[:, : first[name].shape[1]], first[name])
    with pytest.raises(
        ValueError, match="warm_start=True draws more from the same posterior, and these are other data"
    ):
        model.fit(X, Y + 1)


def _dumped(model):
    import io

    file = io.BytesIO()
    joblib.dump(model, file)
    file.seek(0)
    return file


def test_two_targets_have_their_own_noise():
    both = np.column_stack([Y, 1000 * RNG.normal(size=60)])
    model = sx.SmileRegressor(**QUICK, random_state=0).fit(X, both)
    mean, std = model.predict(X, return_std=True)
    assert mean.shape == std.shape == (60, 2)
    assert model.predict_quantiles(X[:5], [0.1, 0.9]).shape == (5, 2, 2)
    assert std[0, 1] / model.y_scale_[1] > 1.5 * std[0, 0] / model.y_scale_[0]
    assert model.log_prob(X, both).shape == (60,)


def test_in_pipelines_searches_and_cross_validation():
    pipeline = make_pipeline(PolynomialFeatures(1, include_bias=False), sx.SmileRegressor(**QUICK, random_state=0))
    search = GridSearchCV(pipeline, {"smileregressor__hidden": [(4,), (8,)]}, cv=2).fit(X, Y)
    assert search.best_score_ > 0.5
    labels = np.where(Y > np.median(Y), "high", "low")
    classifier = sx.SmileClassifier(**QUICK, random_state=0)
    assert cross_val_score(clone(classifier), X, labels, cv=2).mean() > 0.7
    probabilities = classifier.fit(X, labels).predict_proba(X)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-6)
    assert set(classifier.predict(X)) == {"high", "low"}
    assert classifier.sample_posterior(X[:4], 7).shape == (4, 7)


def test_a_saved_model_predicts_in_another_process(tmp_path, model):
    frame = pd.DataFrame(X, columns=["a", "b", "c"])
    model.save(tmp_path / "model")
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["arrays.safetensors", "model.json"]
    code = """
import json, sys
import smilax as sx, pandas as pd
model = sx.SmileRegressor.load(sys.argv[1])
frame = pd.DataFrame(json.loads(sys.argv[2]), columns=["a", "b", "c"])
print(json.dumps(model.predict(frame).tolist()))
"""
    arguments = [str(tmp_path / "model"), json.dumps(X[:7].tolist())]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(json.loads(done.stdout), model.predict(frame.iloc[:7]), rtol=1e-5)
    with pytest.raises(FileExistsError, match="exists already"):
        model.save(tmp_path / "model")
    with pytest.raises(ValueError, match="holds a SmileRegressor: load it with sx.SmileRegressor.load"):
        sx.SmileClassifier.load(tmp_path / "model")
    with pytest.raises(FileNotFoundError, match="holds no model"):
        sx.SmileRegressor.load(tmp_path)
    loaded = sx.SmileRegressor.load(tmp_path / "model").set_params(warm_start=True)
    with pytest.raises(ValueError, match="other data|loaded from a directory"):
        loaded.fit(frame, Y)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"activation": "sine"}, "activation must be one of 'relu', 'silu', 'tanh', got 'sine'"),
        ({"num_chains": 0}, "num_chains must be at least 1"),
        ({"max_seconds": -1}, "max_seconds must be positive"),
        ({"validation_fraction": 1.0}, "validation_fraction must be in"),
        ({"hidden": "wide"}, "hidden must be a sequence"),
        ({"network": 3}, "network must be None, an sx.Network"),
        ({"likelihood": sx.likelihoods.Categorical()}, "likelihood must be None or one of sx.likelihoods for numbers"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises((TypeError, ValueError), match=message):
        sx.SmileRegressor(**{**QUICK, **settings}).fit(X, Y)


def test_columns_that_are_no_numbers_are_named():
    frame = pd.DataFrame({"a": X[:, 0], "city": ["here"] * len(X)})
    with pytest.raises(ValueError, match=r"columns \['city'\] of X are no numbers; encode them"):
        sx.SmileRegressor(**QUICK).fit(frame, Y)
