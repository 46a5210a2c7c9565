"""ismile against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import smilax as sx
from smilax.noise import half_batch_gradients
from smilax.packing import unpack
from smilax.samplers.damping import damping
from smilax.samplers.ismile import in_halves
from smilax.samplers.ismile_kernel import INFLATION, MENDED_EVERY

pytestmark = pytest.mark.once
RNG = np.random.default_rng(0)
N, D, SIGMA = 400, 8, 0.7
X = (RNG.normal(size=(N, D)) @ (np.eye(D) + 0.6 * RNG.normal(size=(D, D)) / np.sqrt(D))).astype(np.float32)
Y = (X @ RNG.normal(size=D) + SIGMA * RNG.normal(size=N)).astype(np.float32)
POSTERIOR = sx.Posterior(
    log_prior=lambda w: -0.5 * jnp.sum(w**2),
    log_likelihood=lambda w, batch: -0.5 * ((batch[1] - batch[0] @ w) / SIGMA) ** 2,
    num_data=N,
)
COVARIANCE = np.linalg.inv(X.T.astype(np.float64) @ X / SIGMA**2 + np.eye(D))
MEAN = COVARIANCE @ (X.T.astype(np.float64) @ Y / SIGMA**2)


def run(start, posterior=POSTERIOR, **options):
    return sx.sample(
        jax.random.key(0), sx.ismile(posterior, initial_step_size=start, **options), (X, Y), jnp.zeros(D, jnp.float32),
        num_chains=4, num_warmup=6000, num_samples=12_000, thinning=4, batch_size=40, progress_bar=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("start", "split"),
    [
        pytest.param(1e-6, False, marks=pytest.mark.truth),
        (10.0, False),
        (1e-6, True),
        pytest.param(10.0, True, marks=pytest.mark.truth),
    ],
)
def test_linear_regression_from_any_start_of_the_step_size(start, split):
    draws = run(start, split=split).draws.reshape(-1, D).astype(np.float64)
    np.testing.assert_allclose(draws.var(0) / np.diag(COVARIANCE), 1, atol=0.15)
    assert (np.abs(draws.mean(0) - MEAN) < 0.15 * np.sqrt(np.diag(COVARIANCE))).all()


def test_halves_of_half_of_the_data():
    # At f = 1/2 much of the noise of either half of a batch is undone by the other.
    result = sx.sample(
        jax.random.key(0), sx.ismile(POSTERIOR, split=True), (X, Y), jnp.zeros(D, jnp.float32),
        num_chains=4, num_warmup=3000, num_samples=6000, thinning=2, batch_size=200, progress_bar=False,
    )  # fmt: skip
    assert np.isnan(result.info.energy_error).all()
    draws = result.draws.reshape(-1, D).astype(np.float64)
    ratios = draws.var(0) / np.diag(COVARIANCE)
    np.testing.assert_allclose(ratios, 1, atol=0.15)
    assert abs(ratios.mean() - 1) < 0.05
    assert (np.abs(draws.mean(0) - MEAN) < 0.15 * np.sqrt(np.diag(COVARIANCE))).all()


@pytest.mark.parametrize("split", [False, True])
def test_the_norm_of_the_velocity_does_not_wander_between_the_steps_that_mend_it(split):
    algorithm = sx.ismile(POSTERIOR, split=split, accuracy=0.001)
    result = sx.sample(
        jax.random.key(0), algorithm, (X, Y), jnp.zeros(D, jnp.float32), num_chains=2, num_warmup=1000,
        num_samples=1000, batch_size=40, progress_bar=False,
    )  # fmt: skip
    state, batch = jax.tree.map(lambda x: x[0], result.state.chains), (jnp.asarray(X[:40]), jnp.asarray(Y[:40]))
    ages, errors = [], []
    for key in jax.random.split(jax.random.key(1), 3 * MENDED_EVERY):
        state, _ = jax.jit(algorithm.step)(key, state, batch)
        ages.append(int(state.age))
        errors.append(abs(float(state.geometry.quadratic(state.velocity)) - 1))
    assert set(ages) == set(range(max(ages) + 1)) != {0}
    assert max(errors) < 1e-4


def test_networks_take_halves_where_they_pay():
    assert sx.ismile(POSTERIOR).config["split"] is False
    network = sx.bnn(sx.models.mlp(7, 1, hidden=(3,)), sx.likelihoods.Gaussian(), sx.priors.Normal(), num_data=N)
    assert sx.ismile(network).config["split"] is None
    for batch_size, replacement, halves in [
        (200, False, True), (201, False, False), (300, False, False), (300, True, True), (6, False, False),
    ]:  # fmt: skip
        assert in_halves(None, batch_size, 1.0 if replacement else 1 - batch_size / N) == halves


@pytest.mark.parametrize(("batch_size", "found"), [(5, "got 5 rows"), (2, "got 2 rows"), (N, "all of the data")])
def test_batches_that_cannot_be_split_are_refused(batch_size, found):
    with pytest.raises(ValueError, match="even batch_size of at least 4, less than the data, .*" + found):
        sx.sample(
            jax.random.key(0), sx.ismile(POSTERIOR, split=True), (X, Y), jnp.zeros(D, jnp.float32),
            num_chains=1, num_warmup=10, num_samples=10, batch_size=batch_size, progress_bar=False,
        )  # fmt: skip
    with pytest.raises(ValueError, match="split must be True, False or None, got 2"):
        sx.ismile(POSTERIOR, split=2)


@pytest.mark.parametrize(("step_size", "num_steps"), [(0.05, 800), (5.0, 8)])
def test_explicit_noise_forgets_a_velocity_within_the_radius(step_size, num_steps):
    # Without a force only explicit noise turns the velocity, by e^{−t/R} in all, however many steps share it.
    dim = 4000
    flat = sx.Posterior(lambda x: 0.0 * jnp.sum(x), lambda x, batch: 0.0 * batch * jnp.sum(x), num_data=4)
    algorithm = sx.ismile(flat, geometry="identity", step_size=step_size)
    start = algorithm.init(jax.random.key(0), jnp.zeros(dim, jnp.float32))
    start = start._replace(factored=start.factored + 1)

    @jax.jit
    def end(state):
        keys = jax.random.split(jax.random.key(1), num_steps)
        return jax.lax.scan(lambda s, k: (algorithm.step(k, s, jnp.ones(4))[0], None), state, keys)[0]

    cosine = float(start.velocity @ end(start).velocity)
    assert abs(cosine - np.exp(-num_steps * step_size / dim**0.5)) < 5 / dim**0.5


def test_sizes_of_a_geometry_are_counts():
    with pytest.raises(TypeError, match=r"rank must be an integer, got 2\.5"):
        sx.ismile(POSTERIOR, rank=2.5)
    with pytest.raises(ValueError, match="max_side must be at least 1, got 0"):
        sx.ismile(POSTERIOR, max_side=0)


@pytest.mark.parametrize("geometry", ["identity", pytest.param("diagonal", marks=pytest.mark.truth)])
def test_friction_makes_up_for_a_geometry_that_cannot_express_the_noise(geometry):
    def ratios(**options):
        # At the default explicit noise dilutes that of the batches by half.
        draws = run(1e-2, geometry=geometry, accuracy=0.1, **options).draws.reshape(-1, D).astype(np.float64)
        return draws.var(0) / np.diag(COVARIANCE)

    np.testing.assert_allclose(ratios(), 1, atol=0.15)
    assert np.abs(ratios(friction=False, matched_noise=False) - 1).max() > 0.3


def test_the_same_check_fails_at_the_wrong_temperature():
    hot = sx.Posterior(POSTERIOR.log_prior, lambda w, batch: 0.7 * POSTERIOR.log_likelihood(w, batch), N)
    draws = run(1e-2, hot).draws.reshape(-1, D).astype(np.float64)
    assert np.median(draws.var(0) / np.diag(COVARIANCE)) > 1.15


@pytest.mark.truth
def test_shrinkage_leaves_the_posterior_as_it_is():
    draws = run(1e-2, geometry="diagonal", shrinkage=0.3).draws.reshape(-1, D).astype(np.float64)
    np.testing.assert_allclose(draws.var(0) / np.diag(COVARIANCE), 1, atol=0.15)


def test_noise_draws_have_the_covariance_of_the_gradient_noise():
    w = jnp.asarray(MEAN, jnp.float32)
    data = (jnp.asarray(X), jnp.asarray(Y))
    batches = sx.Batches(data, replacement=True)

    def one(i):
        batch = batches.draw(data, jax.random.key(3), i, 40)
        _, gradient, draw = half_batch_gradients(POSTERIOR, w, batch)
        return gradient, draw

    gradients, draws = jax.jit(jax.vmap(one))(jnp.arange(20_000))
    noise = np.cov(np.asarray(gradients, np.float64).T)
    half = np.asarray(draws, np.float64).T @ np.asarray(draws, np.float64) / len(draws)
    spread = np.sqrt(np.diag(noise))
    np.testing.assert_allclose(half / spread[:, None] / spread, noise / spread[:, None] / spread, atol=0.06)


def test_a_source_whose_rows_never_come_back_allows_longer_steps():
    # Fresh noise at each step, N/B = 50: what bounds ε/L_eff is the first limit, not the one for rows that stand alone.
    def fresh(key, batch):
        return 0.03 * jax.random.normal(key, batch.shape, batch.dtype)

    posterior = sx.Posterior(
        lambda x: jnp.zeros((), x.dtype), lambda x, batch: batch @ x - 0.5 * (x @ x) / 400, num_data=400
    )
    data = sx.Batches(np.zeros((400, D), np.float32), replacement=True, transform=fresh)
    settings = {"num_chains": 2, "num_warmup": 2000, "num_samples": 8000, "batch_size": 8, "progress_bar": False}

    def at(**options):
        result = sx.sample(
            jax.random.key(0), sx.ismile(posterior, **options), data, jnp.zeros(D, jnp.float32), **settings
        )
        return float(np.median(result.info.step_size / result.info.decoherence)), result

    rare, _ = at(replacement=True)
    steady, result = at(endless=True)
    np.testing.assert_allclose(rare, 0.12 / 50 / INFLATION, rtol=0.05)
    assert rare < steady <= (0.01 / 1.2) ** 0.5 / INFLATION * 1.01
    assert steady > 4 * rare
    np.testing.assert_allclose(result.draws.reshape(-1, D).astype(np.float64).var(0), 1, atol=0.25)
    with pytest.raises(ValueError, match="replacement=True"):
        sx.sample(
            jax.random.key(0),
            sx.ismile(posterior, endless=True),
            np.zeros((400, D), np.float32),
            jnp.zeros(D),
            **settings,
        )


def test_a_flat_prior_leaves_wide_directions_their_pace():
    # Variances that span 10⁴ under noise of the inverse covariance. A damping that is not small against the least
    # noise variance would take the step off the widest direction: its variance in the metric is that of the others.
    spread = np.logspace(-1, 1, D).astype(np.float32)

    def fresh(key, batch):
        return 0.1 * jax.random.normal(key, batch.shape, batch.dtype) / spread[None]

    posterior = sx.Posterior(
        lambda x: jnp.zeros((), x.dtype),
        lambda x, batch: batch @ x - 0.5 * jnp.sum((x / spread) ** 2) / 800,
        num_data=800,
    )
    result = sx.sample(
        jax.random.key(0), sx.ismile(posterior, endless=True),
        sx.Batches(np.zeros((800, D), np.float32), replacement=True, transform=fresh), jnp.zeros(D, jnp.float32),
        num_chains=2, num_warmup=3000, num_samples=100, batch_size=8, progress_bar=False,
    )  # fmt: skip
    pace = jax.vmap(lambda geometry: jax.vmap(lambda e: e @ geometry.precondition(e))(jnp.eye(D)))(
        result.state.chains.geometry
    )
    pace = np.asarray(pace) / (spread**2)[None]
    # At a share of 0.01 it would be 18.
    assert (pace.max(1) < 4 * pace.min(1)).all(), pace


def test_weights_without_noise_get_a_share_of_that_of_their_leaf():
    # Two inputs are zero in all rows, as the outputs of a dead unit are, and their weights' gradients with them.
    x = np.where(np.arange(D) < 2, 0, X)
    network = sx.models.mlp(D, 1, hidden=())
    posterior = sx.bnn(network, sx.likelihoods.Gaussian(SIGMA), sx.priors.Normal(0.0, 1.0), num_data=N)

    def least(shrinkage):
        """M's smallest entry over the mean of its leaf."""
        result = sx.sample(
            jax.random.key(0), sx.ismile(posterior, geometry="diagonal", shrinkage=shrinkage), (x, Y),
            posterior.init(jax.random.key(1)), num_chains=1, num_warmup=1000, num_samples=1, batch_size=40,
            progress_bar=False,
        )  # fmt: skip
        scale = unpack(jax.tree.map(lambda x: x[0], result.state.chains.geometry.scale))
        mass = next(np.square(leaf).ravel() for leaf in jax.tree.leaves(scale) if leaf.size == D)
        assert mass[:2].max() < mass[2:].min()
        return mass.min() / mass.mean()

    assert least(0.0) < 0.005 < 0.0099 < least(None) < 0.02


