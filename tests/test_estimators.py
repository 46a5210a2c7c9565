"""scikit-learn estimators."""

import dataclasses
import functools
import json
import subprocess
import sys
from pathlib import Path

import equinox as eqx
import jax
import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures
from sklearn.utils import estimator_checks as checks
from sklearn.utils.estimator_checks import parametrize_with_checks

import smilax as sx
from smilax.estimators import fitting
from smilax.estimators.lengths import plan
from smilax.estimators.settings import model_settings

pytestmark = pytest.mark.once


@dataclasses.dataclass(frozen=True)
class Quick:
    """A sampler that compiles quickly stands in for ismile: what is tested here is the estimator around it."""

    step_size: float = 1e-5

    def __call__(self, posterior):
        return sx.sgld(posterior, self.step_size)


QUICK = {
    "hidden": (8,), "num_chains": 2, "num_warmup": 0, "num_samples": 4, "max_epochs": 60,
    "algorithm": Quick(),
}  # fmt: skip
# Two fits that weigh samples and repeat them differ in the numbers drawn.
STOCHASTIC = {
    f"check_sample_weight_equivalence_on_{kind}_data": "draws of a sampler agree in distribution only"
    for kind in ("dense", "sparse")
}
RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 3)) * np.array([1.0, 100.0, 0.01]) + 5
Y = (X - 5) @ np.array([1.0, 0.02, -50.0]) + 0.3 * RNG.normal(size=60)


@pytest.mark.truth
@pytest.mark.filterwarnings("ignore")
@parametrize_with_checks(
    [sx.SmileRegressor(**QUICK), sx.SmileClassifier(**QUICK)], expected_failed_checks=lambda estimator: STOCHASTIC
)
def test_scikit_learn_checks(estimator, check):
    # Each of the hundred compiles programs for a data set of another shape.
    check(estimator)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("estimator", [sx.SmileRegressor(**QUICK), sx.SmileClassifier(**QUICK)], ids=["reg", "class"])
def test_some_scikit_learn_checks(estimator):
    name = type(estimator).__name__
    for check in (
        checks.check_estimator_cloneable,
        checks.check_estimator_repr,
        checks.check_no_attributes_set_in_init,
        checks.check_parameters_default_constructible,
        checks.check_get_params_invariance,
        checks.check_set_params,
        checks.check_estimators_unfitted,
        checks.check_estimators_nan_inf,
        checks.check_estimator_sparse_tag,
        checks.check_fit1d,
        checks.check_estimators_empty_data_messages,
    ):
        check(name, clone(estimator))


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
        model.fit(X, Y[::-1])


def _dumped(model):
    import io

    file = io.BytesIO()
    joblib.dump(model, file)
    file.seek(0)
    return file


@pytest.mark.truth
def test_two_targets_have_their_own_noise():
    both = np.column_stack([Y, 1000 * RNG.normal(size=60)])
    model = sx.SmileRegressor(**QUICK, random_state=0).fit(X, both)
    mean, std = model.predict(X, return_std=True)
    assert mean.shape == std.shape == (60, 2)
    assert model.predict_quantiles(X[:5], [0.1, 0.9]).shape == (5, 2, 2)
    assert std[0, 1] / model.y_scale_[1] > 1.5 * std[0, 0] / model.y_scale_[0]
    assert model.log_prob(X, both).shape == (60,)


def test_weights_count_rows():
    # The second half says the opposite of the first, and weighs more; rows of no weight are left out.
    x, y = np.concatenate([X, X]), np.concatenate([Y, 2 * Y.mean() - Y])
    weight = np.repeat([0.05, 1.0], 60)
    weight[:20] = 0
    model = sx.SmileRegressor(**QUICK, random_state=0).fit(x, y, sample_weight=weight)
    assert model.score(X, 2 * Y.mean() - Y) > 0.5
    assert model.posterior_.num_data == 100


