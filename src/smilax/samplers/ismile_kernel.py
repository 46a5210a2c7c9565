"""One step of ismile: of a whole batch, which measures the energy error; or of two halves of one, at half the price.

Both are the same integrator, drift λε · kick ε/2 · drift (1 − 2λ)ε · kick ε/2 · drift λε, with as much noise in a step.
On a whole batch both kicks share it, and each example's gradient is taken twice. In halves each kick has one of its
own, and each example's gradient is taken once (docs/theory.md).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from smilax import trees
from smilax.conditional import when
from smilax.friction import Friction, matched_friction
from smilax.microcanonical import LAMBDA, drift, drift_first, kick, normalize, refresh
from smilax.noise import half_batch_gradients, rows
from smilax.packing import all_packed, spread
from smilax.posterior import Posterior
from smilax.samplers.ismile_state import IsmileInfo, IsmileState
from smilax.shuffling import permuted

# Variance inflation per ε/L_eff that batch noise leaves behind where both kicks of a step share it (docs/theory.md).
INFLATION = 0.32
# A kick in halves that has a rapidity above this points along the gradient, whatever the velocity was.
MOST_RAPIDITY = 5.0
# Explicit noise, and products with M for the velocity's norm, are for once in so many steps, or sooner, when the noise
# of all steps since makes up this share of a decoherence length: it is theirs together, and keeps directions uniform at
# any strength. In exact arithmetic kicks keep vᵀMv at one; friction makes rounding grow, by some ε/L_eff a step; and
# warm-up, whose steps may be wild, normalises after each.
MENDED_EVERY = 8
MOST_DELAY = 0.1


class Kernel(NamedTuple):
    """What does not change along a chain.

    Attributes:
        posterior: the target.
        replacement: whether batches are drawn with replacement.
        friction: whether friction matches the noise.
        matched_noise: whether noise is added to match the damping of M.
        max_reject: bound on |ΔE − mean ΔE|/√d.
    """

    posterior: Posterior
    replacement: bool
    friction: bool
    matched_noise: bool
    max_reject: float


def noise_factor(kernel: Kernel, batch: Any) -> float:
    """f: 1 with replacement, 1 − B/N without."""
    return 1.0 if kernel.replacement else max(1 - rows(batch) / kernel.posterior.num_data, 0.0)


def limits(kernel: Kernel, state: IsmileState, batch: Any) -> tuple[jax.Array, jax.Array]:
    """1/L_eff per step size, and the posterior's radius."""
    size = trees.size(state.params)
    known = state.factored > 0
    rate = jnp.where(known, noise_factor(kernel, batch) / (2 * (size - 1) * state.scale), 0)
    # With c = 1, M/s is N/B times the Laplace precision, so this is the radius of that Gaussian.
    radius = jnp.sqrt(size * state.scale * (kernel.posterior.num_data / rows(batch)))
    # Without batch noise explicit noise is all there is, and M is the identity before it is known.
    return rate, jnp.where(known | (noise_factor(kernel, batch) == 0), radius, jnp.inf)


