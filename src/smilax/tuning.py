"""Step-size rules driven by the energy error of single steps."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtri

Energy = Literal["between_batches", "one_batch"]


class QuantileRule(NamedTuple):
    """The published energy-quantile tuner (arXiv 2602.06500).

    The energy errors E = |ΔE| of recent steps have exponential mean μ and variance σ²; a Gamma law of shape
    k = μ²/σ² and scale θ = σ²/μ is fitted to them, with quantiles by Wilson and Hilferty (1931),
    q(p) = θ k (1 − 1/(9k) + z_p/(3√k))³. A step with E > q(reset) is undone; E > q(1 − 2a/3) shrinks the step size by
    (1 − δ), and E < q(a/3) grows it by (1 + δ).

    The rule compares E with its own recent past and knows no scale: where E grows with the step size and has a heavier
    tail than a Gamma law, the step size drifts down for as long as the rule is on. What E is decides how fast
    (docs/theory.md). Between batches, E is the change of kinetic energy less the difference of the log densities of the
    new position on the new batch and the old position on the old one: mostly batch noise, whatever the step size. This
    is what the paper's implementation does. On one batch E is the integrator's own error, whose tail is heavy.

    Departures from the paper's implementation: q is clipped at 0 (its cube is negative for k < 0.57), the moments'
    start is corrected with β itself, all of a step's kicks count, an undone step leaves no density behind, and a step
    whose energy is not finite is undone and shrinks the step size without entering the moments.

    Attributes:
        reset: probability beyond which a step is undone.
        adapt: a, the share of steps that move the step size.
        rate: δ, how far they move it.
        weight: β, the weight of the newest step in the moments.
        patience: number of first steps in which nothing acts.
        energy: what E is, "between_batches" or "one_batch".
    """

    reset: float = 0.98
    adapt: float = 0.1
    rate: float = 0.02
    weight: float = 0.01
    patience: int = 10
    energy: Energy = "between_batches"


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
        valid: whether the step is finite at all; one whose ΔE² overflows is taken for one that is not.
        adapt: whether the step size may move (static).
    """
    # Moments that hold an infinite square would be of no use ever after.
    valid = valid & jnp.isfinite(energy_error**2)
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


class VarianceRule(NamedTuple):
    """Steers the step size to an energy error of given variance (EEVPD; Robnik et al. 2023, docs/theory.md).

    Steps are taken in blocks. EEVPD = Var(ΔE)/d of a block is proportional to ε⁶ on a smooth target, so after a block

        log ε ← log ε − gain/6 · log(EEVPD / target),   at most a factor `most` up or down,

    with gain 1 until `settle` of warm-up and then falling as the inverse of the number of blocks (Robbins and Monro
    1951); the step size used for sampling is the mean of log ε over those last blocks (Polyak and Juditsky 1992), a
    single one of which pulls no harder than a factor `most` away from the mean would. Blocks are short at first, so
    that any start between 10⁻⁶ and 10 is left within a few hundred steps.

    A rejected step ends its block and shrinks ε at once. After the short blocks that is a retreat: a run of rejects,
    where a chain has come to a steep place, may shrink ε as far as it takes, but with the next whole block ε is back to
    no less than 1/`most` of what it was (or nearer, by the gain). Else one bad place late in warm-up, when the gain
    is too small for growth, would leave a chain frozen.

    Attributes:
        target: EEVPD to steer to, nats² per parameter.
        settle: fraction of warm-up after which the gain falls.
        first_blocks: number of short blocks.
        short, long: steps in a short and in any later block.
        most: largest factor by which one block moves the step size.
    """

    target: float
    settle: float = 0.75
    first_blocks: int = 20
    short: int = 10
    long: int = 50
    most: float = 3.0


