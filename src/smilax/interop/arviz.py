"""ArviZ: a run as an xarray DataTree in ArviZ's schema."""

import json
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from smilax.bnn import NetworkPosterior
from smilax.data import as_batches
from smilax.packing import unpack
from smilax.posterior import Posterior
from smilax.predict import predict
from smilax.predict.pointwise import pointwise_log_prob
from smilax.result import Result
from smilax.streams import Stream
from smilax.structure import leaf_paths
from smilax.validation import check_count

# Draws of more than this are summarised unless they are asked for.
SUMMARISED_BYTES = 2**28
# Rows whose log likelihood is computed at once.
ROWS = 1024
NAMES = {"log_density": "lp", "accepted": "acceptance_rate"}
Content = Literal["auto", "draws", "summaries"]


def to_arviz(
    result: Result,
    posterior: Posterior | None = None,
    data: Any = None,
    *,
    x_new: Any = None,
    content: Content = "auto",
    thinning: int = 1,
    max_memory: int = 2**30,
    key: jax.Array | None = None,
) -> Any:
    """A run in the form that ArviZ takes: `arviz_stats.loo`, `rhat`, `ess` and `arviz_plots` work on it.

    Groups: `posterior`, one variable per array of the parameters, its path with dots (`network.layers.0.weight`), or
    of large models two per array, `.mean` and `.rms` of its entries; `sample_stats` and `warmup_sample_stats`, what
    the steps reported (`lp` is the mini-batch log density, `diverging` whether the guardrail undid a step since the
    draw before). With a posterior and data `observed_data` and `log_likelihood`; of a network also `constant_data` and
    `posterior_predictive`, one sample of the targets per draw; with `x_new` also `predictions` there.

    Needs `pip install "smilax[arviz]"`; for `arviz_plots` `"smilax[arviz-plots]"`.

    Args:
        result: what `sx.sample` or `sx.load` returned.
        posterior: what was sampled.
        data: what the run was given, arrays or `sx.Batches`: `(x, y)` or `(x, y, weight)` for a network.
        x_new: inputs of a network at which to predict.
        content: `"draws"`, `"summaries"`, or `"auto"`: draws as long as they take at most 256 MB.
        thinning: every how many-th draw is taken.
        max_memory: bytes that a group may take.
        key: JAX random key of the predictive samples; None takes a fixed one.

    Returns:
        An `xarray.DataTree`, dimensions `(chain, draw, …)`.

    Raises:
        ImportError: if arviz-base is not installed.
        TypeError: if an argument is of another kind, or `x_new` is given without a network's posterior.
        ValueError: if there are no draws, `data` does not fit, or a group would take more than `max_memory`.

    Example:
        >>> import jax, jax.numpy as jnp, numpy as np, smilax as sx
        >>> posterior = sx.Posterior(
        ...     lambda m: -0.5 * jnp.sum(m**2), lambda m, x: -0.5 * jnp.sum((x - m) ** 2, axis=-1), num_data=100
        ... )
        >>> x = np.ones((100, 2), np.float32)
        >>> result = sx.sample(
        ...     jax.random.key(0), sx.psmile_naive(posterior, 0.01), x, jnp.zeros(2), num_chains=2, num_warmup=10,
        ...     num_samples=20, batch_size=10, progress_bar=False,
        ... )
        >>> tree = sx.to_arviz(result, posterior, x)
        >>> sorted(tree.children)
        ['log_likelihood', 'observed_data', 'posterior', 'sample_stats', 'warmup_sample_stats']
        >>> dict(tree.log_likelihood.sizes)
        {'chain': 2, 'draw': 20, 'row': 100}
    """
    try:
        from arviz_base import from_dict
    except ImportError as error:
        raise ImportError('to_arviz needs arviz-base: pip install "smilax[arviz]"') from error
    if not isinstance(result, Result):
        raise TypeError(f"result must be what sx.sample returned, got {type(result).__name__}")
    if posterior is not None and not isinstance(posterior, Posterior):
        raise TypeError(f"posterior must be a Posterior or None, got {type(posterior).__name__}")
    network = posterior if isinstance(posterior, NetworkPosterior) else None
    if data is not None and posterior is None:
        raise TypeError("data is of use with the posterior only; give both, or neither")
    if x_new is not None and network is None:
        raise TypeError(f"x_new is for a posterior from sx.bnn, got {type(posterior).__name__}")
    if content not in ("auto", "draws", "summaries"):
        raise ValueError(f'content must be "auto", "draws" or "summaries", got {content!r}')
    thinning = check_count("thinning", thinning, 1)
    if result.num_draws == 0:
        raise ValueError("result has no draws yet")
    kept = slice(thinning - 1, None, thinning)
    if thinning > result.num_draws:
        raise ValueError(f"thinning = {thinning} keeps none of {result.num_draws} draws")
    draws = jax.tree.map(lambda leaf: leaf[:, kept], result.draws)
    chains, number = np.shape(jax.tree.leaves(draws)[0])[:2]

    def check_size(group: str, per_draw: int, itemsize: int = 4) -> None:
        size = chains * number * per_draw * itemsize
        if size > max_memory:
            raise ValueError(
                f"{group} would take {size:,} bytes, more than max_memory={max_memory:,}: take a larger thinning, or "
                "fewer rows"
            )

    groups: dict[str, dict[str, Any]] = {}
    groups["posterior"], kind = _parameters(draws, content, check_size)
    for group, info, part in (("sample_stats", result.info, kept), ("warmup_sample_stats", result.warmup_info, None)):
        if info is not None:
            groups[group] = _stats(info, part)
    dims: dict[str, list[str]] = {}
    new_dims: dict[str, list[str]] = {}
    key = jax.random.key(0) if key is None else key
    if data is not None:
        assert posterior is not None
        batch = _rows(posterior, data)
        rows = len(jax.tree.leaves(batch)[0])
        check_size("log_likelihood", rows)
        if network is not None:
            x, y = batch[:2]
            prediction = predict(network, _Draws(draws), x)
            likelihood = pointwise_log_prob(prediction, y)
            if len(batch) == 3:
                likelihood = likelihood * np.asarray(batch[2], likelihood.dtype)
            check_size("posterior_predictive", int(np.size(y)))
            targets = _targets(key, network, prediction)
            # A trailing axis of one is not in what is predicted.
            y = np.asarray(y)
            if y.size == targets[0, 0].size:
                y = y.reshape(targets.shape[2:])
            groups["posterior_predictive"] = {"y": targets}
            # A likelihood of one's own may take others than it predicts, such as times and whether they are censored.
            groups["observed_data"] = {"y" if y.shape == targets.shape[2:] else "observed": y}
            groups["constant_data"] = _named("x", x)
            dims["y"] = ["row", *(f"target_{n}" for n in range(targets.ndim - 3))]
        else:
            likelihood = _log_likelihood(posterior, draws, batch)
            groups["observed_data"] = _named("data", batch)
            dims["y"] = ["row"]
        groups["log_likelihood"] = {"y": likelihood}
        for group in ("observed_data", "constant_data"):
            for name, value in groups.get(group, {}).items():
                dims.setdefault(name, ["row", *(f"{name}_dim_{n}" for n in range(1, np.ndim(value)))])
    if x_new is not None:
        assert network is not None
        prediction = predict(network, _Draws(draws), x_new)
        check_size("predictions", prediction.num_rows)
        groups["predictions"] = {"y_new": _targets(jax.random.fold_in(key, 1), network, prediction)}
        groups["predictions_constant_data"] = _named("x_new", x_new)
        new_dims["y_new"] = ["row_new", *(f"target_{n}" for n in range(groups["predictions"]["y_new"].ndim - 3))]
        for name, value in groups["predictions_constant_data"].items():
            new_dims[name] = ["row_new", *(f"{name}_dim_{n}" for n in range(1, np.ndim(value)))]
    tree = from_dict(groups, dims=dims, pred_dims=new_dims, save_warmup=True)
    tree.attrs |= {"inference_library": "smilax", "config": json.dumps(result.config), "posterior_content": kind}
    if math.isfinite(result.seconds):
        tree.attrs["sampling_time"] = result.seconds
    return tree


