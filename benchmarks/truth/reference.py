"""Reference moments by BlackJAX NUTS on the full data in float64, cached.

NUTS runs in coordinates in which the posterior is about a standard normal: whitened with the Hessian at the mode, or
adapted by its own warm-up where a posterior has many modes. Neither changes the target.
"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
from benchmarks.truth import cache
from benchmarks.truth.target import Reference, Target
from jax.flatten_util import ravel_pytree
from numpyro.diagnostics import effective_sample_size, split_gelman_rubin

VERSION = 1  # of the code below: a change that could move a number needs another
RHAT_LIMIT = 1.01
THREADS = 2


def by_nuts(
    num_samples: int = 4000,
    num_warmup: int = 500,
    num_chains: int = 4,
    whiten: bool = True,
    chart: Callable[[Any], tuple[Any, jax.Array]] | None = None,
    seed: int = 0,
):
    """A function `Target -> Reference`; whitened chains begin around the mode, others at the target's starts.

    With a chart NUTS runs in other coordinates: `chart(coordinates) -> (params, log determinant)`.
    """
    whiten = whiten and chart is None

    def compute(target: Target) -> Reference:
        settings = {
            "version": VERSION, "seed": seed, "samples": num_samples, "warmup": num_warmup, "chains": num_chains,
            "whiten": whiten, "chart": chart is not None, "target": target.fingerprint,
            "blackjax": blackjax.__version__,
        }  # fmt: skip
        found = cache.load_arrays("references", target.name, settings)
        if found is None:
            begin = time.perf_counter()
            with jax.enable_x64(True):
                draws = _run(target, num_samples, num_warmup, num_chains, whiten, chart, seed)
            found = _summarised(draws) | {"seconds": np.asarray(time.perf_counter() - begin)}
            cache.save_arrays("references", target.name, settings, **found)
        note = (
            f"NUTS, {num_chains} chains of {num_samples}, float64: largest R-hat {float(found['rhat']):.4f}, smallest "
            f"effective sample size {float(found['ess']):.0f} (of x and of x²)"
        )
        print(f"reference {target.name}: {note}; {float(found['seconds']):.0f} s", flush=True)
        if found["rhat"] > RHAT_LIMIT:
            print(f"reference {target.name}: R-hat above {RHAT_LIMIT}", flush=True)
        return Reference(found["mean"], found["variance"], found["square_variance"], note)

    return compute


def _summarised(x: np.ndarray) -> dict[str, np.ndarray]:
    """Moments of quantities `(chain, draw, quantity)`; convergence is judged on x and on its centred square."""
    flat = x.reshape(-1, x.shape[-1])
    mean = flat.mean(axis=0)
    both = [x, (x - mean) ** 2]
    return {
        "mean": mean,
        "variance": flat.var(axis=0),
        "square_variance": (flat**2).var(axis=0),
        "rhat": np.asarray(max(split_gelman_rubin(part).max() for part in both)),
        "ess": np.asarray(min(effective_sample_size(part).min() for part in both)),
    }


def _mode(log_density, flat):
    """Newton's method with step halving; a few dozen iterations for what is nearly quadratic."""
    value_of, gradient_of, hessian_of = map(jax.jit, (log_density, jax.grad(log_density), jax.hessian(log_density)))
    for _ in range(100):
        gradient, hessian = gradient_of(flat), np.asarray(hessian_of(flat))
        values, vectors = np.linalg.eigh(-hessian)
        move = vectors @ ((vectors.T @ np.asarray(gradient)) / np.maximum(np.abs(values), 1e-6))
        size = 1.0
        while size > 1e-6 and not value_of(flat + size * move) >= value_of(flat):
            size /= 2
        flat = flat + size * move
        if float(gradient @ move) < 1e-12:
            break
    return flat, -np.asarray(hessian_of(flat))


def _run(target, num_samples, num_warmup, num_chains, whiten, chart, seed):
    """Quantities of the draws, `(chain, draw, quantity)`."""
    starts = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), target.start(num_chains))
    _, unravel = ravel_pytree(jax.tree.map(lambda x: x[0], starts))
    flats = jax.vmap(lambda p: ravel_pytree(p)[0])(starts)
    size = flats.shape[1]

    def to_tree(flat):
        return unravel(flat) if chart is None else chart(unravel(flat))[0]

    def log_density(flat):
        determinant = 0.0 if chart is None else chart(unravel(flat))[1]
        return target.log_density(to_tree(flat), jnp.float64) + determinant

    key = jax.random.key(seed)
    if whiten:
        centre, precision = _mode(log_density, flats[0])
        factor = jnp.asarray(np.linalg.inv(np.linalg.cholesky(precision)).T)  # factor factorᵀ = precision⁻¹
        to_params = lambda z: centre + factor @ z  # noqa: E731
        positions = jax.random.normal(jax.random.key(seed + 1), (num_chains, size), jnp.float64)
    else:
        to_params, positions = (lambda z: z), flats

    def density(z):
        return log_density(to_params(z))

    adaptation = blackjax.window_adaptation(
        blackjax.nuts, density, is_mass_matrix_diagonal=True, target_acceptance_rate=0.8,
        adaptation_info_fn=blackjax.adaptation.base.get_filter_adapt_info_fn(),
    )  # fmt: skip

    def chain(key, position):
        warm, run = jax.random.split(key)
        (state, parameters), _ = adaptation.run(warm, position, num_steps=num_warmup)
        step = blackjax.nuts.build_kernel()

        def one(state, key):
            state, _ = step(key, state, density, **parameters)
            return state, target.quantities(to_tree(to_params(state.position)))

        return jax.lax.scan(one, state, jax.random.split(run, num_samples))[1]

    # One program a chain: in lockstep every trajectory would last as long as the longest.
    compiled = jax.jit(chain).lower(key, positions[0]).compile()
    with ThreadPoolExecutor(THREADS) as pool:
        draws = pool.map(lambda i: np.asarray(compiled(jax.random.fold_in(key, i), positions[i])), range(num_chains))
        return np.stack(list(draws))
