"""Friction that matches the noise: against the formula, and against what anisotropic noise does without it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import smilax as sx
from smilax.friction import MOST_CHANGE, MOST_TURN, matched_friction
from smilax.geometry import Identity
from smilax.microcanonical import LAMBDA, draw_velocity, drift, drift_first, normalize

pytestmark = [pytest.mark.once, pytest.mark.optimised]

# A standard normal, whose gradient is seen through examples that add noise of covariance ω: ℓᵢ(x) = aᵢᵀx, B of them.
DIM, ROWS = 40, 64
NOISY = DIM // 5
OMEGA = np.where(np.arange(DIM) < NOISY, 4.0, 0.25).astype(np.float32)
STREAM = sx.Posterior(lambda x: -0.5 * jnp.sum(x**2), lambda x, batch: batch @ x, num_data=ROWS)


def stationary_variances(omega, ratio, with_friction, *, stretched=True, num_steps=20_000, num_chains=16):
    """Mean of x² along each direction, over chains and steps, and its standard error, at ε/L_eff = `ratio`."""
    eps = jnp.asarray(1.0, jnp.float32)
    sigma = np.sqrt(omega / omega.mean() * ratio * 2 * (DIM - 1) / ROWS).astype(np.float32)

    def chain(key):
        def body(carry, key):
            x, v, total = carry
            batch = sigma[None] * jax.random.normal(key, (ROWS, DIM), jnp.float32)
            weights, stretch = None, 1 + 0.32 * ratio * stretched
            if with_friction:
                match = matched_friction(STREAM, drift(x, v, LAMBDA * eps), v, batch, eps, 1.0)
                weights, stretch = match.weights, stretch - 0.5 * match.turn
            step = drift_first(
                lambda x: STREAM.value_and_grad(x, batch, weights), x, v, Identity(), eps, stretch=stretch
            )
            # Rounding alone would let the length drift; samplers renormalise in their refreshment.
            return (step.params, normalize(step.velocity, Identity()), total + step.params**2), None

        x_key, v_key, warm_key, run_key = jax.random.split(key, 4)
        x = jax.random.normal(x_key, (DIM,), jnp.float32)
        carry = x, draw_velocity(v_key, x, Identity()), jnp.zeros(DIM, jnp.float32)
        carry, _ = jax.lax.scan(body, carry, jax.random.split(warm_key, 1000))
        carry = *carry[:2], jnp.zeros(DIM, jnp.float32)
        return jax.lax.scan(body, carry, jax.random.split(run_key, num_steps))[0][2] / num_steps

    squares = np.asarray(jax.jit(jax.vmap(chain))(jax.random.split(jax.random.key(0), num_chains)), np.float64)
    groups = np.stack([squares[:, :NOISY].mean(1), squares[:, NOISY:].mean(1)])
    return groups.mean(1), groups.std(1, ddof=1) / num_chains**0.5


@pytest.mark.once
def test_variances_are_right_under_noise_of_any_covariance():
    # 16 : 1 in the noise; the accuracy is that of isotropic noise at this ε/L_eff.
    variances, error = stationary_variances(OMEGA, 0.05, True)
    assert (error < 0.01).all()
    assert (np.abs(variances - 1) < 0.01 + 3 * error).all(), (variances, error)


@pytest.mark.once
def test_without_friction_variances_follow_the_noise():
    variances, _ = stationary_variances(OMEGA, 0.05, False, num_steps=5000)
    assert variances[0] > 3
    assert variances[1] < 0.5


@pytest.mark.truth
@pytest.mark.once
@pytest.mark.parametrize("with_friction", [False, True])
def test_inflation_is_as_predicted_and_the_longer_kicks_remove_it(with_friction):
    isotropic, ratio = np.ones(DIM, np.float32), 0.2
    plain, error = stationary_variances(isotropic, ratio, with_friction, stretched=False)
    assert (np.abs(plain - 1 - 0.32 * ratio) < 0.012 + 3 * error).all(), (plain, error)
    corrected, error = stationary_variances(isotropic, ratio, with_friction)
    assert (np.abs(corrected - 1) < 0.012 + 3 * error).all(), (corrected, error)


def test_weights_make_the_batch_gradient_that_of_batch_and_friction(key):
    rng = np.random.default_rng(0)
    batch = (jnp.asarray(rng.normal(size=(12, 3)), jnp.float32), jnp.asarray(rng.normal(size=12), jnp.float32))
    posterior = sx.Posterior(
        lambda p: -0.5 * (jnp.sum(p["w"] ** 2) + p["b"] ** 2),
        lambda p, batch: -0.5 * (batch[1] - jnp.tanh(batch[0] @ p["w"]) - p["b"]) ** 2,
        num_data=100,
    )
    params = {"b": jnp.asarray(0.3, jnp.float32), "w": jnp.asarray(rng.normal(size=3), jnp.float32)}
    velocity = draw_velocity(key, params, Identity())
    damping = {"b": jnp.asarray(0.5, jnp.float32), "w": jnp.full(3, 2.0, jnp.float32)}
    eps, factor = jnp.asarray(1e-2, jnp.float32), 0.88
    match = matched_friction(posterior, params, velocity, batch, eps, factor, damping)

    def flat(tree):
        return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]).astype(np.float64)

    each = jax.jacobian(posterior.log_likelihood)(params, batch)
    gradients = np.column_stack([np.asarray(leaf, np.float64).reshape(12, -1) for leaf in jax.tree.leaves(each)])
    covariance = 100**2 / 12 * np.cov(gradients.T)
    plain = posterior.value_and_grad(params, batch)[1]
    reweighted = posterior.value_and_grad(params, batch, match.weights)[1]
    expected = -0.5 * float(eps) * factor * covariance @ flat(velocity)
    np.testing.assert_allclose(flat(reweighted) - flat(plain), expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    np.testing.assert_allclose(
        flat(match.force), -0.5 * float(eps) * factor * flat(damping) * flat(velocity), rtol=1e-5
    )
    power = factor * flat(velocity) @ (covariance + np.diag(flat(damping))) @ flat(velocity)
    np.testing.assert_allclose(match.turn, 0.5 * float(eps) ** 2 * power / 3, rtol=1e-4)
    np.testing.assert_allclose(jnp.mean(match.weights), 1, rtol=1e-6)


def test_a_step_that_is_far_too_long_has_a_bounded_friction(key):
    x = jnp.zeros(DIM, jnp.float32)
    velocity = normalize(jnp.ones(DIM, jnp.float32), Identity())
    batch = 100 * jax.random.normal(key, (ROWS, DIM), jnp.float32)
    match = matched_friction(STREAM, x, velocity, batch, jnp.asarray(10.0, jnp.float32), 1.0)
    np.testing.assert_allclose(match.turn, MOST_TURN, rtol=1e-5)
    assert np.isfinite(match.weights).all()


@pytest.mark.parametrize("towards", [1, -1])
def test_the_friction_of_a_single_example_does_not_exceed_its_force(towards):
    # One row of a hundred, a thousand times as steep as the others, along and against the motion.
    batch = jnp.ones((100, DIM), jnp.float32).at[0].set(1000 * towards)
    velocity = normalize(jnp.ones(DIM, jnp.float32), Identity())
    eps = jnp.asarray(1e-3, jnp.float32)
    match = matched_friction(STREAM, jnp.zeros(DIM, jnp.float32), velocity, batch, eps, 1.0)
    # It points against the motion, as far as is allowed; and leaves the examples that make no noise alone.
    np.testing.assert_allclose(match.weights[0], 1 - towards * MOST_CHANGE, atol=1e-6)
    np.testing.assert_allclose(match.weights[1:], 1, atol=0.05)