class VarianceState(NamedTuple):
    """Moments of the current block, the step size, and its average.

    Attributes:
        log_step: log ε.
        anchor: log ε after the last whole block.
        average: mean of log ε over the blocks since `settle`.
        averaged: how many those are, int32.
        blocks: number of blocks so far, int32.
        filled: steps in the current block, int32.
        mean, square: running mean and sum of squared deviations of ΔE in the block.
        eevpd: Var(ΔE)/d, averaged over about the last ten blocks.
        center: mean ΔE, likewise.
    """

    log_step: jax.Array
    anchor: jax.Array
    average: jax.Array
    averaged: jax.Array
    blocks: jax.Array
    filled: jax.Array
    mean: jax.Array
    square: jax.Array
    eevpd: jax.Array
    center: jax.Array


def variance_init(step_size: jax.Array) -> VarianceState:
    """The tuner before its first step."""
    zero, none = jnp.zeros_like(step_size), jnp.zeros((), jnp.int32)
    log_step = jnp.log(step_size)
    return VarianceState(log_step, log_step, log_step, none, none, none, zero, zero, zero, zero)


def variance_update(
    rule: VarianceRule,
    state: VarianceState,
    energy_error: jax.Array,
    accepted: jax.Array,
    num_params: int,
    fraction: jax.Array,
    largest: jax.Array,
) -> VarianceState:
    """The tuner after one warm-up step.

    Args:
        rule: settings.
        state: before the step.
        energy_error: ΔE, shape `()`.
        accepted: whether the step stood.
        num_params: d.
        fraction: how far warm-up has come, in [0, 1).
        largest: the step size may not exceed this (the noise limit).
    """
    dtype = energy_error.dtype
    error = jnp.where(accepted, energy_error, state.mean)
    filled = state.filled + 1
    difference = error - state.mean
    mean = state.mean + difference / filled.astype(dtype)
    square = state.square + difference * (error - mean)
    length = jnp.where(state.blocks < rule.first_blocks, rule.short, rule.long)
    full = filled >= length
    done = full | ~accepted
    variance = square / jnp.maximum(filled - 1, 1).astype(dtype)
    eevpd = variance / num_params
    late = fraction >= rule.settle
    gain = jnp.where(late, 1 / (1 + state.averaged.astype(dtype) / 4), 1)
    move = -gain / 6 * (jnp.log(eevpd + jnp.finfo(dtype).tiny) - jnp.log(jnp.asarray(rule.target, dtype)))
    move = jnp.clip(move, -jnp.log(rule.most), jnp.log(rule.most))
    # A reject says that the step is far too long here, unless such steps are as rare as late in warm-up.
    whole, most = full & accepted, jnp.log(jnp.asarray(rule.most, dtype))
    searching = state.blocks < rule.first_blocks
    least = jnp.where(searching, -jnp.inf, state.anchor - gain * most)
    log_step = jnp.where(whole, jnp.maximum(state.log_step + move, least), state.log_step - gain * most / 2)
    log_step = jnp.where(done, jnp.minimum(log_step, jnp.log(largest)), state.log_step)
    # Steps of no length at all would never be left again.
    log_step = jnp.maximum(log_step, jnp.log(jnp.finfo(dtype).tiny) / 4)
    counted = whole & late
    averaged = state.averaged + counted.astype(jnp.int32)
    pull = jnp.where(averaged > 1, jnp.clip(log_step - state.average, -most, most), log_step - state.average)
    average = state.average + jnp.where(counted, pull / jnp.maximum(averaged, 1).astype(dtype), 0)
    weight = jnp.where(whole, jnp.maximum(0.1, 1 / (state.blocks + 1).astype(dtype)), 0)
    return VarianceState(
        log_step=log_step,
        anchor=jnp.where(whole | searching, log_step, state.anchor),
        average=jnp.where(late, average, jnp.where(whole | searching, log_step, state.average)),
        averaged=averaged,
        blocks=state.blocks + done.astype(jnp.int32),
        filled=jnp.where(done, 0, filled),
        mean=jnp.where(done, 0, mean),
        square=jnp.where(done, 0, square),
        eevpd=state.eevpd + weight * (eevpd - state.eevpd),
        center=state.center + weight * (mean - state.center),
    )
