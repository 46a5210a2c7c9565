"""ismile: microcanonical dynamics that are right under mini-batch noise of any covariance, and find their step size.

Two things make the stationary law of the directions uniform, as it has to be. The mass matrix is the covariance of the
gradient noise plus a damping, M ∝ Σ̂ + Λ, and noise ξ ~ N(0, fΛ) is added to the gradient, so that with exact Σ̂ all
noise is isotropic in the metric, for any Λ (Proposition 1 of arXiv 2602.06500 asks for no more). And whatever Σ̂ misses,
because the geometry cannot express it or because Σ depends on the position, meets the friction that belongs to it.
Both are derived in docs/theory.md.
"""

import math

import jax
import jax.numpy as jnp

from smilax import trees
from smilax.bnn import NetworkPosterior
from smilax.checks import check_count
from smilax.conditional import when
from smilax.geometry.choice import NAMES, noise_estimate
from smilax.microcanonical import draw_velocity, normalize
from smilax.noise import rows
from smilax.posterior import Posterior
from smilax.samplers.base import SamplingAlgorithm, check_number, check_params, check_positive, check_posterior
from smilax.samplers.damping import NETWORK_SHRINKAGE, damping
from smilax.samplers.descent import descend, descent_init
from smilax.samplers.ismile_kernel import INFLATION, Kernel, limits, noise_factor, split_step, whole_step
from smilax.samplers.ismile_state import IsmileInfo, IsmileState
from smilax.tuning import VarianceRule, variance_init, variance_update

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
# Once the step size has been found roughly, one step of warm-up in so many measures the energy error.
MEASURED_EVERY = 4
# So many steps of warm-up, the short blocks of the step-size rule, all do.
SEARCH = VarianceRule(0.0).first_blocks * VarianceRule(0.0).short
# By default steps take a batch in halves from so many rows on, and down to this noise factor: below, most of the noise
# of a half is undone by the other, and makes nothing but error.
LEAST_SPLIT, LEAST_FACTOR = 8, 1 / 3
# Power of the step number with which noise draws are weighted: early ones, from the transient, fade.
WEIGHT_POWER = 2


