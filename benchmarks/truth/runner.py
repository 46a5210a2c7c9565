"""Runs of samplers: moments of a target's quantities, never draws.

Grid samplers run at all step sizes at once, and on the same batches, so that a batch is gathered once for the grid.
"""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from benchmarks.truth.samplers import GridSampler
from benchmarks.truth.target import Moments, Reference, Target

import smilax as sx
from smilax.grouping import chain_keys

THREADS = 2


def _centred(target: Target, reference: Reference):
    centre = jnp.asarray(reference.mean, jnp.float32)
    return lambda params: target.quantities(params) - centre


def grid_program(target: Target, sampler: GridSampler, reference: Reference, num_warmup: int, num_samples: int):
    """`(keys (chain,), starts (chain, ...), steps (grid,), data) -> first, second (grid, chain, 2, quantity)`."""
    factor = 2 // sampler.gradients
    warm = factor * num_warmup
    every = factor * target.thinning
    looks = num_samples // target.thinning // 2  # in each half
    batches, quantities = target.batches, _centred(target, reference)

    def run(key, start, step_size, data):
        algorithm, adjust = sampler.build(target.posterior, step_size)
        keys = jax.tree.map(lambda k: k[0], chain_keys(key, jnp.zeros(1, jnp.int32)))
        state = adjust(algorithm.init(jax.random.fold_in(keys.algorithm, 2**32 - 1), start))

        def draw(t):
            return jax.random.fold_in(keys.algorithm, t), batches.draw(data, keys.data, t, target.batch_size)

        def warmup_step(t, state):
            step_key, batch = draw(t)
            return algorithm.warmup(step_key, state, batch, t.astype(jnp.float32) / max(warm, 1))[0]

        def step(t, state):
            step_key, batch = draw(t)
            return algorithm.step(step_key, state, batch)[0]

        def look(k, carry):
            state, first, second = carry
            state = jax.lax.fori_loop(warm + k * every, warm + (k + 1) * every, step, state)
            x = quantities(state.params)
            half = k // looks
            weight = 1 / (k % looks + 1).astype(jnp.float32)
            first = first.at[half].add(weight * (x - first[half]))
            second = second.at[half].add(weight * (x * x - second[half]))
            return state, first, second

        state = jax.lax.fori_loop(0, warm, warmup_step, state)
        size = jax.eval_shape(quantities, start).shape[0]
        blank = jnp.zeros((2, size), jnp.float32)
        _, first, second = jax.lax.fori_loop(0, 2 * looks, look, (state, blank, blank))
        return first, second

    over_chains = jax.vmap(run, in_axes=(0, 0, None, None))
    return jax.jit(jax.vmap(over_chains, in_axes=(None, None, 0, None)))


def run_grid(target: Target, sampler: GridSampler, reference: Reference, steps: np.ndarray, seeds: int, chains: int):
    """Moments per seed and step, `[seed][step] -> Moments`, and seconds; two threads share the steps or the chains."""
    program = grid_program(target, sampler, reference, target.num_warmup, target.num_samples)
    begin = time.perf_counter()
    count = seeds * chains
    keys = jax.random.split(jax.random.key(seeds + 100), count)
    starts = jax.tree.map(jnp.asarray, target.start(count))
    data = jax.tree.map(jnp.asarray, target.batches.data)
    grid = jnp.asarray(steps, jnp.float32)
    parts = np.array_split(np.arange(count), min(THREADS, count))
    if len({len(part) for part in parts}) > 1:
        parts = [np.arange(count)]

    def drive(part):
        mine = jax.tree.map(lambda x: x[part], starts)
        return jax.tree.map(np.asarray, program(keys[part], mine, grid, data))

    with ThreadPoolExecutor(THREADS) as pool:
        results = list(pool.map(drive, parts))
    first = np.concatenate([r[0] for r in results], axis=1)
    second = np.concatenate([r[1] for r in results], axis=1)
    cut = [slice(s * chains, (s + 1) * chains) for s in range(seeds)]
    moments = [[Moments(first[i, c], second[i, c]) for i in range(len(steps))] for c in cut]
    return moments, time.perf_counter() - begin


def run_ismile(target: Target, reference: Reference, options: dict[str, Any], seeds: int):
    """ismile as its users run it; chains of all seeds go side by side. `[seed] -> Moments`, and seconds."""
    count = seeds * target.num_chains
    algorithm = sx.ismile(target.posterior, **options)
    result = sx.sample(
        jax.random.key(7),
        algorithm,
        target.data,
        jax.tree.map(jnp.asarray, target.start(count)),
        num_warmup=target.num_warmup,
        num_samples=target.num_samples,
        thinning=target.thinning,
        batch_size=target.batch_size,
        progress_bar=False,
    )
    look = jax.jit(jax.vmap(_centred(target, reference)))
    moments = []
    for seed in range(seeds):
        first, second = [], []
        for chain in range(seed * target.num_chains, (seed + 1) * target.num_chains):
            x = np.asarray(look(jax.tree.map(lambda leaf, c=chain: leaf[c], result.draws)), np.float64)
            halves = np.array_split(x, 2)
            first.append([half.mean(axis=0) for half in halves])
            second.append([(half**2).mean(axis=0) for half in halves])
        moments.append(Moments(np.asarray(first), np.asarray(second)))
    notes = {
        "step_size": float(np.median(result.info.step_size)),
        "accepted": float(np.mean(result.info.accepted)),
    }
    return moments, result.seconds, notes
