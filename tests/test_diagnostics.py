"""Diagnostics against closed forms, NumPy, and BlackJAX's R-hat and effective sample size."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from blackjax import diagnostics as reference

import smilax as sx
from smilax.diagnostics.chain_rows import convergence_rows, lost_row
from smilax.diagnostics.convergence import bulk_ess, split_rhat
from smilax.diagnostics.isotropy import noise_law
from smilax.diagnostics.kernel_rows import energy_row, isotropy_row, leaves_row, level_row, rejects_row, step_row
from smilax.diagnostics.quantities import PROJECTIONS, Quantities, watched
from smilax.diagnostics.table import WIDTH, Row
from smilax.geometry import Diagonal, Identity
from smilax.geometry.dense import Dense
from smilax.samplers.ismile import IsmileState
from smilax.samplers.smile_kernel import NoiseScale, SmileState

pytestmark = pytest.mark.once

RNG = np.random.default_rng(0)
N, B = 300, 20
SHAPES = {"bias": (2,), "weight": (2, 3)}
D = 8
ROOT = RNG.normal(size=(D, D)) / np.sqrt(D) + np.diag(np.linspace(0.5, 2, D))
ROWS = RNG.normal(size=(N, D)) @ ROOT.T
# A log likelihood that is linear in the parameters has the same noise everywhere, of known covariance.
LINEAR = sx.Posterior(
    log_prior=lambda p: -0.5 * (jnp.sum(p["bias"] ** 2) + jnp.sum(p["weight"] ** 2)),
    log_likelihood=lambda p, z: z @ jnp.concatenate([p["bias"], p["weight"].ravel()]),
    num_data=N,
)
NOISE = N**2 / B * np.cov(ROWS.T)
DAMPING = [300.0, 2000.0]
TOTAL = NOISE + np.diag(np.repeat(DAMPING, [2, 6]))


def states(geometry, damping=None, chains=2):
    """States of ismile, or without damping of smile, that stand at zero."""
    params = {name: jnp.zeros(shape) for name, shape in SHAPES.items()}
    if damping is None:
        scale = None
        if isinstance(geometry, Diagonal):
            one, variance = jnp.ones(()), jax.tree.map(jnp.square, geometry.scale)
            scale = NoiseScale(jax.tree.map(jnp.zeros_like, variance), variance, 1e-4 * one, one)
        state = SmileState(
            params=params, momentum=None, gradient=None, scale=scale, tuner=None, log_density=None, num_steps=None
        )
    else:
        state = IsmileState(
            params=params, velocity=None, age=None, geometry=geometry, scale=jnp.ones(()),
            damping=[jnp.asarray(x) for x in damping], stats=None, tuner=None, num_steps=None, factored=None,
            descent=None,
        )  # fmt: skip
    return jax.tree.map(lambda x: jnp.stack([x] * chains), state)


def law_of(geometry, damping=None, num_noise=8192, chains=2, places=64, **changes):
    draws = {name: np.zeros((chains, places, *shape), jnp.zeros(()).dtype) for name, shape in SHAPES.items()}
    batches = sx.Batches(jnp.asarray(ROWS), **changes)
    return noise_law(jax.random.key(3), LINEAR, states(geometry, damping, chains), draws, batches, B, num_noise)


def closed_form(covariance, precondition):
    """α, and ω per leaf relative to the mean."""
    product = precondition @ covariance
    omega = np.diag(product)
    alpha = D * np.trace(product @ product) / np.trace(product) ** 2
    return alpha, np.array([omega[:2].mean(), omega[2:].mean()]) / omega.mean()


def test_noise_is_isotropic_in_the_metric_of_its_own_covariance():
    values, vectors = np.linalg.eigh(TOTAL)
    factor = vectors / np.sqrt(values)
    law = law_of(Dense(jnp.asarray(factor), jnp.asarray(np.linalg.inv(factor))), DAMPING)
    assert abs(law.alpha - 1) < 4 * law.alpha_error < 0.05
    assert abs(law.local - 1) < 0.2
    np.testing.assert_allclose(law.leaves, 1, atol=4 * law.leaves_error.max())
    np.testing.assert_allclose(law.level, 1, rtol=0.05)
    assert law.names == ("['bias']", "['weight']")
    assert isotropy_row(law, 1.0).verdict == leaves_row(law, 1.0).verdict == "ok"
    assert level_row(law, np.ones(2)).verdict == "ok"
    assert level_row(law, np.array([1.0, 3.0])).verdict == "bad"


@pytest.mark.parametrize("damped", [False, True])
def test_anisotropy_equals_its_closed_form(damped):
    scale = np.exp(np.linspace(-1, 1, D))
    tree = {"bias": jnp.asarray(scale[:2]), "weight": jnp.asarray(scale[2:].reshape(2, 3))}
    law = law_of(Diagonal(tree), DAMPING if damped else None)
    covariance = TOTAL if damped else NOISE
    alpha, leaves = closed_form(covariance, np.diag(1 / scale**2))
    assert abs(law.alpha - alpha) < 4 * law.alpha_error < 0.2 * alpha
    np.testing.assert_allclose(law.leaves, leaves, atol=4 * law.leaves_error.max())
    np.testing.assert_allclose(law.level, np.trace(covariance / scale**2) / D, rtol=0.06)
    assert isotropy_row(law, 1.0).verdict == "bad"
    row = leaves_row(law, 1.0)
    assert row.verdict == "bad"
    assert row.value == pytest.approx(leaves.max() / leaves.min(), rel=0.15)
    # Where all but a hundredth of the noise is explicit, the anisotropy does no harm.
    assert isotropy_row(law, 0.01).verdict == leaves_row(law, 0.01).verdict == "ok"


@pytest.mark.once
def test_few_draws_do_not_look_anisotropic():
    # The plug-in estimate would be 1 + d/n; the mean over repetitions shows that there is no such bias here.
    values, vectors = np.linalg.eigh(TOTAL)
    factor = vectors / np.sqrt(values)
    geometry = Dense(jnp.asarray(factor), jnp.asarray(np.linalg.inv(factor)))
    law = law_of(geometry, DAMPING, num_noise=40 * 16, chains=40)
    assert law.num_draws == 16
    assert abs(law.alpha - 1) < 0.12


@pytest.mark.once
def test_one_place_and_sampling_with_replacement():
    law = law_of(Identity(), places=0, num_noise=4096, replacement=True)
    alpha, _ = closed_form(NOISE, np.eye(D))
    assert abs(law.alpha - alpha) < 5 * law.alpha_error
    assert law.local == pytest.approx(law.alpha, rel=0.3)


def autoregressive(phi, chains, draws, quantities=1, seed=1):
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(chains, draws, quantities))
    values = np.empty_like(noise)
    values[:, 0] = noise[:, 0] / np.sqrt(1 - phi**2)
    for t in range(1, draws):
        values[:, t] = phi * values[:, t - 1] + noise[:, t]
    return values


@pytest.mark.once
def test_rhat_and_ess_equal_the_reference():
    values = autoregressive(0.6, 3, 151, quantities=3)
    values[0, :, 1] += 2
    values[..., 2] = values[..., 2].round()
    # The reference works in JAX's precision and broadcasts silently.
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        rhat, ess = np.asarray(reference.rhat(values)), np.asarray(reference.ess_bulk(values))
    np.testing.assert_allclose(split_rhat(values), rhat, rtol=1e-4)
    # Where autocorrelations stay positive up to the longest lag, the reference counts its last term once.
    np.testing.assert_allclose(bulk_ess(values), ess, rtol=1e-2)


@pytest.mark.once
@pytest.mark.parametrize("phi", [-0.3, 0.0, 0.9])
def test_ess_of_an_autoregressive_process(phi):
    values = autoregressive(phi, 4, 20_000)
    assert bulk_ess(values)[0] == pytest.approx(80_000 * (1 - phi) / (1 + phi), rel=0.1)
    assert split_rhat(values)[0] < 1.005
    rows = {row.name: row for row in convergence_rows(Quantities("parameters", values), gradients=1_600_000)}
    assert [row.verdict for row in rows.values()] == ["ok", "ok", "n/a"]
    assert rows["gradients per draw"].value == pytest.approx(1_600_000 / rows["bulk ESS"].value)


@pytest.mark.once
def test_convergence_names_what_it_cannot_tell():
    values = autoregressive(0.5, 4, 400)

    def verdicts(values):
        return [row.verdict for row in convergence_rows(Quantities("parameters", values), 100)]

    assert verdicts(values[:1])[0] == "warning"
    assert verdicts(values[:, :3]) == ["n/a"] * 3
    assert verdicts(np.ones((4, 50, 2))) == ["bad"] * 2
    values[2, 5] = np.nan
    rows = convergence_rows(Quantities("parameters", values), 100)
    assert all("chain 2" in row.text for row in rows)
    values[2] = 20 + values[1]
    assert verdicts(values)[0] == "bad"


@pytest.mark.once
@pytest.mark.parametrize("chains", [3, 8])
def test_lost_and_frozen_chains_are_named(chains):
    values, density = autoregressive(0.5, chains, 500, quantities=10), autoregressive(0.5, chains, 500, seed=2)[..., 0]
    assert lost_row(density, Quantities("predictions", values)).text == "none"
    moved = values.copy()
    moved[1] += 20
    row = lost_row(density, Quantities("predictions", moved))
    assert row.verdict == "bad"
    assert row.text.startswith("1 (predictions")
    low = density.copy()
    low[2] -= 50
    assert lost_row(low, Quantities("predictions", values)).text.startswith("2 (log density")
    frozen = values.copy()
    frozen[0] = frozen[0, :1]
    assert lost_row(density, Quantities("predictions", frozen)).text == "0 (frozen)"
    low[0, 3] = np.inf
    assert lost_row(low, Quantities("predictions", values)).text.startswith("0 (not finite)")


@pytest.mark.once
def test_chains_that_agree_are_seldom_called_lost():
    def one(seed):
        rng = np.random.default_rng(seed)
        # Modes of their own: chains differ more than along themselves.
        values = rng.normal(size=(4, 100, 20)) + 2 * rng.normal(size=(4, 1, 20))
        return lost_row(rng.normal(size=(4, 100)), Quantities("predictions", values)).verdict

    assert sum(one(seed) == "bad" for seed in range(50)) <= 2


@pytest.mark.once
def test_eevpd_is_the_variance_of_the_energy_error():
    energy = RNG.normal(size=(3, 500)) * np.array([[1.0], [2.0], [3.0]]) * 0.03 + np.array([[0.0], [5.0], [1.0]])
    config = {"target_eevpd": 1.25e-4}
    row = energy_row(energy, np.ones((3, 500)), 10, config)
    assert row.value == pytest.approx(np.var(energy, axis=1, ddof=1).mean() / 10, rel=1e-12)
    # The effective value is the cube of the mean cube root, over chains too.
    roots = np.cbrt(np.array([1.0, 2.0, 3.0]) ** 2 * 0.03**2 / 10).mean()
    assert row.details["effective"] == pytest.approx(roots**3, rel=0.2)
    assert energy_row(1.3 * energy, np.ones((3, 500)), 10, config).verdict == "warning"
    assert energy_row(0.3 * energy, np.ones((3, 500)), 10, config).verdict == "ok"
    rejected = energy.copy()
    rejected[0, 0] = np.inf
    accepted = np.where(np.isfinite(rejected), 1.0, 0.0)
    assert np.isfinite(energy_row(rejected, accepted, 10, config).value)
    tails = np.random.default_rng(1).standard_t(2.2, size=(3, 500))
    tails[0, 0] = 100
    assert "heavy tails" in energy_row(tails, np.ones((3, 500)), 10, config).text
    assert energy_row(tails, np.ones((3, 500)), 10, config).verdict == "bad"
    # One step in a hundred that is a thousand times more wrong, in variance, counts for a tenth more inflation.
    rare = np.where(np.arange(500) % 100 == 0, 1000**0.5, 1.0) * (energy - energy.mean(axis=1, keepdims=True))
    few = energy_row(rare, np.ones((3, 500)), 10, config)
    assert few.value > 5 * row.value
    assert few.details["variance_error"] == pytest.approx(1.09 * row.details["variance_error"], rel=0.05)
    fewer = np.where(np.arange(500) % 100 == 0, 100.0, 1.0) * (energy - energy.mean(axis=1, keepdims=True)) / 2
    warned = energy_row(fewer, np.ones((3, 500)), 10, config)
    assert warned.details["effective"] < 3 * 1.25e-4
    assert warned.verdict == "warning"
    assert "high leverage" in warned.advice
    rejected[1] = np.nan
    assert "none of chain 1" in energy_row(rejected, np.ones((3, 500)), 10, config).text
    assert energy_row(np.full((2, 9), np.nan), np.ones((2, 9)), 10, {}).verdict == "n/a"


@pytest.mark.once
def test_step_and_rejects_against_their_bounds():
    config = {"accuracy": 0.03, "step_size": None}
    most = np.sqrt(0.01 / 1.2) / 0.32
    assert "set by noise" in step_row(np.array([most, most]), config, measured=False).text
    assert "set by curvature" in step_row(np.array([most, most]) / 3, config, measured=False).text
    assert step_row(np.array([most, 3 * most]), config, measured=False).verdict == "bad"
    # With 20 times the rows of a batch, a row that decides alone allows 4 · 0.03 / (20 · 0.32).
    lone = 0.12 / 20 / 0.32
    assert "set by noise" in step_row(np.array([lone, lone]), config, measured=False, dilution=20).text
    assert [
        step_row(np.array([ratio]), config, measured=False, dilution=20).verdict for ratio in (lone, most, 3 * most)
    ] == ["ok", "warning", "bad"]
    assert step_row(np.array([np.nan]), config | {"step_size": 0.1}, measured=False).verdict == "bad"
    accepted = np.ones((4, 100))
    assert rejects_row(accepted, {}).text == "none"
    accepted[3, :50] = 0
    row = rejects_row(accepted, {})
    assert row.value == 0.125
    assert row.verdict == "bad"
    assert "chain 3 (50.0%)" in row.advice
    # The published tuner undoes 2 % by design.
    assert rejects_row(np.full((2, 10), 0.98), {"reset": 0.98}).verdict == "ok"


GAUSSIAN = sx.Posterior(
    log_prior=lambda w: -0.5 * jnp.sum(w**2),
    log_likelihood=lambda w, z: -0.5 * jnp.sum((z - w[None, :]) ** 2, axis=-1),
    num_data=N,
)
DATA = ROWS[:, :5].astype(np.float32)


def run(algorithm, batch_size=B, data=DATA, chains=4, warmup=4000, samples=12_000):
    return sx.sample(
        jax.random.key(0), algorithm, data, jnp.zeros(5, jnp.float32), num_chains=chains, num_warmup=warmup,
        num_samples=samples, thinning=4, batch_size=batch_size, progress_bar=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def healthy():
    algorithm = sx.ismile(GAUSSIAN, split=True)
    return run(algorithm), algorithm


@pytest.mark.once
def test_a_run_of_ismile_is_in_order_and_its_table_fits(healthy):
    result, algorithm = healthy
    diagnosis = sx.diagnose(result, algorithm, DATA)
    assert diagnosis.ok, str(diagnosis)
    assert diagnosis["noise isotropy"].value == pytest.approx(1, abs=0.05)
    assert diagnosis["noise level"].value == pytest.approx(1, abs=0.1)
    assert "effective" in diagnosis["EEVPD"].text
    for table in (diagnosis, replace(diagnosis, rows=tuple(replace(r, verdict="bad") for r in diagnosis.rows))):
        assert max(len(line) for line in str(table).splitlines()) <= WIDTH
    again = json.loads(json.dumps(diagnosis.to_dict(), allow_nan=False))
    assert again == diagnosis.to_dict()
    assert [row["name"] for row in again["rows"]] == [row.name for row in diagnosis.rows]
    assert diagnosis._repr_html_().count("<tr>") == len(diagnosis.rows) + 1
    assert all(row.advice.endswith(".") for row in diagnosis.rows)
    with pytest.raises(KeyError, match="no row 'R'; there are 'noise isotropy'"):
        diagnosis["R"]


@pytest.mark.once
def test_energy_errors_are_measured_where_the_steps_do_not(healthy):
    whole = sx.ismile(GAUSSIAN)
    result = run(whole)
    own = sx.diagnose(result, whole, DATA)
    assert own["EEVPD"].value == pytest.approx(
        np.var(result.info.energy_error.astype(np.float64), axis=1, ddof=1).mean() / 5, rel=1e-6
    )
    silent = result.info._replace(energy_error=np.full_like(result.info.energy_error, np.nan))
    measured = sx.diagnose(replace(result, info=silent), whole, DATA, num_noise=8192)
    for quantity in ("value", "effective"):
        ours, theirs = (d["EEVPD"].details.get(quantity, d["EEVPD"].value) for d in (measured, own))
        assert ours == pytest.approx(theirs, rel=0.15)
    # Half the gradients for the same step.
    halves = sx.diagnose(*healthy, DATA)
    assert own["gradients per draw"].details["gradients"] == 2 * halves["gradients per draw"].details["gradients"]
    assert np.isnan(healthy[0].info.energy_error).all()


@pytest.mark.once
def test_what_is_not_given_or_not_there_is_named(healthy):
    result, algorithm = healthy
    alone = sx.diagnose(result)
    assert alone["EEVPD"].text.endswith("in warm-up")
    assert alone["EEVPD"].verdict == "ok"
    assert alone["noise isotropy"].text == "needs algorithm and data"
    assert alone["split R-hat"].verdict == "ok"
    # Stopped before the first draw.
    none = replace(result, draws=result.draws[:, :0], info=None, interrupted=True)
    stopped = sx.diagnose(none, algorithm, DATA)
    assert stopped["lost chains"].verdict == "n/a"
    assert stopped["noise isotropy"].verdict == "ok"
    assert "interrupted" in str(stopped)
    # One chain of three draws.
    few = replace(
        result,
        draws=result.draws[:1, :3],
        info=jax.tree.map(lambda x: x[:1, :3], result.info),
        state=result.state._replace(chains=jax.tree.map(lambda x: x[:1], result.state.chains)),
    )
    verdicts = {row.name: row.verdict for row in sx.diagnose(few, algorithm, DATA).rows}
    assert verdicts["split R-hat"] == verdicts["lost chains"] == "n/a"


@pytest.mark.once
def test_a_displaced_and_a_broken_chain_are_named(healthy):
    result, algorithm = healthy
    draws = result.draws.copy()
    draws[2] += 5
    row = sx.diagnose(replace(result, draws=draws), algorithm, DATA)["lost chains"]
    assert row.verdict == "bad"
    assert row.text.startswith("2 (parameters")
    draws[2] = np.nan
    broken = sx.diagnose(replace(result, draws=draws), algorithm, DATA)
    assert broken["lost chains"].text == "2 (not finite)"
    assert broken["noise isotropy"].text == "not finite in chain 2"
    json.dumps(broken.to_dict(), allow_nan=False)


@pytest.mark.once
def test_full_batches():
    algorithm = sx.ismile(GAUSSIAN)
    diagnosis = sx.diagnose(run(algorithm, N, samples=4000), algorithm, DATA)
    assert diagnosis["noise isotropy"].text == "full batch: explicit noise only"
    assert diagnosis["step / L_eff"].value < 1e-6
    assert "no batch noise" in diagnosis["L_eff / radius"].text
    assert {diagnosis[name].verdict for name in ("noise isotropy", "step / L_eff", "L_eff / radius", "rejects")} == {
        "ok"
    }


@pytest.mark.once
def test_published_samplers_and_shuffled_epochs():
    naive = sx.smile_naive(GAUSSIAN, 0.02)
    result = run(naive, data=sx.Batches(DATA, order="epochs"), warmup=10, samples=200)
    # Bare arrays get the order of the run.
    diagnosis = sx.diagnose(result, naive, DATA, num_noise=4096)
    assert diagnosis["batches"].verdict == "bad"
    assert diagnosis["noise isotropy"].value > 1.1
    # 1/L_eff = ε f tr(Ω)/d / (2 (d − 1)), at the unit metric the noise's mean variance.
    variance = np.trace(N**2 / B * np.cov(DATA.T)) / 5
    expected = 0.02**2 * (1 - B / N) * variance / 8
    assert diagnosis["step / L_eff"].value == pytest.approx(expected, rel=0.15)
    # Full batches leave them without any noise.
    still = replace(result, config={**result.config, "batch_size": N})
    assert sx.diagnose(still, naive, DATA)["noise isotropy"].text == "full batch: no noise at all"


@pytest.mark.truth
@pytest.mark.once
def test_watched_quantities():
    network = sx.bnn(sx.models.mlp(3, 4, hidden=(8,)), sx.likelihoods.Categorical(), sx.priors.Normal(0.0, 1.0), 90)
    x, y = RNG.normal(size=(90, 3)).astype(np.float32), RNG.integers(0, 4, size=90).astype(np.int32)
    algorithm = sx.psmile_naive(network, 0.01)
    result = sx.sample(
        jax.random.key(0), algorithm, (x, y), network.init(jax.random.key(1)), num_chains=3, num_warmup=20,
        num_samples=40, batch_size=30, progress_bar=False,
    )  # fmt: skip
    kind, values = watched(result, network, None, 30, x[:7])
    assert kind == "predictions"
    logits = jax.vmap(jax.vmap(lambda p: network.outputs(p, x[:7])))(result.draws)
    expected = np.asarray(jax.nn.log_softmax(logits)).reshape(3, 40, 28)
    np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-4)
    # Without inputs, rows of the data; without those, the parameters, of which there are 68.
    assert "of 120 predictions" in sx.diagnose(result, algorithm, (x, y))["split R-hat"].text
    assert watched(result, None, None, 30, None).values.shape == (3, 40, PROJECTIONS)
    broken = jax.tree.map(
        lambda leaf: np.where(np.arange(3).reshape(3, *[1] * (leaf.ndim - 1)) == 1, np.nan, leaf), result.draws
    )
    projected = watched(replace(result, draws=broken), None, None, 30, None).values
    assert np.isfinite(projected).all((1, 2)).tolist() == [True, False, True]


@pytest.mark.once
def test_arguments_are_checked(healthy):
    result, algorithm = healthy
    with pytest.raises(TypeError, match="result must be what sx.sample returned, got ndarray"):
        sx.diagnose(result.draws)
    with pytest.raises(TypeError, match="algorithm must be the SamplingAlgorithm of the run, got Posterior"):
        sx.diagnose(result, GAUSSIAN, DATA)
    with pytest.raises(ValueError, match="algorithm is psmile, but the run's was ismile"):
        sx.diagnose(result, sx.psmile(GAUSSIAN), DATA)
    with pytest.raises(ValueError, match="data has 10 rows, but the run's had 300"):
        sx.diagnose(result, algorithm, DATA[:10])
    with pytest.raises(ValueError, match="data draws batches by .*, but the run's did by"):
        sx.diagnose(result, algorithm, sx.Batches(DATA, replacement=True))
    with pytest.raises(ValueError, match="num_noise must be at least 16, got 1"):
        sx.diagnose(result, algorithm, DATA, num_noise=1)


@pytest.mark.truth
@pytest.mark.once
def test_the_example_of_the_documentation_runs(capsys):
    page = (Path(__file__).resolve().parent.parent / "docs" / "diagnostics.md").read_text()
    (block,) = re.findall(r"^```python\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE)
    scope = {"__name__": "diagnostics"}
    exec(block, scope)
    assert str(scope["diagnosis"]) in capsys.readouterr().out
    # Every row that there can be is explained.
    explained = set(re.findall(r"^\*\*(.*?)\.\*\*", page, flags=re.MULTILINE))
    assert {row.name for row in scope["diagnosis"].rows} <= explained


@pytest.mark.once
@pytest.mark.parametrize(("likelihood", "shape"), [("Bernoulli", (9,)), ("Bernoulli", (9, 2)), ("Categorical", (9,))])
def test_what_chains_have_to_agree_about(likelihood, shape):
    # Outputs differ by a constant for all classes or labels: of classes that is nothing, of labels everything.
    def apply(p, x):
        return p["b"] + 0 * x[:, :1] * jnp.ones((1, outputs))

    outputs = 3 if likelihood == "Categorical" else int(np.prod(shape[1:]))
    network = sx.Network(lambda key: {"b": jnp.zeros(())}, apply)
    posterior = sx.bnn(network, getattr(sx.likelihoods, likelihood)(), sx.priors.Normal(0.0, 1.0), 9)
    draws = {"network": {"b": RNG.normal(size=(2, 10)) + np.array([[0.0], [10.0]])}}
    values = watched_of(draws, posterior, np.ones((9, 1), np.float32))
    assert values.shape == (2, 10, 9 * outputs)
    apart = np.abs(values[0].mean(0) - values[1].mean(0))
    np.testing.assert_allclose(apart, 0 if likelihood == "Categorical" else 10, atol=2)


def watched_of(draws, posterior, inputs):
    config = {"num_params": 1}
    result = sx.Result(draws, None, None, None, config, 0.0, False)
    return watched(result, posterior, None, 9, inputs).values


def test_a_run_without_draws_is_not_called_fine():
    row = Row("lost chains", math.nan, "there are no draws", "", "n/a", "Run on from the result.")
    diagnosis = sx.Diagnosis("ismile, 4 x 0 draws", (row,))
    assert not diagnosis.ok
    assert str(diagnosis).startswith("ismile, 4 x 0 draws: nothing could be checked")
