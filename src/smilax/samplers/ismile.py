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

from smilax.bnn import NetworkPosterior
from smilax.checks import check_count
from smilax.geometry.choice import NAMES, noise_estimate
from smilax.microcanonical import draw_velocity
from smilax.noise import rows
from smilax.posterior import Posterior
from smilax.samplers.base import SamplingAlgorithm, check_number, check_params, check_positive, check_posterior
from smilax.samplers.damping import NETWORK_SHRINKAGE
from smilax.samplers.descent import descent_init
from smilax.samplers.ismile_kernel import Kernel, noise_factor, split_step, whole_step
from smilax.samplers.ismile_state import IsmileState
from smilax.samplers.ismile_warmup import CURVATURE, Warmup
from smilax.tuning import VarianceRule, variance_init

# The share of a network's warm-up that goes into climbing the log posterior.
DESCENT = 0.2
# By default steps take a batch in halves from so many rows on, and down to this noise factor: below, most of the noise
# of a half is undone by the other, and makes nothing but error.
LEAST_SPLIT, LEAST_FACTOR = 8, 1 / 3


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
    # NumPy numbers would widen single precision.
    accuracy, noise_floor, shrinkage, max_reject = map(float, (accuracy, noise_floor, shrinkage, max_reject))
    target_eevpd = None if target_eevpd is None else float(target_eevpd)
    replacement = replacement or endless
    rule = VarianceRule((accuracy / CURVATURE) ** 3 if target_eevpd is None else target_eevpd)
    kernel = Kernel(posterior, replacement, friction, matched_noise, max_reject)

    def splits(batch):
        return in_halves(split, rows(batch), noise_factor(kernel, batch))

    def estimate_for(params):
        return noise_estimate(geometry, params, max_side=max_side, rank=rank)

    def init(key, params):
        check_params(params, turning=True)
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

    def step(key, state, batch):
        one = split_step if splits(batch) else whole_step
        state, info, _ = one(kernel, key, state, batch, jnp.exp(state.tuner.average), False)
        return state, info

    return SamplingAlgorithm(
        init=init,
        warmup=Warmup(
            kernel=kernel,
            estimate_for=estimate_for,
            splits=splits,
            rule=rule,
            accuracy=accuracy,
            noise_floor=noise_floor,
            shrinkage=shrinkage,
            step_size=step_size,
            endless=endless,
            descent=descent,
        ),
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