def test_damping_is_that_of_the_prior_and_a_share_of_the_noise():
    prior = sx.Posterior(lambda w: -0.5 * (2.0 * jnp.sum(w["a"] ** 2)), lambda w, batch: batch @ w["b"], 100)
    params, means = {"a": jnp.ones(3), "b": jnp.ones(4)}, [jnp.asarray(5.0), jnp.asarray(7.0)]
    known, flat = damping(prior, params, means, 20, 3.0, 0.25)
    np.testing.assert_allclose(known, 3 * (100 / 20) * 2 + 0.25 * 5, rtol=1e-6)
    # The other leaf's prior is flat: a thousandth of the typical noise in its place.
    typical = 3 * (100 / 20) * 2 / 2 + (5 + 7) / 2
    np.testing.assert_allclose(flat, 1e-3 * max(7, typical) + 0.25 * 7, rtol=1e-6)


@pytest.mark.parametrize("value", [-0.1, float("inf"), float("nan")])
def test_a_shrinkage_out_of_range_is_refused(value):
    with pytest.raises(ValueError, match="shrinkage must be finite and at least 0, got"):
        sx.ismile(POSTERIOR, shrinkage=value)


def test_shuffled_epochs_and_the_wrong_replacement_are_refused():
    settings = {"num_chains": 1, "num_warmup": 1, "num_samples": 1, "batch_size": 40}
    for source, message in (
        (sx.Batches((X, Y), order="epochs"), "independent from step to step"),
        (sx.Batches((X, Y), replacement=True), "replacement=False"),
    ):
        with pytest.raises(ValueError, match=message):
            sx.sample(jax.random.key(0), sx.ismile(POSTERIOR), source, jnp.zeros(D), **settings)


