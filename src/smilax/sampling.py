"""`sample`: chains × steps."""

import functools
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import Mesh

from smilax import trees
from smilax.checks import check_key
from smilax.data import Batches, as_batches, check_batch_size
from smilax.grouping import ChainMethod, chosen_method
from smilax.interrupts import Interrupt
from smilax.meshes import ShardParams, check_mesh
from smilax.packing import Packed, unpack
from smilax.persistence import commit, describe_run, settings, together, versions
from smilax.progress import Progress
from smilax.recording import MemoryRecorder, Store, leaf_names
from smilax.result import Result, RunState, warn_of_stuck_chains
from smilax.resuming import run_with_store
from smilax.running import Lengths, Position, Run
from smilax.samplers.base import SamplingAlgorithm
from smilax.sizing import estimate
from smilax.store import StoreWriter
from smilax.streams import Stream, check_restorable
from smilax.validation import chain_params, check_belongs, check_data, check_density, check_lengths, check_same_state


def sample(
    key: jax.Array,
    algorithm: SamplingAlgorithm,
    data: Any,
    params: Any,
    *,
    num_chains: int | None = None,
    num_warmup: int,
    num_samples: int,
    thinning: int = 1,
    batch_size: int | None = None,
    chain_method: ChainMethod | Literal["auto"] = "auto",
    mesh: Mesh | None = None,
    shard_params: ShardParams | None = None,
    store: str | Path | Store | None = None,
    progress_bar: bool = True,
) -> Result:
    """Runs chains of a sampling algorithm.

    Chain k gets the same keys and batches alone or among ten, in any chunking. Draws are bit-identical in sequential
    mode, and among any two or more vectorised chains (a lone one is padded to two for that, at the price of
    computing twice: use `chain_method="sequential"` for one long chain). Each phase is compiled once. On CPU the
    chains of small models are driven by as many threads as there are cores.

    Ctrl-C and SIGTERM end the run after the current chunk (about half a second) and return what was drawn; with a store
    SIGTERM ends the program, once everything is on disk. An exception from elsewhere, such as the source of batches,
    has what was drawn until then as its attribute `result`; with a store it is on disk.

    With a store, draws go to disk while the run goes on, and memory stays flat however many there are. A run that was
    interrupted, killed at whatever instant, or is to be longer, goes on with `sx.resume`; `sx.load` reads it at any
    time.

    Args:
        key: JAX random key.
        algorithm: the sampler, e.g. `sx.psmile(posterior)`.
        data: `(x, y)` or any pytree of arrays with a common leading axis, of which NumPy memory maps stay on disk; or
            `sx.Batches`; or `sx.Stream` for an iterable of host batches.
        params: with `num_chains`, one pytree from which all chains start; without, a pytree whose leaves have a
            leading chain axis, such as `sx.train_ensemble` returns; or a `Result` to go on from.
        num_chains: number of chains.
        num_warmup: steps before the first draw, in which the algorithm may adapt.
        num_samples: steps after warm-up; every `thinning`-th of them is kept.
        thinning: steps per draw.
        batch_size: B; None takes all rows at each step.
        chain_method: `"vectorized"`; `"sequential"` (one chain after another inside one compiled program);
            `"parallel"`, over several devices (docs/devices.md); or `"auto"`, which is sequential for convolutions on
            CPU and vectorised else.
        mesh: the devices of parallel chains: axis "chain" for chains, "data" for the rows of each batch, of which B has
            to be a multiple; either may be missing. None takes all devices, along "data" as far as chains are too few.
        shard_params: `shard_params(path, leaf) -> jax.sharding.PartitionSpec` for the dimensions of one chain's leaf,
            over further axes of the mesh, for parallel chains that one device cannot hold. None leaves each chain's
            parameters whole.
        store: a directory for draws and resumable state, or an `sx.Store` with settings; one that exists already is
            refused.
        progress_bar: show steps/s, time left, mean |ΔE|, and rejects.

    Raises:
        StoreError: if the store exists, is in use, or cannot be written; what was committed stays readable.
        TypeError, ValueError: on input that makes no sense, naming the argument, what was given and what is allowed.

    Example:
        >>> import jax, jax.numpy as jnp, numpy as np, smilax as sx
        >>> posterior = sx.Posterior(
        ...     log_prior=lambda mean: -0.5 * jnp.sum(mean**2),
        ...     log_likelihood=lambda mean, x: -0.5 * jnp.sum((x - mean) ** 2, axis=-1),
        ...     num_data=100,
        ... )
        >>> x = np.random.default_rng(0).normal(size=(100, 2)).astype(np.float32)
        >>> result = sx.sample(
        ...     jax.random.key(0), sx.psmile_naive(posterior, step_size=0.01), x, jnp.zeros(2), num_chains=3,
        ...     num_warmup=100, num_samples=200, thinning=10, batch_size=10, progress_bar=False,
        ... )
        >>> result.draws.shape
        (3, 20, 2)
    """
    check_key("key", key)
    lengths = Lengths(*check_lengths(num_warmup, num_samples, thinning))
    batches, batch_size = check_setting(algorithm, data, batch_size, chain_method)
    if chain_method != "parallel" and (mesh is not None or shard_params is not None):
        raise ValueError(f'mesh and shard_params are for chain_method="parallel", got {chain_method!r}')
    if isinstance(store, (str, Path)):
        store = Store(store)
    elif store is not None and not isinstance(store, Store):
        raise TypeError(f"store must be a path, an sx.Store or None, got {store!r}")
    if store is not None:
        # The program may go to another directory while the run goes on, or before its draws are read.
        store = replace(store, path=Path(store.path).absolute())

    begin = time.perf_counter()
    chains, first_step, position = None, 0, Position()
    if isinstance(params, Result):
        if num_chains is not None:
            raise ValueError("num_chains cannot be given when params is a Result: it has its own chains")
        if params.state is None:
            raise ValueError("params is a Result that was only loaded: go on from its store with sx.resume")
        chains, first_step, place = params.state
        if isinstance(batches, Stream):
            check_restorable(batches)
            position = Position(place=place)
        if shard_params is not None:
            # It is asked about the leaves that the user knows.
            chains = jax.tree.map(
                lambda node: unpack(node, batch_ndim=1), chains, is_leaf=lambda node: isinstance(node, Packed)
            )
            params = replace(params, state=params.state._replace(chains=chains))
        check_same_state(algorithm, params)
        num_chains = jax.tree.leaves(chains.params)[0].shape[0]
        params = unpack(chains.params, batch_ndim=1)
    else:
        if algorithm.posterior is not None:
            check_belongs(algorithm.posterior, params, num_chains)
        params, num_chains = chain_params(params, num_chains)
        if algorithm.posterior is not None:
            check_density(algorithm.posterior, params, batches.first(batch_size))
    num_params = trees.size(params) // num_chains
    if chain_method == "auto":
        chain_method = chosen_method(jax.eval_shape(lambda: jax.tree.map(lambda x: x[0], params)))
    if chain_method == "parallel":
        mesh = check_mesh(mesh, num_chains, batch_size, shard_params)
    if progress_bar:
        one = jax.tree.map(lambda x: x[0], params)
        size = estimate(
            algorithm, one, num_chains=num_chains, num_warmup=num_warmup, num_samples=num_samples, thinning=thinning,
            store=store, batch_size=batch_size,
        )  # fmt: skip
        print(f"smilax: {algorithm.config['name']}, {size}", file=sys.stderr)
    run = Run(
        algorithm, batches, batch_size, key, num_chains, num_params, lengths, chain_method, first_step, mesh,
        shard_params,
    )  # fmt: skip
    if store is None:
        return _in_memory(run, params, chains, position, begin, progress_bar)
    one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), params)
    if not any(store.keeps(name) for name in leaf_names(one)):
        raise ValueError(f"store: select keeps none of the parameters {leaf_names(one)}")
    if isinstance(batches, Stream):
        batches.check_storable()
    config = describe_run(run, one, store)
    make = functools.partial(
        StoreWriter.create, store.path, config=config, num_chains=num_chains, versions=versions(),
        interval=store.interval,
    )  # fmt: skip
    with together(run.groups, lambda share: make(share=share), Path(store.path), store.interval) as writer:
        # Before anything is compiled: a run that is killed meanwhile can be resumed too.
        commit(writer, "params" if chains is None else "chains", params if chains is None else chains, position)
        writer.flush()
        return run_with_store(
            run,
            writer,
            store,
            lambda: run.init(params) if chains is None else chains,
            position,
            one,
            begin,
            progress_bar,
        )


