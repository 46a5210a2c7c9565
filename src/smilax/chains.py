"""The compiled inner loop: many steps of many chains without a word to the host.

A phase (warm-up or sampling) is one compiled program, called chunk after chunk with run-time bounds. Steps are
grouped in segments of `thinning` steps; at the end of each segment the program writes the parameters and what the step
reported into a slot. Chunks may start and stop anywhere, also inside a segment.
"""

import os
from collections.abc import Callable, Hashable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from smilax.buffers import concatenated
from smilax.compiling import compiled, compiled_for
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


class Bounds(NamedTuple):
    """Run-time bounds of a chunk, int32 scalars.

    Attributes:
        start, stop: steps within the phase, `start <= t < stop`.
        offset: number of the phase's first step in the whole run, for the keys.
        total: length of the phase, for warm-up schedules.
    """

    start: Any
    stop: Any
    offset: Any
    total: Any


def segments(start: int, stop: int, thinning: int) -> int:
    """How many slots a chunk fills."""
    return (stop - 1) // thinning - start // thinning + 1


def chunk_program(
    algorithm: SamplingAlgorithm,
    batches: Batches | Stream,
    batch_size: int,
    *,
    warming_up: bool,
    thinning: int,
    slots: int,
    method: ChainMethod,
    own_data: bool = False,
) -> Callable:
    """The program of one phase: `(states, keys, data, bounds) -> (states, draws, infos)`, chains leading.

    In warm-up no parameters are kept and `draws` is None. Slots beyond the chunk's segments hold zeros. `accepted` is
    the number of the chunk's steps in the segment that were accepted: a segment may be shared out over several chunks.
    With `own_data` the leaves of `data` have a leading chain axis, too.
    """

    def advance(keys, data, bounds, t, state):
        step = bounds.offset.astype(jnp.uint32) + t.astype(jnp.uint32)
        batch = batches.draw(data, keys.data, step, batch_size)
        key = jax.random.fold_in(keys.algorithm, step)
        if warming_up:
            fraction = t.astype(jnp.float32) / bounds.total.astype(jnp.float32)
            return algorithm.warmup(key, state, batch, fraction)
        return algorithm.step(key, state, batch)

    def run_chain(state, keys, data, bounds):
        one = jax.eval_shape(lambda s: advance(keys, data, bounds, bounds.start, s)[1], state)
        blank = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), one)
        infos = jax.tree.map(lambda leaf: jnp.zeros((slots, *leaf.shape), leaf.dtype), one)
        kept = None if warming_up else state.params
        draws = jax.tree.map(lambda leaf: jnp.zeros((slots, *leaf.shape), leaf.dtype), kept)
        first = bounds.start // thinning

        def take_step(t, carry):
            state, _, accepted = carry
            state, info = advance(keys, data, bounds, t, state)
            return state, info, accepted + info.accepted

        def run_segment(k, carry):
            state, draws, infos = carry
            low = jnp.maximum(bounds.start, (first + k) * thinning)
            high = jnp.minimum(bounds.stop, (first + k + 1) * thinning)
            state, info, accepted = jax.lax.fori_loop(low, high, take_step, (state, blank, blank.accepted))
            info = info._replace(accepted=accepted)
            infos = jax.tree.map(lambda buffer, leaf: buffer.at[k].set(leaf), infos, info)
            draws = jax.tree.map(
                lambda buffer, leaf: buffer.at[k].set(leaf), draws, None if warming_up else state.params
            )
            return state, draws, infos

        count = (bounds.stop - 1) // thinning - first + 1
        return jax.lax.fori_loop(0, count, run_segment, (state, draws, infos))

    if method != "sequential":
        return jax.vmap(run_chain, in_axes=(0, 0, 0 if own_data else None, None))
    if own_data:
        return lambda states, keys, data, bounds: jax.lax.map(
            lambda chain: run_chain(chain[0], chain[1], chain[2], bounds), (states, keys, data)
        )
    return lambda states, keys, data, bounds: jax.lax.map(
        lambda chain: run_chain(chain[0], chain[1], data, bounds), (states, keys)
    )


# XLA's CPU client can hang when two threads solve eigenproblems at once (seen from side 64 on, never up to 32).
LARGEST_THREADED_MATRIX = 32


def largest_matrix(state: Any) -> int:
    """The side of the largest square matrix in samplers' states, which have a leading chain axis."""
    shapes = [leaf.shape for leaf in jax.tree.leaves(state)]
    return max((shape[-1] for shape in shapes if len(shape) > 2 and shape[-1] == shape[-2]), default=0)


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


class Phase:
    """One phase of a run: its compiled program and the groups of chains that share it."""

    def __init__(
        self,
        algorithm: SamplingAlgorithm,
        batches: Batches | Stream,
        batch_size: int,
        keys: list[ChainKeys],
        one: Any,
        groups: Groups,
        *,
        warming_up: bool,
        thinning: int,
        slots: int,
        method: ChainMethod,
        own_data: bool = False,
    ):
        def jitted():
            program = chunk_program(
                groups.algorithm(algorithm), groups.batches(batches), batch_size,
                warming_up=warming_up, thinning=thinning, slots=slots, method=method, own_data=own_data,
            )  # fmt: skip
            return groups.jit(program, one, warming_up, own_data)

        self._jitted = jitted
        self._compiled: Callable | None = None
        self._owner = algorithm.step
        self._place: Hashable = None
        if type(groups) is Groups and isinstance(batches, Batches):
            rule = (batches.num_rows, batches.order, batches.replacement, batches.transform, batches.streamed)
            self._place = (rule, batch_size, warming_up, thinning, slots, method, own_data)
        chains = len(keys[0].data)
        self._quick = sum(leaf.size for leaf in jax.tree.leaves(one.params)) <= chains * PACKING_LIMIT
        self._keys = keys
        self.thinning, self.slots = thinning, slots
        # Geometries are factored in warm-up only.
        self._one_by_one = warming_up and largest_matrix(one) > LARGEST_THREADED_MATRIX

    def compile_ahead(self, executor: Executor, states: list[Any], data: list[Any]) -> None:
        """Begins to compile for states and data like these; large models and programs that are not kept can wait."""
        if self._quick and self._place is not None:
            self._program(states, data, Bounds(*(np.zeros((), np.int32) for _ in Bounds._fields)), executor)

    def _program(self, states: list[Any], data: list[Any], bounds: Bounds, executor: Executor | None = None) -> Any:
        args = (states[0], self._keys[0], data[0], bounds)
        if self._place is None:
            return compiled_for(self._jitted(), *args, quick=self._quick)
        return compiled(self._owner, self._place, self._jitted, *args, quick=self._quick, executor=executor)

    def run(
        self, pool: ThreadPoolExecutor, states: list[Any], data: list[Any], bounds: Bounds
    ) -> tuple[list[Any], list[Any], list[Any]]:
        """Advances every group by one chunk on its data; the states given are donated."""
        arrays = Bounds(*(np.asarray(b, np.int32) for b in bounds))
        program = self._compiled
        if program is None:
            program = self._compiled = self._program(states, data, arrays)

        def drive(group):
            return jax.block_until_ready(program(states[group], self._keys[group], data[group], arrays))

        groups = range(len(states))
        threaded = len(states) > 1 and not self._one_by_one
        results = list(pool.map(drive, groups)) if threaded else [drive(group) for group in groups]
        return [r[0] for r in results], [r[1] for r in results], [r[2] for r in results]
