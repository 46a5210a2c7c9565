"""What a run will take: draws, bytes, gradients."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from smilax import trees
from smilax.recording import Store, bytes_per_draw
from smilax.running import Lengths
from smilax.samplers.base import SamplingAlgorithm
from smilax.samplers.cost import OPEN_ENDED, chain_gradients
from smilax.validation import check_count, check_lengths


@dataclass(frozen=True)
class Estimate:
    """What a run will take.

    Attributes:
        num_params: numbers in the parameters of one chain.
        num_chains: number of chains.
        num_draws: draws per chain.
        disk_bytes: size of the draws in the store; 0 without one. Reports and the state come on top.
        memory_bytes: memory for the draws that are kept in it, and for the parameters and, with an algorithm, the
            states of all chains; gradients and activations come on top.
        gradients: mini-batch gradients of all chains, warm-up included.
        at_least: whether there may be more of them, because the sampler decides at each step how many it takes.

    Example:
        >>> import smilax as sx
        >>> print(sx.Estimate(1000, 4, 500, disk_bytes=8_000_000, memory_bytes=16_000, gradients=48_000))
        4 x 500 draws of 1,000 parameters: 8.0 MB on disk, 16.0 kB in memory, 48,000 gradients
    """

    num_params: int
    num_chains: int
    num_draws: int
    disk_bytes: int
    memory_bytes: int
    gradients: int
    at_least: bool = False

    def __str__(self) -> str:
        where = f"{_size(self.disk_bytes)} on disk" if self.disk_bytes else "none on disk"
        return (
            f"{self.num_chains} x {self.num_draws:,} draws of {self.num_params:,} parameters: {where}, "
            f"{_size(self.memory_bytes)} in memory, {'at least ' * self.at_least}{self.gradients:,} gradients"
        )


def estimate(
    algorithm: Any,
    params: Any,
    *,
    num_chains: int | None = None,
    num_warmup: int,
    num_samples: int,
    thinning: int = 1,
    store: str | Path | Store | None = None,
    batch_size: int | None = None,
) -> Estimate:
    """What `sx.sample` with these arguments will take; nothing is computed.

    How long it takes is on the progress bar, from the first chunk on.

    Args:
        algorithm: the sampler; or a posterior, and then two gradients a step are assumed, and no state but parameters.
        params: as for `sample`, or their shapes and dtypes.
        num_chains: as for `sample`; so are the others.
        num_warmup: steps of warm-up.
        num_samples: steps after it.
        thinning: steps per draw.
        store: where draws go, and how.
        batch_size: B, on which it depends whether `ismile` takes batches in halves; None supposes so.

    Raises:
        TypeError, ValueError: if lengths or number of chains make no sense.

    Example:
        >>> import jax.numpy as jnp, smilax as sx
        >>> posterior = sx.Posterior(lambda x: -0.5 * jnp.sum(x**2), lambda x, batch: batch @ x, 100)
        >>> print(sx.estimate(posterior, jnp.zeros(10_000_000), num_chains=4, num_warmup=1000, num_samples=10_000,
        ...                   thinning=10, store=sx.Store("run", dtype="bfloat16")))
        4 x 1,000 draws of 10,000,000 parameters: 80.0 GB on disk, 160.0 MB in memory, 88,000 gradients
    """
    lengths = Lengths(*check_lengths(num_warmup, num_samples, thinning))
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), jax.numpy.result_type(x)), params)
    if num_chains is None:
        num_chains = int(jax.tree.leaves(shapes)[0].shape[0])
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), shapes)
    num_chains = check_count("num_chains", num_chains, 1)
    options = Store(store) if isinstance(store, (str, Path)) else store
    draws = lengths.sampling_steps // lengths.thinning
    state, gradients, open_ended = shapes, 2 * (num_warmup + lengths.sampling_steps), False
    if isinstance(algorithm, SamplingAlgorithm):
        state = jax.eval_shape(algorithm.init, jax.random.key(0), shapes)
        open_ended = algorithm.config["name"] in OPEN_ENDED
        num_data = math.inf if algorithm.posterior is None else algorithm.posterior.num_data
        gradients = chain_gradients(algorithm.config, batch_size, num_data, num_warmup, lengths.sampling_steps)
    kept = num_chains * draws * bytes_per_draw(shapes, options)
    return Estimate(
        num_params=trees.size(shapes),
        num_chains=num_chains,
        num_draws=draws,
        disk_bytes=0 if options is None else kept,
        memory_bytes=num_chains * _bytes(state) + (kept if options is None else 0),
        gradients=num_chains * gradients,
        at_least=open_ended,
    )


def _bytes(tree: Any) -> int:
    return sum(int(np.prod(x.shape)) * np.dtype(x.dtype).itemsize for x in jax.tree.leaves(tree) if x.dtype.kind != "V")


def _size(count: int) -> str:
    value, units = float(count), ["bytes", "kB", "MB", "GB", "TB", "PB"]
    while value >= 1000 and len(units) > 1:
        value /= 1000
        units.pop(0)
    return f"{value:.0f} {units[0]}" if units[0] == "bytes" else f"{value:.1f} {units[0]}"
