"""Stochastic gradient Hamiltonian Monte Carlo with persistent momentum."""

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


class SghmcState(NamedTuple):
    """Position, momentum p (unit mass) and steps taken."""

    params: Any
    momentum: Any
    num_steps: jax.Array


def sghmc(
    posterior: Posterior, step_size: StepSize, momentum_decay: float = 0.05, temperature: float = 1.0
) -> SamplingAlgorithm:
    """SGHMC (Chen, Fox and Guestrin 2014, equation 15, with ε² for η and εp for v, and no noise estimate).

    p' = (1 − α) p + ε ∇log p̂(x) + √(2αT) z, then x' = x + ε p'. One gradient a step; the momentum is kept, never drawn
    anew. Batch noise of covariance Σ heats by about ε²Σ/(2α).

    BlackJAX's kernel of this name (1.7.1) draws its momenta with the key that it also splits for the noise, and draws
    them anew at every call; this one does neither.

    Args:
        posterior: the target.
        step_size: ε, in units of the parameters; a positive number or a schedule `step_size(count)`.
        momentum_decay: α, the share of the momentum lost in a step, in (0, 1].
        temperature: T.

    Raises:
        ValueError: if an argument is outside its range.

    Example:
        >>> import jax.numpy as jnp, smilax as sx
        >>> posterior = sx.Posterior(lambda x: -0.5 * jnp.sum(x**2), lambda x, batch: batch @ x, 100)
        >>> sx.sghmc(posterior, step_size=1e-2).config["momentum_decay"]
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
        momentum = trees.scale(temperature**0.5, trees.normal_like(key, params))
        return SghmcState(params, momentum, jnp.zeros((), jnp.int32))

    def step(key, state, batch):
        dtype = jnp.result_type(*jax.tree.leaves(state.params))
        eps = step_size_at(state.num_steps).astype(dtype)
        value, gradient = posterior.value_and_grad(state.params, batch)
        amplitude = (2 * momentum_decay * temperature) ** 0.5
        noise = trees.normal_like(key, state.params)
        momentum = jax.tree.map(
            lambda p, g, z: (1 - momentum_decay) * p + eps * g + amplitude * z, state.momentum, gradient, noise
        )
        valid = jnp.isfinite(trees.dot(gradient, gradient)) & jnp.isfinite(value.total)
        # Before it moves the parameters: a momentum used twice would have its noise computed twice.
        momentum = trees.where(valid, momentum, state.momentum)
        params = trees.add_scaled(state.params, jnp.where(valid, eps, 0), momentum)
        info = Info(value.total, jnp.full((), jnp.nan, value.total.dtype), eps, valid.astype(dtype))
        return SghmcState(params, momentum, state.num_steps + 1), info

    return SamplingAlgorithm(
        init=init,
        warmup=lambda key, state, batch, fraction: step(key, state, batch),
        step=step,
        config={
            "name": "sghmc",
            "step_size": describe(step_size),
            "momentum_decay": float(momentum_decay),
            "temperature": float(temperature),
            "batches": "mini",
        },
        posterior=posterior,
    )