def test_clones_share_what_was_compiled():
    estimator = sx.SmileRegressor(algorithm=functools.partial(sx.sgld, step_size=1e-5))
    sizes = {"in_size": 3, "num_targets": 1, "num_data": 60, "num_train": 54}
    assert clone(estimator).algorithm is not estimator.algorithm
    built = lambda one: one._built(sizes, model_settings(one))  # noqa: E731
    assert built(clone(estimator)) is built(estimator)
    assert built(clone(estimator).set_params(activation="tanh")) is not built(estimator)


def test_the_same_seed_gives_the_same_draws(model):
    frame = pd.DataFrame(X, columns=["a", "b", "c"])
    again = clone(model).fit(frame, Y)
    other = clone(model).set_params(random_state=1).fit(frame, Y)
    for name, leaf in model.draws_.items():
        np.testing.assert_array_equal(leaf, again.draws_[name])
        assert not np.array_equal(leaf, other.draws_[name])


def test_max_seconds_cuts_the_lengths(monkeypatch):
    # A clock that a step of the chains moves on, whatever the machine: no compilation, a thousand steps a second.
    clock = [0.0]
    monkeypatch.setattr(fitting.time, "perf_counter", lambda: clock[0])
    original = fitting.sample

    def sample(*args, **settings):
        result = original(*args, **settings)
        seconds = (settings["num_warmup"] + settings["num_samples"]) / 1000
        clock[0] += seconds
        return dataclasses.replace(result, seconds=seconds)

    monkeypatch.setattr(fitting, "sample", sample)
    settings = {**QUICK, "num_warmup": 8000, "num_samples": 4000, "num_draws": 40, "max_epochs": 2}
    model = sx.SmileRegressor(**settings, max_seconds=7.0, random_state=0).fit(X, Y)
    # Twice an eighth of the sampling, to measure; then two thirds of the rest are warm-up.
    assert model.lengths_["num_warmup"] == 4000
    assert model.lengths_["num_samples"] == 2000
    assert model.draws_["network/layers/0/weight"].shape[:2] == (2, 20)
    # A tenth is taken in any case.
    short = sx.SmileRegressor(**settings, max_seconds=1e-3, random_state=0).fit(X, Y)
    assert (short.lengths_["num_warmup"], short.lengths_["num_samples"]) == (800, 400)


@pytest.mark.truth
@pytest.mark.parametrize("likelihood", [sx.likelihoods.Gaussian("input"), sx.likelihoods.Poisson()], ids=repr)
def test_other_likelihoods(likelihood):
    counts = RNG.poisson(np.exp(1 + (X[:, 0] - 5))).astype(float)
    model = sx.SmileRegressor(likelihood=likelihood, **QUICK, random_state=0).fit(X, counts)
    mean, std = model.predict(X, return_std=True)
    assert mean.shape == std.shape == (60,) and np.all(std > 0)
    assert model.score(X, counts) > 0.2
    lower, upper = model.predict_interval(X, 0.9)
    assert np.mean((lower <= counts) & (counts <= upper)) > 0.7
    assert np.all(np.isfinite(model.log_prob(X, counts)))


def test_a_network_of_ones_own(tmp_path):
    def network(in_size, out_size):
        return sx.from_equinox(lambda key: eqx.nn.Linear(in_size, out_size, key=key))

    model = sx.SmileRegressor(network=network, **QUICK, random_state=0).fit(X, Y)
    assert model.score(X, Y) > 0.8
    assert set(model.draws_) == {"network/weight", "network/bias", "likelihood/log_scale"}
    model.save(tmp_path / "model")
    with pytest.raises(ValueError, match="network of its own: give it again"):
        sx.SmileRegressor.load(tmp_path / "model")
    loaded = sx.SmileRegressor.load(tmp_path / "model", network=network)
    np.testing.assert_array_equal(loaded.predict(X), model.predict(X))