@pytest.mark.truth
def test_chains_together_factor_a_kronecker_geometry():
    # Batched eigenproblems of side 64 once made XLA wait for ever here.
    posterior = sx.bnn(sx.models.mlp(64, 2, hidden=(8,)), sx.likelihoods.Categorical(), sx.priors.Normal(0.0, 1.0), 60)
    data = RNG.normal(size=(60, 64)).astype(np.float32), RNG.integers(0, 2, size=60).astype(np.int32)
    result = sx.sample(
        jax.random.key(0), sx.ismile(posterior, geometry="kronecker"), data, posterior.init(jax.random.key(1)),
        num_chains=4, num_warmup=60, num_samples=10, batch_size=20, progress_bar=False,
    )  # fmt: skip
    assert np.isfinite(result.info.log_density).all()
    assert (result.state.chains.factored > 2).all()


def test_a_parameter_without_noise_or_a_convex_prior_is_sampled_too():
    # A scale that only the prior knows, with a log prior that is not concave everywhere: neither batch noise nor prior
    # precision says how stiff it is.
    posterior = sx.Posterior(
        lambda p: -0.5 * jnp.sum(p["w"] ** 2 * jnp.exp(-2 * p["s"])) - 4 * p["s"] - 0.5 * p["s"] ** 2,
        lambda p, batch: -0.5 * ((batch[1] - batch[0] @ p["w"]) / SIGMA) ** 2,
        num_data=N,
    )
    result = sx.sample(
        jax.random.key(0), sx.ismile(posterior), (X, Y),
        {"s": jnp.zeros((), jnp.float32), "w": jnp.full(D, 5.0, jnp.float32)},
        num_chains=4, num_warmup=2000, num_samples=500, batch_size=40, progress_bar=False,
    )  # fmt: skip
    assert result.info.accepted.mean() > 0.99
    assert np.isfinite(result.info.log_density).all()
    assert (np.abs(result.draws["s"]) < 5).all() and result.draws["s"].std() > 0.01


