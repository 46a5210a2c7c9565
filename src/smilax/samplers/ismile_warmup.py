"""Warm-up of ismile: the descent, and then mass matrix and step size, learnt together until both are frozen."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from smilax import trees
from smilax.conditional import when
from smilax.geometry.base import NoiseEstimate
from smilax.microcanonical import draw_velocity, normalize
from smilax.noise import rows
from smilax.samplers.damping import damping
from smilax.samplers.descent import descend
from smilax.samplers.ismile_kernel import INFLATION, Kernel, limits, split_step, whole_step
from smilax.samplers.ismile_state import IsmileInfo, IsmileState
from smilax.tuning import VarianceRule, variance_init, variance_update

# What the kick correction leaves of an inflation r is about this times r² (measured: 3.2 % became 0.1 %, 9.1 % 1.1 %).
RESIDUAL = 1.2
# Discretisation by curvature inflates variances by about this times EEVPD^{1/3} (logistic regression, breast-cancer).
CURVATURE = 0.6
# The share of the accuracy that the noise limit may use up.
NOISE_SHARE = 1 / 3
# Where a single row is all that is known of a direction, its noise comes as one kick in N/B steps, and the inflation
# may be N/B times that of steady noise (docs/theory.md). There it may be so many times the accuracy.
LONE_ROW_SHARE = 4.0
# Fractions of warm-up at which the geometry is factored; bases are chosen anew up to `LAST_ROTATION`.
FACTORED_AT = (0.002, 0.005, 0.01, 0.02, 0.04, 0.07, 0.11, 0.16, 0.22, 0.3, 0.4, 0.5, 0.6, 0.7)
LAST_ROTATION = 0.45
# Once the step size has been found roughly, one step of warm-up in so many measures the energy error.
MEASURED_EVERY = 4
# So many steps of warm-up, the short blocks of the step-size rule, all do.
SEARCH = VarianceRule(0.0).first_blocks * VarianceRule(0.0).short
# Power of the step number with which noise draws are weighted: early ones, from the transient, fade.
WEIGHT_POWER = 2
# No geometry is made from fewer draws.
LEAST_DRAWS = 20


@dataclass(frozen=True, eq=False)
class Warmup:
    """A step of warm-up, as `SamplingAlgorithm.warmup`, and what it goes by.

    Attributes:
        kernel: what does not change along a chain.
        estimate_for: the noise estimate of these parameters.
        splits: whether steps take such a batch in halves.
        rule: what steers the step size.
        accuracy, noise_floor, shrinkage, step_size, endless, descent: as for `ismile`.
    """

    kernel: Kernel
    estimate_for: Callable[[Any], NoiseEstimate]
    splits: Callable[[Any], bool]
    rule: VarianceRule
    accuracy: float
    noise_floor: float
    shrinkage: float
    step_size: float | None
    endless: bool
    descent: float

    def __call__(
        self, key: jax.Array, state: IsmileState, batch: Any, fraction: jax.Array
    ) -> tuple[IsmileState, IsmileInfo]:
        state = self._begun_again(state, fraction)
        descent = self.descent
        if not descent:
            return self._adapt(key, state, batch, fraction)
        climbing = (state.num_steps == 0) & (fraction < descent)
        carry = when(climbing, self._climb, (state, self._blank_info(state)), batch, fraction / descent)

        def go_on(carry, key, batch, fraction):
            state, _ = carry
            start = jax.random.fold_in(key, 2)
            velocity = when(
                state.num_steps == 0,
                lambda velocity, key, *rest: draw_velocity(key, *rest),
                state.velocity, start, state.params, state.geometry,
            )  # fmt: skip
            return self._adapt(key, state._replace(velocity=velocity), batch, fraction)

        return when(~climbing, go_on, carry, key, batch, jnp.maximum(fraction - descent, 0) / (1 - descent))

    def _climb(self, carry: tuple, batch: Any, progress: jax.Array) -> tuple:
        state, info = carry
        density, gradient = self.kernel.posterior.value_and_grad(state.params, batch)
        # The mass matrix is the identity so far: a direction of norm one is a velocity, and needs no array of its own.
        progressed, direction, params = descend(state.descent, state.velocity, state.params, gradient, progress)
        state = state._replace(params=params, velocity=direction, descent=progressed)
        return state, info._replace(log_density=density.total)

    def _begun_again(self, state: IsmileState, fraction: jax.Array) -> IsmileState:
        """At the first step of another warm-up: what was learnt holds until there is something better."""
        again = (fraction == 0) & (state.num_steps > 0)
        tuner = state.tuner
        if self.step_size is None:
            tuner = trees.where(again, variance_init(jnp.exp(tuner.average)), tuner)
        return state._replace(
            # From here on draws are weighted as if they were the first; a chain that has moved does not descend.
            num_steps=jnp.where(again, 1, state.num_steps),
            factored=jnp.where(again, jnp.minimum(state.factored, 1), state.factored),
            tuner=tuner,
        )

    def _adapt(
        self, key: jax.Array, state: IsmileState, batch: Any, fraction: jax.Array
    ) -> tuple[IsmileState, IsmileInfo]:
        dtype = state.tuner.log_step.dtype
        kernel, fraction = self.kernel, jnp.asarray(fraction, jnp.float32)
        state, info, measured = self._advance(key, state, batch)
        rate, _ = limits(kernel, state, batch)
        ratio = noise_limit(self.accuracy, 0.0 if self.endless else kernel.posterior.num_data / rows(batch))
        largest = jnp.sqrt(ratio / jnp.maximum(rate, jnp.finfo(dtype).tiny))
        tuner = state.tuner
        accepted = info.accepted > 0
        after = variance_update(
            self.rule, tuner, info.energy_error, accepted, trees.size(state.params), fraction.astype(dtype), largest
        )
        if self.step_size is not None:
            after = after._replace(log_step=tuner.log_step, anchor=tuner.anchor, average=tuner.average)
        # A reject tells of the step size also where the energy error is not known.
        tuner = trees.where(measured | ~accepted, after, tuner)
        state = state._replace(tuner=tuner, num_steps=state.num_steps + 1)
        times = jnp.asarray([*FACTORED_AT, 2.0], jnp.float32)
        due = (fraction >= times[state.factored]) & (state.num_steps >= LEAST_DRAWS)
        turning = fraction < LAST_ROTATION
        # In turn: with batched LAPACK calls XLA's CPU client was seen to wait for ever.
        state = when(due, lambda s, turning: self._refactored(s, rows(batch), turning), state, turning, in_turn=True)
        return state, info

    def _advance(self, key: jax.Array, state: IsmileState, batch: Any) -> tuple[IsmileState, IsmileInfo, jax.Array]:
        """A step of warm-up, and whether it has measured the energy error."""
        if not self.splits(batch):
            return *self._moved(whole_step, key, state, batch), jnp.ones((), bool)
        searching = state.tuner.blocks < self.rule.first_blocks
        measuring = searching | (state.num_steps % MEASURED_EVERY == 0)
        carry = (state, self._blank_info(state))
        for chosen, step in ((measuring, whole_step), (~measuring, split_step)):
            carry = when(
                chosen, lambda carry, key, batch, step=step: self._moved(step, key, carry[0], batch), carry, key, batch
            )
        return *carry, measuring

    def _moved(self, step: Any, key: jax.Array, state: IsmileState, batch: Any) -> tuple[IsmileState, IsmileInfo]:
        state, info, draw = step(self.kernel, key, state, batch, jnp.exp(state.tuner.log_step), True)
        return self._observed(state, draw), info

    def _observed(self, state: IsmileState, draw: Any) -> IsmileState:
        """With one more draw of the gradient noise."""
        # Polynomial-decay averaging (Shamir and Zhang 2013): weights grow as a power of the step number.
        count = state.num_steps.astype(state.tuner.log_step.dtype)
        weight = (WEIGHT_POWER + 1) / (count + WEIGHT_POWER + 1)
        finite = jnp.isfinite(trees.dot(draw, draw))
        draw = trees.where(finite, draw, jax.tree.map(jnp.zeros_like, draw))
        return state._replace(
            stats=self.estimate_for(state.params).update(state.stats, draw, jnp.where(finite, weight, 0))
        )

    def _refactored(self, state: IsmileState, batch_size: int, turning: jax.Array) -> IsmileState:
        estimate = self.estimate_for(state.params)
        stats = when(turning, estimate.rotate, state.stats)
        means = estimate.leaf_means(stats)
        levels = damping(self.kernel.posterior, state.params, means, batch_size, self.noise_floor, self.shrinkage)
        factored = estimate.factor(stats, levels)
        velocity = normalize(state.velocity, factored.geometry)
        return state._replace(
            velocity=velocity,
            geometry=factored.geometry,
            scale=factored.scale,
            damping=factored.damping if self.kernel.matched_noise else state.damping,
            stats=stats,
            factored=state.factored + 1,
        )

    def _blank_info(self, state: IsmileState) -> IsmileInfo:
        eps = jnp.exp(state.tuner.log_step)
        zero, one = jnp.zeros_like(eps), jnp.ones_like(eps)
        return IsmileInfo(zero, zero, eps, one, zero, zero, zero)


def noise_limit(accuracy: float, dilution: float) -> float:
    """The largest ε/L_eff that batch noise allows at a dilution N/B of the data; 0 where no row stands alone."""
    steady = (NOISE_SHARE * accuracy / RESIDUAL) ** 0.5
    lone = LONE_ROW_SHARE * accuracy / dilution if dilution else steady
    return min(steady, lone) / INFLATION
