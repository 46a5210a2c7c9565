"""One step of the published samplers: SMILE and pSMILE, whatever finds their step size.

The kick-first minimal-norm integrator on one batch, its diagonal mass matrix from moving moments of the gradient, and
what becomes of a step that is undone (see `smilax.samplers.smile`).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from smilax import trees
from smilax.geometry import Identity
from smilax.microcanonical import draw_velocity, kick_first
from smilax.posterior import Posterior
from smilax.samplers.base import Info, SamplingAlgorithm, StepSize, check_params, check_posterior, describe, schedule
from smilax.tuning import QuantileRule, QuantileState, quantile_init, quantile_update

MOVING_WEIGHT = 0.01
SCALE_RANGE = (1e-2, 1e4)


class NoiseScale(NamedTuple):
    """The diagonal mass matrix M = diag(s²) of pSMILE, kept as the moving moments that s comes from.

    s² is `gain` · clip(variance, low, 10⁸): no array of its own, as it is cheap to work out wherever it is used.

    Attributes:
        mean, variance: moving moments of the gradient, pytrees like the parameters.
        low: least variance that counts, shape `()`.
        gain: makes the mean of s² one, shape `()`.
    """

    mean: Any
    variance: Any
    low: jax.Array
    gain: jax.Array

    def squares(self) -> Any:
        """s², a pytree like the parameters."""
        # With scalar bounds; `jnp.clip` makes arrays of them, which the compiler was seen to keep.
        high = _highest(self.low)
        return jax.tree.map(lambda x: self.gain * jax.lax.clamp(self.low, x, high), self.variance)

    def precondition(self, gradient: Any) -> Any:
        return jax.tree.map(jnp.divide, gradient, self.squares())

    def quadratic(self, velocity: Any) -> jax.Array:
        return trees.total(jax.tree.map(lambda v, square: v * v * square, velocity, self.squares()))

    def sample(self, key: jax.Array, like: Any) -> Any:
        return self.velocity(trees.normal_like(key, like))

    def whiten(self, gradient: Any) -> Any:
        """g/s."""
        return self._divided(gradient)

    def velocity(self, momentum: Any) -> Any:
        """v = u/s."""
        return self._divided(momentum)

    def _divided(self, tree: Any) -> Any:
        return jax.tree.map(lambda x, square: x * jax.lax.rsqrt(square), tree, self.squares())

    def after(self, gradient: Any, valid: jax.Array, floor: float) -> "NoiseScale":
        """With one more gradient, if it is valid; `floor` is the least s against its root mean square."""
        w = MOVING_WEIGHT
        # No weight, not even zero, makes a NaN harmless. With m + w (g - m) a chain differed in its last bit with the
        # number of chains beside it.
        mean = jax.tree.map(lambda m, g: jnp.where(valid, (1 - w) * m + w * g, m), self.mean, gradient)
        variance = jax.tree.map(
            lambda s, m, g: jnp.where(valid, (1 - w) * s + w * (g - m) ** 2, s), self.variance, mean, gradient
        )
        # As `max` and `min` the bounds are taken while the sum is; the compiler would write a `clamp` down.
        low, high = jax.lax.optimization_barrier((self.low, _highest(self.low)))
        bounded = jax.tree.map(lambda x: jnp.minimum(jnp.maximum(x, low), high), variance)
        typical = trees.total(bounded) / trees.size(mean)
        return NoiseScale(mean, variance, jnp.maximum(SCALE_RANGE[0] ** 2, floor**2 * typical), 1 / typical)


def _highest(like: jax.Array) -> jax.Array:
    return jnp.asarray(SCALE_RANGE[1] ** 2, like.dtype)


class SmileState(NamedTuple):
    """State of the published samplers.

    Attributes:
        params: position.
        momentum: u = s v, uᵀu = 1.
        gradient: the last step's last gradient, used by the next step's first kick; zeros before the first step.
        scale: the preconditioner, or None.
        tuner: energy moments and step size, or None.
        log_density: of the position, on the batch that led to it, shape `()`, where the tuner compares batches; NaN
            before the first step.
        num_steps: steps taken.
    """

    params: Any
    momentum: Any
    gradient: Any
    scale: NoiseScale | None
    tuner: QuantileState | None
    log_density: jax.Array | None
    num_steps: jax.Array


def published(
    name: str,
    posterior: Posterior,
    step_size: StepSize,
    preconditioned: bool,
    rule: QuantileRule | None,
    adapt_after_warmup: bool,
    scale_floor: float = 0.0,
) -> SamplingAlgorithm:
    """The published sampler of this name: with a preconditioner or without, and with `rule` to find the step size."""
    check_posterior(posterior)
    scale_floor = float(scale_floor)  # a NumPy number would widen single precision
    step_size_at: Callable[[jax.Array], jax.Array] = schedule(step_size)
    between_batches = rule is not None and rule.energy == "between_batches"

    def init(key, params):
        check_params(params, turning=True)
        dtype = jnp.result_type(*jax.tree.leaves(params))
        zeros, ones = jax.tree.map(jnp.zeros_like, params), jax.tree.map(jnp.ones_like, params)
        count, one = jnp.zeros((), jnp.int32), jnp.ones((), dtype)
        return SmileState(
            params=params,
            momentum=draw_velocity(key, params, Identity()),
            gradient=zeros,
            scale=NoiseScale(zeros, ones, jnp.asarray(SCALE_RANGE[0] ** 2, dtype), one) if preconditioned else None,
            tuner=quantile_init(step_size_at(count).astype(dtype)) if rule else None,
            log_density=jnp.full((), jnp.nan, dtype) if between_batches else None,
            num_steps=count,
        )

    def advance(state, batch, adapt):
        dtype = jnp.result_type(*jax.tree.leaves(state.params))
        eps = state.tuner.step_size if rule else step_size_at(state.num_steps).astype(dtype)
        # The dynamics hold uᵀu at one as long as there is noise; with all data in the batch rounding would win.
        norm = jnp.sqrt(trees.dot(state.momentum, state.momentum)) if preconditioned else 1.0
        moved = kick_first(
            lambda params: posterior.value_and_grad(params, batch),
            state.params,
            state.momentum,
            state.gradient,
            state.scale if preconditioned else Identity(),
            eps,
            norm,
        )
        density = moved.second.total
        if rule:
            error = moved.kinetic - (density - state.log_density) if between_batches else moved.energy_error
            tuner, accepted = quantile_update(rule, state.tuner, error, moved.valid, adapt)
        else:
            tuner, accepted = None, moved.valid
        if between_batches:
            # The first step that is finite has no batch to be compared with.
            first = jnp.isnan(state.log_density) & moved.valid
            tuner, accepted = trees.where(first, state.tuner, tuner), accepted | first
        scale = state.scale.after(moved.gradient, moved.valid, scale_floor) if preconditioned else None
        state = SmileState(
            params=trees.where(accepted, moved.params, state.params),
            momentum=trees.where(moved.valid, moved.velocity, jax.tree.map(jnp.negative, state.momentum)),
            gradient=trees.where(accepted, moved.gradient, state.gradient),
            scale=scale,
            tuner=tuner,
            log_density=jnp.where(accepted, density, state.log_density) if between_batches else None,
            num_steps=state.num_steps + 1,
        )
        return state, Info(density, moved.energy_error, eps, accepted.astype(dtype))

    config = {"name": name, "step_size": describe(step_size)}
    if preconditioned:
        config |= {"scale_floor": float(scale_floor)}
    if rule:
        config |= {"adapt_after_warmup": adapt_after_warmup} | rule._asdict()
    return SamplingAlgorithm(
        init=init,
        warmup=lambda key, state, batch, fraction: advance(state, batch, True),
        step=lambda key, state, batch: advance(state, batch, adapt_after_warmup),
        config=config,
        posterior=posterior,
    )