@pytest.mark.truth
@pytest.mark.parametrize("split", [False, True])
def test_directions_that_a_single_row_decides(split):
    rng = np.random.default_rng(0)
    rows, shared, lone = 640, 8, 8
    x = rng.normal(size=(rows, shared + lone))
    x[:, shared:] = 0
    for j in range(lone):
        x[7 * j, shared + j] = rows**0.5  # standardised
    y = x @ rng.normal(size=shared + lone) / 2 + rng.normal(size=rows)
    variance = np.diag(np.linalg.inv(x.T @ x + np.eye(shared + lone)))
    posterior = sx.Posterior(
        lambda w: -0.5 * jnp.sum(w * w), lambda w, batch: -0.5 * (batch[1] - batch[0] @ w) ** 2, rows
    )
    result = sx.sample(
        jax.random.key(0), sx.ismile(posterior, split=split), (x.astype(np.float32), y.astype(np.float32)),
        jnp.zeros((16, shared + lone), jnp.float32), num_warmup=20_000, num_samples=20_000, thinning=5, batch_size=32,
        progress_bar=False,
    )  # fmt: skip
    ratios = result.draws.reshape(-1, shared + lone).astype(np.float64).var(0) / variance
    length = np.mean(result.info.decoherence / result.info.radius)
    print(f"variance ratios {np.round(ratios, 2)}, L_eff/R {length:.2f}")
    # 0.32 κ ε/L_eff = 4 · 0.03, d/(d − 1) of it here.
    np.testing.assert_allclose(length, (2 / (0.12 / INFLATION)) ** 0.5, rtol=0.05)
    assert np.abs(ratios[:shared] - 1).max() < 0.12
    # Sixteen chains know each of these to some 0.05; of four, one in eight was seen 0.4 off.
    assert np.abs(ratios[shared:] - 1).max() < 0.2
    assert abs(ratios[shared:].mean() - 1) < 0.12


