"""Errors at the door: what a run is given, checked before anything is compiled."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding

from smilax.bnn import NetworkPosterior
from smilax.checks import check_count as check_count
from smilax.checks import check_finite, check_numbers
from smilax.compiling import compiled
from smilax.data import Batches
from smilax.posterior import Posterior
from smilax.result import Result
from smilax.samplers.base import SamplingAlgorithm, check_params
from smilax.streams import Stream
from smilax.structure import leaf_paths

# Of rows that stay on the host so many are looked at.
CHECKED_ROWS = 10_000
# Of transformed rows so many.
TRANSFORMED_ROWS = 32
# Relative, of one row's log likelihood computed twice by the same program, some of which may be in bfloat16.
ROUNDING = 1e-3
MOST_STEPS = 2**31 - 1


def check_lengths(num_warmup: Any, num_samples: Any, thinning: Any) -> tuple[int, int, int]:
    """Run lengths as integers; refuses thinning that would keep nothing."""
    num_warmup = check_count("num_warmup", num_warmup, 0)
    num_samples = check_count("num_samples", num_samples, 1)
    thinning = check_count("thinning", thinning, 1)
    if thinning > num_samples:
        raise ValueError(
            f"thinning = {thinning} keeps no draw of num_samples = {num_samples} steps: every thinning-th step is kept"
        )
    if num_warmup + num_samples > MOST_STEPS:
        raise ValueError(
            f"num_warmup + num_samples must be at most {MOST_STEPS:,}, as steps are counted in 32 bits, got "
            f"{num_warmup + num_samples:,}; go on from the result for more"
        )
    return num_warmup, num_samples, thinning


def check_data(posterior: Posterior, batches: Batches | Stream, name: str = "data") -> None:
    """Checks the arrays against each other, for finite values, and against `posterior.num_data`.

    Of a stream the first batch is looked at, of rows that stay on the host a spread of them. What a transform makes of
    the first batch has to suit the network, and the rows themselves only have to be finite.
    """
    if batches.num_rows != posterior.num_data:
        raise ValueError(
            f"posterior.num_data = {posterior.num_data}, but {name} has {batches.num_rows} rows; the likelihood would "
            "be scaled wrongly"
        )
    if isinstance(batches, Stream):
        data, whole = batches.first(None), False
    elif batches.streamed:
        step = max(1, batches.num_rows // CHECKED_ROWS)
        data, whole = jax.tree.map(lambda x: np.asarray(x[::step]), batches.data), step == 1
    else:
        data, whole = batches.data, True
    transformed = isinstance(batches, Batches) and batches.transform is not None
    check = getattr(posterior, "check_data", None)
    if check is not None and not transformed:
        check(data, name=name, whole=whole)
        return
    for path, leaf in jax.tree_util.tree_leaves_with_path(data):
        check_finite(f"{name}{jax.tree_util.keystr(path)}", np.asarray(leaf))
    if check is not None and isinstance(batches, Batches):
        first = batches.first(min(TRANSFORMED_ROWS, batches.num_rows))
        pairs = all(isinstance(part, (tuple, list)) and len(part) > 1 for part in (first, data))
        if isinstance(posterior, NetworkPosterior) and pairs and _shapes_of_rows(first[1]) == _shapes_of_rows(data[1]):
            # Targets are what they were: all are looked at.
            posterior.check_targets(np.asarray(data[1]), first[0])
        check(first, name=f"the transform of {name}", whole=False)


def _shapes_of_rows(tree: Any) -> list[tuple]:
    return [(np.shape(leaf)[1:], jax.dtypes.canonicalize_dtype(leaf.dtype)) for leaf in jax.tree.leaves(tree)]


def chain_params(params: Any, num_chains: int | None) -> tuple[Any, int]:
    """Parameters with a leading chain axis, and the number of chains."""
    if not jax.tree.leaves(params):
        raise ValueError("params holds no arrays")
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        check_numbers(f"params{jax.tree_util.keystr(path)}", leaf)
    params = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf) if _is_explicit(leaf) else leaf), params)
    if num_chains is not None:
        num_chains = check_count("num_chains", num_chains, 1)
        check_params(params)
        return jax.tree.map(lambda x: jnp.broadcast_to(x, (num_chains, *x.shape)), params), num_chains
    axes = {
        jax.tree_util.keystr(path): (leaf.shape[0] if leaf.ndim else None)
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }
    if None in axes.values() or len(set(axes.values())) > 1:
        raise ValueError(
            f"params must have one leading chain axis in every leaf when num_chains is not given, got {axes}; give "
            "num_chains to start all chains from the same parameters"
        )
    num_chains = jax.tree.leaves(params)[0].shape[0]
    if not num_chains:
        raise ValueError("params has an empty chain axis")
    check_params(jax.tree.map(lambda x: x[0], params))
    return params, int(num_chains)


def _is_explicit(leaf: Any) -> bool:
    """Whether an array lies on a mesh whose axes are part of its type, so that indexing it asks for a sharding."""
    sharding = leaf.sharding if isinstance(leaf, jax.Array) else None
    if not isinstance(sharding, NamedSharding):
        return False
    return AxisType.Explicit in sharding.mesh.axis_types and sharding.is_fully_addressable


def check_belongs(posterior: Posterior, params: Any, num_chains: int | None, name: str = "params") -> None:
    """Raises unless the leaves of `params` have the shapes of the posterior's own, with a chain axis or without."""
    if not isinstance(posterior, NetworkPosterior) or not jax.tree.leaves(params):
        return
    own = jax.eval_shape(posterior.init, jax.random.key(0))
    wanted = {path: tuple(leaf.shape) for path, leaf in zip(leaf_paths(own), jax.tree.leaves(own), strict=True)}
    leaves = jax.tree.leaves(params)
    given = {path: np.shape(leaf) for path, leaf in zip(leaf_paths(params), leaves, strict=True)}
    # By order: a container of another kind, as of draws that were loaded, has other paths.
    shapes, without = list(given.values()), [shape[1:] for shape in given.values()]
    fits, fits_without = shapes == list(wanted.values()), without == list(wanted.values())
    if fits if num_chains is not None else fits_without:
        if not isinstance(params, dict) or set(params) != set(own):
            found = f"keys {sorted(map(str, params))}" if isinstance(params, dict) else f"a {type(params).__name__}"
            raise ValueError(
                f"{name} must be a dictionary with keys {sorted(own)}, got {found}: the network's own parameters go "
                'under "network"'
            )
        return
    if num_chains is not None and fits_without:
        raise ValueError(
            f"{name} has a leading axis of {shapes[0][0]} in every leaf, as sx.train_ensemble returns: leave out "
            f"num_chains={num_chains}, and each chain starts from its own member"
        )
    if num_chains is None and fits:
        raise ValueError(f"{name} has no chain axis: give num_chains to start all chains from the same parameters")
    missing, unknown = [path for path in wanted if path not in given], [path for path in given if path not in wanted]
    if missing or unknown:
        lists = [
            f"{what} {', '.join(names)}" for what, names in (("lacks", missing), ("has besides", unknown)) if names
        ]
        raise ValueError(f"{name} are not the posterior's: it {' and '.join(lists)}; posterior.init(key) gives all")
    axis = 0 if num_chains is not None else 1
    bad = [path for path in wanted if given[path][axis:] != wanted[path] or len(given[path]) < axis]
    if not bad:
        raise ValueError(f"{name} has the posterior's leaves in another order: {list(given)}, and not {list(wanted)}")
    wrong = bad[0]
    raise ValueError(
        f"{name} are not the posterior's: {wrong} has shape {given[wrong]}, and of one chain it should be "
        f"{wanted[wrong]}"
    )