def check_setting(algorithm: Any, data: Any, batch_size: int | None, chain_method: Any) -> tuple[Batches | Stream, int]:
    """Batches and batch size, after checks of everything that does not depend on the parameters."""
    if not isinstance(algorithm, SamplingAlgorithm):
        raise TypeError(f"algorithm must be a SamplingAlgorithm, e.g. sx.psmile(posterior), got {algorithm!r}")
    if chain_method not in ("auto", "vectorized", "sequential", "parallel"):
        raise ValueError(f'chain_method must be "auto", "vectorized", "sequential" or "parallel", got {chain_method!r}')
    batches = as_batches(data)
    batch_size = check_batch_size(batch_size, batches)
    if algorithm.config.get("batches") == "full" and batch_size != batches.num_rows:
        raise ValueError(
            f"{algorithm.config['name']} is a full-batch sampler: batch_size must be None or {batches.num_rows}, got "
            f"{batch_size}"
        )
    if algorithm.config.get("batches") == "full" and batches.transform is not None:
        raise ValueError(
            f"{algorithm.config['name']} needs the same density at each step, but data has a transform, which is drawn "
            "anew each time"
        )
    if algorithm.config.get("batches") == "independent":
        _check_independent(algorithm, batches)
        if batch_size < 2:
            raise ValueError(
                f"{algorithm.config['name']} learns the noise of a batch from the differences between its rows: "
                f"batch_size must be at least 2, got {batch_size}"
            )
    if algorithm.posterior is not None:
        check_data(algorithm.posterior, batches)
    return batches, batch_size