def ismile(
    posterior: Posterior,
    *,
    geometry: str = "auto",
    accuracy: float = 0.03,
    noise_floor: float = 1.0,
    shrinkage: float | None = None,
    target_eevpd: float | None = None,
    step_size: float | None = None,
    initial_step_size: float = 1e-2,
    replacement: bool = False,
    endless: bool = False,
    max_reject: float = 5.0,
    max_side: int = 128,
    rank: int = 16,
    friction: bool = True,
    matched_noise: bool = True,
    descent: float | None = None,
    split: bool | None = None,
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
        shrinkage: share of the mean noise variance of its leaf that Λ has besides: what warm-up did not see, as of a
            unit that was dead, is not taken for free of noise. None: 0.01 for a posterior of `sx.bnn`, else 0.
        target_eevpd: energy error variance per parameter to steer to; None derives it from `accuracy`.
        step_size: a fixed step size in units of the parameters; None finds it.
        initial_step_size: where the search starts; any value between 1e-6 and 10 leads to the same end.
        replacement: whether batches are drawn with replacement; must agree with the data.
        endless: whether every batch is new, as from a simulator, and no row comes back: none then decides a
            direction alone, and steps may be longer. Implies `replacement`.
        max_reject: a step is rejected if |ΔE − mean ΔE| exceeds this times √d (or is not finite).
        max_side: kronecker: a longer side of a weight matrix is cut in blocks of this length at most, one of more than
            eight blocks stays unrotated, and of two longer sides only the shorter is rotated. Where weights are shared
            by many positions, as in convolutions and attention, 1024 costs little more.
        rank: low_rank: number of directions.
        friction: whether each step's friction matches its own noise; without, noise that the geometry does not express
            makes variances wrong.
        matched_noise: whether noise is added so that with exact Σ̂ all noise is isotropic.
        descent: share of warm-up that goes into climbing the log posterior (Adafactor, its rate falling to zero), in
            [0, 1). None: 0.2 for a posterior of `sx.bnn`, else 0, as the mode of a hierarchical model is no place to
            start from. A chain that has been warmed up before does not descend again; mass matrix and step size are
            learnt anew.
        split: whether the two kicks of a step take half of the batch each: one gradient of the batch a step instead of
            two, and no energy error but in warm-up, where at least one step in four takes the whole. Directions that a
            single row decides come out less exact. None: for a posterior of `sx.bnn`, if a batch has an even number of
            rows, at least eight, and without replacement no more than two thirds of the data.

    Raises:
        ValueError: if an argument is outside its range.
        TypeError: if a number is expected and something else given.

    Example:
        >>> import jax.numpy as jnp, smilax as sx
        >>> posterior = sx.Posterior(lambda x: -0.5 * jnp.sum(x**2), lambda x, batch: batch @ x, 100)
        >>> sx.ismile(posterior).config["geometry"]
        'auto'
    """
    check_posterior(posterior)
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
    max_side, rank = check_count("max_side", max_side, 1), check_count("rank", rank, 1)
    network = isinstance(posterior, NetworkPosterior)
    if descent is None:
        descent = DESCENT if network else 0.0
    if shrinkage is None:
        shrinkage = NETWORK_SHRINKAGE if network else 0.0
    check_number("descent", descent)
    check_number("shrinkage", shrinkage)
    if not 0 <= descent < 1:
        raise ValueError(f"descent must be in [0, 1), got {descent!r}")
    if not 0 <= shrinkage < math.inf:
        raise ValueError(f"shrinkage must be finite and at least 0, got {shrinkage!r}")
    if split is not None and not isinstance(split, bool):
        raise ValueError(f"split must be True, False or None, got {split!r}")
    if split is None and not network:
        split = False
    replacement = replacement or endless
    rule = VarianceRule((accuracy / CURVATURE) ** 3 if target_eevpd is None else target_eevpd)
    kernel = Kernel(posterior, replacement, friction, matched_noise, max_reject)

    def splits(batch):
        return in_halves(split, rows(batch), noise_factor(kernel, batch))

    def estimate_for(params):
        return noise_estimate(geometry, params, max_side=max_side, rank=rank)

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
            age=jnp.zeros((), jnp.int32),
            geometry=factored.geometry,
            scale=factored.scale,
            damping=[jnp.zeros_like(x) for x in ones],
            stats=stats,
            tuner=variance_init(jnp.asarray(initial_step_size if step_size is None else step_size, dtype)),
            num_steps=jnp.zeros((), jnp.int32),
            factored=jnp.zeros((), jnp.int32),
            descent=descent_init(params) if descent else None,
        )

    def observed(state, draw):
        """With one more draw of the gradient noise."""
        # Polynomial-decay averaging (Shamir and Zhang 2013): weights grow as a power of the step number.
        count = state.num_steps.astype(state.tuner.log_step.dtype)
        weight = (WEIGHT_POWER + 1) / (count + WEIGHT_POWER + 1)
        finite = jnp.isfinite(trees.dot(draw, draw))
        draw = trees.where(finite, draw, jax.tree.map(jnp.zeros_like, draw))
        return state._replace(stats=estimate_for(state.params).update(state.stats, draw, jnp.where(finite, weight, 0)))

    def refactored(state, batch_size, turning):
        estimate = estimate_for(state.params)
        stats = when(turning, estimate.rotate, state.stats)
        levels = damping(posterior, state.params, estimate.leaf_means(stats), batch_size, noise_floor, shrinkage)
        factored = estimate.factor(stats, levels)
        velocity = normalize(state.velocity, factored.geometry)
        return state._replace(
            velocity=velocity,
            geometry=factored.geometry,
            scale=factored.scale,
            damping=factored.damping,
            stats=stats,
            factored=state.factored + 1,
        )

    def blank_info(state):
        eps = jnp.exp(state.tuner.log_step)
        zero, one = jnp.zeros_like(eps), jnp.ones_like(eps)
        return IsmileInfo(zero, zero, eps, one, zero, zero, zero)

    def climb(carry, batch, progress):
        state, info = carry
        density, gradient = posterior.value_and_grad(state.params, batch)
        # The mass matrix is the identity so far: a direction of norm one is a velocity, and needs no array of its own.
        progressed, direction, params = descend(state.descent, state.velocity, state.params, gradient, progress)
        state = state._replace(params=params, velocity=direction, descent=progressed)
        return state, info._replace(log_density=density.total)

    def begun_again(state, fraction):
        """At the first step of another warm-up: what was learnt holds until there is something better."""
        again = (fraction == 0) & (state.num_steps > 0)
        tuner = state.tuner
        if step_size is None:
            tuner = trees.where(again, variance_init(jnp.exp(tuner.average)), tuner)
        return state._replace(
            # From here on draws are weighted as if they were the first; a chain that has moved does not descend.
            num_steps=jnp.where(again, 1, state.num_steps),
            factored=jnp.where(again, jnp.minimum(state.factored, 1), state.factored),
            tuner=tuner,
        )

    def warmup(key, state, batch, fraction):
        state = begun_again(state, fraction)
        if not descent:
            return adapt(key, state, batch, fraction)
        climbing = (state.num_steps == 0) & (fraction < descent)
        carry = when(climbing, climb, (state, blank_info(state)), batch, fraction / descent)

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

    def moved(step, key, state, batch):
        state, info, draw = step(kernel, key, state, batch, jnp.exp(state.tuner.log_step), True)
        return observed(state, draw), info

    def advance(key, state, batch):
        """A step of warm-up, and whether it has measured the energy error."""
        if not splits(batch):
            return *moved(whole_step, key, state, batch), jnp.ones((), bool)
        searching = state.tuner.blocks < rule.first_blocks
        measuring = searching | (state.num_steps % MEASURED_EVERY == 0)
        carry = (state, blank_info(state))
        for chosen, step in ((measuring, whole_step), (~measuring, split_step)):
            carry = when(
                chosen, lambda carry, key, batch, step=step: moved(step, key, carry[0], batch), carry, key, batch
            )
        return *carry, measuring

    def adapt(key, state, batch, fraction):
        dtype = state.tuner.log_step.dtype
        state, info, measured = advance(key, state, batch)
        rate, _ = limits(kernel, state, batch)
        ratio = noise_limit(accuracy, 0.0 if endless else posterior.num_data / rows(batch))
        largest = jnp.sqrt(ratio / jnp.maximum(rate, jnp.finfo(dtype).tiny))
        tuner = state.tuner
        accepted = info.accepted > 0
        if step_size is None:
            after = variance_update(
                rule, tuner, info.energy_error, accepted, trees.size(state.params), fraction.astype(dtype), largest
            )
            # A reject tells of the step size also where the energy error is not known.
            tuner = trees.where(measured | ~accepted, after, tuner)
        state = state._replace(tuner=tuner, num_steps=state.num_steps + 1)
        times = jnp.asarray([*FACTORED_AT, 2.0], jnp.float32)
        due = (fraction >= times[state.factored]) & (state.num_steps >= LEAST_DRAWS)
        turning = fraction < LAST_ROTATION
        # In turn: with batched LAPACK calls XLA's CPU client was seen to wait for ever.
        state = when(due, lambda s, turning: refactored(s, rows(batch), turning), state, turning, in_turn=True)
        return state, info

    def step(key, state, batch):
        one = split_step if splits(batch) else whole_step
        state, info, _ = one(kernel, key, state, batch, jnp.exp(state.tuner.average), False)
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
            "shrinkage": float(shrinkage),
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
            "split": split,
            "batches": "independent",
        },
        posterior=posterior,
    )


def in_halves(split: bool | None, batch_size: int, factor: float) -> bool:
    """Whether steps take a batch in halves, f being 1 − B/N or, with replacement, 1.

    Raises:
        ValueError: if they are to and cannot.
    """
    even = batch_size % 2 == 0
    if split is None:
        return even and batch_size >= LEAST_SPLIT and factor >= LEAST_FACTOR
    if split and (not even or batch_size < 4 or factor == 0):
        rows = f"{batch_size} rows" + (", which is all of the data" if factor == 0 else "")
        raise ValueError(f"split=True needs an even batch_size of at least 4, less than the data, got {rows}")
    return split


def noise_limit(accuracy: float, dilution: float) -> float:
    """The largest ε/L_eff that batch noise allows at a dilution N/B of the data; 0 where no row stands alone."""
    steady = (NOISE_SHARE * accuracy / RESIDUAL) ** 0.5
    lone = LONE_ROW_SHARE * accuracy / dilution if dilution else steady
    return min(steady, lone) / INFLATION


# No geometry is made from fewer draws.
LEAST_DRAWS = 20
