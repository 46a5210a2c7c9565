"""`sample`: chains × steps."""

import signal
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from smilax import trees
from smilax.chains import Bounds, ChainMethod, Phase, chain_keys, group_indices, num_groups, segments
from smilax.data import Batches, as_batches, check_batch_size
from smilax.packing import pack, packable, unpack
from smilax.progress import Progress
from smilax.samplers.base import SamplingAlgorithm
from smilax.validation import chain_params, check_data, check_density, check_lengths

# A chunk is as long as Ctrl-C and the progress bar may wait; its slots are as many as fit the memory set aside.
CHUNK_SECONDS = 0.5
FIRST_CHUNK = 32
SLOT_BYTES = 2**25
WARMUP_RECORDS = 1000


class RunState(NamedTuple):
    """Where a run stands.

    Attributes:
        chains: the algorithm's states, leaves with a leading chain axis.
        step: steps taken since the run's beginning, warm-up included; keys of later steps follow from it.
    """

    chains: Any
    step: int


@dataclass(frozen=True, eq=False)
class Result:
    """What `sample` returns.

    Attributes:
        draws: pytree like the parameters, NumPy leaves `(chain, draw, …)`.
        info: what the steps reported at each draw, NumPy leaves `(chain, draw)`; `accepted` is a mean over the
            thinning interval.
        warmup_info: the same along warm-up, about a thousand records.
        state: where the run stands; pass the result as `params` of another `sample` to go on.
        config: settings of the run, JSON-able.
        seconds: wall-clock time of warm-up and sampling, compilation included.
        interrupted: whether the run was stopped before its end.
    """

    draws: Any
    info: Any
    warmup_info: Any
    state: RunState
    config: dict[str, Any]
    seconds: float
    interrupted: bool

    @property
    def num_chains(self) -> int:
        """Number of chains."""
        return int(np.shape(jax.tree.leaves(self.draws)[0])[0])

    @property
    def num_draws(self) -> int:
        """Draws per chain."""
        return int(np.shape(jax.tree.leaves(self.draws)[0])[1])


class _Interrupt:
    """Set by the first Ctrl-C; a second one raises at once."""

    def __init__(self):
        self.requested = False

    @contextmanager
    def listening(self):
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = signal.getsignal(signal.SIGINT)

        def handler(signum, frame):
            if self.requested:
                raise KeyboardInterrupt
            self.requested = True

        signal.signal(signal.SIGINT, handler)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, previous)


