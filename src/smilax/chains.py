"""The compiled inner loop: many steps of many chains without a word to the host.

A phase (warm-up or sampling) is one compiled program, called chunk after chunk with run-time bounds. Steps are
grouped in segments of `thinning` steps; at the end of each segment the program writes the parameters and what the step
reported into a slot. Chunks may start and stop anywhere, also inside a segment.
"""

import functools
from collections.abc import Callable, Hashable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from smilax.compiling import compiled, compiled_for
from smilax.data import Batches
from smilax.grouping import ChainKeys, ChainMethod, Groups
from smilax.packing import PACKING_LIMIT
from smilax.samplers.base import SamplingAlgorithm
from smilax.streams import Stream


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
            state, info = algorithm.warmup(key, state, batch, fraction)
        else:
            state, info = algorithm.step(key, state, batch)
        if not (hasattr(info, "accepted") and hasattr(info, "_replace")):
            raise TypeError(
                "algorithm: step and warmup must return (state, info), and info must be a NamedTuple with a field "
                f"accepted, such as sx.Info, got {type(info).__name__}"
            )
        if not jnp.issubdtype(jnp.result_type(info.accepted), jnp.floating):
            # Truth values and counts: their mean is wanted.
            info = info._replace(accepted=jnp.asarray(info.accepted, jnp.float32))
        return state, info

    def run(advance, axis, state, keys, data, bounds):
        """The chunk's steps of whatever `advance` advances; draws and reports are put along `axis`."""

        def slots_of(leaf):
            return jnp.zeros((*leaf.shape[:axis], slots, *leaf.shape[axis:]), leaf.dtype)

        def put(k, buffers, leaves):
            return jax.tree.map(
                lambda buffer, leaf: jax.lax.dynamic_update_index_in_dim(buffer, leaf, k, axis), buffers, leaves
            )

        # Traced once, for the shapes and for the loop.
        advance = jax.jit(advance, inline=True)
        _, one = jax.eval_shape(advance, keys, data, bounds, bounds.start, state)
        blank = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), one)
        infos = jax.tree.map(slots_of, one)
        draws = jax.tree.map(slots_of, None if warming_up else state.params)
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
            infos = put(k, infos, info._replace(accepted=accepted))
            return state, put(k, draws, None if warming_up else state.params), infos

        count = (bounds.stop - 1) // thinning - first + 1
        return jax.lax.fori_loop(0, count, run_segment, (state, draws, infos))

    if method != "sequential":
        # The loops are around the chains: JAX batches the body of a loop twice over, and that of a loop within a loop
        # four times, each time tracing all branches of a step anew.
        together = jax.vmap(advance, in_axes=(0, 0 if own_data else None, None, None, 0))
        return functools.partial(run, together, 1)
    run_chain = functools.partial(run, advance, 0)
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
            rule = (
                type(batches),
                batches.num_rows,
                batches.order,
                batches.replacement,
                batches.transform,
                batches.streamed,
            )
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

    def prepare(self, states: list[Any], data: list[Any], bounds: Bounds) -> None:
        """Makes the program, if it is not there yet."""
        if self._compiled is None:
            self._compiled = self._program(states, data, Bounds(*(np.asarray(b, np.int32) for b in bounds)))

    def run(
        self, pool: ThreadPoolExecutor, states: list[Any], data: list[Any], bounds: Bounds
    ) -> tuple[list[Any], list[Any], list[Any]]:
        """Advances every group by one chunk on its data; the states given are donated."""
        arrays = Bounds(*(np.asarray(b, np.int32) for b in bounds))
        self.prepare(states, data, bounds)
        program = self._compiled
        assert program is not None

        def drive(group):
            return jax.block_until_ready(program(states[group], self._keys[group], data[group], arrays))

        groups = range(len(states))
        threaded = len(states) > 1 and not self._one_by_one
        results = list(pool.map(drive, groups)) if threaded else [drive(group) for group in groups]
        return [r[0] for r in results], [r[1] for r in results], [r[2] for r in results]