def _check_independent(algorithm: SamplingAlgorithm, batches: Batches | Stream) -> None:
    name, replacement = algorithm.config["name"], algorithm.config["replacement"]
    if batches.order != "independent":
        raise ValueError(
            f"{name} needs batches that are independent from step to step, got order={batches.order!r}: over a "
            "shuffled epoch the noise sums to zero, and posterior variances come out several times too small"
        )
    if batches.replacement != replacement:
        raise ValueError(
            f"{name} was made for batches with replacement={replacement}, but data has "
            f"replacement={batches.replacement}; the noise differs by the factor 1 - B/N"
        )


def _in_memory(run: Run, params: Any, chains: Any, position: Position, begin: float, progress_bar: bool) -> Result:
    lengths, interrupt = run.lengths, Interrupt()
    records = lengths.num_warmup // lengths.every("warmup")
    draws = lengths.sampling_steps // lengths.thinning
    recorder = MemoryRecorder({"warmup_info": records, "info": draws, "draws": draws})
    _check_memory(run, params, draws)
    with (
        interrupt.listening(),
        Progress(lengths.num_warmup + lengths.sampling_steps, run.num_chains, progress_bar) as bar,
    ):

        def result_so_far(state: RunState | None) -> Result:
            drawn = recorder.finish("draws")
            if drawn is None:
                drawn = jax.tree.map(lambda x: np.zeros((x.shape[0], 0, *x.shape[1:]), x.dtype), params)
            return Result(
                draws=unpack(drawn, batch_ndim=2),
                info=recorder.finish("info"),
                warmup_info=recorder.finish("warmup_info"),
                state=state,
                config=settings(run),
                seconds=time.perf_counter() - begin,
                interrupted=state is None or interrupt.requested,
            )

        if chains is None:
            chains = run.init(params)
        try:
            state, _ = run.execute(chains, position, recorder, interrupt, bar)
        except Exception as error:
            partial: Any = result_so_far(None)
            if partial.num_draws:
                # What was drawn is not lost by what a source of batches, say, runs into.
                error.add_note(f"{partial.num_draws} draws a chain were made before: they are in this error's `result`")
                error.result = partial  # type: ignore[attr-defined]
            raise
    result = result_so_far(state)
    if interrupt.requested:
        warnings.warn(f"interrupted: {result.num_draws} draws a chain were kept", stacklevel=3)
    warn_of_stuck_chains(result, stacklevel=3)
    return result


def _check_memory(run: Run, params: Any, draws: int) -> None:
    """Raises if the draws cannot be held, which is otherwise found out after the warm-up."""
    size = draws * sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    try:
        np.empty(size, np.uint8)
    except (MemoryError, ValueError) as error:
        raise MemoryError(
            f"num_samples = {run.lengths.num_samples}, thinning = {run.lengths.thinning}: {draws:,} draws of "
            f"{run.num_chains} chains take {size / 1e9:,.1f} GB, more than there is: take a larger thinning, or store="
        ) from error
