"""The published stochastic microcanonical samplers: SMILE and pSMILE, naive and tuned.

Sommer, Diao, Robnik, Seljak and Rügamer, "Can Microcanonical Langevin Dynamics Leverage Mini-Batch Gradient Noise?"
(ICML 2026, arXiv 2602.06500). One step is the kick-first minimal-norm integrator on one batch, with two new
gradients; batch noise is the only source of randomness.

Preconditioned form: moving averages m ← 0.99 m + 0.01 g and s² ← 0.99 s² + 0.01 (g − m)²; s is clipped to
[1e-2, 1e4] and divided by its root mean square; x moves by ε u/s and momenta u see g/s. In terms of the velocity
v = u/s that is M = diag(s²); the momentum u is kept when s changes.

Departures from the paper's reference implementation, each because the other way is a fault: the velocity starts
uniform on the sphere and not at zero; m is carried over, so that s is a standard deviation; non-finite steps are
undone (with the velocity reversed) and never enter an average; an undone step leaves no gradient and no density behind;
nothing is wiped after warm-up; the energy error of `Info` is the integrator's own, on one batch. The step size adapts
in warm-up only, unless `adapt_after_warmup` says otherwise.

One more departure, from the paper itself: s has a floor relative to its root mean square (`scale_floor`, 0.1; 0 is the
published rule). A parameter that the data have no say in, such as those of a dead ReLU unit, has no gradient noise: its
s falls to the clip, 1e-2, where the root mean square may be 100, and a step moves it 10⁴ times as far as the others. By
the published rule three chains of ten were lost so on the energy data at ε = 10⁻³ (RMSE 4 to 7, against 0.04 of the
others); with the floor, which caps that factor at about 10, none.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp

from smilax import trees
from smilax.geometry import Identity
from smilax.microcanonical import draw_velocity, kick_first
from smilax.posterior import Posterior
from smilax.samplers.base import (
    Info,
    SamplingAlgorithm,
    StepSize,
    check_number,
    check_params,
    check_posterior,
    check_probability,
    check_step_size,
    describe,
    schedule,
)
from smilax.tuning import Energy, QuantileRule, QuantileState, quantile_init, quantile_update

MOVING_WEIGHT = 0.01
SCALE_RANGE = (1e-2, 1e4)
SCALE_FLOOR = 0.1


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


def _smile(
    name: str,
    posterior: Posterior,
    step_size: StepSize,
    preconditioned: bool,
    rule: QuantileRule | None,
    adapt_after_warmup: bool,
    scale_floor: float = 0.0,
) -> SamplingAlgorithm:
    check_posterior(posterior)
    step_size_at: Callable[[jax.Array], jax.Array] = schedule(step_size)
    between_batches = rule is not None and rule.energy == "between_batches"

    def init(key, params):
        check_params(params)
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


def smile_naive(posterior: Posterior, step_size: StepSize) -> SamplingAlgorithm:
    """SMILE-naive: no preconditioner, fixed step size (arXiv 2602.06500).

    Args:
        posterior: the target.
        step_size: ε, in units of the parameters (a step moves x by about ε); a positive number or a schedule
            `step_size(count)`.

    Raises:
        ValueError: if `step_size` is not positive and finite.

    Example:
        >>> import jax.numpy as jnp, smilax as sx
        >>> posterior = sx.Posterior(lambda x: -0.5 * jnp.sum(x**2), lambda x, batch: jnp.zeros(len(batch)), 10)
        >>> sx.smile_naive(posterior, step_size=1e-2).config["name"]
        'smile_naive'
    """
    check_step_size(step_size)
    return _smile("smile_naive", posterior, step_size, False, None, False)


def psmile_naive(posterior: Posterior, step_size: StepSize, *, scale_floor: float = SCALE_FLOOR) -> SamplingAlgorithm:
    """pSMILE-naive: preconditioned by the gradient noise's standard deviation, fixed step size (arXiv 2602.06500).

    Memory: five parameter-sized arrays.

    Args:
        posterior: the target.
        step_size: ε, in units of the parameters; a positive number or a schedule `step_size(count)`.
        scale_floor: least s against its root mean square, in [0, 1); 0 is the published rule.

    Raises:
        ValueError: if `step_size` is not positive and finite.

    Example:
        >>> import jax.numpy as jnp, smilax as sx
        >>> posterior = sx.Posterior(lambda x: -0.5 * jnp.sum(x**2), lambda x, batch: jnp.zeros(len(batch)), 10)
        >>> sx.psmile_naive(posterior, step_size=1e-2).config["name"]
        'psmile_naive'
    """
    check_step_size(step_size)
    check_scale_floor(scale_floor)
    return _smile("psmile_naive", posterior, step_size, True, None, False, scale_floor)


def check_scale_floor(value: float) -> None:
    """Raises unless `value` is a number in [0, 1)."""
    check_number("scale_floor", value)
    if not 0 <= value < 1:
        raise ValueError(f"scale_floor must be in [0, 1), got {value!r}")


def _tuned(name, posterior, step_size, preconditioned, rule, adapt_after_warmup, scale_floor=0.0):
    check_scale_floor(scale_floor)
    check_step_size(step_size)
    if callable(step_size):
        raise TypeError(f"{name} tunes its step size from a starting value: step_size must be a number, not a schedule")
    check_probability("reset", rule.reset)
    check_probability("weight", rule.weight)
    check_number("adapt", rule.adapt)
    check_number("rate", rule.rate)
    if not 0 <= rule.adapt <= 1:
        raise ValueError(f"adapt must be in [0, 1], got {rule.adapt!r}")
    if not 0 < rule.rate < 1:
        raise ValueError(f"rate must be in (0, 1), got {rule.rate!r}")
    if rule.energy not in get_args(Energy):
        raise ValueError(f"energy must be one of {get_args(Energy)}, got {rule.energy!r}")
    rule = rule._replace(**{name: float(getattr(rule, name)) for name in ("reset", "adapt", "rate", "weight")})
    return _smile(name, posterior, step_size, preconditioned, rule, adapt_after_warmup, scale_floor)


def smile(
    posterior: Posterior,
    step_size: float = 1e-2,
    *,
    reset: float = 0.98,
    adapt: float = 0.1,
    rate: float = 0.02,
    weight: float = 0.01,
    energy: Energy = "between_batches",
    adapt_after_warmup: bool = False,
) -> SamplingAlgorithm:
    """SMILE with the published energy-quantile tuner (arXiv 2602.06500; see `smilax.tuning.QuantileRule`).

    Args:
        posterior: the target.
        step_size: where the tuner starts, in units of the parameters.
        reset: a step whose energy error exceeds this quantile of its recent past is undone; 1 undoes none.
        adapt: share of warm-up steps that move the step size; 0 moves it never.
        rate: relative change of the step size.
        weight: weight of the newest step in the energy's moments.
        energy: "between_batches" compares the log densities of consecutive batches, as the paper's implementation
            does; "one_batch" takes the integrator's own error.
        adapt_after_warmup: keep moving the step size while sampling; then the chain has no stationary law.

    Raises:
        ValueError: if an argument is outside its range.
        TypeError: if `step_size` is a schedule.

    Example:
        >>> import jax.numpy as jnp, smilax as sx
        >>> posterior = sx.Posterior(lambda x: -0.5 * jnp.sum(x**2), lambda x, batch: jnp.zeros(len(batch)), 10)
        >>> sx.smile(posterior, step_size=1e-2).config["reset"]
        0.98
    """
    rule = QuantileRule(reset, adapt, rate, weight, energy=energy)
    return _tuned("smile", posterior, step_size, False, rule, adapt_after_warmup)


def psmile(
    posterior: Posterior,
    step_size: float = 1e-2,
    *,
    reset: float = 0.98,
    adapt: float = 0.1,
    rate: float = 0.02,
    weight: float = 0.01,
    energy: Energy = "between_batches",
    adapt_after_warmup: bool = False,
    scale_floor: float = SCALE_FLOOR,
) -> SamplingAlgorithm:
    """pSMILE with the published energy-quantile tuner (arXiv 2602.06500; see `smilax.tuning.QuantileRule`).

    The paper's main method: preconditioned as `psmile_naive`, tuned as `smile`.

    Args:
        posterior: the target.
        step_size: where the tuner starts, in units of the parameters.
        reset: a step whose energy error exceeds this quantile of its recent past is undone; 1 undoes none.
        adapt: share of warm-up steps that move the step size; 0 moves it never.
        rate: relative change of the step size.
        weight: weight of the newest step in the energy's moments.
        energy: "between_batches" compares the log densities of consecutive batches, as the paper's implementation
            does; "one_batch" takes the integrator's own error.
        adapt_after_warmup: keep moving the step size while sampling; then the chain has no stationary law.
        scale_floor: least s against its root mean square, in [0, 1); 0 is the published rule.

    Raises:
        ValueError: if an argument is outside its range.
        TypeError: if `step_size` is a schedule.

    Example:
        >>> import jax.numpy as jnp, smilax as sx
        >>> posterior = sx.Posterior(lambda x: -0.5 * jnp.sum(x**2), lambda x, batch: jnp.zeros(len(batch)), 10)
        >>> sx.psmile(posterior, step_size=1e-2).config["name"]
        'psmile'
    """
    rule = QuantileRule(reset, adapt, rate, weight, energy=energy)
    return _tuned("psmile", posterior, step_size, True, rule, adapt_after_warmup, scale_floor)
