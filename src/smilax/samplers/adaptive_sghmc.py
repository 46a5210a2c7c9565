"""Scale-adapted stochastic gradient Hamiltonian Monte Carlo: SGHMC that finds masses and batch noise in warm-up."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from smilax import trees
from smilax.posterior import Posterior
from smilax.samplers.base import (
    Info,
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

# Keeps a parameter that never had a gradient from dividing by zero.
LEAST_SCALE = 1e-8


class AdaptiveSghmcState(NamedTuple):
    """State of scale-adapted SGHMC; all but the last are pytrees like the parameters.

    Attributes:
        params: position.
        velocity: v, the last move of the position.
        mean: g, the smoothed gradient.
        square: V, the smoothed squared gradient.
        window: τ, the length of the smoothing.
        num_steps: steps taken.
    """

    params: Any
    velocity: Any
    mean: Any
    square: Any
    window: Any
    num_steps: jax.Array


def adaptive_sghmc(
    posterior: Posterior, step_size: StepSize, momentum_decay: float = 0.05, temperature: float = 1.0
) -> SamplingAlgorithm:
    """Scale-adapted SGHMC (Springenberg, Klein, Falkner and Hutter 2016, equations 8 to 10).

    v' = (1 − α) v + ε² V^{-1/2} ∇log p̂(x) + √(max(2αTε² V^{-1/2} − ε⁴, 0)) z, then x' = x + v', elementwise with V the
    smoothed squared gradient. ε⁴ is what the batch adds to the variance of v' if V is its noise: that much less is
    drawn. One gradient a step.

    In warm-up, with ∇ for the gradient, τ ← τ(1 − g²/V) + 1, g ← g + (∇ − g)/(τ_old + 1) and
    V ← V + (∇² − V)/(τ_old + 1), all from 1; V is frozen then, and sampling is a fixed Markov kernel. Without
    warm-up V is 1 and this is SGHMC with an assumed batch noise of one.

    V is a second moment, not a variance: where the mean gradient is not small against its noise (large batches, narrow
    posteriors), too little noise is drawn and the posterior comes out too narrow. Where ε² > 2αT V^{-1/2} batch noise
    alone is more than wanted, and it comes out too wide. BlackJAX has no such sampler.

    Args:
        posterior: the target.
        step_size: ε; ε V^{-1/4} is in units of the parameters; a positive number or a schedule `step_size(count)`.
        momentum_decay: α, the share of the velocity lost in a step, in (0, 1].
        temperature: T.

    Raises:
        ValueError: if an argument is outside its range.

    Example:
        >>> import jax.numpy as jnp, smilax as sx
        >>> posterior = sx.Posterior(lambda x: -0.5 * jnp.sum(x**2), lambda x, batch: batch @ x, 100)
        >>> sx.adaptive_sghmc(posterior, step_size=1e-2).config["momentum_decay"]
        0.05
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
        zeros, ones = jax.tree.map(jnp.zeros_like, params), jax.tree.map(jnp.ones_like, params)
        return AdaptiveSghmcState(params, zeros, ones, ones, ones, jnp.zeros((), jnp.int32))

    def adapted(state, gradient):
        share = jax.tree.map(lambda tau: 1 / (tau + 1), state.window)
        tiny = LEAST_SCALE**2
        window = jax.tree.map(
            # τ has to stay positive where V has fallen behind g².
            lambda tau, g, v: jnp.maximum(tau * (1 - g * g / (v + tiny)) + 1, 1),
            state.window,
            state.mean,
            state.square,
        )
        mean = jax.tree.map(lambda m, r, g: m + r * (g - m), state.mean, share, gradient)
        square = jax.tree.map(lambda v, r, g: v + r * (g * g - v), state.square, share, gradient)
        return state._replace(mean=mean, square=square, window=window)

    def advance(key, state, batch, adapt):
        dtype = jnp.result_type(*jax.tree.leaves(state.params))
        eps = step_size_at(state.num_steps).astype(dtype)
        value, gradient = posterior.value_and_grad(state.params, batch)
        valid = jnp.isfinite(trees.dot(gradient, gradient)) & jnp.isfinite(value.total)
        if adapt:
            state = trees.where(valid, adapted(state, gradient), state)

        def pushed(v, g, square, z):
            inverse = 1 / (jnp.sqrt(square) + LEAST_SCALE)
            noise = 2 * momentum_decay * temperature * eps**2 * inverse - eps**4 * square * inverse**2
            return (1 - momentum_decay) * v + eps**2 * inverse * g + jnp.sqrt(jnp.maximum(noise, 0)) * z

        noise = trees.normal_like(key, state.params)
        velocity = jax.tree.map(pushed, state.velocity, gradient, state.square, noise)
        # Before it moves the parameters: a velocity used twice would have its noise computed twice.
        velocity = trees.where(valid, velocity, state.velocity)
        params = trees.add_scaled(state.params, valid.astype(dtype), velocity)
        info = Info(value.total, jnp.full((), jnp.nan, value.total.dtype), eps, valid.astype(dtype))
        state = state._replace(
            params=params,
            velocity=velocity,
            num_steps=state.num_steps + 1,
        )
        return state, info

    return SamplingAlgorithm(
        init=init,
        warmup=lambda key, state, batch, fraction: advance(key, state, batch, True),
        step=lambda key, state, batch: advance(key, state, batch, False),
        config={
            "name": "adaptive_sghmc",
            "step_size": describe(step_size),
            "momentum_decay": float(momentum_decay),
            "temperature": float(temperature),
            "batches": "mini",
        },
        posterior=posterior,
    )
