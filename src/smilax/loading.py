"""Results from a store: draws that are read where they are asked for."""

import math
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np

from smilax.result import Result, RunState, info_of
from smilax.store import Contents, StoreCorrupt, read
from smilax.structure import rebuild


def load(path: str | Path) -> Result:
    """Opens a run's store; draws are read lazily, per leaf, chain and slice of draws.

    Works while the run is still going, with the draws that are committed by now. Nothing of the model is needed: the
    draws are in dictionaries, lists and tuples like the parameters; a module's fields are in a dictionary, which
    `sx.predict` knows how to put back. If only some leaves are kept, `draws` is a dictionary by path.

    Args:
        path: the directory.

    Raises:
        StoreMissing: if there is no store.
        StoreVersion: if a newer version of smilax wrote it.
        StoreCorrupt: if the manifest is damaged; damage to a shard is found when its draws are read, and others stay
            readable. Where reports of the steps are damaged there are none, with a warning.

    Example:
        >>> import jax, jax.numpy as jnp, numpy as np, smilax as sx, tempfile
        >>> posterior = sx.Posterior(
        ...     lambda m: -0.5 * jnp.sum(m**2), lambda m, x: -0.5 * jnp.sum((x - m) ** 2, axis=-1), num_data=100
        ... )
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     result = sx.sample(
        ...         jax.random.key(0), sx.sgld(posterior, 1e-3), np.ones((100, 2), np.float32), jnp.zeros(2),
        ...         num_chains=2, num_warmup=10, num_samples=20, batch_size=10, store=f"{folder}/run",
        ...         progress_bar=False,
        ...     )
        ...     loaded = sx.load(f"{folder}/run")
        ...     loaded.draws.shape, np.array_equal(loaded.draws[1, 5:10], result.draws[1, 5:10])
        ((2, 20, 2), True)
    """
    path = Path(path).absolute()
    contents = read(path)
    return stored_result(path, contents, None, math.nan, contents.manifest.status != "finished")


def run_config(contents: Contents) -> dict[str, Any]:
    """What the manifest says of the run. StoreCorrupt if it says it not, or not of the parameters that it holds."""
    config, path = contents.manifest.config, contents.path
    keys = "settings", "key", "key_impl", "first_step", "data", "enable_x64", "posterior", "structure", "stored"
    missing = [key for key in keys if key not in config]
    if missing:
        raise StoreCorrupt(f"{path} is not the store of a run of sx.sample: its manifest lacks {', '.join(missing)}")
    try:
        leaves = [(name, np.zeros((0, *shape), dtype).shape) for name, shape, dtype in config["posterior"]["leaves"]]
        names = [leaf.name for leaf in contents.manifest.leaves.get("draws", ())]
        fits = set(config["stored"]["leaves"]) <= {name for name, _ in leaves}
        fits = fits and (not names or sorted(names) == sorted(config["stored"]["leaves"]))
        count = len(jax.tree.leaves(rebuild(config["structure"], [0] * len(leaves))))
        if not fits or count != len(leaves) or config["settings"]["num_chains"] != contents.manifest.num_chains:
            raise ValueError("leaves, containers or chains do not agree")
    except (AttributeError, KeyError, RuntimeError, StopIteration, TypeError, ValueError) as error:
        raise StoreCorrupt(f"the manifest of {path} does not describe a run: {error}") from error
    return config


def stored_result(
    path: Path, contents: Contents, state: RunState | None, seconds: float, interrupted: bool, like: Any = None
) -> Result:
    """A result whose draws are in a store, in the containers of `like` (parameters) or in plain ones."""
    config = run_config(contents)
    draws: dict[str, Any] = contents.arrays("draws")
    wanted = {name: (tuple(shape), np.dtype(dtype)) for name, shape, dtype in config["posterior"]["leaves"]}
    names = config["stored"]["leaves"]
    if not draws:
        chains = config["settings"]["num_chains"]
        draws = {name: np.zeros((chains, 0, *wanted[name][0]), wanted[name][1]) for name in names}
    tree: Any = {name: draws[name] for name in names}
    if len(names) == len(wanted):
        leaves = [draws[name] for name in wanted]
        structure = config["structure"]
        tree = rebuild(structure, leaves) if like is None else jax.tree.unflatten(jax.tree.structure(like), leaves)

    def reports(group):
        try:
            arrays = {name: np.asarray(array) for name, array in contents.arrays(group).items()}
        except StoreCorrupt as error:
            warnings.warn(f"no reports of the steps, draws are not touched by that: {error}", stacklevel=4)
            return None
        return info_of(_nested(arrays)) if arrays else None

    return Result(tree, reports("info"), reports("warmup_info"), state, config["settings"], seconds, interrupted, path)


def _nested(arrays: dict[str, Any]) -> dict[str, Any]:
    """Leaves by path as dictionaries within dictionaries."""
    tree: dict[str, Any] = {}
    for path, array in arrays.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = array
    return tree
