"""What a run writes to its store, so that another process can go on with it: settings, fingerprints and states."""

import hashlib
import math
import platform
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from smilax.data import Batches
from smilax.grouping import Groups
from smilax.places import encode
from smilax.posterior import Posterior
from smilax.recording import Store, leaf_names
from smilax.running import Lengths, Position, Run
from smilax.samplers.base import SamplingAlgorithm
from smilax.store import Share, StoreCorrupt, StoreError, StoreWriter
from smilax.streams import Stream
from smilax.structure import describe, is_plain, leaf_paths, rebuild

# More than this is not read in full for a fingerprint: rows spread over the array stand for it.
HASHED_BYTES = 2**28
PACKAGES = ("smilax", "jax", "jaxlib", "numpy", "safetensors")
# Log densities of one model on two machines differ by rounding; those of two models do not by so little.
SAME_DENSITY = 1e-4
# Slopes may be what is left of larger ones.
SAME_SLOPE, LEAST_SLOPE = 1e-2, 1e-7


def versions() -> dict[str, str]:
    """Of the software that writes the store."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found


def data_fingerprint(batches: Batches | Stream) -> dict[str, Any]:
    """Names, shapes and dtypes of the data's arrays, and a hash of their content; of a stream those of a batch."""
    arrays: list[Any] = []
    if isinstance(batches, Stream):
        batch = batches.first(None)
        for name, leaf in zip(leaf_paths(batch), jax.tree.leaves(batch), strict=True):
            arrays.append([name, list(leaf.shape[1:]), str(leaf.dtype)])
        return {"arrays": arrays, "content": f"stream of {batches.num_rows} rows", "batches": batches.config()}
    digest = hashlib.blake2b(digest_size=16)
    for name, leaf in zip(leaf_paths(batches.data), jax.tree.leaves(batches.data), strict=True):
        # What is on disk, be it a memory map or another library's array, is read piece by piece.
        sliced = hasattr(leaf, "shape") and hasattr(leaf, "dtype") and not isinstance(leaf, jax.Array)
        array = leaf if sliced else np.asarray(leaf)
        arrays.append([name, list(array.shape), str(array.dtype)])
        rows, size = len(array), math.prod(array.shape) * np.dtype(array.dtype).itemsize
        step = max(1, -(-size // HASHED_BYTES))
        block = max(1, HASHED_BYTES // 16 // max(1, size // max(rows, 1)))
        for start in range(0, rows, block * step):
            digest.update(np.ascontiguousarray(array[start : start + block]).tobytes())
    return {"arrays": arrays, "content": digest.hexdigest(), "batches": batches.config()}


def posterior_fingerprint(
    posterior: Posterior | None, params: Any, batches: Batches | Stream, batch_size: int
) -> dict[str, Any]:
    """The parameters' names, shapes and dtypes, and log prior and log likelihoods at a fixed point on a few rows.

    In parts, because the likelihood of a large data set would hide the prior. `params` are those of one chain, or their
    shapes and dtypes.
    """
    leaves = [
        [name, list(leaf.shape), str(leaf.dtype)]
        for name, leaf in zip(leaf_names(params), jax.tree.leaves(params), strict=True)
    ]
    found: dict[str, Any] = {"leaves": leaves, "num_data": None, "log_prior": None, "log_likelihood": None}
    if posterior is not None:
        point = jax.tree.map(
            lambda leaf: (0.1 * jnp.cos(jnp.arange(leaf.size))).astype(leaf.dtype).reshape(leaf.shape), params
        )
        if batches.transform is None and isinstance(batches, Batches):
            few = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf[:8])), batches.data)
        else:
            # The model may need what the transform makes of a batch, and the transform a batch of the run's size.
            few = jax.tree.map(jnp.asarray, batches.first(batch_size))
        value = jax.jit(posterior.evaluate)(point, few)
        found["log_prior"] = _finite(value.log_prior)
        dtype = value.log_prior.dtype
        slopes = jax.jit(jax.grad(lambda x: jnp.asarray(posterior.log_prior(x)).astype(dtype)))(point)
        # A wide prior's value says little: in nats it is as good as constant.
        found["prior_slope"] = [_finite(jnp.linalg.norm(leaf.ravel())) for leaf in jax.tree.leaves(slopes)]
        if isinstance(batches, Batches):
            # What a stream yields first may be another batch each time.
            found["log_likelihood"] = [_finite(x) for x in np.asarray(value.log_likelihood)[:8]]
        found["num_data"] = int(posterior.num_data)
    return found


