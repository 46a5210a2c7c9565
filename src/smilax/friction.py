"""Friction that matches the gradient noise, whatever its covariance: what makes anisotropic noise harmless.

Noise of covariance C in the gradient turns the direction of motion more in some directions than in others. The law of
uniform directions, and with it the posterior, stays stationary if the force −½ ε C v goes with it: noise and friction
together are then a diffusion on the sphere in divergence form (docs/theory.md). C v need not be known, nor C be
constant: with cᵢ the derivative of example i's log likelihood along v, the batch's own estimate of C v is a weighted
sum of the examples' gradients, so that the force comes from one more number per example and no further gradient.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from smilax import trees
from smilax.noise import rows
from smilax.posterior import Posterior

# The friction of a step may turn the direction no further than this; beyond, an explicit step overshoots.
MOST_TURN = 0.5
# The friction is made stronger by no more than this for the noise that it adds itself.
MOST_GAIN = 1.25
# Nor does it change an example's weight by more than this. Where one example is nearly all of a gradient, its friction
# may exceed its force, and would push away from where the example holds the motion back: chains ran off by 7 standard
# deviations along pixels that are lit in one row of 1797.
MOST_CHANGE = 1.0


class Friction(NamedTuple):
    """The friction of one step.

    Attributes:
        weights: of the batch's examples, mean one unless cut, shape `(B,)`: their gradient is the batch's plus
            −½ ε f Σ̂(x) v, and somewhat more for the noise that the estimate Σ̂(x) adds; none is below zero or above two.
        force: −½ ε f Λ v, the friction that belongs to the added noise ξ ~ N(0, fΛ); a pytree, or None without ξ.
        turn: ½ ε² vᵀCv/(d − 1), shape `()`; its mean is ε/L_eff.
    """

    weights: jax.Array
    force: Any
    turn: jax.Array


def matched_friction(
    posterior: Posterior,
    params: Any,
    velocity: Any,
    batch: Any,
    step_size: jax.Array,
    factor: float,
    damping: Any = None,
    slopes: jax.Array | None = None,
) -> Friction:
    """The friction that goes with a step's noise, C = f (Σ(x) + Λ).

    Σ(x) is the covariance of the batch gradient where the step is, (N²/B) Cov(gᵢ), estimated from the batch:
    Σ̂ v = N²/(B(B − 1)) Σᵢ gᵢ (cᵢ − c̄). Unbiased, with as many degrees of freedom as the batch has examples.

    Args:
        posterior: the target.
        params: where the noise is drawn.
        velocity: v with vᵀMv = 1, before the kicks.
        batch: at least two examples.
        step_size: ε, shape `()`.
        factor: f, 1 with replacement, 1 − B/N without.
        damping: Λ's diagonal, a pytree like `params`, or None where no noise is added.
        slopes: cᵢ, shape `(B,)`, where they are known already.
    """
    size = rows(batch)
    if slopes is None:
        slopes = posterior.slopes(params, batch, velocity)
    slopes = slopes - jnp.mean(slopes)
    scale = jnp.asarray(factor * posterior.num_data / (size - 1), slopes.dtype)
    power = scale * (posterior.num_data / size) * jnp.sum(slopes * slopes)
    strength = 0.5 * step_size
    force = None
    if damping is not None:
        power = power + factor * _weighted_square(damping, velocity)
    turn = strength * step_size * power / (trees.size(params) - 1)
    # Rare where the step size is right, and then a bounded friction is better than one that reverses the motion.
    bounded = jnp.minimum(1, MOST_TURN / jnp.maximum(turn, jnp.finfo(turn.dtype).tiny))
    if damping is not None:
        pull = -strength * bounded * factor
        force = jax.tree.map(lambda level, v: pull * level * v, damping, velocity)
    change = -strength * bounded * scale * slopes
    change = change * _own_noise_factor(jnp.mean(change * change))
    change = jnp.clip(change, -MOST_CHANGE, MOST_CHANGE)
    return Friction(1 + change, force, turn * bounded)


def _weighted_square(weights: Any, x: Any) -> jax.Array:
    """Σ wᵢ xᵢ², where a leaf of weights may be one number for all of a leaf; shape `()`."""

    def one(weight, x):
        # One number is taken out of the sum, so that no product as large as the leaf is written down.
        return weight * jnp.vdot(x, x) if weight.ndim == 0 else jnp.vdot(weight * x, x)

    return functools.reduce(jnp.add, jax.tree.leaves(jax.tree.map(one, weights, x)))


def _own_noise_factor(variance: jax.Array) -> jax.Array:
    """How much stronger the friction has to be, because it adds noise of its own.

    Weights of variance ρ make the batch's noise (1 + ρ) Σ(x), which wants as much more friction: with weights c times
    as far from one, c = 1 + c²ρ. No more than `MOST_GAIN`, as where ρ is large a few examples make nearly all noise.
    """
    root = jnp.sqrt(jnp.maximum(1 - 4 * variance, 0))
    return jnp.minimum(2 / (1 + root), MOST_GAIN)