def test_in_pipelines_searches_and_cross_validation():
    pipeline = make_pipeline(PolynomialFeatures(1, include_bias=False), sx.SmileRegressor(**QUICK, random_state=0))
    search = GridSearchCV(pipeline, {"smileregressor__max_epochs": [1, 60]}, cv=2).fit(X, Y)
    assert search.best_params_ == {"smileregressor__max_epochs": 60}
    assert search.best_score_ > 0.5
    labels = np.where(Y > np.median(Y), "high", "low")
    classifier = sx.SmileClassifier(**QUICK, random_state=0)
    assert cross_val_score(clone(classifier), X, labels, cv=2).mean() > 0.7
    probabilities = classifier.fit(X[:30], labels[:30]).predict_proba(X)
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
    # Names of arguments are those of the method that was called.
    with pytest.raises(ValueError, match="quantiles must be probabilities strictly between 0 and 1"):
        model.predict_quantiles(X, [0, 1])
    with pytest.raises(TypeError, match="level must be a number, got '0.9'"):
        model.predict_interval(X, level="0.9")
    with pytest.raises(ValueError, match=r"y must be numbers, got \['a', 'b'\]"):
        model.log_prob(X[:2], ["a", "b"])
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
        ({"validation_fraction": "some"}, "validation_fraction must be a number, got 'some'"),
        ({"max_seconds": "5"}, "max_seconds must be a number, got '5'"),
        ({"algorithm": sx.sgld}, r"sgld cannot be \(missing a required argument: 'step_size'\); give the rest before"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises((TypeError, ValueError), match=message):
        sx.SmileRegressor(**{**QUICK, **settings}).fit(X, Y)


def test_columns_that_are_no_numbers_are_named():
    frame = pd.DataFrame({"a": X[:, 0], "city": ["here"] * len(X)})
    with pytest.raises(ValueError, match=r"columns \['city'\] of X are no numbers; encode them"):
        sx.SmileRegressor(**QUICK).fit(frame, Y)
    # Two columns of one name, and one of dates.
    frame = pd.DataFrame({"a": X[:, 0], "b": X[:, 1], "day": pd.date_range("2020-01-01", periods=len(X))})
    frame.columns = ["a", "a", "day"]
    with pytest.raises(ValueError, match=r"columns \['day'\] of X are no numbers; encode them"):
        sx.SmileRegressor(**QUICK).fit(frame, Y)


def test_another_fault_of_a_table_is_not_taken_for_text():
    frame = pd.DataFrame({"a": X[:, 0].astype(object), "b": np.where(np.arange(len(X)) == 3, np.nan, X[:, 1])})
    with pytest.raises(ValueError, match=r"columns \['b'\] of X have missing values"):
        sx.SmileRegressor(**QUICK).fit(frame, Y)
    frame["b"] = pd.array([None, *[True] * (len(X) - 1)], dtype="boolean")
    with pytest.raises(ValueError, match=r"columns \['b'\] of X have missing values"):
        sx.SmileRegressor(**QUICK).fit(frame, Y)


def test_targets_of_the_wrong_kind_are_named():
    with pytest.raises(ValueError, match="y holds text; it must be numbers, and for classes there is SmileClassifier"):
        sx.SmileRegressor(**QUICK).fit(X, ["low", "high"] * 30)
    days = pd.Series(pd.date_range("2020-01-01", periods=len(X)))
    for dates in (days, days.to_frame(), days.to_numpy(), days - days[0]):
        with pytest.raises(ValueError, match="y holds dates or times"):
            sx.SmileRegressor(**QUICK).fit(X, dates)
    with pytest.raises(ValueError, match="y has labels that cannot be sorted"):
        sx.SmileClassifier(**QUICK).fit(X, np.array(["low", None] * 30, object))


def test_a_fitted_model_does_not_follow_its_settings(tmp_path):
    model = sx.SmileRegressor(**QUICK, warm_start=True, random_state=0).fit(X, Y)
    before = model.predict(X[:5])
    model.set_params(hidden=(5, 5), activation="tanh", likelihood=sx.likelihoods.Gaussian("input"))
    np.testing.assert_array_equal(model.predict(X[:5]), before)
    model.save(tmp_path / "model")
    np.testing.assert_array_equal(sx.SmileRegressor.load(tmp_path / "model").predict(X[:5]), before)
    with pytest.raises(
        ValueError, match=r"set otherwise now: hidden=\(5, 5\), not \(8,\); activation='tanh', not 'relu'"
    ):
        model.fit(X, Y)
    model.set_params(hidden=(8,), activation="relu", likelihood=None, num_chains=3, batch_size=16)
    with pytest.raises(ValueError, match="otherwise now: batch_size=16, not 32; num_chains=3, not 2"):
        model.fit(X, Y)
    np.testing.assert_array_equal(model.predict(X[:5]), before)
    other = model.set_params(warm_start=False).fit(X, Y).predict(X[:5])
    assert not np.array_equal(other, before)


@pytest.mark.parametrize(("num_samples", "num_draws", "draws", "steps"), [(12, 4, 4, 12), (13, 5, 4, 12), (3, 9, 3, 3)])
def test_no_more_draws_than_asked_for(num_samples, num_draws, draws, steps):
    model = sx.SmileRegressor(**{**QUICK, "num_samples": num_samples, "num_draws": num_draws}, random_state=0).fit(X, Y)
    assert model.draws_["network/layers/0/weight"].shape[1] == draws
    assert model.lengths_["num_samples"] == steps


def test_lengths_that_are_chosen_are_multiples_of_the_draws():
    for num_draws in (1, 7, 100, 1000, 5000):
        chosen = plan(5000, None, None, None, num_draws)
        assert chosen.num_samples == num_draws * chosen.thinning >= 2400


@pytest.mark.parametrize("max_seconds", [None, 60.0])
def test_an_interrupted_fit(max_seconds, monkeypatch):
    settings = {**QUICK, "num_warmup": 10, "num_samples": 40, "max_epochs": 2, "num_draws": 20}
    model = sx.SmileRegressor(**settings, max_seconds=max_seconds, random_state=0)
    original = fitting.sample

    def stopped(kept):
        def sample(*args, **options):
            result = original(*args, **options)
            if max_seconds is not None and not options["num_warmup"]:
                # A later piece, if the first was not stopped, or a measurement of the pace.
                kept_here = 0 if kept == "the first piece" and isinstance(args[3], sx.Result) else None
            else:
                kept_here = None if kept == "the first piece" else kept
            if kept_here is None:
                return result
            draws, info = (jax.tree.map(lambda leaf: leaf[:, :kept_here], tree) for tree in (result.draws, result.info))
            return dataclasses.replace(result, draws=draws, info=info if kept_here else None, interrupted=True)

        return sample

    monkeypatch.setattr(fitting, "sample", stopped(0))
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, Y)
    assert not hasattr(model, "draws_")
    monkeypatch.setattr(fitting, "sample", stopped(1))
    model.fit(X, Y)
    assert model.draws_["network/layers/0/weight"].shape[1] == 1
    assert model.lengths_["num_samples"] == 2
    assert np.isfinite(model.predict(X)).all()
    if max_seconds is not None:
        # What the pieces before have drawn is kept.
        monkeypatch.setattr(fitting, "sample", stopped("the first piece"))
        first_piece = 2  # 20 draws in eight pieces
        assert model.fit(X, Y).draws_["network/layers/0/weight"].shape[1] == first_piece


