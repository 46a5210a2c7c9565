"""ismile: microcanonical dynamics that are right under mini-batch noise of any covariance, and find their step size.

Two things make the stationary law of the directions uniform, as it has to be. The mass matrix is the covariance of the
gradient noise plus a damping, M ∝ Σ̂ + Λ, and noise ξ ~ N(0, fΛ) is added to the gradient, so that with exact Σ̂ all
noise is isotropic in the metric, for any Λ (Proposition 1 of arXiv 2602.06500 asks for no more). And whatever Σ̂ misses,
because the geometry cannot express it or because Σ depends on the position, meets the friction that belongs to it.
Both are derived in docs/theory.md.
"""

import jax
import jax.numpy as jnp

from smilax import trees
from smilax.bnn import NetworkPosterior
from smilax.conditional import when
from smilax.friction import matched_friction
from smilax.geometry.choice import NAMES, noise_estimate
from smilax.microcanonical import LAMBDA, draw_velocity, drift, drift_first, normalize, refresh
from smilax.noise import half_batch_gradients, rows
from smilax.packing import spread, unpack
from smilax.posterior import Posterior
from smilax.samplers.base import SamplingAlgorithm, check_number, check_params, check_positive
from smilax.samplers.descent import descend, descent_init
from smilax.samplers.ismile_state import IsmileInfo, IsmileState
from smilax.tuning import VarianceRule, variance_init, variance_update

# Variance inflation per ε/L_eff that batch noise leaves behind (see docs/theory.md).
INFLATION = 0.32
# What the kick correction leaves of an inflation r is about this times r² (measured: 3.2 % became 0.1 %, 9.1 % 1.1 %).
RESIDUAL = 1.2
# Discretisation by curvature inflates variances by about this times EEVPD^{1/3} (logistic regression, breast-cancer).
CURVATURE = 0.6
# The share of the accuracy that the noise limit may use up.
NOISE_SHARE = 1 / 3
# Where a single row is all that is known of a direction, its noise comes as one kick in N/B steps, and the inflation
# may be N/B times that of steady noise (docs/theory.md). There it may be so many times the accuracy.
LONE_ROW_SHARE = 4.0
# Fractions of warm-up at which the geometry is factored; bases are chosen anew up to `LAST_ROTATION`.
FACTORED_AT = (0.002, 0.005, 0.01, 0.02, 0.04, 0.07, 0.11, 0.16, 0.22, 0.3, 0.4, 0.5, 0.6, 0.7)
LAST_ROTATION = 0.45
# The share of a network's warm-up that goes into climbing the log posterior.
DESCENT = 0.2
# Power of the step number with which noise draws are weighted: early ones, from the transient, fade.
WEIGHT_POWER = 2


