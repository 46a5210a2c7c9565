"""Runs with a store: the loop that commits, and taking one up again."""

import contextlib
import functools
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from smilax.data import as_batches
from smilax.interrupts import Interrupt
from smilax.loading import run_config, stored_result
from smilax.meshes import ShardParams, check_mesh
from smilax.persistence import check_same, commit, params_like, restore, restore_run, together
from smilax.places import decode
from smilax.progress import Progress
from smilax.recording import Store, StoreRecorder
from smilax.result import Result, warn_of_stuck_chains
from smilax.running import Lengths, Position, Run
from smilax.samplers.base import SamplingAlgorithm
from smilax.store import StoreCorrupt, StoreLocked, StoreWriter, read
from smilax.streams import Stream, check_restorable
from smilax.validation import check_count, check_data


def resume(
    path: str | Path,
    algorithm: SamplingAlgorithm,
    data: Any,
    *,
    num_samples: int | None = None,
    mesh: Mesh | None = None,
    shard_params: ShardParams | None = None,
    params: Any = None,
    progress_bar: bool = True,
) -> Result:
    """Goes on with a run from the last commit of its store, be it interrupted, killed, or finished and too short.

    Draws are bit-identical to those of an unbroken run on the same machine, warm-up included.

    Args:
        path: the store's directory.
        algorithm: the sampler, made with the same arguments as that of the run.
        data: the data of the run; if that was given as `sx.Batches`, then so here.
        num_samples: steps after warm-up in all; more than the run was to have makes it longer. None keeps its length.
        mesh: the devices to go on with, as in `sample`, for a run of any `chain_method`. None means all devices if the
            run's was "parallel". On another mesh draws are the same up to rounding only.
        shard_params: as it was given to `sample`.
        params: a pytree like one chain's parameters, of which only the containers matter. Needed where these are a
            class of yours (a NamedTuple, a dataclass) and the posterior is not from `sx.bnn`, which knows them.
        progress_bar: as in `sample`.

    Raises:
        StoreError: if there is no store, it is in use, damaged, or from a newer version.
        ValueError: if algorithm, posterior or data are not those of the run; if `num_samples` is less than the run was
            to have.

    Example:
        >>> import jax, jax.numpy as jnp, numpy as np, smilax as sx, tempfile
        >>> posterior = sx.Posterior(
        ...     lambda m: -0.5 * jnp.sum(m**2), lambda m, x: -0.5 * jnp.sum((x - m) ** 2, axis=-1), num_data=100
        ... )
        >>> algorithm, x = sx.sgld(posterior, 1e-3), np.ones((100, 2), np.float32)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     short = sx.sample(
        ...         jax.random.key(0), algorithm, x, jnp.zeros(2), num_chains=2, num_warmup=10, num_samples=20,
        ...         batch_size=10, store=f"{folder}/run", progress_bar=False,
        ...     )
        ...     longer = sx.resume(f"{folder}/run", algorithm, x, num_samples=50, progress_bar=False)
        ...     short.num_draws, longer.num_draws
        (20, 50)
    """
    begin = time.perf_counter()
    if not isinstance(algorithm, SamplingAlgorithm):
        raise TypeError(f"algorithm must be a SamplingAlgorithm, e.g. sx.psmile(posterior), got {algorithm!r}")
    path = Path(path).absolute()
    config = run_config(read(path))
    batches, wanted = as_batches(data), config["settings"]["batches"]
    if isinstance(batches, Stream):
        check_restorable(batches)
    elif batches is not data and not wanted["transform"] and not wanted.get("stream"):
        batches = replace(batches, order=wanted["order"], replacement=wanted["replacement"])
    params = params_like(config, algorithm, params)
    check_same(config, algorithm, batches, params)
    if algorithm.posterior is not None:
        check_data(algorithm.posterior, batches)
    run = restore_run(config, algorithm, batches)
    if mesh is not None or run.chain_method == "parallel":
        mesh = check_mesh(mesh, run.num_chains, run.batch_size, shard_params)
        run = replace(run, chain_method="parallel", mesh=mesh, shard_params=shard_params)
    elif shard_params is not None:
        raise ValueError("shard_params needs a mesh")
    if (shard_params is not None) != config["settings"].get("sharded", False):
        raise ValueError("shard_params must be given if, and only if, the run was begun with it")
    if num_samples is not None:
        num_samples = check_count("num_samples", num_samples, 1)
        if num_samples < run.lengths.num_samples:
            raise ValueError(
                f"num_samples must be at least {run.lengths.num_samples}, what the run was to have, got {num_samples}"
            )
        run = replace(run, lengths=Lengths(run.lengths.num_warmup, num_samples, run.lengths.thinning))
    stored = config["stored"]
    options = Store(path, stored["dtype"], stored["leaves"].__contains__, stored["interval"])
    make = functools.partial(StoreWriter.open, path, interval=options.interval)
    with together(run.groups, lambda share: make(share=share), path, options.interval) as writer:
        # Read again, under the lock: only now does no other run write to it.
        contents = read(path)
        if contents.manifest.config != config:
            raise StoreLocked(f"{path} was written to by another run just now; resume it again")
        arrays, where = contents.state()
        if num_samples is not None:
            writer.update_config(settings=config["settings"] | {"num_samples": num_samples})
        try:
            place = decode(where["place"])
        except (KeyError, TypeError, ValueError) as error:
            raise StoreCorrupt(f"the manifest of {path} does not say where the source of batches stood") from error
        position = Position(where["phase"], where["done"], arrays.get("partial"), place)
        return run_with_store(
            run, writer, options, lambda: restore(arrays, where, run, params), position, params, begin, progress_bar
        )


