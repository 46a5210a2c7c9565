"""Chains and batch rows on many devices, of one host or of several.

A mesh has an axis "chain", a device of which holds whole chains, and an axis "data", over which the rows of every batch
are spread. Chains have nothing to say to each other, so "chain" is a manual axis of `jax.shard_map`: loops and branches
inside a step wait for no chain on another device. All other axes are left to JAX's SPMD partitioner, which is told
where the rows of a batch are, and reduces sums over them.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from smilax.data import Batches
from smilax.grouping import Groups, chain_keys, first_draws
from smilax.interrupts import Interrupt
from smilax.samplers.base import SamplingAlgorithm
from smilax.store import Share
from smilax.streams import Stream
from smilax.structure import leaf_paths

CHAIN, DATA = "chain", "data"
ShardParams = Callable[[str, Any], PartitionSpec | None]


def default_mesh(num_chains: int, batch_size: int) -> Mesh:
    """All devices: along "chain" if there are chains for them, else as many as there are, and the rest along "data"."""
    devices = jax.devices()
    count = len(devices)
    splits = [n for n in range(min(count, num_chains), 0, -1) if count % n == 0 and batch_size % (count // n) == 0]
    chains = splits[0] if splits else count
    types = (AxisType.Auto, AxisType.Auto)
    return jax.make_mesh((chains, count // chains), (CHAIN, DATA), axis_types=types, devices=devices)


def check_mesh(mesh: Any, num_chains: int, batch_size: int, shard_params: ShardParams | None) -> Mesh:
    """A mesh with the axes "chain", "data" and whatever others it has, all Auto.

    Args:
        mesh: as given to `sample`.
        num_chains: number of chains.
        batch_size: B.
        shard_params: as given to `sample`; without it there is no use for other axes.

    Raises:
        TypeError: if it is no mesh of devices.
        ValueError: if it has unknown axes, or B rows cannot be spread over "data".
    """
    if shard_params is not None and not callable(shard_params):
        raise TypeError(f"shard_params must be a function (path, leaf) -> PartitionSpec, got {shard_params!r}")
    if mesh is None:
        return default_mesh(num_chains, batch_size)
    if not isinstance(mesh, Mesh):
        raise TypeError(f"mesh must be a jax.sharding.Mesh or None, got {mesh!r}")
    names = tuple(mesh.axis_names)
    unknown = [name for name in names if name not in (CHAIN, DATA)]
    if unknown and shard_params is None:
        raise ValueError(
            f'mesh has the axes {names}: they must be "chain" and "data"; others are for shard_params, not given'
        )
    if batch_size % mesh.shape.get(DATA, 1):
        raise ValueError(
            f'batch_size = {batch_size} rows cannot be spread evenly over the {mesh.shape[DATA]} devices along "data"'
        )
    missing = tuple(name for name in (CHAIN, DATA) if name not in names)
    names = (*missing, *names)
    # Explicit axes would ask every operation of a model for its sharding; Auto ones leave that to the compiler.
    return Mesh(mesh.devices.reshape((1,) * len(missing) + mesh.devices.shape), names, (AxisType.Auto,) * len(names))


class MeshGroups(Groups):
    """All chains as one group that is spread over a mesh; filled up with copies of the last where they do not fit.

    Attributes:
        mesh: with axes "chain" and "data".
    """

    def __init__(self, num_chains: int, mesh: Mesh, shard_params: ShardParams | None):
        length = math.ceil(num_chains / mesh.shape[CHAIN])
        self.num_chains = num_chains
        self.indices = [np.arange(length * mesh.shape[CHAIN])]
        self.mesh, self._shard_params = mesh, shard_params
        self._across_hosts = len({device.process_index for device in mesh.devices.flat}) > 1

    def split(self, tree: Any) -> list[Any]:
        rows = np.minimum(self.indices[0], self.num_chains - 1)
        return [jax.tree.map(lambda x, where: _place(np.asarray(x)[rows], where), tree, self._shardings(tree))]

    def join(self, parts: list[Any], draws: int | None = None) -> Any:
        def fetch(x):
            whole = np.asarray(multihost_utils.process_allgather(x, tiled=True)) if self._across_hosts else x
            # A copy: on the CPU an array of JAX may be no more than a view of its buffer.
            return np.array(np.asarray(whole)[first_draws(draws)][: self.num_chains])

        return jax.tree.map(fetch, parts[0])

    def own(self, parts: list[Any], draws: int | None = None) -> Any:
        if not self._across_hosts:
            return self.join(parts, draws)
        first, last = self._owned()
        # Every leaf whole, where it was spread over further axes.
        whole = jax.jit(lambda tree: tree, out_shardings=self._over())(parts[0])

        def rows(x):
            pieces = {shard.index[0].start or 0: shard.data for shard in x.addressable_shards}
            found = [np.asarray(pieces[start])[first_draws(draws)] for start in sorted(pieces) if first <= start < last]
            if not found:
                return np.zeros((0, *x.shape[1:]), x.dtype)[first_draws(draws)]
            return np.concatenate(found)[: last - first]

        return jax.tree.map(rows, whole)

    def share(self) -> Share | None:
        if not self._across_hosts:
            return None
        return Share(jax.process_index(), jax.process_count(), self._owned())

    def decide(self, flag: bool) -> bool:
        return bool(multihost_utils.broadcast_one_to_all(np.int32(flag))) if self._across_hosts else flag

    def _owned(self) -> tuple[int, int]:
        """The chains that this process writes: those on its devices, less those that one before it has too."""
        along = np.moveaxis(self.mesh.devices, self.mesh.axis_names.index(CHAIN), 0)
        owners = [min(device.process_index for device in block.flat) for block in along]
        mine = np.flatnonzero(np.array(owners) == jax.process_index())
        if len(mine) and mine[-1] - mine[0] >= len(mine):
            raise ValueError('mesh: to store draws, the devices of a process must be neighbours along "chain"')
        length = len(self.indices[0]) // len(owners)
        first, last = (mine[0] * length, (mine[-1] + 1) * length) if len(mine) else (0, 0)
        return min(int(first), self.num_chains), min(int(last), self.num_chains)

    def keys(self, key: jax.Array) -> list[Any]:
        numbers, kind = np.asarray(jax.random.key_data(key)), jax.random.key_impl(key)
        make = jax.jit(lambda n, i: chain_keys(jax.random.wrap_key_data(n, impl=kind), i), out_shardings=self._over())
        return [make(numbers, self.indices[0])]

    def place(self, data: Any) -> Any:
        return jax.tree.map(lambda x: _place(x, self._over(self._rows(x))), data)

    def send(self, own_data: bool, shape: tuple[int, ...], read: Callable[[Any], np.ndarray]) -> Any:
        axes = ((CHAIN, None, DATA) if own_data else (None, DATA))[: len(shape)]
        where = NamedSharding(self.mesh, PartitionSpec(*axes))

        def part(index):
            found = read(index)
            return found.astype(jax.dtypes.canonicalize_dtype(found.dtype), copy=False)

        # Each host reads the rows for its own devices only.
        return jax.make_array_from_callback(shape, where, part)

    def batches(self, batches: Batches | Stream) -> Batches | Stream:
        if self.mesh.shape[DATA] == 1:
            return batches
        kind = _SpreadStream if isinstance(batches, Stream) else _SpreadBatches
        return kind(**{field.name: getattr(batches, field.name) for field in dataclasses.fields(batches)})

    def algorithm(self, algorithm: SamplingAlgorithm) -> SamplingAlgorithm:
        if self._shard_params is None:
            return algorithm

        def held(function):
            def advance(key, state, *args):
                state, info = function(key, state, *args)
                return jax.tree.map(jax.lax.with_sharding_constraint, state, self._specs(state)), info

            return advance

        return algorithm._replace(warmup=held(algorithm.warmup), step=held(algorithm.step))

    def jit(self, program: Callable, states: Any, warming_up: bool, own_data: bool) -> Any:
        chains, everywhere = PartitionSpec(CHAIN), PartitionSpec()
        # An axis with one device has nothing to spread; but `shard_params` may name it.
        alone = [name for name, size in self.mesh.shape.items() if size == 1] if self._shard_params is None else []
        manual = {CHAIN, *alone}
        mapped = jax.shard_map(
            program, mesh=self.mesh, in_specs=(chains, chains, chains if own_data else everywhere, everywhere),
            out_specs=chains, axis_names=manual, check_vma=False,
        )  # fmt: skip
        # Left open, the compiler might return states spread in a way in which it does not take them.
        held, each = jax.tree.map(lambda x: x.sharding, states), self._over()
        draws: Any = each
        if self._shard_params is not None and not warming_up:
            draws = jax.tree.map(lambda s: self._over(s.spec[0], None, *s.spec[1:]), held.params)
        return jax.jit(mapped, donate_argnums=0, out_shardings=(held, draws, each))

    def agree(self, interrupt: Interrupt, length: int) -> int:
        if not self._across_hosts:
            return length
        signals, lengths = multihost_utils.process_allgather(np.array([interrupt.signum or 0, length], np.int32)).T
        interrupt.signum = int(signals.max()) or None
        return int(lengths[0])

    def _over(self, *axes: Any) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec(*(axes or (CHAIN,))))

    def _rows(self, x: Any) -> str | None:
        return DATA if len(x) % self.mesh.shape[DATA] == 0 else None

    def _specs(self, state: Any) -> Any:
        """For each leaf of one chain's state the spec of its dimensions; parts like the parameters have theirs."""
        params = getattr(state, "params", state)
        if self._shard_params is None:
            return jax.tree.map(lambda _: PartitionSpec(), state)
        treedef: Any = jax.tree.structure(params)
        found = zip(leaf_paths(params), jax.tree.leaves(params), strict=True)
        specs = treedef.unflatten([self._spec(path or "params", leaf) for path, leaf in found])
        shapes = [x.shape for x in jax.tree.leaves(params)]

        def alike(part):
            return jax.tree.structure(part) == treedef and [x.shape for x in jax.tree.leaves(part)] == shapes

        return jax.tree.map(lambda part: specs if alike(part) else PartitionSpec(), state, is_leaf=alike)

    def _spec(self, path: str, leaf: Any) -> PartitionSpec:
        assert self._shard_params is not None
        spec = self._shard_params(path, leaf)
        spec = PartitionSpec() if spec is None else spec
        if not isinstance(spec, PartitionSpec):
            raise TypeError(f"shard_params must return a jax.sharding.PartitionSpec or None, got {spec!r} for {path!r}")
        used = [name for part in spec for name in (part if isinstance(part, tuple) else (part,)) if name is not None]
        allowed = [name for name in self.mesh.axis_names if name != CHAIN]
        if not set(used) <= set(allowed) or len(spec) > len(leaf.shape):
            raise ValueError(
                f"shard_params returned {spec} for {path!r} of shape {tuple(leaf.shape)}: one entry per dimension, "
                f"with the axes {allowed} of the mesh"
            )
        return spec

    def _shardings(self, tree: Any) -> Any:
        one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x)[1:], x.dtype), tree)
        return jax.tree.map(
            lambda spec: self._over(CHAIN, *spec), self._specs(one), is_leaf=lambda s: isinstance(s, PartitionSpec)
        )


