"""The descent at the start of ismile's warm-up."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import smilax as sx
from smilax.packing import pack, unpack
from smilax.samplers.descent import MOMENTUM, RATE, descend, descent_init
from smilax.samplers.ismile import DESCENT
from smilax.trees import dot, size

pytestmark = pytest.mark.once
N, D, SIGMA = 300, 4, 0.5
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, D)).astype(np.float32)
Y = (X @ np.array([4.0, -3.0, 2.0, 0.0]) + 5.0 + SIGMA * RNG.normal(size=N)).astype(np.float32)
DESIGN = np.column_stack([np.ones(N), X]).astype(float)
PRECISION = DESIGN.T @ DESIGN / SIGMA**2 + np.eye(D + 1) / 3**2
COVARIANCE = np.linalg.inv(PRECISION)
MODE = COVARIANCE @ DESIGN.T @ Y.astype(float) / SIGMA**2


def regression():
    return sx.bnn(
        sx.models.mlp(D, 1, hidden=()), sx.likelihoods.Gaussian(scale=SIGMA), sx.priors.Normal(0.0, 3.0), num_data=N
    )


def sample(algorithm, params, num_warmup, num_samples=1, **options):
    return sx.sample(
        jax.random.key(0), algorithm, (X, Y), params, num_warmup=num_warmup, num_samples=num_samples, batch_size=30,
        progress_bar=False, **options,
    )  # fmt: skip


def coefficients(params):
    layer = params["network"].layers[0]
    return np.concatenate([np.asarray(layer.bias), np.asarray(layer.weight)[..., 0, :]], axis=-1)


def distance(place):
    """From the mode, in posterior standard deviations of that direction: χ² has d degrees of freedom at random."""
    off = place - MODE
    return np.sqrt(np.einsum("...i,ij,...j", off, PRECISION, off))


def test_it_ends_at_the_mode(key):
    posterior = regression()
    starts = jax.vmap(posterior.init)(jax.random.split(key, 3))
    before = distance(coefficients(starts))
    # All of warm-up but the last step, which is one of the dynamics.
    result = sample(sx.ismile(posterior, descent=0.9999), starts, 4000)
    assert before.min() > 100
    assert distance(coefficients(unpack(result.state.chains.params, batch_ndim=1))).max() < 1


def test_what_follows_forgets_it(key):
    posterior = regression()
    draws = sample(sx.ismile(posterior), posterior.init(key), 4000, 8000, num_chains=4, thinning=4).draws
    draws = coefficients(draws).reshape(-1, D + 1).astype(float)
    np.testing.assert_allclose(draws.var(0) / np.diag(COVARIANCE), 1, atol=0.15)
    assert (np.abs(draws.mean(0) - MODE) < 0.15 * np.sqrt(np.diag(COVARIANCE))).all()


def test_a_chain_that_is_warm_does_not_descend_again(key):
    algorithm = sx.ismile(regression())
    first = sample(algorithm, regression().init(key), 400, 50, num_chains=2)
    again = sample(algorithm, first, 400, 50)
    for state in (first.state.chains, again.state.chains):
        np.testing.assert_array_equal(state.descent.optimizer[0].count, [80, 80])
    np.testing.assert_array_equal(first.state.chains.num_steps, [320, 320])
    # Mass matrix and step size are learnt anew: the second warm-up counts from one.
    np.testing.assert_array_equal(again.state.chains.num_steps, [401, 401])


@pytest.mark.parametrize("num_warmup", [0, 1, 3])
def test_a_chain_always_has_a_velocity(num_warmup, key):
    # Of one step of warm-up all is descent; of three the first is.
    algorithm = sx.ismile(regression(), geometry="diagonal", descent=0.3)
    state = algorithm.init(key, regression().init(key))
    for t in range(num_warmup):
        state, _ = algorithm.warmup(key, state, (X, Y), jnp.asarray(t / num_warmup, jnp.float32))
    np.testing.assert_allclose(state.geometry.quadratic(state.velocity), 1, rtol=1e-5)


def test_only_networks_descend_unless_told_to():
    plain = sx.Posterior(lambda w: -0.5 * jnp.sum(w**2), lambda w, batch: batch @ w, N)
    assert sx.ismile(plain).config["descent"] == 0
    assert sx.ismile(regression()).config["descent"] == DESCENT
    assert sx.ismile(plain, descent=0.5).config["descent"] == 0.5
    assert sx.ismile(plain).init(jax.random.key(0), jnp.zeros(2)).descent is None
    for value in (-0.1, 1.0, float("nan")):
        with pytest.raises(ValueError, match="descent must be"):
            sx.ismile(plain, descent=value)
    with pytest.raises(TypeError, match="descent must be"):
        sx.ismile(plain, descent="half")


def problem(seed):
    rng = np.random.default_rng(seed)
    make = lambda: {"w": jnp.asarray(rng.normal(size=(5, 3))), "b": jnp.asarray(rng.normal(size=3))}  # noqa: E731
    return make(), [make() for _ in range(4)]


def test_steps_are_those_of_adafactor_with_momentum():
    params, gradients = problem(0)
    library = optax.adafactor(
        learning_rate=lambda count: RATE * 0.5 * (1 + jnp.cos(jnp.pi * count / 4)), min_dim_size_to_factor=2,
        momentum=MOMENTUM,
    )  # fmt: skip
    theirs, state = params, library.init(params)
    ours, direction, descent = params, jax.tree.map(jnp.ones_like, params), descent_init(params)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for number, gradient in enumerate(gradients):
            update, state = library.update(jax.tree.map(jnp.negative, gradient), state, theirs)
            theirs = optax.apply_updates(theirs, update)
            descent, direction, ours = descend(descent, direction, ours, gradient, jnp.asarray(number / 4))
            np.testing.assert_allclose(dot(direction, direction), 1, rtol=1e-5)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)
    # Second moments of a matrix are its rows' and its columns': no array of its size.
    assert size(descent) < 5 + 3 + 3 + 10


def test_packed_parameters_take_the_same_steps():
    params, gradients = problem(1)
    progress = jnp.asarray(0.3)
    ones = jax.tree.map(jnp.ones_like, params)
    descent, direction, moved = descend(descent_init(params), ones, params, gradients[0], progress)
    packed = pack(params)
    other, pushed, there = descend(descent_init(packed), pack(ones), packed, pack(gradients[0]), progress)
    for a, b in ((moved, unpack(there)), (direction, unpack(pushed)), (descent, other)):
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), a, b)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_gradient_that_is_not_finite_moves_nothing(bad):
    params, gradients = problem(2)
    before = descend(descent_init(params), params, params, gradients[0], jnp.asarray(0.0))
    broken = gradients[1] | {"b": gradients[1]["b"].at[1].set(bad)}
    after = descend(*before, broken, jnp.asarray(0.1))
    jax.tree.map(np.testing.assert_array_equal, after, before)
