"""The stochastic gradient Nosé-Hoover thermostat: SGHMC whose friction finds the batch noise's level."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from smilax import trees
from smilax.posterior import Posterior
from smilax.samplers.base import (
    SamplingAlgorithm,
    StepSize,
    check_params,
    check_positive,
    check_posterior,
    check_probability,
    check_step_size,
    describe,
    schedule,
)


class SgnhtState(NamedTuple):
    """Position, momentum p (unit mass), thermostat ξ and steps taken."""

    params: Any
    momentum: Any
    friction: jax.Array
    num_steps: jax.Array


class SgnhtInfo(NamedTuple):
    """What a step reports; scalars.

    Attributes:
        log_density: mini-batch log density before the step, in nats.
        energy_error: NaN, there is none.
        step_size: ε, in units of the parameters.
        accepted: 1.0, or 0.0 where the gradient was not finite.
        friction: ξ after the step, the share of the momentum lost in one; what it has above `momentum_decay` is there
            for batch noise and discretisation.
    """

    log_density: jax.Array
    energy_error: jax.Array
    step_size: jax.Array
    accepted: jax.Array
    friction: jax.Array


def sgnht(
    posterior: Posterior, step_size: StepSize, momentum_decay: float = 0.05, temperature: float = 1.0
) -> SamplingAlgorithm:
    """SGNHT (Ding, Fang, Babbush, Chen, Skeel and Neven 2014, with εp for u, ε² for η, ξ for α and a for A's share).

    p' = (1 − ξ) p + ε ∇log p̂(x) + √(2aT) z, then x' = x + ε p', then ξ' = ξ + ε² ((1 − ξ/2)|p'|²/d − T), from ξ = a;
    one gradient a step. The friction grows until the temperature is right, which needs no estimate of the batch noise
    but that it is the same in every direction: if not, noisy directions stay too warm and quiet ones too cold.

    The factor 1 − ξ/2 is ours. With a friction per step, and not per time, momenta have the variance T/(1 − ξ/2) where
    positions have T; without it positions are too cold by ξ/2, at any step size.

    BlackJAX's kernel of this name (1.7.1) moves x by the old momentum and p by the gradient at the old x. That is
    explicit Euler, which gains energy at a rate that depends on the curvature, and the one thermostat cannot take it
    out in all directions; and its momenta start at T = 1 whatever the temperature. Here p' moves x, as published.

    Args:
        posterior: the target.
        step_size: ε, in units of the parameters; a positive number or a schedule `step_size(count)`.
        momentum_decay: a, the friction that the noise drawn belongs to, in (0, 1].
        temperature: T.

    Raises:
        ValueError: if an argument is outside its range.

    Example:
        >>> import jax.numpy as jnp, smilax as sx
        >>> posterior = sx.Posterior(lambda x: -0.5 * jnp.sum(x**2), lambda x, batch: batch @ x, 100)
        >>> sx.sgnht(posterior, step_size=1e-2).config["name"]
        'sgnht'
    """
    check_posterior(posterior)
    check_step_size(step_size)
    check_probability("momentum_decay", momentum_decay)
    check_positive("temperature", temperature)
    # NumPy numbers would widen single precision.
    momentum_decay, temperature = float(momentum_decay), float(temperature)
    step_size_at = schedule(step_size)

    def init(key, params):
        check_params(params)
        dtype = jnp.result_type(*jax.tree.leaves(params))
        momentum = trees.scale(temperature**0.5, trees.normal_like(key, params))
        return SgnhtState(params, momentum, jnp.asarray(momentum_decay, dtype), jnp.zeros((), jnp.int32))

    def step(key, state, batch):
        dtype = jnp.result_type(*jax.tree.leaves(state.params))
        eps = step_size_at(state.num_steps).astype(dtype)
        value, gradient = posterior.value_and_grad(state.params, batch)
        amplitude = (2 * momentum_decay * temperature) ** 0.5
        noise = trees.normal_like(key, state.params)
        momentum = jax.tree.map(
            lambda p, g, z: (1 - state.friction) * p + eps * g + amplitude * z, state.momentum, gradient, noise
        )
        params = jax.tree.map(lambda x, p: x + eps * p, state.params, momentum)
        # With friction ξ a step, and noise of 2ξT, momenta have the variance T/(1 − ξ/2) where positions have T.
        heat = (1 - state.friction / 2) * trees.dot(momentum, momentum) / trees.size(momentum) - temperature
        friction = state.friction + eps**2 * heat
        valid = jnp.isfinite(trees.dot(gradient, gradient)) & jnp.isfinite(value.total) & jnp.isfinite(friction)
        state = SgnhtState(
            trees.where(valid, params, state.params),
            trees.where(valid, momentum, state.momentum),
            jnp.where(valid, friction, state.friction),
            state.num_steps + 1,
        )
        nan = jnp.full((), jnp.nan, value.total.dtype)
        return state, SgnhtInfo(value.total, nan, eps, valid.astype(dtype), state.friction)

    return SamplingAlgorithm(
        init=init,
        warmup=lambda key, state, batch, fraction: step(key, state, batch),
        step=step,
        config={
            "name": "sgnht",
            "step_size": describe(step_size),
            "momentum_decay": float(momentum_decay),
            "temperature": float(temperature),
            "batches": "mini",
        },
        posterior=posterior,
    )
