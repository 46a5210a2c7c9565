"""What a chain of ismile carries along, and what it reports."""

from typing import Any, NamedTuple

import jax

from smilax.geometry.base import Geometry
from smilax.samplers.descent import Descent
from smilax.tuning import VarianceState


class IsmileInfo(NamedTuple):
    """What a step of ismile reports; scalars.

    Attributes:
        log_density: mini-batch log density at the second gradient evaluation, in nats.
        energy_error: same-batch energy error, in nats.
        step_size: ε, in units of the parameters.
        accepted: 1.0, or 0.0 where the guardrail rejected the step.
        eevpd: running Var(ΔE)/d, in nats².
        decoherence: L_eff, the momentum decoherence length that batch noise alone gives, in units of the parameters.
        radius: the posterior's radius as the geometry has it, in the same units.
    """

    log_density: jax.Array
    energy_error: jax.Array
    step_size: jax.Array
    accepted: jax.Array
    eevpd: jax.Array
    decoherence: jax.Array
    radius: jax.Array


class IsmileState(NamedTuple):
    """State of ismile.

    Attributes:
        params: position.
        velocity: vᵀMv = 1, up to the rounding errors of `age` steps.
        age: how many steps ago it was normalised, and explicit noise added.
        geometry: M, normalised to tr(P)/d = 1.
        scale: s = tr((Σ̂ + Λ)⁻¹)/d.
        damping: Λ, one scalar per leaf.
        stats: running statistics of the noise draws.
        tuner: step size and energy moments.
        num_steps: warm-up steps taken.
        factored: how often the geometry has been factored.
        descent: state of the descent, or None.
    """

    params: Any
    velocity: Any
    age: jax.Array
    geometry: Geometry
    scale: jax.Array
    damping: list[jax.Array]
    stats: Any
    tuner: VarianceState
    num_steps: jax.Array
    factored: jax.Array
    descent: Descent | None