def _finite(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def wide() -> bool:
    """Whether JAX computes in float64 where it is asked to."""
    return jax.dtypes.canonicalize_dtype(np.float64) == np.float64


def settings(run: Run) -> dict[str, Any]:
    """What `Result.config` says of a run."""
    return {
        "algorithm": _plain(dict(run.algorithm.config)),
        "batches": run.batches.config(),
        "batch_size": run.batch_size,
        "num_chains": run.num_chains,
        "num_warmup": run.lengths.num_warmup,
        "num_samples": run.lengths.num_samples,
        "thinning": run.lengths.thinning,
        "chain_method": run.chain_method,
        "sharded": run.shard_params is not None,
        "first_step": run.first_step,
        "num_rows": run.batches.num_rows,
        "num_params": run.num_params,
    }


def together(groups: Groups, make: Callable[[Share | None], StoreWriter], path: Path, interval: float) -> StoreWriter:
    """The store's writer: process 0 makes or opens the store, and the others, if there are any, take part.

    Raises:
        StoreError: what `make` raises; in the other processes, that it did.
    """
    share, writer = groups.share(), None
    if share is not None and share.process > 0:
        if not groups.decide(False):
            raise StoreError(f"process 0 could not write to the store {path}")
        return StoreWriter.attend(path, share, interval=interval)
    try:
        writer = make(share)
    finally:
        groups.decide(writer is not None)
    return writer


def describe_run(run: Run, params: Any, options: Store) -> dict[str, Any]:
    """The part of a manifest that says what run it is; `params` are those of one chain."""
    return {
        "settings": settings(run),
        "key": np.asarray(jax.random.key_data(run.key)).tolist(),
        "key_impl": str(jax.random.key_impl(run.key)),
        "first_step": run.first_step,
        "data": data_fingerprint(run.batches),
        "enable_x64": wide(),
        "posterior": posterior_fingerprint(run.algorithm.posterior, params, run.batches, run.batch_size),
        "structure": describe(params),
        "stored": {
            "dtype": options.dtype,
            "interval": options.interval,
            "leaves": [name for name in leaf_names(params) if options.keeps(name)],
        },
    }


def restore_run(config: dict[str, Any], algorithm: SamplingAlgorithm, batches: Batches | Stream) -> Run:
    """The run that a manifest describes, with an algorithm and data that have been checked against it."""
    key = jax.random.wrap_key_data(jnp.asarray(config["key"], jnp.uint32), impl=config["key_impl"])
    given = config["settings"]
    return Run(
        algorithm=algorithm,
        batches=batches,
        batch_size=given["batch_size"],
        key=key,
        num_chains=given["num_chains"],
        num_params=given["num_params"],
        lengths=Lengths(given["num_warmup"], given["num_samples"], given["thinning"]),
        chain_method=given["chain_method"],
        first_step=config["first_step"],
    )


def check_same(config: dict[str, Any], algorithm: SamplingAlgorithm, batches: Batches | Stream, params: Any) -> None:
    """Raises ValueError unless algorithm, posterior and data are those the store was made with.

    `params` are shapes and dtypes of one chain's parameters.
    """
    if wide() != config["enable_x64"]:
        raise ValueError(
            f"the run of the store was made with jax_enable_x64={config['enable_x64']}, and this process has {wide()}: "
            f"set JAX_ENABLE_X64={int(config['enable_x64'])}"
        )
    ours, theirs = _plain(dict(algorithm.config)), config["settings"]["algorithm"]
    if ours != theirs:
        names = sorted(k for k in {*ours, *theirs} if ours.get(k) != theirs.get(k))
        changes = ", ".join(f"{k} = {ours.get(k)!r} (the store: {theirs.get(k)!r})" for k in names)
        raise ValueError(f"algorithm is not that of the store: {changes}")
    found, wanted = data_fingerprint(batches), config["data"]
    if found["arrays"] != wanted["arrays"]:
        raise ValueError(f"data is not that of the store: it has {found['arrays']}, the store's had {wanted['arrays']}")
    if found["batches"] != wanted["batches"]:
        raise ValueError(
            f"data draws batches by {found['batches']}, but the store's did by {wanted['batches']}; give sx.Batches"
        )
    if found["content"] != wanted["content"]:
        raise ValueError("data is not that of the store: same shapes, but other numbers, or other order of rows")
    batch_size = config["settings"]["batch_size"]
    found, wanted = posterior_fingerprint(algorithm.posterior, params, batches, batch_size), config["posterior"]
    for what in ("leaves", "num_data"):
        if found[what] != wanted[what]:
            raise ValueError(
                f"algorithm has another posterior than the store: {what} {found[what]}, the store: {wanted[what]}"
            )
    for what, reason, share, least in (
        ("log_prior", "the prior differs", SAME_DENSITY, 1.0),
        ("prior_slope", "the prior differs", SAME_SLOPE, LEAST_SLOPE),
        ("log_likelihood", "likelihood or network differ", SAME_DENSITY, 1.0),
    ):
        # Stores of earlier versions know no slopes.
        if what in wanted and not _close(found[what], wanted[what], share, least):
            raise ValueError(
                f"algorithm has another posterior than the store: at a fixed point {what} is {found[what]}, there it "
                f"was {wanted[what]}; {reason}"
            )


def _close(mine: Any, stored: Any, share: float, least: float) -> bool:
    """Whether two numbers, or lists of them, agree but for rounding; None, for not finite, agrees with itself.

    Differences may be a share of the number stored, or of `least` where that is more.
    """
    if isinstance(mine, list) and isinstance(stored, list):
        return len(mine) == len(stored) and all(_close(*both, share, least) for both in zip(mine, stored, strict=True))
    if mine is None or stored is None:
        return mine is stored
    return abs(mine - stored) <= share * max(least, abs(stored))


def params_like(config: dict[str, Any], algorithm: SamplingAlgorithm, params: Any = None) -> Any:
    """Shapes and dtypes of one chain's parameters, in containers that the posterior understands.

    Those are the containers of `params`, if given, or of the posterior's `init`, or else plain ones.
    """
    leaves = config["posterior"]["leaves"]
    names, shapes = [], []
    for name, shape, dtype in leaves:
        names.append(name)
        shapes.append(jax.ShapeDtypeStruct(tuple(shape), np.dtype(dtype)))
    init = getattr(algorithm.posterior, "init", None)
    own = jax.eval_shape(init, jax.random.key(0)) if params is None and init is not None else params
    if own is not None and leaf_names(own) == names:
        return jax.tree.unflatten(jax.tree.structure(own), shapes)
    if params is not None:
        raise ValueError(f"params has leaves {leaf_names(params)}, but those of the store are {names}")
    if not is_plain(config["structure"]):
        raise ValueError(
            "the parameters of the run were in containers other than dict, list and tuple, which a store cannot make: "
            "give params, a pytree like those of the run (its numbers are not used)"
        )
    return rebuild(config["structure"], shapes)


def commit(
    writer: StoreWriter,
    kind: Literal["params", "chains"],
    tree: Any,
    position: Position,
    status: Literal["running", "finished", "interrupted"] = "running",
) -> None:
    """Commits what was appended, and the state from which a run goes on.

    Before the first step that is the parameters alone, so that a run killed while it compiles can be resumed too.
    """
    arrays = {f"{i:05d}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(tree))}
    if position.partial is not None:
        arrays["partial"] = np.asarray(position.partial)
    where = {"kind": kind, "phase": position.phase, "done": position.done, "place": encode(position.place)}
    writer.commit(arrays, where, status=status)


def restore(arrays: dict[str, np.ndarray], where: dict[str, Any], run: Run, params: Any) -> Any:
    """The chains' states as `commit` left them; `params` are shapes and dtypes of one chain's parameters."""
    leaves = [arrays[name] for name in sorted(arrays) if name != "partial"]
    shaped = jax.tree.map(lambda s: jax.ShapeDtypeStruct((run.num_chains, *s.shape), s.dtype), params)
    if where["kind"] == "params":
        return run.init(_filled(shaped, leaves, "parameters"))
    return _filled(jax.eval_shape(run.init_shapes, shaped), leaves, "states")


def _filled(shapes: Any, leaves: list[np.ndarray], what: str) -> Any:
    wanted = jax.tree.leaves(shapes)
    if [(x.shape, x.dtype) for x in wanted] != [(x.shape, x.dtype) for x in leaves]:
        raise StoreCorrupt(f"the {what} in the store do not fit this version of the algorithm")
    return jax.tree.unflatten(jax.tree.structure(shapes), [jnp.asarray(leaf) for leaf in leaves])


def _plain(config: Any) -> Any:
    """What JSON makes of it."""
    if isinstance(config, dict):
        return {str(k): _plain(v) for k, v in config.items()}
    if isinstance(config, np.generic):
        return config.item()
    return [_plain(v) for v in config] if isinstance(config, (list, tuple)) else config
