"""Blocks of network outputs, draws by rows, and reductions over them."""

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from smilax.compiling import compiled
from smilax.predict.reductions import Reducer, accumulate, averaging_dtype, initial

# What the parameters and the largest activation of a block of draws may each take: more than fits the caches is slower.
BLOCK_BYTES = 2**23
# What an intermediate of a few numbers per row may take, before the rows are divided.
PART_BYTES = 2**26
# Rows times parameters from which one draw keeps the cores of a CPU busy by itself; products batched over draws are
# slower there (benchmarks/prediction.py).
LARGE_DRAW = 2**24


class Block(NamedTuple):
    """A block of draws: their number without padding, likelihood parameters, and outputs by rows."""

    num_draws: int
    likelihood: Any
    outputs: Callable[[slice], jax.Array]


@dataclass(eq=False)
class Stream:
    """Blocks of network outputs, draws by rows, from the cache or computed."""

    posterior: Any
    draws: Any  # leaves (chain, draw, ...), perhaps lazy
    chains: range  # those of interest
    num_draws: int
    x: Any  # an array or a pytree of arrays
    num_rows: int
    row_block: int
    draw_block: int
    output: jax.ShapeDtypeStruct  # of one draw and row
    max_memory: int
    cache: np.ndarray | None = None  # (draws of all chains, rows, ...)
    may_cache: bool = True

    @property
    def likelihood(self) -> Any:
        return self.posterior.likelihood

    @property
    def total(self) -> int:
        return len(self.chains) * self.num_draws

    @property
    def output_bytes(self) -> int:
        return self.total * self.num_rows * self.output.size * self.output.dtype.itemsize

    @property
    def target_shape(self) -> tuple[int, ...]:
        params = self._likelihood_params(self.draws)
        params = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[2:], self.output.dtype), params)
        outputs = jax.ShapeDtypeStruct((self.num_rows, *self.output.shape), self.output.dtype)
        return jax.eval_shape(self.likelihood.mean_and_variance, params, outputs)[0].shape

    def select(self, chains: slice = slice(None), rows: slice = slice(None)) -> "Stream":
        # Whether to cache is decided once, for the whole: views that each cached their part would add up.
        cache = self.cached()
        if cache is not None:
            cache = cache.reshape((len(self.chains), self.num_draws) + cache.shape[1:])[chains][:, :, rows]
            cache = cache.reshape((-1,) + cache.shape[2:])
        chosen = self.chains[chains]
        return replace(
            self,
            chains=chosen,
            x=jax.tree.map(lambda leaf: leaf[rows], self.x),
            num_rows=len(range(self.num_rows)[rows]),
            draw_block=min(self.draw_block, len(chosen) * self.num_draws),
            cache=cache,
            may_cache=False,
        )

    def cached(self) -> np.ndarray | None:
        if self.cache is None and self.may_cache and self.output_bytes <= self.max_memory:
            self.cache = self.compute()
        return self.cache

    def compute(self) -> np.ndarray:
        """The outputs of all draws and rows."""
        stream = copy.copy(self)
        stream.cache, stream.may_cache = None, False
        result = np.empty((self.total, self.num_rows, *self.output.shape), self.output.dtype)
        for start in range(0, self.total, self.draw_block):
            block = stream.draw_at(np.arange(start, min(start + self.draw_block, self.total)))
            for rows in self.row_slices():
                part = np.asarray(block.outputs(rows))
                result[start : start + block.num_draws, rows] = part[: block.num_draws, : rows.stop - rows.start]
        return result

    def row_slices(self) -> list[slice]:
        rows, step = self.num_rows, self.row_block
        return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]

    def on_device(self, tree: Any, rows: slice) -> Any:
        return jax.tree.map(lambda leaf: jnp.asarray(pad(leaf[rows], self.row_block)), tree)

    def draw_at(self, indices: np.ndarray, size: int | None = None) -> Block:
        """The block of the draws with these indices, counted through the chains and padded to `size`."""
        count, size = len(indices), size or self.draw_block
        cache = self.cached()
        if cache is not None:
            likelihood = self._read(self._likelihood_params(self.draws), indices, size)
            contiguous = bool(np.all(np.diff(indices) == 1))
            which = slice(indices[0], indices[-1] + 1) if contiguous else indices

            def outputs(rows):
                return jnp.asarray(pad(pad(cache[which, rows], size), self.row_block, axis=1))

            return Block(count, likelihood, outputs)
        params = self._read(self.draws, indices, size)
        return Block(
            count,
            self._likelihood_params(params),
            lambda rows: _outputs(self.posterior, params, self.on_device(self.x, rows)),
        )

    @staticmethod
    def _likelihood_params(params: Any) -> Any:
        return params.get("likelihood", {}) if isinstance(params, dict) else {}

    def _read(self, tree: Any, indices: np.ndarray, size: int) -> Any:
        """The draws at `indices` of every leaf, read as slices of one chain each, which lazy arrays do well."""
        slices = []
        for run in np.split(indices, np.flatnonzero(np.diff(indices) != 1) + 1):
            first, last = int(run[0]), int(run[-1])
            for chain in range(first // self.num_draws, last // self.num_draws + 1):
                start = max(first - chain * self.num_draws, 0)
                stop = min(last + 1 - chain * self.num_draws, self.num_draws)
                slices.append((self.chains[chain], slice(start, stop)))

        def read(leaf):
            parts = [np.asarray(leaf[chain, draws]) for chain, draws in slices]
            return jnp.asarray(pad(np.concatenate(parts), size))

        return jax.tree.map(read, tree)

    def reduce(self, reducer: Reducer, value: Callable, args: tuple[np.ndarray, ...] = ()) -> Any:
        """Reduces `value(likelihood, likelihood params, outputs, *args)` over all draws.

        `args` and all leaves of the value have the rows as their leading axis.
        """
        row_slices = self.row_slices()
        states: list[Any] = [None] * len(row_slices)
        for start in range(0, self.total, self.draw_block):
            block = self.draw_at(np.arange(start, min(start + self.draw_block, self.total)))
            for i, rows in enumerate(row_slices):
                operands = (block.likelihood, block.outputs(rows), self.on_device(args, rows))
                if states[i] is None:
                    states[i] = initial(reducer, value, self.likelihood, *operands)
                state = accumulate(reducer, value, self.likelihood, states[i], block.num_draws, *operands)
                # Dispatch is asynchronous: without waiting, dozens of blocks would be alive at once.
                states[i] = jax.block_until_ready(state)
        parts = [
            jax.tree.map(lambda leaf, rows=rows: np.asarray(leaf)[: rows.stop - rows.start], reducer.result(state))
            for rows, state in zip(row_slices, states, strict=True)
        ]
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


def pad(array: np.ndarray, size: int, axis: int = 0) -> np.ndarray:
    """Repeats the last entry up to `size`."""
    missing = size - array.shape[axis]
    if missing == 0:
        return array
    last = np.take(array, [-1], axis)
    return np.concatenate([array, np.repeat(last, missing, axis)], axis)


def _outputs(posterior, params, x):
    # Not with the posterior as a static argument: JAX keeps those, and all that they refer to, for good.
    program = compiled(posterior, "outputs", lambda: jax.jit(functools.partial(_of_draws, posterior)), params, x)
    return program(params, x)


def _of_draws(posterior, params, x):
    def one(draw):
        return posterior.outputs(draw, x)

    per_draw = sum(leaf.size // leaf.shape[0] for leaf in jax.tree.leaves(params))
    in_turn = jax.default_backend() == "cpu" and per_draw * jax.tree.leaves(x)[0].shape[0] >= LARGE_DRAW
    outputs = jax.lax.map(one, params) if in_turn else jax.vmap(one)(params)
    return outputs.astype(averaging_dtype(outputs.dtype))


@functools.partial(jax.jit, static_argnums=0)
def sample_block(likelihood, keys, block, params, outputs):
    def one(key, params, outputs):
        return likelihood.sample(jax.random.fold_in(key, block), params, outputs)

    return jax.vmap(one)(keys, params, outputs)