def run_with_store(
    run: Run,
    writer: StoreWriter,
    options: Store,
    chains: Callable[[], Any],
    position: Position,
    params: Any,
    begin: float,
    progress_bar: bool,
) -> Result:
    """Runs on from a position that the store has, to the end or to an interrupt.

    Args:
        run: the run.
        writer: of its store; closed at the end.
        options: what is stored.
        chains: makes the states that the chains have at the position.
        position: where the run stands.
        params: parameters of one chain, or of all: their containers are those of the result's draws.
        begin: when the call began, by `time.perf_counter`.
        progress_bar: as in `sample`.
    """
    lengths, groups, interrupt, path = run.lengths, run.groups, Interrupt(), Path(options.path)

    last: list[Any] = []

    def after_chunk(state, position):
        last[:] = [state, position]
        if groups.decide(writer.due()):
            commit(writer, "chains", state(), position)

    with (
        interrupt.listening(),
        Progress(lengths.num_warmup + lengths.sampling_steps, run.num_chains, progress_bar) as bar,
    ):
        bar.skip(position.done + (lengths.num_warmup if position.phase == "sampling" else 0))
        recorder = StoreRecorder(writer, options)
        try:
            state, position = run.execute(chains(), position, recorder, interrupt, bar, after_chunk)
        except Exception:
            # States may have been given away to the step that failed: then the last commit counts.
            with contextlib.suppress(Exception):
                if last and run.mesh is None:
                    commit(writer, "chains", last[0](), last[1], "interrupted")
                    writer.flush()
            raise
        complete = position.phase == "sampling" and position.done >= lengths.sampling_steps
        commit(writer, "chains", state.chains, position, "finished" if complete else "interrupted")
        writer.close()
        # Other processes have to wait for the manifest.
        groups.decide(True)
    seconds = time.perf_counter() - begin
    result = stored_result(path, read(path), state, seconds, not complete, params)
    text = f"interrupted: {result.num_draws} draws a chain are in {path}; "
    text += "the run is complete" if complete else f"go on with sx.resume({str(path)!r}, algorithm, data)"
    if interrupt.terminated:
        raise SystemExit(text)
    if not complete:
        warnings.warn(text, stacklevel=3)
    warn_of_stuck_chains(result, stacklevel=3)
    return result