class _Draws:
    """What `predict` takes for a result."""

    def __init__(self, draws: Any):
        self.draws = draws


def _parameters(draws: Any, content: Content, check_size: Any) -> tuple[dict[str, np.ndarray], str]:
    """The variables of the posterior group, and what they are."""
    leaves = jax.tree.leaves(draws)
    names = [(path or "params").replace("/", ".") for path in leaf_paths(draws)]
    taken = sorted({name for name in names if names.count(name) > 1 or name in ("chain", "draw")})
    if taken:
        raise ValueError(f"parameters named {', '.join(map(repr, taken))} cannot be told apart in ArviZ: rename them")
    size = sum(math.prod(leaf.shape[2:]) for leaf in leaves)
    total = sum(math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize for leaf in leaves)
    if content == "draws" or content == "auto" and total <= SUMMARISED_BYTES:
        check_size("posterior", size, max(np.dtype(leaf.dtype).itemsize for leaf in leaves))
        return {name: np.asarray(leaf) for name, leaf in zip(names, leaves, strict=True)}, "draws"
    found = {}
    for name, leaf in zip(names, leaves, strict=True):
        # Chain by chain, because these are the ones that are too large for memory.
        rows = [np.asarray(leaf[chain]).reshape(leaf.shape[1], -1).astype(np.float64) for chain in range(leaf.shape[0])]
        found[f"{name}.mean"] = np.stack([chain.mean(1) for chain in rows])
        found[f"{name}.rms"] = np.stack([np.sqrt(np.mean(chain**2, axis=1)) for chain in rows])
    return found, "summaries"