@pytest.mark.parametrize("sampler", ["ismile", "nuts"])
def test_a_second_warm_up_learns_anew(sampler):
    # A first one that was too short leaves the masses of the way there.
    algorithm, batch_size = (sx.ismile(POSTERIOR, geometry="diagonal"), 40) if sampler == "ismile" else (
        sx.nuts(POSTERIOR), N
    )  # fmt: skip
    settings = {"num_samples": 100, "batch_size": batch_size, "progress_bar": False}
    first = sx.sample(
        jax.random.key(0), algorithm, (X, Y), jnp.zeros(D, jnp.float32), num_chains=2, num_warmup=60, **settings
    )
    second = sx.sample(jax.random.key(1), algorithm, (X, Y), first, num_warmup=1500, **settings)
    alone = sx.sample(
        jax.random.key(2), algorithm, (X, Y), jnp.asarray(MEAN, jnp.float32), num_chains=2, num_warmup=1500, **settings
    )

    def masses(result):
        chains = result.state.chains
        if sampler == "nuts":
            return np.asarray(chains.variance)
        return np.asarray(chains.geometry.scale) * np.sqrt(np.asarray(chains.scale))[:, None] ** -1

    before, after = (np.abs(np.log(masses(run) / masses(alone).mean(0))).mean() for run in (first, second))
    # Draws from on the way fade slowly; without learning anew the two are equal.
    assert after < 0.65 * before


