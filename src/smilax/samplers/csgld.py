"""Cyclical stochastic gradient Langevin dynamics: warm restarts of the step size, to go from mode to mode."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from smilax import trees
from smilax.checks import check_count
from smilax.posterior import Posterior
from smilax.samplers.base import SamplingAlgorithm, check_number, check_params, check_positive, check_posterior


class CsgldState(NamedTuple):
    """Position and steps taken."""

    params: Any
    num_steps: jax.Array


class CsgldInfo(NamedTuple):
    """What a step reports; scalars.

    Attributes:
        log_density: mini-batch log density before the step, in nats.
        energy_error: NaN, there is none.
        step_size: ε, in units of a squared parameter.
        accepted: 1.0, or 0.0 where the gradient was not finite.
        exploring: whether the step, and so the draw after it, belongs to the exploration phase of its cycle: such draws
            are no draws of the posterior.
        cycle: number of the cycle, from 0.
    """

    log_density: jax.Array
    energy_error: jax.Array
    step_size: jax.Array
    accepted: jax.Array
    exploring: jax.Array
    cycle: jax.Array


def csgld(
    posterior: Posterior,
    step_size: float,
    *,
    cycle_length: int | None = None,
    num_cycles: int | None = None,
    num_steps: int | None = None,
    exploration: float = 0.33,
    final_step_size: float = 0.0,
    temperature: float = 1.0,
) -> SamplingAlgorithm:
    """Cyclical SGLD (Zhang, Li, Zhang, Chen and Wilson 2020, algorithm 1).

    With r = (t mod L)/L the place in a cycle of L steps, ε = ε₁ + (ε₀ − ε₁) ½ (1 + cos πr), and

        x' = x + ε ∇log p̂(x) + √(2εT) z, z ~ N(0, I),   but with T = 0 for r < `exploration`:

    each cycle first descends with long steps from where the last one ended, and then samples with steps that get ever
    shorter. One gradient a step.

    A step knows only how many came before it, so the cycles are given as `cycle_length`, or as `num_cycles` of
    `num_steps` in all (L is the quotient, rounded up). Steps are counted from the start of the chain, warm-up included:
    run it with `num_warmup=0`, or a whole number of cycles. `result.info.exploring` and `.cycle`, shape
    `(chain, draw)`, say where each draw comes from, and `result.select(~result.info.exploring)` keeps those of the
    posterior, as the authors do; the weight of the draws is equal.

    What the name means elsewhere: `blackjax.csgld` is contour SGLD (Deng, Lin and Liang 2020), another algorithm.

    Args:
        posterior: the target.
        step_size: ε₀, at the start of each cycle, in units of a squared parameter.
        cycle_length: L, in steps.
        num_cycles: number of cycles in `num_steps`; instead of `cycle_length`.
        num_steps: steps of the chain in all, warm-up included.
        exploration: share of each cycle that explores, in [0, 1).
        final_step_size: ε₁, approached at the end of each cycle; from 0 to ε₀.
        temperature: T of the sampling phase.

    Raises:
        TypeError: if a number of steps is no integer.
        ValueError: if an argument is outside its range, or the cycles are given twice or not at all.

    Example:
        >>> import jax.numpy as jnp, smilax as sx
        >>> posterior = sx.Posterior(lambda x: -0.5 * jnp.sum(x**2), lambda x, batch: batch @ x, 100)
        >>> sx.csgld(posterior, step_size=1e-3, num_cycles=4, num_steps=15_000).config["cycle_length"]
        3750
    """
    check_posterior(posterior)
    check_positive("step_size", step_size)
    check_positive("temperature", temperature)
    check_number("exploration", exploration)
    if not 0 <= exploration < 1:
        raise ValueError(f"exploration must be in [0, 1), got {exploration!r}")
    check_number("final_step_size", final_step_size)
    if not 0 <= final_step_size <= step_size:
        raise ValueError(f"final_step_size must be from 0 to step_size = {step_size!r}, got {final_step_size!r}")
    if (cycle_length is None) == (num_cycles is None) or (num_cycles is None) != (num_steps is None):
        raise ValueError(
            "the cycles are given either as cycle_length or as num_cycles and num_steps, got "
            f"cycle_length={cycle_length!r}, num_cycles={num_cycles!r}, num_steps={num_steps!r}"
        )
    if cycle_length is None:
        cycle_length = -(-check_count("num_steps", num_steps, 1) // check_count("num_cycles", num_cycles, 1))
    length = check_count("cycle_length", cycle_length, 1)
    # NumPy numbers would widen single precision.
    step_size, exploration, final_step_size = float(step_size), float(exploration), float(final_step_size)
    temperature = float(temperature)

    def init(key, params):
        check_params(params)
        return CsgldState(params, jnp.zeros((), jnp.int32))

    def step(key, state, batch):
        dtype = jnp.result_type(*jax.tree.leaves(state.params))
        place = (state.num_steps % length).astype(dtype) / length
        eps = final_step_size + (step_size - final_step_size) * 0.5 * (1 + jnp.cos(jnp.pi * place))
        exploring = place < exploration
        value, gradient = posterior.value_and_grad(state.params, batch)
        amplitude = jnp.where(exploring, 0, jnp.sqrt(2 * temperature * eps))
        moved = jax.tree.map(
            lambda x, g, z: x + eps * g + amplitude * z, state.params, gradient, trees.normal_like(key, state.params)
        )
        valid = jnp.isfinite(trees.dot(gradient, gradient)) & jnp.isfinite(value.total)
        info = CsgldInfo(
            value.total,
            jnp.full((), jnp.nan, value.total.dtype),
            eps,
            valid.astype(dtype),
            exploring,
            state.num_steps // length,
        )
        return CsgldState(trees.where(valid, moved, state.params), state.num_steps + 1), info

    return SamplingAlgorithm(
        init=init,
        warmup=lambda key, state, batch, fraction: step(key, state, batch),
        step=step,
        config={
            "name": "csgld",
            "step_size": float(step_size),
            "cycle_length": length,
            "exploration": float(exploration),
            "final_step_size": float(final_step_size),
            "temperature": float(temperature),
            "batches": "mini",
        },
        posterior=posterior,
    )