def whole_step(
    kernel: Kernel, key: jax.Array, state: IsmileState, batch: Any, eps: jax.Array, drawing: bool
) -> tuple[IsmileState, IsmileInfo, Any]:
    """Two gradients of the whole batch; with `drawing` the first in parts, and a draw of the gradient noise."""
    posterior = kernel.posterior
    noise_key, refresh_key = jax.random.split(key)
    rate, _ = limits(kernel, state, batch)
    f = noise_factor(kernel, batch)
    if f == 0 and drawing:
        # All rows come in their own order, and two parts of them would differ in the same direction every time.
        order = permuted(noise_key, jnp.arange(rows(batch)), rows(batch))
        batch = jax.tree.map(lambda x: x[order], batch)
    noise = None
    if f > 0 and kernel.matched_noise:
        amplitude = spread([jnp.sqrt(f * level) for level in state.damping], state.params)
        # Of kicks this small only the covariance counts, and signs cost a fraction of normal numbers.
        noise = jax.tree.map(jnp.multiply, amplitude, trees.signs_like(noise_key, state.params))
    # 1/L_eff = rate · ε, so ε/L_eff = rate · ε².
    stretch = 1 + INFLATION * rate * eps * eps
    middle = drift(state.params, state.velocity, LAMBDA * eps)
    first, match, draw = _gradient(kernel, middle, state, state.velocity, batch, eps, f, drawing)
    weights = None
    if match is not None:
        weights = match.weights
        if match.force is not None:
            noise = jax.tree.map(jnp.add, noise, match.force)
        # The force has a component against the motion, which lengthens the other forces' part in a kick.
        stretch = stretch - 0.5 * match.turn
    moved = drift_first(
        lambda params: posterior.value_and_grad(params, batch, weights),
        state.params,
        state.velocity,
        state.geometry,
        eps,
        noise=noise,
        stretch=stretch,
        first=first,
    )
    off = jnp.abs(moved.energy_error - state.tuner.center)
    accepted = moved.valid & (off <= kernel.max_reject * trees.size(state.params) ** 0.5)
    state, info = _arrive(
        kernel, refresh_key, state, batch, eps, moved.params, moved.velocity, accepted, moved.second.total, drawing
    )
    return state, info._replace(energy_error=moved.energy_error), draw


def split_step(
    kernel: Kernel, key: jax.Array, state: IsmileState, batch: Any, eps: jax.Array, drawing: bool
) -> tuple[IsmileState, IsmileInfo, Any]:
    """A gradient of either half of the batch, each with friction and noise of its own; as `whole_step` otherwise.

    The energy error, which compares densities of one batch at two points, is NaN. A step is undone if a density or a
    gradient is not finite, or if a kick turns the velocity all the way.
    """
    noise_key, other_key, refresh_key = jax.random.split(key, 3)
    rate, _ = limits(kernel, state, batch)
    f = noise_factor(kernel, batch)
    correction = halves_correction(f) * rate * eps * eps
    if kernel.matched_noise:
        # Of the covariance that the noise of the two halves has: (1 + f)Λ each, −(1 − f)Λ between them.
        amplitude = spread([jnp.sqrt(level) for level in state.damping], state.params)
        shared, opposed = (trees.signs_like(each, state.params) for each in (noise_key, other_key))

    def half(carry, each):
        params, velocity, drawn = carry
        part, length, sign = each
        params = drift(params, velocity, length * eps)
        (value, gradient), match, draw = _gradient(kernel, params, state, velocity, part, eps, f, drawing, share=0.5)
        if drawing:
            # Noise of a half has twice the covariance, and the sum of two draws twice that.
            drawn = trees.add_scaled(drawn, jnp.asarray(0.5, eps.dtype), draw)
        turn: jax.Array | float = 0.0
        if kernel.matched_noise:
            gradient = jax.tree.map(
                lambda g, a, s, o: g + a * (f**0.5 * s + sign * o), gradient, amplitude, shared, opposed
            )
        if match is not None:
            turn = match.turn
            if match.force is not None:
                gradient = jax.tree.map(jnp.add, gradient, match.force)
        kick_length = eps / 2 / (1 - correction + 0.25 * turn)
        velocity, turned = kick(velocity, gradient, state.geometry, kick_length)
        sound = jnp.isfinite(value.total) & (turned.rate * kick_length < MOST_RAPIDITY)
        return (params, velocity, drawn), (value.total, sound)

    # As a loop it compiles in two thirds of the time, but holds two more arrays of the parameters' size.
    unrolled = not all_packed(state.params)
    start = (state.params, state.velocity, jax.tree.map(jnp.zeros_like, state.params) if drawing else None)
    lengths, signs = jnp.asarray([LAMBDA, 1 - 2 * LAMBDA], eps.dtype), jnp.asarray([1, -1], eps.dtype)
    (params, velocity, draw), (densities, sound) = jax.lax.scan(
        half, start, (halves(batch), lengths, signs), unroll=unrolled
    )
    params = drift(params, velocity, LAMBDA * eps)
    state, info = _arrive(
        kernel, refresh_key, state, batch, eps, params, velocity, jnp.all(sound), densities[1], drawing
    )
    return state, info, draw