def test_all_data_in_a_batch_and_a_start_far_away():
    # The metric is first made from the noise there, far too large a one, and kicks turn velocities round.
    sigma = 0.1
    x = X[:100, :4]
    y = (x @ np.ones(4) + sigma * RNG.normal(size=100)).astype(np.float32)
    posterior = sx.Posterior(
        lambda w: -0.5 * jnp.sum((w / 10) ** 2), lambda w, batch: -0.5 * ((batch[1] - batch[0] @ w) / sigma) ** 2, 100
    )
    result = sx.sample(
        jax.random.key(0), sx.ismile(posterior, geometry="diagonal"), (x, y), jnp.zeros(4, jnp.float32),
        num_chains=4, num_warmup=3000, num_samples=4000, thinning=4, batch_size=100, progress_bar=False,
    )  # fmt: skip
    assert result.info.accepted.mean() > 0.99
    covariance = np.linalg.inv(x.T.astype(np.float64) @ x / sigma**2 + np.eye(4) / 100)
    draws = np.asarray(result.draws, np.float64).reshape(-1, 4)
    np.testing.assert_allclose(draws.var(0) / np.diag(covariance), 1, atol=0.15)


def test_a_prior_of_unknown_precision_is_damped_like_the_others():
    prior = sx.priors.by_path({"likelihood/*": sx.priors.Flat(), "*": sx.priors.Normal(0.0, 1.0)})
    posterior = sx.bnn(sx.models.mlp(2, 1, hidden=(3,)), sx.likelihoods.Gaussian(), prior, num_data=N)
    params = posterior.init(jax.random.key(0))
    levels = np.array(damping(posterior, params, [jnp.ones(())] * 5, 40, 1.0, 0.0))
    assert np.isfinite(levels).all() and (levels > 0).all()
    result = sx.sample(
        jax.random.key(1), sx.ismile(posterior), (X[:, :2], Y), params, num_chains=2, num_warmup=150, num_samples=50,
        batch_size=40, progress_bar=False,
    )  # fmt: skip
    assert np.isfinite(result.info.step_size).all() and result.info.accepted.mean() > 0.5


def test_a_full_batch_is_preconditioned_whatever_its_order():
    # Rows in order of their target: the first half of them differs from the second in one direction above all.
    order = np.argsort(Y)
    result = sx.sample(
        jax.random.key(0), sx.ismile(POSTERIOR, geometry="dense"), (X[order], Y[order]), jnp.zeros(D, jnp.float32),
        num_chains=1, num_warmup=1500, num_samples=10, progress_bar=False,
    )  # fmt: skip
    geometry = jax.tree.map(lambda leaf: leaf[0], result.state.chains.geometry)
    inverse = np.stack([np.asarray(geometry.precondition(e)) for e in jnp.eye(D)]).astype(np.float64)
    values = np.linalg.eigvals(inverse @ np.linalg.inv(COVARIANCE)).real
    assert values.max() / values.min() < 4