@pytest.mark.truth
def test_the_page_on_tables_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (Path(__file__).resolve().parent.parent / "docs" / "tabular.md").read_text()
    block = text.split("```python\n")[1].split("```")[0]
    assert "max_seconds=20" in block
    block = block.replace("max_seconds=20", "**QUICK")
    scope = {"QUICK": QUICK}
    exec(compile(block, "docs/tabular.md", "exec"), scope)
    np.testing.assert_allclose(scope["again"], scope["mean"], rtol=1e-6)


@pytest.mark.parametrize("axes", [1, 2])
def test_one_row_is_predicted_as_many_are(axes):
    x = np.random.default_rng(0).normal(size=(40, 3))
    y = x[:, 0] if axes == 1 else x[:, :1]
    model = sx.SmileRegressor(**{**QUICK, "num_samples": 10}, random_state=0)
    model.fit(x, y)
    for predicted in (
        model.predict,
        lambda x: model.predict(x, return_std=True)[1],
        lambda x: model.predict_interval(x)[0],
        lambda x: model.predict_quantiles(x, [0.1, 0.5, 0.9]),
        lambda x: model.sample_posterior(x, 4, random_state=0),
    ):
        one, two = predicted(x[:1]), predicted(x[:2])
        assert one.shape == (1, *two.shape[1:])
        assert (two.ndim >= axes) and (axes == 1 or two.shape[-1] == 1)
    np.testing.assert_allclose(model.predict_interval(x[:1])[0], model.predict_interval(x[:2])[0][:1], rtol=1e-5)
    diagnosis = sx.diagnose(model.result_)
    assert diagnosis["rejects"].verdict == "ok"


