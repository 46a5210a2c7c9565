"""The run itself: phases cut into chunks, each chunk's draws recorded, and committed where there is a store."""

import contextlib
import functools
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from smilax.chains import Bounds, Phase, segments
from smilax.compiling import compiled
from smilax.data import Batches
from smilax.feeds import BlockFeed, DeviceFeed, host_blocks, stream_blocks
from smilax.grouping import ChainMethod, Groups, chain_keys, num_groups
from smilax.interrupts import Interrupt
from smilax.meshes import MeshGroups, ShardParams
from smilax.packing import pack, packable
from smilax.progress import Progress
from smilax.recording import Group
from smilax.result import RunState
from smilax.samplers.base import SamplingAlgorithm
from smilax.streams import Stream

# A chunk is as long as Ctrl-C and the progress bar may wait; its slots are as many as fit the memory set aside.
CHUNK_SECONDS = 0.5
FIRST_CHUNK = 1
SLOT_BYTES = 2**25
WARMUP_RECORDS = 1000


class Recorder(Protocol):
    """Where draws and reports go.

    Attributes:
        shared: whether each of several hosts records its own chains' draws, or all of them all.
    """

    shared: bool

    def add(self, group: Group, block: Any) -> None:
        """A block of draws or reports: a pytree with leaves `(chain, draw, …)` that nobody else writes to."""
        ...