class _Groups:
    """Chains laid out in groups of equal size, and back."""

    def __init__(self, num_chains: int, groups: int, method: ChainMethod):
        self.num_chains = num_chains
        self.indices = group_indices(num_chains, groups, method)

    def split(self, tree: Any) -> list[Any]:
        last = self.num_chains - 1
        # A copy each: the groups' states are donated, what the caller gave is not.
        return [jax.tree.map(lambda x, i=i: jnp.copy(x[np.minimum(i, last)]), tree) for i in self.indices]

    def join(self, parts: list[Any]) -> Any:
        return jax.tree.map(lambda *xs: np.concatenate([np.asarray(x) for x in xs])[: self.num_chains], *parts)


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
    chain_method: ChainMethod = "vectorized",
    progress_bar: bool = True,
) -> Result:
    """Runs chains of a sampling algorithm.

    Chain k gets the same keys and batches alone or among ten, in any chunking. Draws are bit-identical in sequential
    mode, and among any two or more vectorised chains (a lone one is padded to two for that, at the price of
    computing twice: use `chain_method="sequential"` for one long chain). Each phase is compiled once. On CPU the
    chains of small models are driven by as many threads as there are cores.

    Ctrl-C ends the run after the current chunk (about half a second) and returns what was drawn.

    Args:
        key: JAX random key.
        algorithm: the sampler, e.g. `sx.psmile(posterior)`.
        data: `(x, y)` or any pytree of arrays with a common leading axis, or `sx.Batches`.
        params: with `num_chains`, one pytree from which all chains start; without, a pytree whose leaves have a
            leading chain axis, such as `sx.train_ensemble` returns; or a `Result` to go on from.
        num_chains: number of chains.
        num_warmup: steps before the first draw, in which the algorithm may adapt.
        num_samples: steps after warm-up; every `thinning`-th of them is kept.
        thinning: steps per draw.
        batch_size: B; None takes all rows at each step.
        chain_method: `"vectorized"` or `"sequential"` (one chain after another inside one compiled program).
        progress_bar: show steps/s, time left, mean |ΔE|, and rejects.

    Raises:
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
    num_warmup, num_samples, thinning = check_lengths(num_warmup, num_samples, thinning)
    if not isinstance(algorithm, SamplingAlgorithm):
        raise TypeError(f"algorithm must be a SamplingAlgorithm, e.g. sx.psmile(posterior), got {algorithm!r}")
    if chain_method not in ("vectorized", "sequential"):
        raise ValueError(f'chain_method must be "vectorized" or "sequential", got {chain_method!r}')
    batches = as_batches(data)
    batch_size = check_batch_size(batch_size, batches)
    if algorithm.config.get("batches") == "full" and batch_size != batches.num_rows:
        raise ValueError(
            f"{algorithm.config['name']} is a full-batch sampler: batch_size must be None or {batches.num_rows}, got "
            f"{batch_size}"
        )
    if algorithm.config.get("batches") == "independent":
        _check_independent(algorithm, batches)
    if algorithm.posterior is not None:
        check_data(algorithm.posterior, batches)
    device_data = jax.tree.map(jnp.asarray, batches.data)

    begin = time.perf_counter()
    if isinstance(params, Result):
        if num_chains is not None:
            raise ValueError("num_chains cannot be given when params is a Result: it has its own chains")
        chains, first_step = params.state
        num_chains = params.num_chains
        num_params = trees.size(chains.params) // num_chains
        groups = _Groups(num_chains, num_groups(num_chains, num_params, chain_method), chain_method)
        states = groups.split(chains)
        keys = [chain_keys(key, jnp.asarray(i)) for i in groups.indices]
    else:
        params, num_chains = chain_params(params, num_chains)
        first_step = 0
        num_params = trees.size(params) // num_chains
        if algorithm.posterior is not None:
            probe = batches.draw(device_data, jax.random.key(0), jnp.zeros((), jnp.uint32), batch_size)
            check_density(algorithm.posterior, params, probe)
        if packable(jax.tree.map(lambda x: x[0], params)):
            params = jax.vmap(pack)(params)
        groups = _Groups(num_chains, num_groups(num_chains, num_params, chain_method), chain_method)
        keys = [chain_keys(key, jnp.asarray(i)) for i in groups.indices]
        init = jax.jit(jax.vmap(algorithm.init))
        # Group by group: states must not depend on how many chains start together.
        states = [
            init(jax.vmap(lambda k: jax.random.fold_in(k, 2**32 - 1))(k.algorithm), p)
            for k, p in zip(keys, groups.split(params), strict=True)
        ]

    draw_bytes = sum(x.nbytes for x in jax.tree.leaves(states[0].params))
    interrupt = _Interrupt()
    progress = Progress(num_warmup + num_samples // thinning * thinning, num_chains, progress_bar)
    with interrupt.listening(), ThreadPoolExecutor(len(states)) as pool, progress:

        def run_phase(states, *, warming_up, every, steps, offset):
            slots = max(1, min(steps // every, SLOT_BYTES // max(draw_bytes, 1), 1024)) + 1
            phase = Phase(
                algorithm, batches, batch_size, device_data, keys, states[0],
                warming_up=warming_up, thinning=every, slots=slots, method=chain_method,
            )  # fmt: skip
            recorder = _Recorder(steps // every)
            done, length = 0, FIRST_CHUNK
            while done < steps and not interrupt.requested:
                stop = min(steps, done + length, (done // every + slots) * every)
                clock = time.perf_counter()
                states, draws, infos = phase.run(pool, states, Bounds(done, stop, offset, max(steps, 1)))
                used = time.perf_counter() - clock
                whole = stop // every - done // every
                recorder.add(groups.join(draws), groups.join(infos), whole)
                progress.update(stop - done, groups.join(infos), segments(done, stop, every), warming_up)
                # The first chunk's time is mostly compilation, so it says nothing but that more can be asked for.
                pace = 8 if done == 0 else min(8.0, CHUNK_SECONDS / max(used, 1e-9))
                length = max(1, int((stop - done) * pace))
                done = stop
            return states, recorder, done

        every = max(1, num_warmup // WARMUP_RECORDS)
        states, warmed, steps_done = run_phase(
            states, warming_up=True, every=every, steps=num_warmup, offset=first_step
        )  # fmt: skip
        step = first_step + steps_done
        states, sampled, steps_done = run_phase(
            states, warming_up=False, every=thinning, steps=num_samples // thinning * thinning, offset=step
        )
        step += steps_done

    draws, info = sampled.finish()
    _, warmup_info = warmed.finish()
    if interrupt.requested:
        kept = 0 if draws is None else np.shape(jax.tree.leaves(draws)[0])[1]
        warnings.warn(f"interrupted: {kept} draws a chain were kept", stacklevel=2)
    if draws is None:
        draws = jax.tree.map(lambda x: np.zeros((num_chains, 0, *x.shape[1:]), x.dtype), states[0].params)
    return Result(
        draws=unpack(draws, batch_ndim=2),
        info=info,
        warmup_info=warmup_info,
        state=RunState(groups.join(states), step),
        config={
            "algorithm": dict(algorithm.config),
            "batches": batches.config(),
            "batch_size": batch_size,
            "num_chains": num_chains,
            "num_warmup": num_warmup,
            "num_samples": num_samples,
            "thinning": thinning,
            "chain_method": chain_method,
            "num_rows": batches.num_rows,
            "num_params": num_params,
        },
        seconds=time.perf_counter() - begin,
        interrupted=interrupt.requested,
    )


def _check_independent(algorithm: SamplingAlgorithm, batches: Batches) -> None:
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


class _Recorder:
    """Collects the whole segments of successive chunks into arrays `(chain, draw, …)`."""

    def __init__(self, capacity: int):
        self._capacity, self._filled, self._arrays = capacity, 0, None

    def add(self, draws: Any, infos: Any, whole: int) -> None:
        if self._arrays is None:
            self._arrays = jax.tree.map(
                lambda x: np.empty((x.shape[0], self._capacity, *x.shape[2:]), x.dtype), (draws, infos)
            )
        end = self._filled + whole

        def copy(target, source):
            target[:, self._filled : end] = source[:, :whole]

        jax.tree.map(copy, self._arrays, (draws, infos))
        self._filled = end

    def finish(self) -> tuple[Any, Any]:
        if self._arrays is None:
            return None, None
        if self._filled == self._capacity:
            return self._arrays
        return jax.tree.map(lambda x: x[:, : self._filled], self._arrays)
