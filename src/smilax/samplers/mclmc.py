"""Full-batch microcanonical Langevin Monte Carlo, the reference that needs no mini-batch theory."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from smilax import trees
from smilax.geometry import Identity
from smilax.microcanonical import draw_velocity, drift_first, refresh
from smilax.mile import MileState, mile_init, mile_update
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


class MclmcState(NamedTuple):
    """Position, velocity (|v| = 1), steps taken, and the tuner or None."""

    params: Any
    velocity: Any
    num_steps: jax.Array
    tuner: MileState | None = None


def mclmc(
    posterior: Posterior,
    step_size: StepSize,
    length: float | None = None,
    *,
    energy_variance: tuple[float, float] | None = None,
) -> SamplingAlgorithm:
    """MCLMC (Robnik, De Luca, Silverstein and Seljak 2023): drift-first minimal-norm steps and Langevin refreshment.

    Unadjusted: the bias vanishes with the step size as its square. `sample` gives it the whole data set at each step.

    With `energy_variance=(0.5, 0.1)` and the members of a deep ensemble as starts this is MILE (Sommer, Robnik,
    Nozadze, Seljak and Rügamer 2025), whose tuner finds step size and length in warm-up (`smilax.mile`): for the first
    0.9 of it the step size follows a variance of the whole step's energy error that falls linearly from the first value
    to the second; from 0.8 on the posterior's width is measured, and in the last tenth the autocorrelation, which set
    L. Both are then frozen. A warm-up step takes two more evaluations of the density.

    Such variances are wide, and the posterior is biased by them: they are chosen for the predictions of networks. For
    moments take (5e-4, 5e-4). Departures from the published tuner: the integrator is drift-first; the autocorrelation
    is that of 400 positions and 256 parameters; a step that is not finite keeps later ones a fifth shorter; L starts
    at √d, without the minimum of 15.

    Args:
        posterior: the target.
        step_size: ε, in units of the parameters; a positive number or a schedule `step_size(count)`. With
            `energy_variance`, the number at which the tuner starts (MILE: 0.005).
        length: momentum decoherence length L, in units of the parameters; None takes √d, right for a posterior of unit
            standard deviations, or has it tuned.
        energy_variance: Var(ΔE)/d at the start and the end of tuning, in nats² per parameter; None tunes nothing.

    Raises:
        ValueError: if an argument is outside its range.
        TypeError: if `step_size` is a schedule and is to be tuned, or `energy_variance` is no pair of numbers.

    Example:
        >>> import jax.numpy as jnp, smilax as sx
        >>> posterior = sx.Posterior(lambda x: -0.5 * jnp.sum(x**2), lambda x, batch: jnp.zeros(len(batch)), 10)
        >>> sx.mclmc(posterior, step_size=0.5).config["batches"]
        'full'
    """
    check_posterior(posterior)
    check_step_size(step_size)
    if length is not None:
        check_positive("length", length)
        length = float(length)
    targets = None
    if energy_variance is not None:
        targets = _targets(energy_variance)
        if callable(step_size):
            raise TypeError("step_size must be a number, not a schedule, where energy_variance has it tuned")
    step_size_at = schedule(step_size)

    def start_length(params):
        return trees.size(params) ** 0.5 if length is None else length

    def init(key, params):
        check_params(params, turning=True)
        tuner = mile_init(params, describe(step_size), start_length(params)) if targets else None
        return MclmcState(params, draw_velocity(key, params, Identity()), jnp.zeros((), jnp.int32), tuner)

    def advance(key, state, batch):
        dtype = jnp.result_type(*jax.tree.leaves(state.params))
        if targets:
            eps, decoherence = state.tuner.step_size, state.tuner.length
        else:
            eps = step_size_at(state.num_steps).astype(dtype)
            decoherence = jnp.asarray(start_length(state.params), dtype)
        moved = drift_first(
            lambda params: posterior.value_and_grad(params, batch), state.params, state.velocity, Identity(), eps
        )
        params = trees.where(moved.valid, moved.params, state.params)
        velocity = trees.where(moved.valid, moved.velocity, jax.tree.map(jnp.negative, state.velocity))
        velocity = refresh(key, velocity, Identity(), eps, decoherence)
        info = Info(moved.second.total, moved.energy_error, eps, moved.valid.astype(dtype))
        return MclmcState(params, velocity, state.num_steps + 1, state.tuner), info, moved

    def step(key, state, batch):
        state, info, _ = advance(key, state, batch)
        return state, info

    def warmup(key, state, batch, fraction):
        if targets is None:
            return step(key, state, batch)
        before = posterior.evaluate(state.params, batch)
        state, info, moved = advance(key, state, batch)
        # Of the whole step, as the published targets are meant; `moved.energy_error` is of a single leapfrog.
        error = moved.kinetic - posterior.evaluate(moved.params, batch).minus(before)
        valid = moved.valid & jnp.isfinite(error)
        tuner = mile_update(state.tuner, state.params, error, valid, fraction, targets, length is None)
        return state._replace(tuner=tuner), info

    return SamplingAlgorithm(
        init=init,
        warmup=warmup,
        step=step,
        config={
            "name": "mclmc",
            "step_size": describe(step_size),
            "length": length,
            "energy_variance": None if targets is None else list(targets),
            "batches": "full",
        },
        posterior=posterior,
    )


def _targets(value: Any) -> tuple[float, float]:
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise TypeError(f"energy_variance must be a pair (first, last) or None, got {value!r}")
    for number in value:
        check_number("energy_variance", number)
        if not 0 < number < float("inf"):
            raise ValueError(f"energy_variance must hold two positive finite numbers, got {value!r}")
    return float(value[0]), float(value[1])