def _stats(info: Any, kept: slice | None) -> dict[str, np.ndarray]:
    """A run's reports by ArviZ's names; of thinned draws those of the draw itself."""
    names = [path.replace("/", ".") for path in leaf_paths(info)]
    values = {name: np.asarray(value) for name, value in zip(names, jax.tree.leaves(info), strict=True)}
    # Without the energy error of a sampler that has none; plots of it would be empty.
    values = {name: value for name, value in values.items() if not np.isnan(value).all()}
    values["diverging"] = values["accepted"] < 1
    if kept is not None:
        values = {name: value[:, kept] for name, value in values.items()}
    return {NAMES.get(name, name): value for name, value in values.items()}


def _rows(posterior: Posterior, data: Any) -> Any:
    batches = as_batches(data)
    if isinstance(batches, Stream):
        raise TypeError("data must be arrays or sx.Batches here, got an sx.Stream")
    if batches.transform is not None:
        raise TypeError("data must be rows as the model takes them here, got sx.Batches with a transform")
    if isinstance(posterior, NetworkPosterior):
        posterior.check_data(batches.data)
    elif batches.num_rows != posterior.num_data:
        raise ValueError(f"posterior.num_data = {posterior.num_data}, but data has {batches.num_rows} rows")
    return batches.data


def _log_likelihood(posterior: Posterior, draws: Any, batch: Any) -> np.ndarray:
    """Of every row under every draw, shape `(chains, draws, rows)`."""

    @jax.jit
    def of_chain(chain, rows):
        return jax.lax.map(lambda params: posterior.log_likelihood(params, rows), chain)

    rows = len(jax.tree.leaves(batch)[0])
    parts = [jax.tree.map(lambda a, s=start: jnp.asarray(a[s : s + ROWS]), batch) for start in range(0, rows, ROWS)]
    found = []
    for chain in range(np.shape(jax.tree.leaves(draws)[0])[0]):
        params = jax.tree.map(lambda leaf, c=chain: jnp.asarray(leaf[c]), unpack(draws, batch_ndim=2))
        found.append(np.concatenate([np.asarray(of_chain(params, part)) for part in parts], axis=-1))
    return np.stack(found)


def _targets(key: jax.Array, network: NetworkPosterior, prediction: Any) -> np.ndarray:
    """One sample of all targets from each draw, shape `(chains, draws, rows, …)`."""
    sample = jax.jit(jax.vmap(network.likelihood.sample))
    stream, found = prediction._stream, []
    for start in range(0, stream.total, stream.draw_block):
        block = stream.draw_at(np.arange(start, min(start + stream.draw_block, stream.total)))
        parts = []
        for n, rows in enumerate(stream.row_slices()):
            outputs = block.outputs(rows)
            keys = jax.random.split(jax.random.fold_in(jax.random.fold_in(key, start), n), len(outputs))
            part = np.asarray(sample(keys, block.likelihood, outputs))
            parts.append(part[: block.num_draws, : rows.stop - rows.start])
        found.append(np.concatenate(parts, axis=1))
    flat = np.concatenate(found)
    return flat.reshape(prediction.num_chains, prediction.num_draws, *flat.shape[1:])


def _named(name: str, tree: Any) -> dict[str, np.ndarray]:
    paths = [f"{name}.{path}".rstrip(".").replace("/", ".") for path in leaf_paths(tree)]
    return {path: np.asarray(leaf) for path, leaf in zip(paths, jax.tree.leaves(tree), strict=True)}
