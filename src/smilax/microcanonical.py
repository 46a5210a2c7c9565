"""Isokinetic (microcanonical) dynamics with a mass matrix, in velocity form.

The velocity v lives in the space of the parameters x and satisfies vᵀMv = 1; with P = M⁻¹ and g the gradient
of the log density,

    dx = v dt,      dv = (P − v vᵀ) g / (d − 1) dt .

With u = M^{1/2} v this is the usual form on the unit sphere (Ver Steeg and Galstyan 2021; Robnik et al. 2023). The
velocity form needs one product P g per gradient and no square root of M. All functions are pure, work on
pytrees, and read M through a `smilax.geometry.Geometry`.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from smilax import trees
from smilax.geometry.base import Geometry, Scaling
from smilax.posterior import LogDensity

# The minimal-norm second-order splitting (Omelyan, Mryglod and Folk 2003): two gradients a step.
LAMBDA = 0.1931833275037836

# gᵀPg overflows float32 from |g| ~ 10¹⁹ on. Powers of two cost no accuracy, and no pass to find the largest entry.
GRADIENT_UNIT = 2.0**-20
FORCE_UNIT = GRADIENT_UNIT**2

# A kick that turns the velocity all the way round has 1 + c + (1 − c)ζ² as small as c's rounding error, and what it
# gives has no length to speak of. So many rounding errors leave the norm right to about 1 %.
LEAST_SIZE = 256

ValueAndGrad = Callable[[Any], tuple[LogDensity, Any]]


class Kick(NamedTuple):
    """What is needed of a kick to know its kinetic energy change after any part of it.

    Attributes:
        rate: γ / (d − 1) with γ = sqrt(gᵀPg): δ per unit of length, shape `()`.
        cosine: vᵀg / γ, shape `()`.
        freedom: d − 1.
    """

    rate: jax.Array
    cosine: jax.Array
    freedom: float


def kick(velocity: Any, gradient: Any, geometry: Geometry, length: jax.Array) -> tuple[Any, Kick]:
    """The exact flow of dv = (P − v vᵀ) g / (d − 1) dt at fixed g, for a time `length`.

    With γ = sqrt(gᵀPg), c = vᵀg/γ, δ = length·γ/(d − 1) and ζ = e^{−δ},

        v' = [2ζ v + (1 − ζ)(1 + c + (1 − c)ζ) Pg/γ] / (1 + c + (1 − c)ζ²) ,

    which keeps vᵀMv = 1. A zero gradient leaves the velocity as it is. So do a gradient that is not finite and a norm
    that is lost in rounding (c near −1 at δ above 5 or so), and `kinetic_change` is then not finite, which is the flag.
    In float32, γ may lie anywhere between 10⁻¹³ and 10²⁵; below counts as zero, above as not finite.

    Args:
        velocity: pytree with vᵀMv = 1.
        gradient: gradient of the log density, a pytree like `velocity`.
        geometry: the mass matrix.
        length: duration of the kick, shape `()`.

    Returns:
        The new velocity, and a `Kick`, from which `kinetic_change` follows.
    """
    force = geometry.precondition(trees.scale(FORCE_UNIT, gradient))
    projection, square = trees.dots(velocity, force, gradient)
    return _turn(velocity, force, projection * GRADIENT_UNIT, square, GRADIENT_UNIT, length)


def kick_momentum(
    momentum: Any, gradient: Any, scaling: Scaling, length: jax.Array, norm: jax.Array | float = 1.0
) -> tuple[Any, Kick]:
    """`kick` of the momentum u = s v by the force g/s; `norm` is |u| where it is not one yet.

    Fewer passes over the parameters than `kick`, as both inner products are of the force alone. In float32, γ may lie
    between 10⁻¹⁹ and 10¹⁹.
    """
    force = scaling.whiten(gradient)
    projection, square = trees.dots(momentum, force, force)
    return _turn(momentum, force, projection / norm, square, 1.0, length, norm)


def _turn(
    velocity: Any,
    force: Any,
    projection: jax.Array,
    square: jax.Array,
    unit: float,
    length: jax.Array,
    norm: jax.Array | float = 1.0,
) -> tuple[Any, Kick]:
    """The kick, given vᵀg · unit and gᵀPg · unit² and the force Pg · unit²."""
    freedom = trees.size(velocity) - 1
    strength = jnp.where(square > 0, jnp.sqrt(square), 1)
    cosine = jnp.clip(projection / strength, -1, 1)
    rate = jnp.where(square > 0, strength, 0) * (1 / unit / freedom)
    zeta, rest = jnp.exp(-length * rate), -jnp.expm1(-length * rate)
    size = 1 + cosine + (1 - cosine) * zeta**2
    # Both factors in one array: two numbers from one fused scalar computation cost half of two such computations.
    factors = jnp.stack([2 * zeta / norm, rest * (1 + cosine + (1 - cosine) * zeta) / (unit * strength)]) / size
    known = size > LEAST_SIZE * jnp.finfo(size.dtype).eps
    factors = jnp.where(known & jnp.isfinite(rate), factors, 0)
    rate = jnp.where(known, rate, jnp.nan)
    keep, turn = factors[0], factors[1]
    turned = jax.tree.map(lambda v, f: jnp.where(turn != 0, keep * v + turn * f, v), velocity, force)
    return turned, Kick(rate, cosine, freedom)


def kinetic_change(kick: Kick, length: jax.Array) -> jax.Array:
    """ΔK = (d − 1) log(cosh δ + c sinh δ) at `length` into a kick, in nats; not finite where the kick was not valid.

    Evaluated as (d − 1) log1p(c sinh δ + 2 sinh²(δ/2)) for δ < 1 and as
    (d − 1) [δ + log(½(1 + c) + ½(1 − c) e^{−2δ})] above: the form δ − log 2 + log(…) loses every digit in float32
    at d = 10⁶. Shapes broadcast, so several kicks and lengths can be evaluated at once.
    """
    delta, c = length * kick.rate, kick.cosine
    small = jnp.minimum(delta, 1)
    near = jnp.log1p(c * jnp.sinh(small) + 2 * jnp.sinh(small / 2) ** 2)
    far = delta + jnp.log((1 + c) / 2 + (1 - c) / 2 * jnp.exp(-2 * delta))
    return kick.freedom * jnp.where(delta < 1, near, far)


def _kinetic_sum(terms: list[tuple[float, Kick, jax.Array]]) -> jax.Array:
    """Sum of sign · ΔK(kick, length), evaluated as one array: on CPU each separate scalar chain costs a dispatch."""
    kicks = Kick(
        jnp.stack([kick.rate for _, kick, _ in terms]),
        jnp.stack([kick.cosine for _, kick, _ in terms]),
        terms[0][1].freedom,
    )
    changes = kinetic_change(kicks, jnp.stack([length for _, _, length in terms]))
    return functools.reduce(jnp.add, [sign * changes[i] for i, (sign, _, _) in enumerate(terms)])


def drift(params: Any, velocity: Any, length: jax.Array) -> Any:
    """x' = x + length · v."""
    return trees.add_scaled(params, length, velocity)