def check_same_state(algorithm: SamplingAlgorithm, result: Result) -> None:
    """Raises unless the chains of `result` can go on with `algorithm`."""
    assert result.state is not None
    one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), result.state.chains)
    wanted = jax.eval_shape(algorithm.init, jax.random.key(0), one.params)
    structure: Any = jax.tree.structure(wanted)
    if structure != jax.tree.structure(one) or _shapes(wanted) != _shapes(one):
        before, now = result.config.get("algorithm", {}).get("name"), algorithm.config["name"]
        raise ValueError(
            f"params is a Result of {before}, whose chains have other states than those of {now} with its settings; to "
            "begin anew where they stand, give their last draws: "
            "jax.tree.map(lambda draws: draws[:, -1], result.draws)"
        )


def _shapes(tree: Any) -> list[tuple[int, ...]]:
    return [tuple(leaf.shape) for leaf in jax.tree.leaves(tree)]


def check_density(posterior: Posterior, params: Any, batch: Any) -> None:
    """Raises if a chain starts where the prior or the likelihood is not finite; `params` has a chain axis."""
    evaluate, batch = _evaluation(posterior, params, batch)
    value = evaluate(params, batch)
    for part, values in (("prior", value.log_prior), ("likelihood", value.log_likelihood)):
        values = np.asarray(values)
        bad = np.argwhere(~np.isfinite(values))
        if len(bad):
            row = "" if part == "prior" else f" at row {bad[0][1]} of the first batch"
            raise ValueError(
                f"params: the log {part} of chain {bad[0][0]} is {values[tuple(bad[0])]}{row}; "
                "every chain must start where the density is finite"
            )
    _check_rows_apart(evaluate, params, batch, np.asarray(value.log_likelihood))


def check_rows_apart(posterior: Posterior, params: Any, batch: Any) -> None:
    """Raises if what the model says of a row depends on the other rows of its batch; `params` has a chain axis.

    Where some row's likelihood is not finite that cannot be told.
    """
    evaluate, batch = _evaluation(posterior, params, batch)
    values = np.asarray(evaluate(params, batch).log_likelihood)
    if np.isfinite(values).all():
        _check_rows_apart(evaluate, params, batch, values)


def _evaluation(posterior: Posterior, params: Any, batch: Any) -> tuple[Any, Any]:
    """The compiled log density of several chains' parameters, and the batch as it takes it."""
    batch = jax.tree.map(jnp.asarray, batch)
    evaluate = compiled(
        posterior, "density", lambda: jax.jit(jax.vmap(posterior.evaluate, in_axes=(0, None))), params, batch,
        quick=True,
    )  # fmt: skip
    return evaluate, batch


def _check_rows_apart(evaluate: Any, params: Any, batch: Any, values: np.ndarray) -> None:
    """Raises if what the model says of a row depends on the other rows of its batch, as with batch normalisation."""
    half = values.shape[1] // 2
    if not half:
        return
    # The same shape, and so the same program, as before: the other half are copies of the first row.
    index = np.concatenate([np.arange(half), np.zeros(values.shape[1] - half, int)])
    others = np.asarray(
        evaluate(params, jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)[index]), batch)).log_likelihood
    )
    off = np.abs(others - values)[:, :half] / (1 + np.abs(values[:, :half]))
    if not off.max() <= ROUNDING:
        chain, row = np.unravel_index(int(np.argmax(off)), off.shape)
        raise ValueError(
            f"the log likelihood of row {row} of the first batch is {values[chain, row]:.6g}, and with other rows "
            f"beside it {others[chain, row]:.6g}: it must depend on its own row only, which batch normalisation and "
            "sums over the batch do not allow"
        )
