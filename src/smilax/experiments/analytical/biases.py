"""The bias of second moments, by sampler, noise and step size."""

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from smilax.data import Batches
from smilax.experiments.analytical.noises import LAWS, NOISE_STD, noise_factors
from smilax.experiments.analytical.targets import DIM, TARGETS, Target
from smilax.posterior import Posterior
from smilax.samplers import ismile, psmile_naive, sghmc, smile_naive
from smilax.sampling import sample

# A bias counts every so many steps.
EVERY = 10
# Samplers with a step size to choose, and the decades of their grids: SGHMC is heated by noise sooner, and under
# correlated noise pSMILE wants small steps.
BY_HAND: dict[str, tuple[Callable, tuple[float, float]]] = {
    "smile_naive": (smile_naive, (-2.0, 0.0)),
    "psmile_naive": (psmile_naive, (-3.0, 0.0)),
    "sghmc": (sghmc, (-3.5, -1.5)),
}
SIZE = 32  # B of ismile, whose noise is that of N/B = 16²


class Setting(NamedTuple):
    """What is measured.

    Attributes:
        target: of `TARGETS`.
        noise: of `NOISES`.
        law: of `LAWS`.
        sampler: of `BY_HAND`, or "ismile".
    """

    target: str
    noise: str
    law: str
    sampler: str


def grid_of(sampler: str, points: int) -> np.ndarray:
    """The step sizes tried; NaN for a sampler that finds its own."""
    return np.array([np.nan]) if sampler == "ismile" else np.logspace(*BY_HAND[sampler][1], points)


def biases(
    settings: Iterable[Setting],
    num_seeds: int,
    num_steps: int,
    points: int = 15,
    grids: dict[str, Sequence[float]] | None = None,
) -> dict[Setting, np.ndarray]:
    """Mean over coordinates of (mean of x_i² - E[x_i²])² / Var[x_i²], over every 10th step.

    Published samplers start at the paper's point and have no burn-in. ismile, which learns a geometry and a step size
    first, has half of the steps for that, and the other half counts.

    Args:
        settings: what to measure.
        num_seeds: chains for each step size.
        num_steps: of each chain, in all.
        points: step sizes in a sampler's grid.
        grids: other step sizes, by sampler.

    Returns:
        For each setting an array `(step size, seed)`.
    """
    settings = list(settings)
    keys = jax.random.split(jax.random.key(0), num_seeds)
    programs: dict[tuple[str, bool, str, str], Any] = {}
    grids = grids or {}

    def steps_of(sampler):
        return jnp.asarray(grids.get(sampler, grid_of(sampler, points)), jnp.float32)

    def program_key(s: Setting) -> tuple[str, bool, str, str]:
        return s.target, s.noise == "spatial", s.law, s.sampler

    targets = {name: TARGETS[name]() for name in {s.target for s in settings}}
    for setting in settings:
        key = program_key(setting)
        if setting.sampler != "ismile" and key not in programs:
            run = bias_program(BY_HAND[setting.sampler][0], targets[setting.target], num_steps, setting.law, key[1])
            both = jax.vmap(jax.vmap(run, in_axes=(0, None, None)), in_axes=(None, 0, None))
            factor = jnp.zeros((DIM, DIM), jnp.float32)
            # Traced and compiled one by one; XLA runs them side by side.
            programs[key] = jax.jit(both).lower(keys, steps_of(setting.sampler), factor).compile()

    def measure(setting: Setting) -> np.ndarray:
        target = targets[setting.target]
        factor = noise_factors(target.covariance)[setting.noise]
        if setting.sampler == "ismile":
            return bias_of_ismile(target, factor, num_seeds, num_steps, setting.law, setting.noise == "spatial")[None]
        return np.asarray(programs[program_key(setting)](keys, steps_of(setting.sampler), _single(factor)))

    by_hand = [s for s in settings if s.sampler != "ismile"]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = dict(zip(by_hand, pool.map(measure, by_hand), strict=True))
    # `sample` has threads of its own.
    found |= {s: measure(s) for s in settings if s.sampler == "ismile"}
    return {s: found[s] for s in settings}


def bias_program(make: Callable, target: Target, num_steps: int, law: str, spatial: bool) -> Callable:
    """`(key, step_size, factor) -> bias` of one chain."""
    # The batch is the noise itself: a term of the log density that is linear, or nearly so.
    posterior = Posterior(target.log_density, _perturbation(target, spatial), num_data=1)
    second, variance = _single(target.second), _single(target.variance)

    def run(key, step_size, factor):
        algorithm = make(posterior, lambda count: step_size)

        def step(state, noise_and_key):
            noise, step_key = noise_and_key
            return algorithm.step(step_key, state, noise[None])[0], None

        def segment(k, carry):
            state, mean = carry
            noise_key, step_key = jax.random.split(jax.random.fold_in(key, k))
            noise = LAWS[law](noise_key, (EVERY, DIM)) @ factor.T
            state, _ = jax.lax.scan(step, state, (noise, jax.random.split(step_key, EVERY)))
            return state, mean + (state.params[: target.scored] ** 2 - mean) / (k + 1).astype(jnp.float32)

        start = algorithm.init(jax.random.fold_in(key, 2**32 - 1), _single(target.start))
        _, mean = jax.lax.fori_loop(0, num_steps // EVERY, segment, (start, jnp.zeros(target.scored, jnp.float32)))
        return jnp.mean((mean - second) ** 2 / variance)

    return run


def bias_of_ismile(
    target: Target, factor: np.ndarray, num_seeds: int, num_steps: int, law: str, spatial: bool
) -> np.ndarray:
    """The bias of ismile, shape `(seed,)`; noise comes as rows, because it is learnt from halves of a batch."""
    num_data = int(NOISE_STD**2) * SIZE
    shaped = _single(factor.T * SIZE**0.5 / num_data)
    perturbation = _perturbation(target, spatial)
    # The exact part is shared out over the rows like a likelihood: nothing is to be learnt from a prior.
    posterior = Posterior(
        lambda x: jnp.zeros((), x.dtype),
        lambda x, batch: perturbation(x, batch) + target.log_density(x) / num_data,
        num_data,
    )

    def fresh(key, batch):
        return LAWS[law](key, batch.shape) @ shaped

    result = sample(
        jax.random.key(0), ismile(posterior, endless=True),
        Batches(np.zeros((num_data, DIM), np.float32), replacement=True, transform=fresh),
        _single(target.start), num_chains=num_seeds, num_warmup=num_steps // 2, num_samples=num_steps // 2,
        thinning=EVERY, batch_size=SIZE, progress_bar=False,
    )  # fmt: skip
    mean = (np.asarray(result.draws, np.float64)[..., : target.scored] ** 2).mean(1)
    return ((mean - target.second) ** 2 / target.variance).mean(1)


def _perturbation(target: Target, spatial: bool) -> Callable:
    def term(x, batch):
        linear = batch @ x
        return linear * jnp.exp(-x[2] / target.length) if spatial else linear

    return term


def _single(array: Any) -> jax.Array:
    return jnp.asarray(array, jnp.float32)


def cases(targets: Iterable[str], noises: Iterable[str], laws: Iterable[str], samplers: Iterable[str]) -> list[Setting]:
    """All combinations of those given."""
    return [Setting(*names) for names in product(targets, noises, laws, samplers)]