def normalize(velocity: Any, geometry: Geometry) -> Any:
    """Scales the velocity to vᵀMv = 1."""
    return trees.scale(jax.lax.rsqrt(geometry.quadratic(velocity)), velocity)


def draw_velocity(key: jax.Array, params: Any, geometry: Geometry) -> Any:
    """A velocity uniform on the ellipsoid vᵀMv = 1, a pytree like `params`."""
    return normalize(geometry.sample(key, params), geometry)


def refresh(key: jax.Array, velocity: Any, geometry: Geometry, step_size: jax.Array, length: jax.Array) -> Any:
    """Explicit Langevin noise with momentum decoherence length `length` (MCLMC; Robnik et al. 2023).

    v' ∝ v + ν A z with A Aᵀ = P, z ~ N(0, I) and ν² = (e^{2 step_size/length} − 1)/d, renormalised to vᵀMv = 1.
    """
    # By then nothing is left of the old velocity, and the exponential is far from overflow.
    forgotten = jnp.minimum(2 * step_size / length, 20)
    nu = jnp.sqrt(jnp.expm1(forgotten) / trees.size(velocity))
    return normalize(trees.add_scaled(velocity, nu, geometry.sample(key, velocity)), geometry)


class Step(NamedTuple):
    """One step of an integrator.

    Attributes:
        params: x at the end.
        velocity: v at the end, vᵀMv = 1; of `kick_first` the momentum u, uᵀu = 1.
        gradient: the step's last gradient (at the second evaluation point).
        first, second: the log densities at the two points where gradients were taken.
        energy_error: change of kinetic minus log density over one consistent leapfrog step between the two points,
            on the same batch; nats, shape `()`.
        kinetic: change of kinetic energy over the whole step, in nats, shape `()`.
        valid: whether the energy error is finite, which fails if a density, a gradient or a kick did.
    """

    params: Any
    velocity: Any
    gradient: Any
    first: LogDensity
    second: LogDensity
    energy_error: jax.Array
    kinetic: jax.Array
    valid: jax.Array


