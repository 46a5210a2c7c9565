"""The dynamics against closed forms, float64, and BlackJAX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from smilax import microcanonical, trees
from smilax.geometry import Diagonal, Identity
from smilax.microcanonical import (
    LAMBDA,
    Kick,
    draw_velocity,
    drift_first,
    kick_first,
    normalize,
    refresh,
)
from smilax.packing import flatten
from smilax.posterior import Posterior

X64 = jax.config.jax_enable_x64
EPS = float(jnp.finfo(jnp.zeros(()).dtype).eps)


kick = jax.jit(microcanonical.kick)
kick_momentum = jax.jit(microcanonical.kick_momentum)
kinetic_change = jax.jit(microcanonical.kinetic_change)


def random_problem(seed, d, size=1.0, diagonal=True):
    """A velocity with vᵀMv = 1, a gradient and a geometry, over a pytree of two leaves."""
    rng = np.random.default_rng(seed)
    split = d // 2
    draw = lambda: {"a": jnp.asarray(rng.normal(size=split)), "b": jnp.asarray(rng.normal(size=d - split))}  # noqa: E731
    scale = jax.tree.map(lambda x: jnp.exp(x), draw())
    geometry = Diagonal(scale) if diagonal else Identity()
    velocity = normalize(jax.tree.map(jnp.asarray, draw()), geometry)
    return velocity, trees.scale(jnp.asarray(size), draw()), geometry


problems = st.tuples(
    st.integers(0, 2**16), st.sampled_from([2, 3, 40, 200]), st.floats(-6, 6), st.floats(-4, 4), st.booleans()
)


@settings(max_examples=60, deadline=None)
@given(problems)
def test_kick_keeps_the_norm(problem):
    seed, d, log_size, log_length, diagonal = problem
    velocity, gradient, geometry = random_problem(seed, d, 10.0**log_size, diagonal)
    turned, _ = kick(velocity, gradient, geometry, jnp.asarray(10.0**log_length))
    # The rounding error of the norm before comes out multiplied by (cosh δ + c sinh δ)⁻², by much where a kick is
    # against the motion; here from its parts, in float64.
    v, g, force = (np.float64(flatten(x)) for x in (velocity, gradient, geometry.precondition(gradient)))
    gamma = np.sqrt(g @ force)
    cosine, zeta = v @ g / gamma, np.exp(-(10.0**log_length) * gamma / (d - 1))
    gain = 2 * zeta / (1 + cosine + (1 - cosine) * zeta**2)
    assert abs(float(geometry.quadratic(turned)) - 1) < 64 * EPS * max(1, gain**2)


@settings(max_examples=60, deadline=None)
@given(problems, st.floats(-2, 2))
def test_a_kick_of_the_momentum_is_the_kick_of_its_velocity(problem, log_norm):
    seed, d, log_size, log_length, diagonal = problem
    velocity, gradient, geometry = random_problem(seed, d, 10.0**log_size, diagonal)
    length = jnp.asarray(10.0**log_length)
    expected, one = kick(velocity, gradient, geometry, length)
    norm = jnp.asarray(10.0**log_norm)
    momentum = jax.tree.map(lambda v: v * norm, velocity)
    if diagonal:
        momentum = jax.tree.map(jnp.multiply, momentum, geometry.scale)
    turned, other = kick_momentum(momentum, gradient, geometry, length, norm)
    # The velocity's two inner products are rounded apart: near an opposed gradient that grows as e^δ.
    atol = 200 * EPS * np.exp(min(float(length * one.rate), 10))
    for a, b in zip(jax.tree.leaves(geometry.velocity(turned)), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=atol * max(1, float(jnp.max(jnp.abs(b)))), rtol=atol)
    np.testing.assert_allclose(other.rate, one.rate, rtol=200 * EPS)
    np.testing.assert_allclose(other.cosine, one.cosine, atol=200 * EPS)


@settings(max_examples=60, deadline=None)
@given(problems)
def test_kick_composes(problem):
    seed, d, log_size, log_length, diagonal = problem
    velocity, gradient, geometry = random_problem(seed, d, 10.0**log_size, diagonal)
    length = jnp.asarray(10.0**log_length)
    whole, first = kick(velocity, gradient, geometry, length)
    half, _ = kick(velocity, gradient, geometry, length / 2)
    twice, second = kick(half, gradient, geometry, length / 2)
    # Of a kick that turns the velocity round, nothing is known (below).
    assume(np.isfinite([float(first.rate), float(second.rate)]).all())
    tolerance = 300 * EPS
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * float(jnp.max(jnp.abs(b)))), twice, whole
    )
    # ΔK is additive along the kick, and the Kick knows its own half without another pass.
    parts = kinetic_change(first, length / 2) + kinetic_change(second, length / 2)
    scale = float(kinetic_change(first._replace(cosine=jnp.ones_like(first.cosine)), length))
    np.testing.assert_allclose(float(parts), float(kinetic_change(first, length)), atol=50 * EPS * scale, rtol=1e-4)


@settings(max_examples=40, deadline=None)
@given(problems)
def test_kick_is_reversible(problem):
    seed, d, log_size, log_length, diagonal = problem
    velocity, gradient, geometry = random_problem(seed, d, 10.0**log_size, diagonal)
    length = jnp.asarray(10.0**log_length)
    turned, done = kick(velocity, gradient, geometry, length)
    delta = float(length * done.rate)
    back, _ = kick(jax.tree.map(jnp.negative, turned), gradient, geometry, length)
    # A long kick forgets: what is left of the old direction shrinks as e^{-2δ}, and rounding is magnified as much.
    tolerance = 300 * EPS * np.exp(min(2 * delta, 50))
    if tolerance < 1e-2:
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(-a, b, rtol=0, atol=tolerance * float(jnp.max(jnp.abs(b)))),
            back,
            velocity,
        )
    else:
        assert np.isfinite(float(geometry.quadratic(back)))


@pytest.mark.skipif(not X64, reason="float64 is what it is compared with")
def test_kick_solves_the_equation():
    velocity, gradient, geometry = random_problem(3, 7, 4.0)
    length, freedom = 1.7, 6

    def slope(v):
        along = trees.dot(v, gradient)
        return jax.tree.map(lambda p, w: (p - along * w) / freedom, geometry.precondition(gradient), v)

    def runge_kutta(v, _):
        h = length / 2000
        k1 = slope(v)
        k2 = slope(trees.add_scaled(v, h / 2, k1))
        k3 = slope(trees.add_scaled(v, h / 2, k2))
        k4 = slope(trees.add_scaled(v, h, k3))
        new = jax.tree.map(lambda x, a, b, c, e: x + h / 6 * (a + 2 * b + 2 * c + e), v, k1, k2, k3, k4)
        return new, trees.dot(v, gradient)

    exact, along = jax.lax.scan(runge_kutta, velocity, None, length=2000)
    turned, done = kick(velocity, gradient, geometry, jnp.asarray(length))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-11), turned, exact)
    # dK/dt = vᵀg: the kinetic energy takes up what the log density gives (trapezoid over the solution).
    values = np.append(np.asarray(along), float(trees.dot(exact, gradient)))
    work = float(np.sum((values[1:] + values[:-1]) / 2) * length / 2000)
    np.testing.assert_allclose(float(kinetic_change(done, jnp.asarray(length))), work, rtol=1e-6)


@pytest.mark.once
@pytest.mark.parametrize("d", [2, 10, 1000, 10**6])
@pytest.mark.parametrize("delta", [1e-7, 1e-4, 0.03, 0.5, 0.99, 1.01, 5.0, 50.0])
@pytest.mark.parametrize("direction", ["random", "along", "against"])
def test_kinetic_change_in_float32_against_float64(d, delta, direction):
    rng = np.random.default_rng(d)
    gradient = rng.normal(size=d).astype(np.float32)
    velocity = rng.normal(size=d)
    if direction != "random":
        velocity = velocity / np.sqrt(d) + (1.0 if direction == "along" else -1.0) * gradient
    velocity = (velocity / np.linalg.norm(velocity)).astype(np.float32)
    gamma = np.linalg.norm(gradient.astype(np.float64))
    length = np.float32(delta * (d - 1) / gamma)
    _, done = kick(jnp.asarray(velocity), jnp.asarray(gradient), Identity(), jnp.asarray(length))
    got = float(kinetic_change(done, jnp.asarray(length)))
    c = float(velocity.astype(np.float64) @ gradient.astype(np.float64)) / gamma
    if 1 + c + (1 - c) * np.exp(-2 * delta) < 200 * 2.0**-23:
        assert not np.isfinite(got)
        return
    exact_delta = float(length) * gamma / (d - 1)
    want = (d - 1) * (exact_delta + np.log((1 + c) / 2 + (1 - c) / 2 * np.exp(-2 * exact_delta)))
    if exact_delta < 0.1:
        want = (d - 1) * np.log1p(c * np.sinh(exact_delta) + 2 * np.sinh(exact_delta / 2) ** 2)
    assert abs(got - want) <= 0.01 * abs(want) + 4 * 2.0**-24 * float(length) * gamma


def gaussian(precision, dtype=None):
    """A posterior without data, −½ xᵀHx, whose likelihood is one example that says nothing."""
    precision = jnp.asarray(precision, dtype)
    return Posterior(lambda x: -0.5 * x @ (precision @ x), lambda x, batch: batch * 0, 1)


@pytest.mark.skipif(not X64, reason="the slope is below float32's rounding")
@pytest.mark.parametrize("integrator", ["kick_first", "drift_first", "drift_first with noise"])
def test_energy_error_falls_as_the_cube(integrator):
    d = 12
    rng = np.random.default_rng(1)
    root = rng.normal(size=(d, d))
    posterior = gaussian(root @ root.T / d + np.eye(d))
    batch = jnp.zeros(1)
    quartic = Posterior(lambda x: posterior.log_prior(x) - 0.1 * jnp.sum(x**4), posterior.log_likelihood, 1)
    x = jnp.asarray(rng.normal(size=d))
    v = normalize(jnp.asarray(rng.normal(size=d)), Identity())
    noise = jnp.asarray(rng.normal(size=d))

    def error(eps):
        evaluate = lambda p: quartic.value_and_grad(p, batch)  # noqa: E731
        if integrator == "kick_first":
            step = kick_first(evaluate, x, v, quartic.value_and_grad(x, batch)[1], Identity(), jnp.asarray(eps))
        else:
            step = drift_first(evaluate, x, v, Identity(), jnp.asarray(eps), noise if "noise" in integrator else None)
        return abs(float(step.energy_error))

    errors = np.array([error(eps) for eps in (0.04, 0.02, 0.01, 0.005)])
    slopes = np.log2(errors[:-1] / errors[1:])
    np.testing.assert_allclose(slopes, 3, atol=0.25)


@pytest.mark.skipif(not X64, reason="compared to 1e-10")
@pytest.mark.parametrize("diagonal", [False, True])
def test_agrees_with_blackjax(diagonal):
    from blackjax.mcmc.integrators import IntegratorState, isokinetic_mclachlan

    d = 9
    rng = np.random.default_rng(5)
    root = rng.normal(size=(d, d))
    posterior = gaussian(root @ root.T)
    scale = jnp.asarray(np.exp(rng.normal(size=d))) if diagonal else jnp.ones(d)
    geometry = Diagonal(scale) if diagonal else Identity()
    x, u = jnp.asarray(rng.normal(size=d)), jnp.asarray(rng.normal(size=d))
    u = u / jnp.linalg.norm(u)
    eps = 0.3
    batch = jnp.zeros(1)
    value, gradient = posterior.value_and_grad(x, batch)
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        # BlackJAX keeps u = M^{1/2} v and takes the diagonal of M⁻¹.
        step = isokinetic_mclachlan(lambda p: posterior.log_density(p, batch), inverse_mass_matrix=1 / scale**2)
        reference, _ = step(IntegratorState(x, u, value.total, gradient), eps)
    ours = kick_first(lambda p: posterior.value_and_grad(p, batch), x, u, gradient, geometry, jnp.asarray(eps))
    np.testing.assert_allclose(ours.params, reference.position, atol=1e-10)
    np.testing.assert_allclose(ours.velocity, reference.momentum, atol=1e-10)


@pytest.mark.parametrize("size", [0.0, 1e-12, 1e20])
def test_kick_by_an_extreme_gradient(size):
    velocity, gradient, geometry = random_problem(0, 50, 1.0)
    gradient = jax.tree.map(lambda g: g * size, gradient)
    turned, done = kick(velocity, gradient, geometry, jnp.asarray(0.1))
    np.testing.assert_allclose(float(geometry.quadratic(turned)), 1, atol=64 * EPS)
    change = float(kinetic_change(done, jnp.asarray(0.1)))
    assert np.isfinite(change)
    if size < 1:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), turned, velocity)
        assert abs(change) < 1e-10
    else:
        # All that is left is the direction of steepest ascent.
        force = geometry.precondition(gradient)
        aligned = trees.dot(turned, gradient) / jnp.sqrt(
            trees.dot(trees.scale(1e-20, gradient), trees.scale(1e-20, force))
        )
        np.testing.assert_allclose(float(aligned) * 1e-20, 1, rtol=1e-4)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_kick_by_a_gradient_that_is_not_finite_is_flagged(bad):
    velocity, gradient, geometry = random_problem(0, 6, 1.0)
    gradient = gradient | {"a": gradient["a"].at[1].set(bad)}
    turned, done = kick(velocity, gradient, geometry, jnp.asarray(0.1))
    jax.tree.map(np.testing.assert_array_equal, turned, velocity)
    assert not np.isfinite(float(kinetic_change(done, jnp.asarray(0.1))))


@pytest.mark.parametrize("delta", [0.1, 3.0, 1e4])
def test_kick_by_an_exactly_opposed_gradient(delta):
    velocity = jnp.array([1.0, 0.0, 0.0])
    gradient = jnp.array([-2.0, 0.0, 0.0])
    length = jnp.asarray(delta)
    turned, done = kick(velocity, gradient, Identity(), length)
    # This is the unstable fixed point: rounding grows as e^δ, like any perturbation.
    np.testing.assert_allclose(turned, velocity, atol=4 * EPS * np.exp(min(delta, 5)))
    assert float(done.cosine) == -1
    change = float(kinetic_change(done, length))
    if delta < 100:
        np.testing.assert_allclose(change, -2 * delta, rtol=1e-4)  # (d − 1) log e^{−δ}, δ = length·γ/(d − 1)
    else:
        assert not np.isfinite(change)


def test_integrators_run_back_in_time():
    d = 8
    posterior = gaussian(np.diag(np.linspace(0.5, 3, d)))
    batch = jnp.zeros(1)
    rng = np.random.default_rng(0)
    x, v = jnp.asarray(rng.normal(size=d)), normalize(jnp.asarray(rng.normal(size=d)), Identity())
    evaluate = lambda p: posterior.value_and_grad(p, batch)  # noqa: E731
    eps = jnp.asarray(0.4)
    there = drift_first(evaluate, x, v, Identity(), eps)
    back = drift_first(evaluate, there.params, -there.velocity, Identity(), eps)
    np.testing.assert_allclose(back.params, x, atol=100 * EPS)
    np.testing.assert_allclose(-back.velocity, v, atol=100 * EPS)
    there = kick_first(evaluate, x, v, evaluate(x)[1], Identity(), eps)
    back = kick_first(evaluate, there.params, -there.velocity, evaluate(there.params)[1], Identity(), eps)
    np.testing.assert_allclose(back.params, x, atol=100 * EPS)


def test_kick_first_with_no_cached_gradient_skips_its_first_kick():
    posterior = gaussian(np.eye(5))
    v = normalize(jnp.arange(1.0, 6.0), Identity())
    x = jnp.ones(5)
    evaluate = lambda p: posterior.value_and_grad(p, jnp.zeros(1))  # noqa: E731
    step = kick_first(evaluate, x, v, jnp.zeros(5), Identity(), jnp.asarray(0.2))
    middle = x + 0.1 * v
    v_middle, _ = kick(v, -middle, Identity(), jnp.asarray((1 - 2 * LAMBDA) * 0.2))
    np.testing.assert_allclose(step.params, middle + 0.1 * v_middle, rtol=1e-6)


@pytest.mark.once
def test_refresh_forgets_at_the_rate_asked_for(key):
    # ⟨v(0)·v(t)⟩ = e^{−t/L} for isotropic Langevin noise of decoherence length L.
    d, length, eps, steps = 200, 5.0, 0.1, 50
    geometry = Diagonal(jnp.linspace(0.5, 2.0, d))
    start = draw_velocity(key, jnp.zeros(d), geometry)

    def run(key):
        keys = jax.random.split(key, steps)
        v, _ = jax.lax.scan(lambda v, k: (refresh(k, v, geometry, eps, length), None), start, keys)
        return jnp.sum(v * start * geometry.scale**2)

    overlap = jax.vmap(run)(jax.random.split(jax.random.key(1), 400))
    standard_error = float(jnp.std(overlap)) / 20
    assert abs(float(jnp.mean(overlap)) - np.exp(-eps * steps / length)) < 5 * standard_error + 2e-3


def test_drawn_velocities_have_covariance_p_over_d(key):
    scale = jnp.array([0.3, 1.0, 4.0])
    geometry = Diagonal(scale)
    v = jax.vmap(lambda k: draw_velocity(k, jnp.zeros(3), geometry))(jax.random.split(key, 20_000))
    covariance = np.cov((v * scale[None]).T)
    np.testing.assert_allclose(covariance, np.eye(3) / 3, atol=0.015)


@pytest.mark.once
def test_the_norm_stays_one_over_long_runs():
    # Rounding is corrected by the dynamics themselves as long as there is noise; 10⁵ steps in float32.
    d = 50
    posterior = Posterior(lambda x: -0.5 * jnp.sum(x**2), lambda x, batch: batch @ x, 1)

    def step(carry, key):
        x, v, g = carry
        batch = 5.0 * jax.random.normal(key, (1, d))
        moved = kick_first(lambda p: posterior.value_and_grad(p, batch), x, v, g, Identity(), jnp.asarray(0.3))
        return (moved.params, moved.velocity, moved.gradient), jnp.sum(moved.velocity**2)

    start = (jnp.zeros(d), normalize(jnp.ones(d), Identity()), jnp.zeros(d))
    _, norms = jax.lax.scan(step, start, jax.random.split(jax.random.key(0), 100_000))
    assert float(jnp.max(jnp.abs(norms - 1))) < 1e-4


def test_kinetic_change_of_several_kicks_at_once():
    kicks = Kick(jnp.array([0.1, 0.2]), jnp.array([0.3, -0.4]), 9)
    both = kinetic_change(kicks, jnp.array([1.0, 2.0]))
    single = [kinetic_change(Kick(kicks.rate[i], kicks.cosine[i], 9), jnp.asarray(i + 1.0)) for i in range(2)]
    np.testing.assert_allclose(both, jnp.stack(single), rtol=1e-6)


@pytest.mark.parametrize("d", [4, 1000])
@pytest.mark.parametrize("delta", [1.0, 5.0, 8.0, 15.0, 40.0])
def test_a_kick_that_turns_the_velocity_round_keeps_the_norm_or_is_flagged(delta, d):
    gradient = jnp.asarray(np.random.default_rng(0).normal(size=d))
    unit = gradient / jnp.linalg.norm(gradient)
    length = delta * (d - 1) / jnp.linalg.norm(gradient)
    near = jnp.asarray(np.random.default_rng(1).normal(size=(200, d))) * np.logspace(-9, -1, 200)[:, None] / d**0.5
    for push, moved in ((kick, "kick"), (kick_momentum, "momentum")):
        norms, changes, reversed_ = [], [], []
        for off in near:
            velocity = normalize(off - unit, Identity())
            turned, done = push(velocity, gradient, Identity(), length)
            norms.append(float(jnp.linalg.norm(turned)))
            changes.append(float(kinetic_change(done, length)))
            reversed_.append(bool(jnp.all(turned == velocity)))
        sound = np.isfinite(changes)
        np.testing.assert_allclose(np.array(norms)[sound], 1, atol=0.02, err_msg=moved)
        # Those that are flagged leave the velocity alone; gentle kicks, and those from well aside, are not flagged.
        assert np.array(reversed_)[~sound].all()
        assert sound.all() if delta <= 1 else sound[-20:].all()


def test_refresh_over_any_length_leaves_a_uniform_direction():
    d = 3
    start = jnp.zeros(d).at[0].set(1.0)
    for ratio in (1.0, 30.0, 1e3, 1e30):
        refreshed = jax.vmap(
            lambda key, ratio=ratio: refresh(key, start, Identity(), jnp.asarray(ratio), jnp.asarray(1.0))
        )(jax.random.split(jax.random.key(0), 4000))
        np.testing.assert_allclose(jnp.linalg.norm(refreshed, axis=1), 1, rtol=1e-5)
        if ratio > 10:
            # Uniform on the sphere: mean 0, covariance I/d.
            np.testing.assert_allclose(jnp.mean(refreshed, axis=0), 0, atol=4 * (1 / d / 4000) ** 0.5)
            np.testing.assert_allclose(refreshed.T @ refreshed / 4000, np.eye(d) / d, atol=0.02)
