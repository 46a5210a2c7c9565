"""Stochastic gradient Langevin dynamics, the oldest of the baselines."""

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
    check_step_size,
    describe,
    schedule,
)


class SgldState(NamedTuple):
    """Position and steps taken."""

    params: Any
    num_steps: jax.Array


def sgld(posterior: Posterior, step_size: StepSize, temperature: float = 1.0) -> SamplingAlgorithm:
    """SGLD (Welling and Teh 2011): x' = x + ε ∇log p̂(x) + √(2εT) z, z ~ N(0, I).

    One gradient a step. The batch gradient's noise comes on top of z: with covariance Σ it heats by about εΣ/2, so the
    step has to be small against 2/Σ, and decreasing in the theory.

    Args:
        posterior: the target.
        step_size: ε, in units of a squared parameter; a positive number or a schedule `step_size(count)`.
        temperature: T.

    Raises:
        ValueError: if `step_size` or `temperature` is not positive and finite.

    Example:
        >>> import jax.numpy as jnp, smilax as sx
        >>> posterior = sx.Posterior(lambda x: -0.5 * jnp.sum(x**2), lambda x, batch: batch @ x, 100)
        >>> sx.sgld(posterior, step_size=1e-3).config["name"]
        'sgld'
    """
    check_posterior(posterior)
    check_step_size(step_size)
    check_positive("temperature", temperature)
    # NumPy numbers would widen single precision.
    temperature = float(temperature)
    step_size_at = schedule(step_size)

    def init(key, params):
        check_params(params)
        return SgldState(params, jnp.zeros((), jnp.int32))

    def step(key, state, batch):
        dtype = jnp.result_type(*jax.tree.leaves(state.params))
        eps = step_size_at(state.num_steps).astype(dtype)
        value, gradient = posterior.value_and_grad(state.params, batch)
        amplitude = jnp.sqrt(2 * temperature * eps)
        moved = jax.tree.map(
            lambda x, g, z: x + eps * g + amplitude * z, state.params, gradient, trees.normal_like(key, state.params)
        )
        valid = jnp.isfinite(trees.dot(gradient, gradient)) & jnp.isfinite(value.total)
        info = Info(value.total, jnp.full((), jnp.nan, value.total.dtype), eps, valid.astype(dtype))
        return SgldState(trees.where(valid, moved, state.params), state.num_steps + 1), info

    return SamplingAlgorithm(
        init=init,
        warmup=lambda key, state, batch, fraction: step(key, state, batch),
        step=step,
        config={
            "name": "sgld",
            "step_size": describe(step_size),
            "temperature": float(temperature),
            "batches": "mini",
        },
        posterior=posterior,
    )