def test_a_full_batch_has_explicit_noise_without_warm_up():
    result = sx.sample(
        jax.random.key(0), sx.ismile(POSTERIOR), (X, Y), jnp.zeros(D, jnp.float32), num_chains=2, num_warmup=0,
        num_samples=10, progress_bar=False,
    )  # fmt: skip
    np.testing.assert_allclose(result.info.radius, D**0.5, rtol=1e-6)


def test_a_fixed_step_size_is_measured_and_kept():
    result = sx.sample(
        jax.random.key(0), sx.ismile(POSTERIOR, step_size=0.005), (X, Y), jnp.zeros(D, jnp.float32), num_chains=2,
        num_warmup=700, num_samples=10, batch_size=40, progress_bar=False,
    )  # fmt: skip
    np.testing.assert_allclose(result.warmup_info.step_size, 0.005, rtol=1e-6)
    np.testing.assert_allclose(result.info.step_size, 0.005, rtol=1e-6)
    tuner = result.state.chains.tuner
    assert (tuner.blocks >= 20).all()
    # What it says of the energy error is the average over blocks that it is documented to be.
    assert (result.warmup_info.accepted == 1).all()
    eevpd, begin = np.zeros(2), 0
    for block, length in enumerate([10] * 20 + [50] * 10):
        errors = result.warmup_info.energy_error[:, begin : begin + length].astype(np.float64)
        eevpd += max(0.1, 1 / (block + 1)) * (errors.var(axis=1, ddof=1) / D - eevpd)
        begin += length
    np.testing.assert_allclose(tuner.eevpd, eevpd, rtol=1e-3)


def test_noise_that_is_not_added_is_not_reported():
    result = sx.sample(
        jax.random.key(0), sx.ismile(POSTERIOR, matched_noise=False), (X, Y), jnp.zeros(D, jnp.float32), num_chains=1,
        num_warmup=200, num_samples=10, batch_size=40, progress_bar=False,
    )  # fmt: skip
    assert result.state.chains.factored > 1
    assert not any(np.any(level) for level in result.state.chains.damping)


@jax.custom_vjp
def backwards_only(x):
    return x**2


backwards_only.defvjp(lambda x: (x**2, x), lambda x, slope: (2 * x * slope,))


@pytest.mark.once
def test_a_likelihood_with_a_derivative_in_reverse_mode_only(key):
    posterior = sx.Posterior(
        lambda w: -0.5 * jnp.sum(w**2), lambda w, x: -0.5 * jnp.sum(backwards_only(x - w[None]), axis=-1), num_data=40
    )
    x = np.ones((40, 2), np.float32)
    options = {"num_chains": 2, "num_warmup": 30, "num_samples": 10, "batch_size": 10, "progress_bar": False}
    with pytest.raises(TypeError, match=r"no forward-mode derivative.*jax.custom_vjp.*friction=False"):
        sx.sample(key, sx.ismile(posterior), x, jnp.zeros(2, jnp.float32), **options)
    result = sx.sample(key, sx.ismile(posterior, friction=False), x, jnp.zeros(2, jnp.float32), **options)
    assert np.isfinite(result.draws).all()


@pytest.mark.once
@pytest.mark.parametrize("make", [sx.ismile, sx.nuts, lambda p: sx.mclmc(p, 0.1, energy_variance=(0.5, 0.1))])
def test_a_fraction_of_warm_up_may_be_a_plain_number(make, key):
    posterior = sx.Posterior(
        lambda w: -0.5 * jnp.sum(w**2), lambda w, x: -0.5 * jnp.sum((x - w[None]) ** 2, axis=-1), num_data=40
    )
    algorithm, x = make(posterior), jnp.ones((40, 2), jnp.float32)
    state = algorithm.init(key, jnp.zeros(2, jnp.float32))
    state, _ = algorithm.warmup(key, state, x, 0.3)
    assert np.isfinite(state.params).all()
