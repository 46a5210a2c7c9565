"""Full-batch microcanonical Langevin Monte Carlo, the reference that needs no mini-batch theory."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from smilax import trees
from smilax.geometry import Identity
from smilax.microcanonical import draw_velocity, drift_first, refresh
from smilax.posterior import Posterior
from smilax.samplers.base import (
    Info,
    SamplingAlgorithm,
    StepSize,
    check_params,
    check_positive,
    check_step_size,
    describe,
    schedule,
)


class MclmcState(NamedTuple):
    """Position, velocity (|v| = 1) and steps taken."""

    params: Any
    velocity: Any
    num_steps: jax.Array


def mclmc(posterior: Posterior, step_size: StepSize, length: float | None = None) -> SamplingAlgorithm:
    """MCLMC (Robnik, De Luca, Silverstein and Seljak 2023): drift-first minimal-norm steps and Langevin refreshment.

    Unadjusted: the bias vanishes with the step size as its square. `sample` gives it the whole data set at each step.

    Args:
        posterior: the target.
        step_size: ε, in units of the parameters; a positive number or a schedule `step_size(count)`.
        length: momentum decoherence length L, in units of the parameters; None takes √d, right for a posterior of unit
            standard deviations.

    Raises:
        ValueError: if `step_size` or `length` is not positive and finite.

    Example:
        >>> import jax.numpy as jnp, smilax as sx
        >>> posterior = sx.Posterior(lambda x: -0.5 * jnp.sum(x**2), lambda x, batch: jnp.zeros(len(batch)), 10)
        >>> sx.mclmc(posterior, step_size=0.5).config["batches"]
        'full'
    """
    check_step_size(step_size)
    if length is not None:
        check_positive("length", length)
    step_size_at = schedule(step_size)

    def init(key, params):
        check_params(params)
        return MclmcState(params, draw_velocity(key, params, Identity()), jnp.zeros((), jnp.int32))

    def step(key, state, batch):
        dtype = jnp.result_type(*jax.tree.leaves(state.params))
        eps = step_size_at(state.num_steps).astype(dtype)
        decoherence = jnp.asarray(trees.size(state.params) ** 0.5 if length is None else length, dtype)
        moved = drift_first(
            lambda params: posterior.value_and_grad(params, batch), state.params, state.velocity, Identity(), eps
        )
        params = trees.where(moved.valid, moved.params, state.params)
        velocity = trees.where(moved.valid, moved.velocity, jax.tree.map(jnp.negative, state.velocity))
        velocity = refresh(key, velocity, Identity(), eps, decoherence)
        info = Info(moved.second.total, moved.energy_error, eps, moved.valid.astype(dtype))
        return MclmcState(params, velocity, state.num_steps + 1), info

    return SamplingAlgorithm(
        init=init,
        warmup=lambda key, state, batch, fraction: step(key, state, batch),
        step=step,
        config={"name": "mclmc", "step_size": describe(step_size), "length": length, "batches": "full"},
        posterior=posterior,
    )
