"""MCLMC of BlackJAX on the full data, with its own tuning: what the samplers would do without batch noise."""

import time
from concurrent.futures import ThreadPoolExecutor

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
from benchmarks.truth.target import Moments, Reference, Target
from jax.flatten_util import ravel_pytree

THREADS = 2


def run_mclmc(target: Target, reference: Reference, seeds: int):
    """`[seed] -> Moments`, seconds and notes; float64, as many gradients as the others but of all rows."""
    begin = time.perf_counter()
    with jax.enable_x64(True):
        first, second, steps = _chains(target, reference, seeds * target.num_chains)
    cut = [slice(s * target.num_chains, (s + 1) * target.num_chains) for s in range(seeds)]
    notes = {"step_size": float(np.median(steps))}
    return [Moments(first[c], second[c]) for c in cut], time.perf_counter() - begin, notes


def _chains(target, reference, count):
    starts = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), target.start(count))
    _, unravel = ravel_pytree(jax.tree.map(lambda x: x[0], starts))
    centre = jnp.asarray(reference.mean)
    looks = target.num_samples // target.thinning // 2  # in each half

    def density(flat):
        return target.log_density(unravel(flat), jnp.float64)

    def chain(key, position):
        init_key, tune_key, run_key = jax.random.split(key, 3)
        kernel = blackjax.mcmc.mclmc.build_kernel()
        state = blackjax.mcmc.mclmc.init(position, density, init_key)
        state, found, _ = blackjax.mclmc_find_L_and_step_size(
            kernel, target.num_warmup, state, tune_key, logdensity_fn=density
        )

        def step(state, key):
            return kernel(key, state, density, found.inverse_mass_matrix, found.L, found.step_size)[0], None

        def look(state, key):
            state, _ = jax.lax.scan(step, state, jax.random.split(key, target.thinning))
            x = target.quantities(unravel(state.position)) - centre
            return state, (x, x * x)

        def half(state, key):
            state, (x, square) = jax.lax.scan(look, state, jax.random.split(key, looks))
            return state, (x.mean(axis=0), square.mean(axis=0))

        _, (first, second) = jax.lax.scan(half, state, jax.random.split(run_key, 2))
        return first, second, found.step_size

    keys = jax.random.split(jax.random.key(11), count)
    flats = jax.vmap(lambda p: ravel_pytree(p)[0])(starts)
    compiled = jax.jit(chain).lower(keys[0], flats[0]).compile()
    with ThreadPoolExecutor(THREADS) as pool:
        results = list(pool.map(lambda i: jax.tree.map(np.asarray, compiled(keys[i], flats[i])), range(count)))
    return tuple(np.stack(parts) for parts in zip(*results, strict=True))
