"""Errors at the door: what a run is given, checked before anything is compiled."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from smilax.checks import check_count as check_count
from smilax.checks import check_finite
from smilax.data import Batches
from smilax.posterior import Posterior
from smilax.samplers.base import check_params
from smilax.streams import Stream

# Of rows that stay on the host so many are looked at.
CHECKED_ROWS = 10_000


def check_lengths(num_warmup: Any, num_samples: Any, thinning: Any) -> tuple[int, int, int]:
    """Run lengths as integers; refuses thinning that would keep nothing."""
    num_warmup = check_count("num_warmup", num_warmup, 0)
    num_samples = check_count("num_samples", num_samples, 1)
    thinning = check_count("thinning", thinning, 1)
    if thinning > num_samples:
        raise ValueError(
            f"thinning = {thinning} keeps no draw of num_samples = {num_samples} steps: every thinning-th step is kept"
        )
    return num_warmup, num_samples, thinning


def check_data(posterior: Posterior, batches: Batches | Stream) -> None:
    """Checks the arrays against each other, for finite values, and against `posterior.num_data`.

    Of a stream the first batch is looked at, of rows that stay on the host a spread of them.
    """
    if batches.num_rows != posterior.num_data:
        raise ValueError(
            f"posterior.num_data = {posterior.num_data}, but data has {batches.num_rows} rows; the likelihood would be "
            "scaled wrongly"
        )
    if isinstance(batches, Stream):
        data, whole = batches.first(None), False
    elif batches.streamed:
        step = max(1, batches.num_rows // CHECKED_ROWS)
        data, whole = jax.tree.map(lambda x: np.asarray(x[::step]), batches.data), step == 1
    else:
        data, whole = batches.data, True
    check = getattr(posterior, "check_data", None)
    if check is not None:
        check(data, whole=whole)
        return
    for path, leaf in jax.tree_util.tree_leaves_with_path(data):
        check_finite(f"data{jax.tree_util.keystr(path)}", np.asarray(leaf))


def chain_params(params: Any, num_chains: int | None) -> tuple[Any, int]:
    """Parameters with a leading chain axis, and the number of chains."""
    if not jax.tree.leaves(params):
        raise ValueError("params holds no arrays")
    params = jax.tree.map(jnp.asarray, params)
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


def check_density(posterior: Posterior, params: Any, batch: Any) -> None:
    """Raises if a chain starts where the prior or the likelihood is not finite; `params` has a chain axis."""
    value = jax.jit(jax.vmap(posterior.evaluate, in_axes=(0, None)))(params, batch)
    for part, values in (("prior", value.log_prior), ("likelihood", value.log_likelihood)):
        values = np.asarray(values)
        bad = np.argwhere(~np.isfinite(values))
        if len(bad):
            row = "" if part == "prior" else f" at row {bad[0][1]} of the first batch"
            raise ValueError(
                f"params: the log {part} of chain {bad[0][0]} is {values[tuple(bad[0])]}{row}; "
                "every chain must start where the density is finite"
            )