def kick_first(
    value_and_grad: ValueAndGrad,
    params: Any,
    momentum: Any,
    cached: Any,
    scaling: Scaling,
    step_size: jax.Array,
    norm: jax.Array | float = 1.0,
) -> Step:
    """Kick λε · drift ε/2 · kick (1 − 2λ)ε · drift ε/2 · kick λε: the published integrator.

    It moves the momentum u = s v of a diagonal mass matrix, on the unit sphere (see `kick_momentum`), and x by u/s; the
    `velocity` of the result is u. Where rounding has moved u off the sphere, `norm` is |u|; the first kick mends it.

    The first kick uses `cached`, the gradient left by the previous step on the *previous* batch; zeros skip it. The
    energy error is taken on the current batch alone, between its two gradients b and c (see docs/theory.md):
    ΔK_b((1−2λ)ε) − ΔK_b((¾−2λ)ε) + ΔK_c(ε/4) − [log p(x₂) − log p(x₁)].
    """
    eps = step_size
    scalings = _anew(scaling)
    momentum, first_kick = kick_momentum(momentum, cached, next(scalings), LAMBDA * eps, norm)
    params = drift(params, next(scalings).velocity(momentum), eps / 2)
    first, gradient = value_and_grad(params)
    momentum, middle_kick = kick_momentum(momentum, gradient, next(scalings), (1 - 2 * LAMBDA) * eps)
    params = drift(params, next(scalings).velocity(momentum), eps / 2)
    second, gradient = value_and_grad(params)
    momentum, last_kick = kick_momentum(momentum, gradient, next(scalings), LAMBDA * eps)
    kinetic = _kinetic_sum(
        [
            (1.0, middle_kick, (1 - 2 * LAMBDA) * eps),
            (-1.0, middle_kick, (0.75 - 2 * LAMBDA) * eps),
            (1.0, last_kick, eps / 4),
            (0.0, first_kick, LAMBDA * eps),
        ]
    )
    energy_error = kinetic - second.minus(first)
    whole = [(first_kick, LAMBDA * eps), (middle_kick, (1 - 2 * LAMBDA) * eps), (last_kick, LAMBDA * eps)]
    change = _kinetic_sum([(1.0, *each) for each in whole])
    return Step(params, momentum, gradient, first, second, energy_error, change, jnp.isfinite(energy_error))


def _anew(scaling: Scaling) -> Iterator[Scaling]:
    """The same scaling over and over, in a way that hides from the compiler that it is.

    What several uses share is written down: 1/s, an array more to hold while gradients are taken, and to read it takes
    as long as what it comes from.
    """
    while True:
        scaling = jax.tree.map(lambda x: x if jnp.ndim(x) else jax.lax.optimization_barrier(x), scaling)
        yield scaling


def drift_first(
    value_and_grad: ValueAndGrad,
    params: Any,
    velocity: Any,
    geometry: Geometry,
    step_size: jax.Array,
    noise: Any = None,
    stretch: jax.Array | float = 1.0,
    first: tuple[LogDensity, Any] | None = None,
) -> Step:
    """Drift λε · kick ε/2 · drift (1 − 2λ)ε · kick ε/2 · drift λε: both gradients belong to the current batch.

    The energy error counts the same length, (1 − 2λ)ε, of kick as of drift between the two gradients:
    [ΔK₁(ε/2) − ΔK₁(λε)] + ΔK₂((½ − λ)ε) − [log p(x₂) − log p(x₁)] − ξᵀ(x₂ − x₁). When the kicks are stretched, it is
    still the last (½ − λ)ε of the first that counts.

    Args:
        value_and_grad: log density in parts and gradient at a point, on this step's batch.
        params: x.
        velocity: v with vᵀMv = 1.
        geometry: the mass matrix.
        step_size: ε, shape `()`.
        noise: ξ, a pytree like `params` that is added to both gradients, or None.
        stretch: factor on the length of both kicks (the noise correction 1 + 0.32 ε/L_eff of docs/theory.md).
        first: log density and gradient at the first point, x + λεv, where they are known. There, and only there, the
            position is independent of the batch.
    """
    eps, inner = step_size, (1 - 2 * LAMBDA) * step_size

    def noisy(gradient):
        return gradient if noise is None else jax.tree.map(jnp.add, gradient, noise)

    params = drift(params, velocity, LAMBDA * eps)
    start, gradient = first or value_and_grad(params)
    gradient = noisy(gradient)
    velocity, first_kick = kick(velocity, gradient, geometry, stretch * eps / 2)
    params = drift(params, velocity, inner)
    work = 0 if noise is None else inner * trees.dot(noise, velocity)
    second, gradient = value_and_grad(params)
    gradient = noisy(gradient)
    velocity, second_kick = kick(velocity, gradient, geometry, stretch * eps / 2)
    params = drift(params, velocity, LAMBDA * eps)
    kinetic = _kinetic_sum(
        [
            (1.0, first_kick, stretch * eps / 2),
            (-1.0, first_kick, stretch * eps / 2 - inner / 2),
            (1.0, second_kick, inner / 2),
        ]
    )
    energy_error = kinetic - second.minus(start) - work
    change = _kinetic_sum([(1.0, first_kick, stretch * eps / 2), (1.0, second_kick, stretch * eps / 2)])
    return Step(params, velocity, gradient, start, second, energy_error, change, jnp.isfinite(energy_error))
