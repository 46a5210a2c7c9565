"""Preconditioned stochastic gradient Langevin dynamics: SGLD with RMSprop's scale for each parameter."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from smilax import trees
from smilax.posterior import Posterior
from smilax.samplers.base import (
    Info,
    SamplingAlgorithm,
    StepSize,
    check_number,
    check_params,
    check_positive,
    check_posterior,
    check_step_size,
    describe,
    schedule,
)


class PsgldState(NamedTuple):
    """Position, V (a pytree like it, before the correction of its start), gradients in V, and steps taken."""

    params: Any
    square: Any
    averaged: jax.Array
    num_steps: jax.Array


def psgld(
    posterior: Posterior,
    step_size: StepSize,
    *,
    decay: float = 0.99,
    damping: float = 1e-5,
    temperature: float = 1.0,
    adapt_after_warmup: bool = False,
) -> SamplingAlgorithm:
    """Preconditioned SGLD (Li, Chen, Carlson and Carin 2016, algorithm 1, with ε for ε/2).

    V ← αV + (1 − α) ḡ² with ḡ = ∇log p̂(x)/N, G = 1/(λ + √V) elementwise, and
    x' = x + ε G ∇log p̂(x) + √(2εTG) z, z ~ N(0, I). One gradient a step.

    The exact diffusion of a G that depends on the position has a further drift Γ = ∇·G, which needs second derivatives
    and which the authors leave out. Here V is frozen after warm-up: G is a constant then, Γ is zero and nothing is left
    out. With `adapt_after_warmup` V goes on as published, without Γ, and the posterior is biased by as much.
    Further departure: V's start from zero is corrected as in Adam, or the first steps would be 1/√(1 − α) times too
    long. A run without warm-up adapts in its first 1/(1 − α) steps.

    A parameter without gradient (a dead unit) has G = 1/λ and moves accordingly fast. Batch noise of covariance Σ heats
    by about εGΣ/2.

    Args:
        posterior: the target.
        step_size: ε; εG is in units of a squared parameter; a positive number or a schedule `step_size(count)`.
        decay: α, the weight of the past in V, in [0, 1).
        damping: λ, in units of ḡ.
        temperature: T.
        adapt_after_warmup: keep averaging V while sampling; then the chain has no stationary law.

    Raises:
        ValueError: if an argument is outside its range.

    Example:
        >>> import jax.numpy as jnp, smilax as sx
        >>> posterior = sx.Posterior(lambda x: -0.5 * jnp.sum(x**2), lambda x, batch: batch @ x, 100)
        >>> sx.psgld(posterior, step_size=1e-3).config["decay"]
        0.99
    """
    check_posterior(posterior)
    check_step_size(step_size)
    check_number("decay", decay)
    if not 0 <= decay < 1:
        raise ValueError(f"decay must be in [0, 1), got {decay!r}")
    check_positive("damping", damping)
    check_positive("temperature", temperature)
    # NumPy numbers would widen single precision.
    decay, damping, temperature = float(decay), float(damping), float(temperature)
    step_size_at = schedule(step_size)
    window = round(1 / (1 - decay))

    def init(key, params):
        check_params(params)
        none = jnp.zeros((), jnp.int32)
        return PsgldState(params, jax.tree.map(jnp.zeros_like, params), none, none)

    def advance(key, state, batch, adapt):
        dtype = jnp.result_type(*jax.tree.leaves(state.params))
        eps = step_size_at(state.num_steps).astype(dtype)
        value, gradient = posterior.value_and_grad(state.params, batch)
        valid = jnp.isfinite(trees.dot(gradient, gradient)) & jnp.isfinite(value.total)
        adapting = valid & (adapt | (state.averaged < window))
        square = jax.tree.map(
            lambda v, g: jnp.where(adapting, decay * v + (1 - decay) * (g / posterior.num_data) ** 2, v),
            state.square,
            gradient,
        )
        averaged = state.averaged + adapting.astype(jnp.int32)
        corrected = 1 - decay ** jnp.maximum(averaged, 1).astype(dtype)
        scale = jax.tree.map(lambda v: 1 / (damping + jnp.sqrt(v / corrected)), square)
        moved = jax.tree.map(
            lambda x, g, s, z: x + eps * s * g + jnp.sqrt(2 * temperature * eps * s) * z,
            state.params,
            gradient,
            scale,
            trees.normal_like(key, state.params),
        )
        info = Info(value.total, jnp.full((), jnp.nan, value.total.dtype), eps, valid.astype(dtype))
        params = trees.where(valid, moved, state.params)
        return PsgldState(params, square, averaged, state.num_steps + 1), info

    return SamplingAlgorithm(
        init=init,
        warmup=lambda key, state, batch, fraction: advance(key, state, batch, True),
        step=lambda key, state, batch: advance(key, state, batch, adapt_after_warmup),
        config={
            "name": "psgld",
            "step_size": describe(step_size),
            "decay": float(decay),
            "damping": float(damping),
            "temperature": float(temperature),
            "adapt_after_warmup": bool(adapt_after_warmup),
            "batches": "mini",
        },
        posterior=posterior,
    )
