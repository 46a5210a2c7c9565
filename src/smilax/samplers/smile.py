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

from typing import get_args

from smilax.posterior import Posterior
from smilax.samplers.base import SamplingAlgorithm, StepSize, check_number, check_probability, check_step_size
from smilax.samplers.smile_kernel import published
from smilax.tuning import Energy, QuantileRule

SCALE_FLOOR = 0.1


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
    return published("smile_naive", posterior, step_size, False, None, False)


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
    return published("psmile_naive", posterior, step_size, True, None, False, scale_floor)


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
    return published(name, posterior, step_size, preconditioned, rule, adapt_after_warmup, scale_floor)


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
