"""The tuner of MILE: step size and decoherence length of full-batch microcanonical dynamics, in three phases."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from smilax.conditional import when
from smilax.packing import flatten

# Fractions of warm-up at which the second and third phase begin.
SECOND_PHASE, THIRD_PHASE = 0.8, 0.9
# What the third phase looks at: so many positions, evenly spaced, of so many parameters.
SNAPSHOTS, LOOKED_AT = 400, 256
LEAST_SNAPSHOTS = 4
# L is this times the distance travelled in an autocorrelation time.
LENGTH_FACTOR = 0.4
# The step size forgets in about this many steps, and one of ΔE a factor e^6·trust off the target counts little.
EFFECTIVE_STEPS, TRUST = 100, 1.5
# After a step that is not finite no step is longer than this times it.
SHRINK = 0.8


class MileState(NamedTuple):
    """What the tuner carries along; scalars but for the last three.

    Attributes:
        step_size: ε.
        length: L.
        largest: ε may not exceed this any more.
        total, weight: decaying sums of weight · Var(ΔE)/ε⁶ and of the weights.
        num_steps: warm-up steps taken.
        seen: Σε in the second phase.
        snapshots: number of positions kept in the third.
        mean, square: ε-weighted means of x and x² in the second phase, shape `(d,)`.
        trail: positions of the third, shape `(SNAPSHOTS, k)`.
    """

    step_size: jax.Array
    length: jax.Array
    largest: jax.Array
    total: jax.Array
    weight: jax.Array
    num_steps: jax.Array
    seen: jax.Array
    snapshots: jax.Array
    mean: jax.Array
    square: jax.Array
    trail: jax.Array


def mile_init(params: Any, step_size: float, length: float) -> MileState:
    """The tuner before its first step."""
    flat = flatten(params)
    zero, none = jnp.zeros((), flat.dtype), jnp.zeros((), jnp.int32)
    return MileState(
        step_size=jnp.asarray(step_size, flat.dtype),
        length=jnp.asarray(length, flat.dtype),
        largest=jnp.asarray(jnp.finfo(flat.dtype).max, flat.dtype),
        total=zero,
        weight=zero,
        num_steps=none,
        seen=zero,
        snapshots=none,
        mean=jnp.zeros_like(flat),
        square=jnp.zeros_like(flat),
        trail=jnp.zeros((SNAPSHOTS, min(LOOKED_AT, flat.size)), flat.dtype),
    )


def mile_update(
    state: MileState,
    params: Any,
    energy_error: jax.Array,
    valid: jax.Array,
    fraction: jax.Array,
    energy_variance: tuple[float, float],
    tune_length: bool,
) -> MileState:
    """The tuner after one warm-up step (Sommer et al. 2025, after Robnik et al. 2023).

    While `fraction` < 0.9 the step size follows Var(ΔE)/d = target: with ξ = ΔE²/(d · target), ε⁻⁶ is the mean of
    ξ/ε⁶ over past steps, with weights exp(−½ (log ξ/9)²) that also decay with age. The target falls linearly from the
    first to the second value. From 0.8 on means and variances of the parameters are taken, and L is the root of the
    summed variances at 0.9. Then ε is fixed, and at the end L = 0.4 ε τ, τ the mean autocorrelation time in steps.

    Args:
        state: before the step.
        params: the position after it.
        energy_error: ΔE of the whole step, in nats, shape `()`.
        valid: whether the step is finite; one whose ΔE²/ε⁶ overflows is taken for one that is not.
        fraction: how far warm-up has come, in [0, 1).
        energy_variance: the target, per parameter, at the start and at 0.9 of warm-up, in nats².
        tune_length: whether L moves (static).
    """
    flat = flatten(params)
    dtype = flat.dtype
    fraction = jnp.asarray(fraction, dtype)
    eps = state.step_size
    # A run that goes on from another may warm up once more.
    begun = fraction > 0
    state = state._replace(
        num_steps=jnp.where(begun, state.num_steps, 0),
        seen=jnp.where(begun, state.seen, 0),
        snapshots=jnp.where(begun, state.snapshots, 0),
    )
    moving = fraction < THIRD_PHASE

    first, last = energy_variance
    target = first + (last - first) * jnp.minimum(fraction / THIRD_PHASE, 1)
    valid = valid & jnp.isfinite(energy_error**2 / target / eps**6)
    # Not to take the logarithm of zero; so small an error has little weight.
    xi = jnp.where(valid, energy_error, 0) ** 2 / (flat.size * target) + 1e-8
    weight = jnp.where(valid, jnp.exp(-0.5 * (jnp.log(xi) / (6 * TRUST)) ** 2), 0)
    decay = (EFFECTIVE_STEPS - 1) / (EFFECTIVE_STEPS + 1)
    largest = jnp.where(valid, state.largest, jnp.minimum(state.largest, SHRINK * eps))
    total = decay * state.total + weight * xi / eps**6
    weights = decay * state.weight + weight
    found = jnp.where(weights > 0, (jnp.maximum(total, jnp.finfo(dtype).tiny) / weights) ** (-1 / 6), eps)
    state = state._replace(
        step_size=jnp.where(moving, jnp.minimum(found, largest), eps),
        largest=largest,
        total=jnp.where(moving, total, state.total),
        weight=jnp.where(moving, weights, state.weight),
        num_steps=state.num_steps + 1,
    )
    if not tune_length:
        return state

    counted = jnp.where(valid & (fraction >= SECOND_PHASE) & moving, eps, 0)
    seen = state.seen + counted
    share = jnp.where(seen > 0, counted / jnp.maximum(seen, jnp.finfo(dtype).tiny), 0)
    state = state._replace(
        seen=seen,
        mean=state.mean + share * (flat - state.mean),
        square=state.square + share * (flat * flat - state.square),
    )
    # The number of warm-up steps follows from where this one stands.
    steps = jnp.round((state.num_steps - 1).astype(dtype) / jnp.maximum(fraction, 1e-6))
    spread = jnp.sqrt(jnp.sum(jnp.maximum(state.square - state.mean**2, 0)))
    third = steps - jnp.ceil(THIRD_PHASE * steps)
    thinning = jnp.maximum(jnp.ceil(third / SNAPSHOTS), 1)
    place = state.num_steps.astype(dtype) - 1 - jnp.ceil(THIRD_PHASE * steps)
    begins = ~moving & (state.snapshots == 0) & (spread > 0)
    state = state._replace(length=jnp.where(begins, spread, state.length))
    looking = ~moving & (place % thinning == 0) & (state.snapshots < SNAPSHOTS)
    columns = jnp.linspace(0, flat.size - 1, state.trail.shape[1]).astype(jnp.int32)
    row = jnp.minimum(state.snapshots, SNAPSHOTS - 1)
    trail = state.trail.at[row].set(jnp.where(looking, flat[columns], state.trail[row]))
    state = state._replace(trail=trail, snapshots=state.snapshots + looking.astype(jnp.int32))

    def finished(carry):
        state, thinning = carry
        time = autocorrelation_time(state.trail, state.snapshots) * thinning
        length = LENGTH_FACTOR * state.step_size * time
        length = jnp.where(jnp.isfinite(length) & (length > 0), length, state.length)
        return state._replace(length=length), thinning

    over = (state.num_steps.astype(dtype) >= steps) & ~moving & (state.snapshots >= LEAST_SNAPSHOTS)
    return when(over, finished, (state, thinning))[0]


def autocorrelation_time(trail: jax.Array, count: jax.Array) -> jax.Array:
    """The mean integrated autocorrelation time of the columns, in rows; shape `()`.

    1 + 2 Σ ρ_k, cut off where the sum of two neighbours is negative (Geyer 1992). Columns that stand still are
    left out; NaN if all do.

    Args:
        trail: one chain's positions, shape `(n, k)`.
        count: how many of the rows, from the first, are filled; shape `()`.
    """
    rows = trail.shape[0]
    filled = (jnp.arange(rows, dtype=jnp.int32) < count)[:, None]
    size = jnp.maximum(count, 1).astype(trail.dtype)
    mean = jnp.sum(jnp.where(filled, trail, 0), axis=0, keepdims=True) / size
    centred = jnp.where(filled, trail - mean, 0)
    power = jnp.abs(jnp.fft.rfft(centred, 2 * rows, axis=0)) ** 2
    covariance = jnp.fft.irfft(power, 2 * rows, axis=0)[: rows // 2 * 2].astype(trail.dtype)
    alive = covariance[:1] > 0
    correlation = jnp.where(alive, covariance / jnp.where(alive, covariance[:1], 1), 0)
    pairs = correlation[0::2] + correlation[1::2]
    times = 2 * jnp.sum(pairs * jnp.cumprod(pairs > 0, axis=0).astype(trail.dtype), axis=0) - 1
    return jnp.sum(jnp.where(alive[0], times, 0)) / jnp.sum(alive[0].astype(trail.dtype))
