"""NumPyro models as posteriors, against NumPyro's own densities, closed forms and NUTS."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.handlers import mask, scale
from numpyro.infer import MCMC, NUTS
from numpyro.infer.util import constrain_fn, potential_energy
from scipy.stats import norm

import smilax as sx

N, GROUPS = 60, 4
pytestmark = pytest.mark.once

RNG = np.random.default_rng(0)
X = RNG.normal(size=N).astype(np.float32)
GROUP = RNG.integers(0, GROUPS, N).astype(np.int32)
Y = (0.5 * X + GROUP + 0.3 * RNG.normal(size=N)).astype(np.float32)
DATA = (GROUP, X, Y)


@pytest.fixture(autouse=True)
def promoting():
    # NumPyro is not written to strict promotion; what smilax calls of it is inside of such a context already.
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def latents():
    """One of each kind: real, positive, bounded by another, in a plate, on the simplex."""
    centre = numpyro.sample("centre", dist.Normal(0.0, 2.0))
    spread = numpyro.sample("spread", dist.HalfNormal(1.0))
    with numpyro.plate("groups", GROUPS):
        effect = numpyro.sample("effect", dist.Normal(centre, spread))
        numpyro.factor("pull", -0.1 * effect**2)
    top = numpyro.sample("top", dist.Gamma(2.0, 1.0))
    noise = numpyro.sample("noise", dist.Uniform(0.0, top))
    shares = numpyro.sample("shares", dist.Dirichlet(jnp.ones(3)))
    numpyro.deterministic("ratio", spread / noise)
    return effect, noise, shares


def by_index(group, x, y=None, size=7):
    effect, noise, shares = latents()
    with numpyro.plate("data", N, subsample_size=size) as rows:
        mean = numpyro.deterministic("mean", effect[group[rows]] + shares[0] * x[rows])
        numpyro.sample("y", dist.Normal(mean, noise), obs=None if y is None else y[rows])


def by_length(group, x, y=None, size=None):
    effect, noise, shares = latents()
    with numpyro.plate("data", len(x)):
        numpyro.sample("y", dist.StudentT(3.0, effect[group] + shares[0] * x, noise), obs=y)
        numpyro.factor("each", -jnp.abs(x) * noise)


def by_subsample(group, x, y, size=7):
    effect, noise, shares = latents()
    columns = jnp.stack([y, y + x, y - x], axis=1)
    with numpyro.plate("columns", 3, dim=-1), numpyro.plate("data", N, subsample_size=size, dim=-2):
        seen = numpyro.subsample(columns, event_dim=0)
        rows = numpyro.subsample(group[:, None], event_dim=0)
        with scale(scale=0.5), mask(mask=seen > 0.1):
            numpyro.sample("y", dist.Normal(effect[rows] * shares, noise), obs=seen)


def vector_events(group, x, y, size=7):
    effect, noise, shares = latents()
    with numpyro.plate("data", N, subsample_size=size) as rows:
        seen = jnp.stack([y[rows], x[rows]], axis=1)
        numpyro.sample("y", dist.Normal(effect[:2] + shares[1], noise).to_event(1), obs=seen)


MODELS = [by_index, by_length, by_subsample, vector_events]


@functools.cache
def made(model):
    return sx.from_numpyro(model, DATA)


@pytest.mark.parametrize("model", MODELS)
def test_density_is_numpyros(model):
    posterior = made(model)
    whole = functools.partial(model, size=None)
    points = jax.vmap(posterior.init)(jax.random.split(jax.random.key(1), 3))
    batch = tuple(map(jnp.asarray, DATA))

    @jax.jit
    def both(params):
        ours = jax.value_and_grad(posterior.log_density)(params, batch)
        theirs = jax.value_and_grad(lambda p: -potential_energy(whole, batch, {}, p))(params)
        # Of a partition, of which the mean is the whole.
        parts = [posterior.log_density(params, batch_of(k)) for k in range(4)]
        return ours, theirs, jnp.mean(jnp.stack(parts)), constrain_fn(whole, batch, {}, params, True)

    (value, slopes), (expected, expected_slopes), parts, units = jax.vmap(both)(points)
    np.testing.assert_allclose(value, expected, rtol=1e-4)
    np.testing.assert_allclose(parts, expected, rtol=1e-4)
    for name, slope in slopes.items():
        np.testing.assert_allclose(slope, expected_slopes[name], rtol=1e-3, atol=1e-3, err_msg=name)
    mapped = posterior.constrain(points)
    assert set(mapped) == {*posterior.latents, "ratio"} == set(units) - {"mean"}
    for name, value in mapped.items():
        np.testing.assert_allclose(value, units[name], rtol=1e-4, atol=1e-5, err_msg=name)


def batch_of(k):
    return tuple(jnp.asarray(a[k::4]) for a in DATA)


def test_there_and_back():
    posterior = made(by_index)
    params = posterior.init(jax.random.key(0))
    named = posterior.constrain(params)
    assert named["noise"] < named["top"]
    np.testing.assert_allclose(named.pop("ratio"), named["spread"] / named["noise"], rtol=1e-5)
    for name, value in posterior.unconstrain(named).items():
        np.testing.assert_allclose(value, params[name], rtol=1e-2, atol=1e-3)


def test_data_in_a_dictionary_or_alone():
    def alone(y):
        mean = numpyro.sample("mean", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
        with numpyro.plate("data", N):
            numpyro.sample("y", dist.Normal(mean.sum(), 1.0), obs=y)

    named = sx.from_numpyro(lambda *, target: alone(target), {"target": Y})
    params = {"mean": jnp.array([0.1, 0.2], jnp.float32)}
    expected = -0.5 * np.sum((Y - 0.3) ** 2) - N / 2 * np.log(2 * np.pi) - 0.025 - np.log(2 * np.pi)
    np.testing.assert_allclose(named.log_density(params, {"target": jnp.asarray(Y)}), expected, rtol=1e-5)
    np.testing.assert_allclose(
        sx.from_numpyro(alone, sx.Batches(Y)).log_density(params, jnp.asarray(Y)), expected, rtol=1e-5
    )


def test_samples_and_predicts_a_conjugate_model():
    # Two means, prior N(0, 1), noise 1, each seen in N/2 rows: N(ΣY/(n + 1), 1/(n + 1)).
    half = (np.arange(N) % 2).astype(np.int32)

    def model(half, y):
        with numpyro.plate("halves", 2):
            mean = numpyro.sample("mean", dist.Normal(0.0, 1.0))
        with numpyro.plate("data", N, subsample_size=10) as rows:
            numpyro.sample("y", dist.Normal(mean[half[rows]], 1.0), obs=None if y is None else y[rows])

    posterior = sx.from_numpyro(model, (half, Y))
    result = sx.sample(
        jax.random.key(0), sx.sgld(posterior, 3e-3), (half, Y), posterior.init(jax.random.key(1)), num_chains=8,
        num_warmup=500, num_samples=8000, thinning=4, progress_bar=False,
    )  # fmt: skip
    draws = posterior.constrain(result)["mean"].astype(np.float64)
    assert draws.shape == (8, 2000, 2)
    count = N // 2 + 1
    standard = (draws - np.array([Y[half == k].sum() / count for k in (0, 1)])) * np.sqrt(count)
    error = standard.mean(axis=1).std(axis=0, ddof=1) / np.sqrt(8)
    assert error.max() < 0.1
    assert np.all(np.abs(standard.mean(axis=(0, 1))) < 4 * error.max())
    np.testing.assert_allclose(np.mean(standard**2, axis=(0, 1)), 1, atol=0.15)
    few = {"mean": result.draws["mean"][:, ::20]}
    predicted = posterior.predict(jax.random.key(2), few, (np.array([0, 1, 1], np.int32), None))["y"]
    assert predicted.shape == (8, 100, 3)
    np.testing.assert_allclose(predicted.var(axis=(0, 1)), 1 + 1 / count, rtol=0.3)
    np.testing.assert_allclose(predicted.mean(axis=(0, 1))[:2], draws.mean(axis=(0, 1)), atol=0.2)
    assert not np.array_equal(predicted[..., 1], predicted[..., 2])


def schools(group, x, y=None, *, num_rows, size=None):
    """Groups of rows whose levels vary about a common one, and a slope."""
    level = numpyro.sample("level", dist.Normal(0.0, 2.0))
    spread = numpyro.sample("spread", dist.HalfNormal(2.0))
    with numpyro.plate("schools", 8):
        effect = numpyro.sample("effect", dist.Normal(level, spread))
    slope = numpyro.sample("slope", dist.Normal(0.0, 1.0))
    noise = numpyro.sample("noise", dist.HalfNormal(2.0))
    with numpyro.plate("data", num_rows, subsample_size=size) as rows:
        numpyro.sample(
            "y", dist.Normal(effect[group[rows]] + slope * x[rows], noise), obs=None if y is None else y[rows]
        )


def against_nuts(num_rows, num_samples, num_nuts, bias, worst):
    rng = np.random.default_rng(1)
    group, x = rng.integers(0, 8, num_rows).astype(np.int32), rng.normal(size=num_rows).astype(np.float32)
    y = (rng.normal(size=8)[group] + 0.5 * x + rng.normal(size=num_rows)).astype(np.float32)
    data = (group, x, y)
    posterior = sx.from_numpyro(functools.partial(schools, num_rows=num_rows, size=50), data)
    # The warm start: the highest densities on unconstrained space that a few passes find.
    start = sx.train_ensemble(
        jax.random.key(0), posterior, data, num_members=8, max_epochs=50, batch_size=50, objective="posterior"
    )
    result = sx.sample(
        jax.random.key(1), sx.ismile(posterior), data, start, num_warmup=num_samples // 4, num_samples=num_samples,
        thinning=10, batch_size=50, progress_bar=False,
    )  # fmt: skip
    ours = posterior.constrain(result)
    nuts = MCMC(
        NUTS(functools.partial(schools, num_rows=num_rows)), num_warmup=num_nuts // 2, num_samples=num_nuts,
        num_chains=4, chain_method="vectorized", progress_bar=False,
    )  # fmt: skip
    nuts.run(jax.random.key(2), *map(jnp.asarray, data))
    theirs = nuts.get_samples(group_by_chain=True)
    assert set(ours) == set(theirs)

    def moments(draws):
        """Mean and sd with their Monte-Carlo errors, from the scatter of the chains."""
        chains = np.asarray(draws, np.float64).reshape(*np.shape(draws)[:2], -1)
        means, sds = chains.mean(axis=1), chains.std(axis=1)
        root = np.sqrt(len(chains))
        return means.mean(0), chains.std(axis=(0, 1)), means.std(0, ddof=1) / root, sds.std(0, ddof=1) / root

    for name in theirs:
        (mean, sd, error, sd_error), (exact, exact_sd, nuts_error, nuts_sd_error) = (
            moments(ours[name]),
            moments(theirs[name]),
        )
        # Bounds of six Monte-Carlo errors (from 8 and 4 chains, so rough themselves), and what the sampler may be off.
        gap = 6 * np.hypot(error, nuts_error) + bias * exact_sd
        sd_gap = 6 * np.hypot(sd_error, nuts_sd_error) + bias * exact_sd
        print(name, (np.abs(mean - exact) / exact_sd).max(), sd / exact_sd, (gap / exact_sd).max())
        assert (gap / exact_sd).max() < worst, f"{name}: too short a run to tell"
        assert np.all(np.abs(mean - exact) < gap), name
        assert np.all(np.abs(sd - exact_sd) < sd_gap), name


@pytest.mark.truth
@pytest.mark.once
def test_hierarchical_regression_against_nuts():
    against_nuts(num_rows=200, num_samples=6000, num_nuts=500, bias=0.05, worst=0.6)


@pytest.mark.truth
def test_hierarchical_regression_against_nuts_at_length():
    against_nuts(num_rows=2000, num_samples=200_000, num_nuts=5000, bias=0.02, worst=0.2)


def refused(build, match, data=DATA, error=ValueError, **settings):
    return pytest.param(build, data, settings, error, match, id=match[:30])


def local(group, x, y):
    with numpyro.plate("data", N):
        hidden = numpyro.sample("hidden", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(hidden, 1.0), obs=y)


def local_without_plate(group, x, y):
    hidden = numpyro.sample("hidden", dist.Normal(jnp.zeros(len(x)), 1.0).to_event(1))
    with numpyro.plate("data", N):
        numpyro.sample("y", dist.Normal(hidden, 1.0), obs=y)


def discrete(group, x, y):
    switch = numpyro.sample("switch", dist.Bernoulli(0.5))
    with numpyro.plate("data", N):
        numpyro.sample("y", dist.Normal(switch, 1.0), obs=y)


def without_plate(group, x, y):
    numpyro.sample("y", dist.Normal(numpyro.sample("mean", dist.Normal()), 1.0), obs=y)


def wrong_size(group, x, y):
    mean = numpyro.sample("mean", dist.Normal())
    with numpyro.plate("data", 50, subsample_size=5):
        numpyro.sample("y", dist.Normal(mean, 1.0), obs=y)


def two_subsampled(group, x, y):
    mean = numpyro.sample("mean", dist.Normal())
    with numpyro.plate("users", 30, subsample_size=3):
        numpyro.factor("users_factor", mean)
    with numpyro.plate("data", N, subsample_size=5):
        numpyro.sample("y", dist.Normal(mean, 1.0), obs=y)


def two_plates(group, x, y):
    mean = numpyro.sample("mean", dist.Normal())
    for name, seen in (("first", x), ("second", y)):
        with numpyro.plate(name, N):
            numpyro.sample(f"seen_{name}", dist.Normal(mean, 1.0), obs=seen)


def fitted(group, x, y):
    mean = numpyro.param("mean", 0.0)
    with numpyro.plate("data", N):
        numpyro.sample("y", dist.Normal(mean, numpyro.sample("noise", dist.HalfNormal())), obs=y)


def data_in_prior(group, x, y):
    mean = numpyro.sample("mean", dist.Normal(y.mean(), 1.0))
    with numpyro.plate("data", N):
        numpyro.sample("y", dist.Normal(mean, 1.0), obs=y)


def normalised(group, x, y):
    slope = numpyro.sample("slope", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
    with numpyro.plate("data", N):
        numpyro.sample("y", dist.Normal(slope[0] * (x - x.mean()), 1.0), obs=y)


def column(group, x, y):
    mean = numpyro.sample("mean", dist.Normal())
    with numpyro.plate("data", N):
        numpyro.sample("y", dist.Normal(mean, 1.0), obs=y[:, None])


def column_mean(group, x, y):
    mean = numpyro.sample("mean", dist.Normal())
    with numpyro.plate("data", N):
        numpyro.sample("y", dist.Normal(mean * x[:, None], 1.0), obs=y)


def unobserved(group, x, y):
    numpyro.sample("mean", dist.Normal())


def dropping(group, x, y):
    mean = numpyro.sample("mean", dist.Normal())
    kept = jax.random.bernoulli(numpyro.prng_key(), 0.5)
    with numpyro.plate("data", N):
        numpyro.sample("y", dist.Normal(mean * kept, 1.0), obs=y)


REFUSED = [
    refused(3, "model must be a function", error=TypeError),
    refused(by_index, "plate must be the name", error=TypeError, plate=3),
    refused(by_length, "no plate 'rows', only .'data', 'groups'.", plate="rows"),
    refused(by_length, "plate 'groups' has size 4, but data has 60 rows", plate="groups"),
    refused(by_index, "plate 'data' takes 7 of 60.*'groups': only that one", plate="groups"),
    refused(local, "'hidden' is a latent variable of each row"),
    refused(local_without_plate, "'hidden' has shape .60,. for 60 rows and .61,. for 61"),
    refused(discrete, "'switch' is discrete"),
    refused(without_plate, "'y' must be observed in a plate of the data's 60 rows.*no plates"),
    refused(wrong_size, "plate 'data' takes 5 of 50"),
    refused(two_subsampled, "plate 'users' takes 3 of 30"),
    refused(two_plates, "plates .'first', 'second'. all have"),
    refused(fitted, "'mean' is a numpyro.param"),
    refused(dropping, "random key"),
    refused(data_in_prior, "'mean' stands outside plate 'data', but its log density changes"),
    refused(normalised, "changes with the other rows"),
    refused(column, "'y' observes values of shape .60, 1."),
    refused(column_mean, "changes with the other rows|observes values of shape|would broadcast"),
    refused(unobserved, "observes nothing"),
    refused(by_index, "model failed.*takes", data=(X, Y, Y, Y, Y)),
    refused(by_index, "must be finite", data=(GROUP, np.where(X > 1, np.nan, X), Y)),
]


@pytest.mark.once
@pytest.mark.parametrize(("build", "data", "settings", "error", "match"), REFUSED)
def test_what_cannot_be_is_refused_by_name(build, data, settings, error, match):
    with pytest.raises(error, match=match):
        sx.from_numpyro(build, data, **settings)


@pytest.mark.once
def test_draws_that_do_not_fit_are_refused():
    posterior = made(by_index)
    params = posterior.init(jax.random.key(0))
    with pytest.raises(ValueError, match="draws must be of the latents .'centre'"):
        posterior.constrain({"centre": 0.0})
    with pytest.raises(ValueError, match="'effect' must have shape"):
        posterior.constrain(params | {"effect": np.zeros(3)})
    with pytest.raises(ValueError, match="same leading axes"):
        posterior.constrain(params | {"centre": np.zeros((2, 3))})
    with pytest.raises(ValueError, match="values must be of the latents"):
        posterior.unconstrain({"centre": 0.0})
    with pytest.raises(ValueError, match="None for the targets .'y'."):
        posterior.predict(jax.random.key(0), params, DATA)


@pytest.mark.once
def test_improper_priors_are_sampled():
    def model(y):
        mean = numpyro.sample("mean", dist.ImproperUniform(dist.constraints.real, (), ()))
        scale = numpyro.sample("scale", dist.ImproperUniform(dist.constraints.positive, (), ()))
        with numpyro.plate("rows", 60):
            numpyro.sample("y", dist.Normal(mean, scale), obs=y)

    posterior = sx.from_numpyro(model, (Y,))
    params = posterior.init(jax.random.key(0))
    # A flat density over the scale is its logarithm's times the scale.
    unconstrained = {"mean": jnp.float32(0.3), "scale": jnp.float32(-0.2)}
    assert jax.tree.structure(params) == jax.tree.structure(unconstrained)
    wanted = norm.logpdf(Y, 0.3, np.exp(-0.2)).sum() - 0.2
    np.testing.assert_allclose(posterior.log_density(unconstrained, (jnp.asarray(Y),)), wanted, rtol=1e-5)