class _SpreadBatches(Batches):
    """Batches whose rows are spread over "data"."""

    def take(self, data: Any, rows: jax.Array) -> Any:
        # Every device computes all row numbers: that is less than to ask the others in each of their loops.
        batch = super().take(data, _pin(rows, None))
        # Where the data are spread too, each device puts in the rows that it has, and their sum is the batch.
        return jax.tree.map(lambda x: _pin(x, None), batch) if _is_spread(self.num_rows) else batch

    def draw(self, data: Any, key: jax.Array, step: jax.Array, batch_size: int) -> Any:
        return jax.tree.map(lambda x: _pin(x, DATA), super().draw(data, key, step, batch_size))


class _SpreadStream(Stream):
    """Batches from the host whose rows are spread over "data"."""

    def draw(self, data: Any, key: jax.Array, step: jax.Array, batch_size: int) -> Any:
        return jax.tree.map(lambda x: _pin(x, DATA), super().draw(data, key, step, batch_size))


def _pin(x: jax.Array, axis: str | None) -> jax.Array:
    return jax.lax.with_sharding_constraint(x, PartitionSpec(axis))


def _is_spread(num_rows: int) -> bool:
    return num_rows % jax.sharding.get_abstract_mesh().shape[DATA] == 0


def _place(x: Any, where: NamedSharding) -> jax.Array:
    """An array that every host has, on the devices of a mesh."""
    x = np.asarray(x)
    dtype = jax.dtypes.canonicalize_dtype(x.dtype)
    return jax.make_array_from_callback(x.shape, where, lambda index: x[index].astype(dtype, copy=False))