@dataclass(frozen=True)
class Lengths:
    """What a run consists of.

    Attributes:
        num_warmup: steps of warm-up.
        num_samples: steps after it.
        thinning: steps per draw.
    """

    num_warmup: int
    num_samples: int
    thinning: int

    @property
    def sampling_steps(self) -> int:
        """Steps after warm-up that belong to a whole draw."""
        return self.num_samples // self.thinning * self.thinning

    def every(self, phase: str) -> int:
        """Steps per record."""
        return self.thinning if phase == "sampling" else max(1, self.num_warmup // WARMUP_RECORDS)


@dataclass(frozen=True)
class Position:
    """Where a run stands: steps done in a phase, and how many steps of the record in progress were accepted.

    Attributes:
        phase: "warmup" or "sampling".
        done: steps of the phase that are done.
        partial: accepted steps of each chain in the record that is not whole yet, shape `(chain,)`; None for none.
        place: where the source of batches stands; None where that follows from the number of the step.
    """

    phase: Literal["warmup", "sampling"] = "warmup"
    done: int = 0
    partial: np.ndarray | None = None
    place: Any = None


@dataclass(frozen=True, eq=False)
class Run:
    """Everything that determines a run but where it stands.

    Attributes:
        algorithm, batches, batch_size, lengths, chain_method: as given to `sample`.
        key: of the run.
        num_chains: number of chains.
        num_params: numbers in the parameters of one chain.
        first_step: number of the first step, where the run goes on from another.
        mesh: the devices of parallel chains.
        shard_params: as given to `sample`.
    """

    algorithm: SamplingAlgorithm
    batches: Batches | Stream
    batch_size: int
    key: jax.Array
    num_chains: int
    num_params: int
    lengths: Lengths
    chain_method: ChainMethod
    first_step: int = 0
    mesh: Mesh | None = None
    shard_params: ShardParams | None = None

    @property
    def groups(self) -> Groups:
        """How the chains are laid out."""
        if self.mesh is not None:
            return MeshGroups(self.num_chains, self.mesh, self.shard_params)
        count = num_groups(self.num_chains, self.num_params, self.chain_method)
        return Groups(self.num_chains, count, self.chain_method)

    def init_shapes(self, params: Any) -> Any:
        """What `init` returns, for `jax.eval_shape`."""
        keys = jax.random.split(jax.random.key(0), self.num_chains)
        return jax.vmap(self.algorithm.init)(keys, self._packed(params))

    def _packed(self, params: Any) -> Any:
        # Leaves can only be sharded as long as they are there.
        if self.shard_params is not None:
            return params
        one = jax.eval_shape(lambda tree: jax.tree.map(lambda x: x[0], tree), params)
        return jax.vmap(pack)(params) if packable(one) else params

    def init(self, params: Any) -> Any:
        """The algorithm's states at these parameters, which have a leading chain axis; on the host."""
        params = self._packed(params)
        groups = self.groups
        init = jax.jit(jax.vmap(self.algorithm.init))
        # Group by group: states must not depend on how many chains start together.
        states = []
        for keys, part in zip(groups.keys(self.key), groups.split(params), strict=True):
            args = (jax.vmap(lambda k: jax.random.fold_in(k, 2**32 - 1))(keys.algorithm), part)
            if type(groups) is Groups:
                program = compiled(self.algorithm.step, "init", lambda: init, *args, quick=True)
            else:
                program = init
            states.append(program(*args))
        if any(jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in jax.tree.leaves(states)):
            raise TypeError("algorithm: its state holds typed random keys; keep jax.random.key_data of them there")
        return groups.join(states)

    def _feed(self, groups: Groups, step: int, place: Any) -> DeviceFeed | BlockFeed:
        count, end = len(groups.indices), self.first_step + self.lengths.num_warmup + self.lengths.sampling_steps
        own_data = isinstance(self.batches, Batches) and self.batches.streamed
        send = functools.partial(groups.send, own_data)
        if isinstance(self.batches, Stream):
            return BlockFeed(stream_blocks(self.batches, self.batch_size, count, step, end, place, send))
        if own_data:
            # Not the keys that may be spread over devices: row numbers are computed on every host.
            keys = [chain_keys(self.key, jnp.asarray(i)) for i in groups.indices]
            return BlockFeed(host_blocks(self.batches, keys, self.batch_size, step, end, send), own_data=True)
        return DeviceFeed(groups.place(self.batches.data), count)

    def execute(
        self,
        chains: Any,
        position: Position,
        recorder: Recorder,
        interrupt: Interrupt,
        progress: Progress,
        after_chunk: Callable[[Callable[[], Any], Position], None] | None = None,
    ) -> tuple[RunState, Position]:
        """Runs on from a position, to the end or to an interrupt.

        Args:
            chains: the algorithm's states, leaves with a leading chain axis.
            position: where they stand.
            recorder: where draws and reports go.
            interrupt: asked after every chunk.
            progress: told of every chunk.
            after_chunk: called with a function that gives the states on the host, and the position they have.
        """
        lengths, groups = self.lengths, self.groups
        keys = groups.keys(self.key)
        states = groups.split(chains)
        del chains
        draw_bytes = sum(x.nbytes for x in jax.tree.leaves(states[0].params))
        totals = {"warmup": lengths.num_warmup, "sampling": lengths.sampling_steps}
        offsets = {"warmup": self.first_step, "sampling": self.first_step + lengths.num_warmup}
        feed = self._feed(groups, offsets[position.phase] + position.done, position.place)

        def make_phase(name, states):
            every, steps = lengths.every(name), totals[name]
            return Phase(
                self.algorithm, self.batches, self.batch_size, keys, states[0], groups,
                warming_up=name == "warmup", thinning=every, method=self.chain_method, own_data=feed.own_data,
                slots=max(1, min(steps // every, SLOT_BYTES // max(draw_bytes, 1), 1024)) + 1,
            )  # fmt: skip

        def run_phase(pool, states, position):
            name, done, partial = position.phase, position.done, position.partial
            every, steps = lengths.every(name), totals[name]
            warming_up = name == "warmup"
            phase = None
            length = FIRST_CHUNK
            while done < steps and not interrupt.requested:
                if phase is None:
                    phase = make_phase(name, states)
                block = feed.block(offsets[name] + done)
                stop = min(steps, done + length, (done // every + phase.slots) * every)
                if block.stop is not None:
                    stop = min(stop, block.stop - offsets[name])
                bounds = Bounds(done, stop, offsets[name], max(steps, 1))
                # Not part of the time that a chunk takes, by which the next one's length is chosen.
                phase.prepare(states, block.data, bounds)
                clock = time.perf_counter()
                states, draws, infos = phase.run(pool, states, block.data, bounds)
                del block
                used = time.perf_counter() - clock
                infos, partial = _accepted_shares(groups.join(infos), partial, done, stop, every)
                whole = stop // every - done // every
                if whole:
                    # A view would keep the whole block in memory until it is on disk.
                    records = jax.tree.map(lambda x, whole=whole: x[:, :whole].copy(), infos)
                    recorder.add("warmup_info" if warming_up else "info", records)
                    if not warming_up:
                        recorder.add("draws", (groups.own if recorder.shared else groups.join)(draws, whole))
                # Not to be held while the next chunk makes its own.
                del draws
                progress.update(stop - done, infos, segments(done, stop, every), warming_up)
                pace = min(8.0, CHUNK_SECONDS / max(used, 1e-9))
                length = groups.agree(interrupt, max(1, int((stop - done) * pace)))
                done = stop
                position = Position(name, done, partial if done % every else None, feed.place())
                if after_chunk is not None:
                    after_chunk(functools.partial(groups.join, states), position)
            return states, position

        # One thread for each group, and one that compiles.
        with contextlib.closing(feed), ThreadPoolExecutor(len(states) + 1) as pool:
            if position.phase == "warmup":
                if isinstance(feed, DeviceFeed) and position.done < lengths.num_warmup:
                    # Beside the warm-up, which this thread compiles.
                    make_phase("sampling", states).compile_ahead(pool, states, feed.block(0).data)
                states, position = run_phase(pool, states, position)
                if position.done >= lengths.num_warmup:
                    position = Position("sampling", place=position.place)
            if position.phase == "sampling":
                states, position = run_phase(pool, states, position)
        return RunState(groups.join(states), offsets[position.phase] + position.done, position.place), position


def _accepted_shares(
    infos: Any, partial: np.ndarray | None, start: int, stop: int, every: int
) -> tuple[Any, np.ndarray | None]:
    """Reports with counts of accepted steps made shares, and the counts of the record that is not whole yet.

    `partial` are the counts of the first record from earlier chunks.
    """
    counts = np.array(infos.accepted)
    used = segments(start, stop, every)
    lasted = np.full(counts.shape[1], every, counts.dtype)
    if partial is not None:
        counts[:, 0] += partial
    if stop % every:
        lasted[used - 1] = stop % every
    left = counts[:, used - 1].copy() if stop % every else None
    return infos._replace(accepted=counts / lasted), left
