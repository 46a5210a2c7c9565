"""Step-size rules driven by the energy error of single steps."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtri


class QuantileRule(NamedTuple):
    """The published energy-quantile tuner (arXiv 2602.06500; DESIGN 2).

    The energy errors E = |ΔE| of recent steps have exponential mean μ and variance σ²; a Gamma law of shape
    k = μ²/σ² and scale θ = σ²/μ is fitted to them, with quantiles by Wilson and Hilferty (1931),
    q(p) = θ k (1 − 1/(9k) + z_p/(3√k))³. A step with E > q(reset) is undone; E > q(1 − 2a/3) shrinks the step size by
    (1 − δ), and E < q(a/3) grows it by (1 + δ).

    The rule compares E with its own recent past, so it has no fixed point in the step size: where E has a heavier
    tail than a Gamma law the step size drifts down for as long as the rule is on.

    Departures from the paper: E is taken on one batch (between batches it is batch noise, DESIGN 1.1), q is clipped
    at 0 (its cube is negative for k < 0.57), the moments' start is corrected with β itself, and a step whose energy is
    not finite is undone and shrinks the step size without entering the moments.

    Attributes:
        reset: probability beyond which a step is undone.
        adapt: a, the share of steps that move the step size.
        rate: δ, how far they move it.
        weight: β, the weight of the newest step in the moments.
        patience: number of first steps in which nothing acts.
    """

    reset: float = 0.98
    adapt: float = 0.1
    rate: float = 0.02
    weight: float = 0.01
    patience: int = 10


class QuantileState(NamedTuple):
    """Moments of the energy error and the step size they steer; scalars."""

    mean: jax.Array
    square: jax.Array
    num_steps: jax.Array
    step_size: jax.Array


def quantile_init(step_size: jax.Array) -> QuantileState:
    """The tuner before its first step."""
    zero = jnp.zeros_like(step_size)
    return QuantileState(zero, zero, jnp.zeros((), jnp.int32), step_size)


def gamma_quantile(mean: jax.Array, variance: jax.Array, probability: float) -> jax.Array:
    """Quantile of the Gamma law with these moments, by Wilson and Hilferty, clipped at 0."""
    shape = mean**2 / variance
    z = ndtri(jnp.asarray(probability, mean.dtype))
    return mean * jnp.maximum(1 - 1 / (9 * shape) + z / (3 * jnp.sqrt(shape)), 0) ** 3


def quantile_update(
    rule: QuantileRule, state: QuantileState, energy_error: jax.Array, valid: jax.Array, adapt: bool
) -> tuple[QuantileState, jax.Array]:
    """The tuner after one step, and whether the step stands.

    Args:
        rule: settings.
        state: moments before the step.
        energy_error: ΔE of the step, shape `()`.
        valid: whether the step is finite at all.
        adapt: whether the step size may move (static).
    """
    error = jnp.where(valid, jnp.abs(energy_error), 0)
    corrected = 1 - (1 - rule.weight) ** jnp.maximum(state.num_steps, 1).astype(error.dtype)
    mean = state.mean / corrected
    variance = jnp.maximum(state.square / corrected - mean**2, jnp.finfo(error.dtype).tiny)
    acting = (state.num_steps >= rule.patience) & (mean > 0)

    def beyond(probability):
        if probability >= 1:
            return jnp.zeros((), bool)
        return acting & (error > gamma_quantile(mean, variance, probability))

    accepted = valid & ~beyond(rule.reset)
    step_size = state.step_size
    if adapt and rule.adapt > 0:
        shrink = ~valid | beyond(1 - 2 * rule.adapt / 3)
        grow = valid & acting & (error < gamma_quantile(mean, variance, rule.adapt / 3))
        step_size = step_size * jnp.where(shrink, 1 - rule.rate, jnp.where(grow, 1 + rule.rate, 1))
    moments = QuantileState(
        mean=(1 - rule.weight) * state.mean + rule.weight * error,
        square=(1 - rule.weight) * state.square + rule.weight * error**2,
        num_steps=state.num_steps + 1,
        step_size=state.step_size,
    )
    moments = jax.tree.map(lambda new, old: jnp.where(valid, new, old), moments, state)
    return moments._replace(step_size=step_size), accepted