def ismile(
    posterior: Posterior,
    *,
    geometry: str = "auto",
    accuracy: float = 0.03,
    noise_floor: float = 1.0,
    target_eevpd: float | None = None,
    step_size: float | None = None,
    initial_step_size: float = 1e-2,
    replacement: bool = False,
    endless: bool = False,
    max_reject: float = 5.0,
    max_side: int = 1024,
    rank: int = 16,
    friction: bool = True,
    matched_noise: bool = True,
    descent: float | None = None,
) -> SamplingAlgorithm:
    """ismile: right under gradient noise of any covariance, and no step size to choose.

    Each step pairs its batch noise with the friction that noise of this covariance needs, at the price of one
    forward-mode derivative of the batch's log likelihood; and noise is added so that the geometry is no source of
    anisotropy itself.

    Warm-up of a network begins with a descent: for a fifth of its steps an optimiser climbs the log posterior, at one
    gradient a step. What follows learns the mass matrix from half-batch gradient differences and the step size from two
    limits: batch noise (in closed form) and curvature (by the variance of the same-batch energy error). Both are then
    frozen, and sampling is a fixed Markov kernel. Where batch noise alone would forget a velocity more slowly than the
    posterior is wide, explicit Langevin noise adds the rest; with all data in each batch this is MCLMC.

    Batches must be independent from step to step; shuffled epochs are refused by `sample`.

    Args:
        posterior: the target.
        geometry: `"auto"`, `"identity"`, `"diagonal"`, `"kronecker"`, `"low_rank"` or `"dense"`.
        accuracy: relative error of posterior variances that discretisation may cause: the one dial. A smaller one takes
            smaller steps. In directions that a single row decides the error may be some four times larger.
        noise_floor: c in Λ = c (N/B) × prior precision; larger dilutes what the geometry misses, and mixes more slowly.
        target_eevpd: energy error variance per parameter to steer to; None derives it from `accuracy`.
        step_size: a fixed step size in units of the parameters; None finds it.
        initial_step_size: where the search starts; any value between 1e-6 and 10 leads to the same end.
        replacement: whether batches are drawn with replacement; must agree with the data.
        endless: whether every batch is new, as from a simulator, and no row comes back: none then decides a
            direction alone, and steps may be longer. Implies `replacement`.
        max_reject: a step is rejected if |ΔE − mean ΔE| exceeds this times √d (or is not finite).
        max_side: kronecker: a longer side of a weight matrix stays unrotated.
        rank: low_rank: number of directions.
        friction: whether each step's friction matches its own noise; without, noise that the geometry does not express
            makes variances wrong.
        matched_noise: whether noise is added so that with exact Σ̂ all noise is isotropic.
        descent: share of warm-up that goes into climbing the log posterior (Adafactor, its rate falling to zero), in
            [0, 1). None: 0.2 for a posterior of `sx.bnn`, else 0, as the mode of a hierarchical model is no place to
            start from. A chain that has been warmed up before does not descend again.

    Raises:
        ValueError: if an argument is outside its range.

    Example:
        >>> import jax.numpy as jnp, smilax as sx
        >>> posterior = sx.Posterior(lambda x: -0.5 * jnp.sum(x**2), lambda x, batch: batch @ x, 100)
        >>> sx.ismile(posterior).config["geometry"]
        'auto'
    """
    if geometry not in NAMES:
        raise ValueError(f"geometry must be one of {', '.join(map(repr, NAMES))}, got {geometry!r}")
    for name, value in (
        ("accuracy", accuracy),
        ("noise_floor", noise_floor),
        ("initial_step_size", initial_step_size),
        ("max_reject", max_reject),
    ):
        check_positive(name, value)
    for name, optional in (("target_eevpd", target_eevpd), ("step_size", step_size)):
        if optional is not None:
            check_positive(name, optional)
    if descent is None:
        descent = DESCENT if isinstance(posterior, NetworkPosterior) else 0.0
    check_number("descent", descent)
    if not 0 <= descent < 1:
        raise ValueError(f"descent must be in [0, 1), got {descent!r}")
    replacement = replacement or endless
    rule = VarianceRule(target=(accuracy / CURVATURE) ** 3 if target_eevpd is None else target_eevpd)

    def estimate_for(params):
        return noise_estimate(geometry, params, max_side=max_side, rank=rank)

    def thinned(batch):
        """f: 1 with replacement, 1 − B/N without."""
        return 1.0 if replacement else max(1 - rows(batch) / posterior.num_data, 0.0)

    def damping_for(params, stats, batch_size):
        ratio = noise_floor * posterior.num_data / batch_size
        means = estimate_for(params).leaf_means(stats)
        known = [
            jnp.maximum(ratio * tau.astype(mean.dtype), 0)
            for tau, mean in zip(posterior.prior_precision(unpack(params)), means, strict=True)
        ]
        # A leaf may have neither a known prior precision nor noise of its own: it is damped like the others then.
        typical = sum(known) / len(known) + sum(means) / len(means)
        unknown = [UNKNOWN_SHARE * jnp.maximum(mean, typical) + jnp.finfo(mean.dtype).tiny for mean in means]
        return [jnp.where(level > 0, level, other) for level, other in zip(known, unknown, strict=True)]

    def init(key, params):
        check_params(params)
        dtype = jnp.result_type(*jax.tree.leaves(params))
        estimate = estimate_for(params)
        stats = estimate.init(params)
        # Before the first draws M is the identity: the statistics are zero and the damping is everything.
        ones = [jnp.ones((), dtype) for _ in estimate.leaf_means(stats)]
        factored = estimate.factor(stats, ones)
        return IsmileState(
            params=params,
            velocity=draw_velocity(key, params, factored.geometry),
            geometry=factored.geometry,
            scale=factored.scale,
            damping=[jnp.zeros_like(x) for x in ones],
            stats=stats,
            tuner=variance_init(jnp.asarray(initial_step_size if step_size is None else step_size, dtype)),
            num_steps=jnp.zeros((), jnp.int32),
            factored=jnp.zeros((), jnp.int32),
            descent=descent_init(params) if descent else None,
        )

    def limits(state, batch):
        """Noise limit of the step size, 1/L_eff per step size, and the posterior's radius."""
        f, size = thinned(batch), trees.size(state.params)
        known = state.factored > 0
        rate = jnp.where(known, f / (2 * (size - 1) * state.scale), 0)
        # With c = 1, M/s is N/B times the Laplace precision, so this is the radius of that Gaussian.
        radius = jnp.sqrt(size * state.scale * (posterior.num_data / rows(batch)))
        return rate, jnp.where(known, radius, jnp.inf)

    def advance(key, state, batch, eps, warming_up):
        noise_key, refresh_key = jax.random.split(key)
        dtype = eps.dtype
        rate, radius = limits(state, batch)
        f = thinned(batch)
        noise = None
        if f > 0 and matched_noise:
            amplitude = spread([jnp.sqrt(f * level) for level in state.damping], state.params)
            # Of kicks this small only the covariance counts, and signs cost a fraction of normal numbers.
            noise = jax.tree.map(jnp.multiply, amplitude, trees.signs_like(noise_key, state.params))
        # 1/L_eff = rate · ε, so ε/L_eff = rate · ε².
        stretch = 1 + INFLATION * rate * eps * eps
        weights, draw = None, None
        middle = drift(state.params, state.velocity, LAMBDA * eps)

        def matched(slopes=None):
            damping = spread(state.damping, state.params) if matched_noise else None
            return matched_friction(posterior, middle, state.velocity, batch, eps, f, damping, slopes)

        if f > 0 and friction:
            if warming_up:
                match = matched()
                weights = match.weights
                *first, draw = half_batch_gradients(posterior, middle, batch, weights)
            else:
                *first, match = posterior.value_and_weighted_grad(
                    middle, batch, state.velocity, lambda slopes: ((match := matched(slopes)).weights, match)
                )
                weights = match.weights
            if matched_noise:
                noise = jax.tree.map(jnp.add, noise, match.force)
            # The force has a component against the motion, which lengthens the other forces' part in a kick.
            stretch = stretch - 0.5 * match.turn
        elif warming_up:
            *first, draw = half_batch_gradients(posterior, middle, batch)
        else:
            first = list(posterior.value_and_grad(middle, batch))
        moved = drift_first(
            lambda params: posterior.value_and_grad(params, batch, weights),
            state.params,
            state.velocity,
            state.geometry,
            eps,
            noise=noise,
            stretch=stretch,
            first=tuple(first),
        )
        size = trees.size(state.params)
        off = jnp.abs(moved.energy_error - state.tuner.center)
        accepted = moved.valid & (off <= max_reject * size**0.5)
        params = trees.where(accepted, moved.params, state.params)
        velocity = trees.where(accepted, moved.velocity, jax.tree.map(jnp.negative, state.velocity))
        # Explicit noise for what batch noise lacks: 1/L = 1/L_eff + 1/L_refresh with L the posterior's radius.
        missing = jnp.maximum(1 / radius - rate * eps, 0)
        length = 1 / jnp.maximum(missing, jnp.finfo(dtype).tiny)
        # In exact arithmetic kicks keep vᵀMv at one; but friction makes rounding grow.
        velocity = normalize(velocity, state.geometry)
        velocity = when(
            missing > 0,
            lambda velocity, key, *rest: refresh(key, velocity, *rest),
            velocity, refresh_key, state.geometry, eps, length,
        )  # fmt: skip
        info = IsmileInfo(
            moved.second.total,
            moved.energy_error,
            eps,
            accepted.astype(dtype),
            state.tuner.eevpd,
            1 / jnp.maximum(rate * eps, jnp.finfo(dtype).tiny),
            radius,
        )
        return state._replace(params=params, velocity=velocity), info, accepted, draw

    def refactored(state, batch_size, turning):
        estimate = estimate_for(state.params)
        stats = when(turning, estimate.rotate, state.stats)
        factored = estimate.factor(stats, damping_for(state.params, stats, batch_size))
        velocity = normalize(state.velocity, factored.geometry)
        return state._replace(
            velocity=velocity,
            geometry=factored.geometry,
            scale=factored.scale,
            damping=factored.damping,
            stats=stats,
            factored=state.factored + 1,
        )

    def climb(carry, batch, progress):
        state, info = carry
        density, gradient = posterior.value_and_grad(state.params, batch)
        # The mass matrix is the identity so far: a direction of norm one is a velocity, and needs no array of its own.
        progressed, direction, params = descend(state.descent, state.velocity, state.params, gradient, progress)
        state = state._replace(params=params, velocity=direction, descent=progressed)
        return state, info._replace(log_density=density.total)

    def warmup(key, state, batch, fraction):
        if not descent:
            return adapt(key, state, batch, fraction)
        fresh = state.num_steps == 0
        climbing = fresh & (fraction < descent)
        eps = jnp.exp(state.tuner.log_step)
        zero, one = jnp.zeros_like(eps), jnp.ones_like(eps)
        info = IsmileInfo(zero, zero, eps, one, zero, zero, zero)
        carry = when(climbing, climb, (state, info), batch, fraction / descent)

        def go_on(carry, key, batch, fraction):
            state, _ = carry
            start = jax.random.fold_in(key, 2)
            velocity = when(
                state.num_steps == 0,
                lambda velocity, key, *rest: draw_velocity(key, *rest),
                state.velocity, start, state.params, state.geometry,
            )  # fmt: skip
            return adapt(key, state._replace(velocity=velocity), batch, fraction)

        return when(~climbing, go_on, carry, key, batch, jnp.maximum(fraction - descent, 0) / (1 - descent))

    def adapt(key, state, batch, fraction):
        eps = jnp.exp(state.tuner.log_step)
        dtype = eps.dtype
        state, info, accepted, draw = advance(key, state, batch, eps, True)
        # Polynomial-decay averaging (Shamir and Zhang 2013): weights grow as a power of the step number.
        count = state.num_steps.astype(dtype)
        weight = (WEIGHT_POWER + 1) / (count + WEIGHT_POWER + 1)
        finite = jnp.isfinite(trees.dot(draw, draw))
        draw = trees.where(finite, draw, jax.tree.map(jnp.zeros_like, draw))
        stats = estimate_for(state.params).update(state.stats, draw, jnp.where(finite, weight, 0))
        rate, _ = limits(state, batch)
        ratio = noise_limit(accuracy, 0.0 if endless else posterior.num_data / rows(batch))
        largest = jnp.sqrt(ratio / jnp.maximum(rate, jnp.finfo(dtype).tiny))
        tuner = state.tuner
        if step_size is None:
            tuner = variance_update(
                rule, tuner, info.energy_error, accepted, trees.size(state.params), fraction.astype(dtype), largest
            )
        state = state._replace(stats=stats, tuner=tuner, num_steps=state.num_steps + 1)
        times = jnp.asarray([*FACTORED_AT, 2.0], jnp.float32)
        due = (fraction >= times[state.factored]) & (state.num_steps >= LEAST_DRAWS)
        turning = fraction < LAST_ROTATION
        # In turn: with batched LAPACK calls XLA's CPU client was seen to wait for ever.
        state = when(due, lambda s, turning: refactored(s, rows(batch), turning), state, turning, in_turn=True)
        return state, info

    def step(key, state, batch):
        eps = jnp.exp(state.tuner.average)
        state, info, _, _ = advance(key, state, batch, eps, False)
        return state, info

    return SamplingAlgorithm(
        init=init,
        warmup=warmup,
        step=step,
        config={
            "name": "ismile",
            "geometry": geometry,
            "accuracy": float(accuracy),
            "noise_floor": float(noise_floor),
            "target_eevpd": float(rule.target),
            "step_size": None if step_size is None else float(step_size),
            "initial_step_size": float(initial_step_size),
            "replacement": bool(replacement),
            "endless": bool(endless),
            "max_reject": float(max_reject),
            "max_side": max_side,
            "rank": rank,
            "friction": bool(friction),
            "matched_noise": bool(matched_noise),
            "descent": float(descent),
            "batches": "independent",
        },
        posterior=posterior,
    )


def noise_limit(accuracy: float, dilution: float) -> float:
    """The largest ε/L_eff that batch noise allows at a dilution N/B of the data; 0 where no row stands alone."""
    steady = (NOISE_SHARE * accuracy / RESIDUAL) ** 0.5
    lone = LONE_ROW_SHARE * accuracy / dilution if dilution else steady
    return min(steady, lone) / INFLATION


# Where the prior's precision is not known (flat priors): damping as a share of the mean noise variance. It slows
# directions down whose noise variance is a smaller share: at 0.01 a Gaussian whose variances span 10⁴ mixed ten times
# more slowly along the widest. At 1e-4 the scales of a hierarchical model, which only the prior knows, moved too far.
UNKNOWN_SHARE = 1e-3
# No geometry is made from fewer draws.
LEAST_DRAWS = 20
