"""Which chains run together, with which keys, and where their states and data lie."""

import os
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from smilax.buffers import concatenated
from smilax.data import Batches
from smilax.interrupts import Interrupt
from smilax.packing import PACKING_LIMIT
from smilax.samplers.base import SamplingAlgorithm
from smilax.store import Share
from smilax.streams import Stream

ChainMethod = Literal["vectorized", "sequential", "parallel"]


def chosen_method(params: Any) -> ChainMethod:
    """What `chain_method="auto"` stands for, given one chain's parameters or their shapes.

    Sequential on CPU if there is a convolution, that is a leaf of three dimensions or more; else vectorised. Kernels
    that differ between chains make one grouped convolution, which costs more than one convolution after another;
    of perceptrons neither way is faster (benchmarks/chain_method.py). Accelerators need the width of many chains.
    """
    convolutional = any(len(jnp.shape(leaf)) > 2 for leaf in jax.tree.leaves(params))
    return "sequential" if convolutional and jax.default_backend() == "cpu" else "vectorized"


class ChainKeys(NamedTuple):
    """The two roots from which a chain's keys of step t are folded."""

    data: jax.Array
    algorithm: jax.Array


def chain_keys(key: jax.Array, indices: jax.Array) -> ChainKeys:
    """Keys of the chains with these numbers; chain k gets the same ones alone or among ten."""
    each = jax.vmap(lambda i: jax.random.fold_in(key, i))(indices)
    fold = jax.vmap(jax.random.fold_in, in_axes=(0, None))
    return ChainKeys(fold(each, 0), fold(each, 1))


def num_groups(num_chains: int, num_params: int, method: ChainMethod) -> int:
    """How many threads drive the chains.

    XLA on CPU runs the small operations of a small model on one core. Threads that each drive some of the chains use
    the others without touching any global configuration. Vectorised groups hold at least two chains: one chain
    alone compiles to other arithmetic, which differs in the last bit.
    """
    if jax.default_backend() != "cpu" or num_params > 10 * PACKING_LIMIT:
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    most = num_chains if method == "sequential" else (num_chains + 1) // 2
    return max(1, min(cores, most))


def group_indices(num_chains: int, groups: int, method: ChainMethod) -> list[np.ndarray]:
    """Chain numbers of each group; equal lengths, filled up with numbers beyond the last chain."""
    length = -(-num_chains // groups)
    if method == "vectorized":
        length = max(length, 2)
    return [np.arange(g * length, (g + 1) * length) for g in range(groups)]


def first_draws(count: int | None) -> tuple[slice, ...]:
    """Index of the first `count` draws of an array `(chain, draw, …)`, of all of it if None."""
    return () if count is None else (slice(None), slice(count))


class Groups:
    """Chains laid out in groups of equal size, and back; each is driven by a thread."""

    def __init__(self, num_chains: int, groups: int, method: ChainMethod):
        self.num_chains = num_chains
        self.indices = group_indices(num_chains, groups, method)

    def split(self, tree: Any) -> list[Any]:
        """A tree with a leading chain axis, a part for each group."""
        last = self.num_chains - 1
        # A copy each: the groups' states are donated, what the caller gave is not.
        return [jax.tree.map(lambda x, i=i: jnp.copy(x[np.minimum(i, last)]), tree) for i in self.indices]

    def join(self, parts: list[Any], draws: int | None = None) -> Any:
        """The inverse of `split`, in NumPy arrays of their own.

        Args:
            parts: by group of chains, leaves `(chain, …)`, or `(chain, draw, …)` if `draws` is given.
            draws: how many of the first draws to take; all if None.
        """
        first = first_draws(draws)
        return jax.tree.map(lambda *xs: concatenated([np.asarray(x)[first] for x in xs])[: self.num_chains], *parts)

    def own(self, parts: list[Any], draws: int | None = None) -> Any:
        """As `join`, with the chains only that this process writes."""
        return self.join(parts, draws)

    def share(self) -> Share | None:
        """What this process writes; None where there are no others."""
        return None

    def decide(self, flag: bool) -> bool:
        """What process 0 says; the others wait for it."""
        return flag

    def keys(self, key: jax.Array) -> list[ChainKeys]:
        """The chains' keys, group by group."""
        return [chain_keys(key, jnp.asarray(i)) for i in self.indices]

    def place(self, data: Any) -> Any:
        """The data where the program wants them."""
        return jax.tree.map(jnp.asarray, data)

    def send(self, own_data: bool, shape: tuple[int, ...], read: Callable[[Any], np.ndarray]) -> Any:
        """Batches from the host where the program wants them.

        Args:
            own_data: whether the first axis is that of chains; then come those of steps and of rows.
            shape: of the whole.
            read: gives the part at an index.
        """
        return jnp.asarray(read((slice(None),) * len(shape)))

    def batches(self, batches: Batches | Stream) -> Batches | Stream:
        """The same batches, as the program is to draw them."""
        return batches

    def algorithm(self, algorithm: SamplingAlgorithm) -> SamplingAlgorithm:
        """The same algorithm, as the program is to run it."""
        return algorithm

    def jit(self, program: Callable, states: Any, warming_up: bool, own_data: bool) -> Any:
        """The program of a group; `states` are those of one."""
        return jax.jit(program, donate_argnums=0)

    def agree(self, interrupt: Interrupt, length: int) -> int:
        """The length of the next chunk, the same on all hosts; and what has interrupted one interrupts all."""
        return length