def test_what_cannot_be_written_down_is_asked_for_again(tmp_path):
    prior = sx.priors.by_path({"*bias": sx.priors.Normal(0.0, 2.0), "*": sx.priors.Normal(0.0, 1.0)})
    x = np.random.default_rng(0).normal(size=(40, 3))
    model = sx.SmileRegressor(**{**QUICK, "algorithm": None}, random_state=0, prior=prior).fit(x, x[:, 0])
    model.save(tmp_path / "model")
    with pytest.raises(ValueError, match=r"a prior of its own: give it again, load\(path, prior="):
        sx.SmileRegressor.load(tmp_path / "model")
    with pytest.raises(ValueError, match="has the model's likelihood: load it without likelihood="):
        sx.SmileRegressor.load(tmp_path / "model", prior=prior, likelihood=sx.likelihoods.Gaussian())
    loaded = sx.SmileRegressor.load(tmp_path / "model", prior=prior)
    np.testing.assert_array_equal(loaded.predict(x), model.predict(x))


def test_a_fit_that_is_refused_leaves_the_model_as_it_was():
    model = sx.SmileRegressor(**QUICK, warm_start=True, random_state=0).fit(X, Y)
    before = model.predict(X)
    with pytest.raises(ValueError, match="these are other data"):
        model.fit(X[:, :2], Y)
    np.testing.assert_array_equal(model.predict(X), before)
    unfit = sx.SmileRegressor(likelihood="normal")
    with pytest.raises(TypeError, match="likelihood must be"):
        unfit.fit(X, Y)
    assert not hasattr(unfit, "n_features_in_")


@pytest.mark.parametrize("unit", ["D", "us", "ns"])
def test_classes_that_are_dates_are_saved(tmp_path, unit):
    days = np.array(["2020-01-01", "2021-01-01"], f"datetime64[{unit}]")[np.arange(len(X)) % 2]
    model = sx.SmileClassifier(**QUICK, random_state=0).fit(X, days)
    model.save(tmp_path / "model")
    loaded = sx.SmileClassifier.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.predict(X), model.predict(X))
    assert loaded.classes_.dtype == days.dtype


@pytest.mark.parametrize(
    "make",
    [sx.nuts, lambda p: sx.mclmc(p, 0.02), lambda p: sx.ismile(p, replacement=True)],
    ids=["nuts", "mclmc", "with_replacement"],
)
def test_samplers_get_the_batches_that_they_need(make):
    x, y = X[:60], Y[:60]
    model = sx.SmileRegressor(
        hidden=(3,), algorithm=make, num_chains=2, num_warmup=20, num_samples=20, max_epochs=2, random_state=0
    ).fit(x, y)
    assert np.isfinite(model.predict(x)).all()
    assert model.lengths_["batch_size"] == (32 if model.result_.config["batches"]["replacement"] else 60)


def test_draws_of_exploration_phases_are_left_out():
    model = sx.SmileRegressor(
        hidden=(3,), algorithm=functools.partial(sx.csgld, step_size=1e-4, cycle_length=20), num_chains=2, num_warmup=0,
        num_samples=80, num_draws=80, max_epochs=2, random_state=0,
    ).fit(X[:60], Y[:60])  # fmt: skip
    assert not np.any(model.info_["exploring"])
    assert 0 < model.info_["exploring"].shape[1] < 80
    assert len(model.draws_[next(iter(model.draws_))][0]) == model.info_["exploring"].shape[1]


def test_a_batch_is_no_larger_than_the_data():
    model = sx.SmileRegressor(
        hidden=(3,), batch_size=64, num_chains=2, num_warmup=20, num_samples=20, max_epochs=2, random_state=0
    ).fit(X[:40], Y[:40])
    assert model.lengths_["batch_size"] == 40