def halves(batch: Any) -> Any:
    """The rows of even number, and the odd, on a new leading axis: halves of each device's part of a batch."""
    return jax.tree.map(lambda x: jnp.swapaxes(x.reshape(x.shape[0] // 2, 2, *x.shape[1:]), 0, 1), batch)


def halves_correction(factor: float) -> float:
    """Variance inflation per ε/L_eff of a step in halves, (1/(2f)) [(1 + f)/12 − (1 − f)(3/4 − λ)] (docs/theory.md)."""
    return ((1 + factor) / 12 - (1 - factor) * (0.75 - LAMBDA)) / (2 * factor)


def _gradient(
    kernel: Kernel,
    params: Any,
    state: IsmileState,
    velocity: Any,
    batch: Any,
    eps: jax.Array,
    factor: float,
    drawing: bool,
    share: float = 1.0,
) -> tuple[tuple, Friction | None, Any]:
    """Density and gradient with the friction of a batch's examples, that friction, and a draw of the noise or None.

    The friction is that of the noise of a whole step, of whose examples `share` are given.
    """
    posterior = kernel.posterior
    if factor == 0 or not kernel.friction:
        if drawing:
            value, gradient, draw = half_batch_gradients(posterior, params, batch)
            return (value, gradient), None, draw
        return posterior.value_and_grad(params, batch), None, None
    damping = spread([level / share for level in state.damping], state.params) if kernel.matched_noise else None

    def matched(slopes=None):
        return matched_friction(posterior, params, velocity, batch, eps, factor * share, damping, slopes)

    if drawing:
        match = matched()
        value, gradient, draw = half_batch_gradients(posterior, params, batch, match.weights)
        return (value, gradient), match, draw
    value, gradient, match = posterior.value_and_weighted_grad(
        params, batch, velocity, lambda slopes: ((match := matched(slopes)).weights, match)
    )
    return (value, gradient), match, None


def _arrive(
    kernel: Kernel,
    key: jax.Array,
    state: IsmileState,
    batch: Any,
    eps: jax.Array,
    params: Any,
    velocity: Any,
    accepted: jax.Array,
    log_density: jax.Array,
    mending: bool,
) -> tuple[IsmileState, IsmileInfo]:
    """Where a step ends: there, or, if it is not accepted, where it began and in reverse; then explicit noise.

    With `mending` vᵀMv is put back to one, and otherwise every now and then, as is the noise.
    """
    rate, radius = limits(kernel, state, batch)
    tiny = jnp.finfo(eps.dtype).tiny
    params = trees.where(accepted, params, state.params)
    velocity = trees.where(accepted, velocity, jax.tree.map(jnp.negative, state.velocity))
    # Explicit noise for what batch noise lacks: 1/L = 1/L_eff + 1/L_refresh with L the posterior's radius.
    missing = jnp.maximum(1 / radius - rate * eps, 0)

    age = state.age + 1
    travelled = age.astype(eps.dtype) * eps
    due = (age >= MENDED_EVERY) | (travelled * missing >= MOST_DELAY)

    def refreshed(velocity, key, missing, travelled, geometry):
        return refresh(key, velocity, geometry, travelled, 1 / jnp.maximum(missing, tiny))

    def mended(carry, due, key, missing, travelled, geometry):
        velocity, age = carry
        velocity = normalize(velocity, geometry)
        velocity = when(due & (missing > 0), refreshed, velocity, key, missing, travelled, geometry)
        return velocity, jnp.where(due, 0, age)

    velocity, age = when(mending | due, mended, (velocity, age), due, key, missing, travelled, state.geometry)
    info = IsmileInfo(
        log_density,
        jnp.full_like(eps, jnp.nan),
        eps,
        accepted.astype(eps.dtype),
        state.tuner.eevpd,
        1 / jnp.maximum(rate * eps, tiny),
        radius,
    )
    return state._replace(params=params, velocity=velocity, age=age), info
