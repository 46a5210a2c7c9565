"""What `predict` is given, checked before anything is computed."""

import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from smilax.checks import check_finite
from smilax.packing import unpack
from smilax.predict.reductions import averaging_dtype
from smilax.structure import leaf_paths


def check_positive(name: str, value: Any) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}") from None
    if number < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
    return number


def check_draws(result: Any) -> tuple[Any, int, int]:
    """The draws with leaves (chain, draw, ...) that can be sliced on the host, and the two sizes."""
    members = not hasattr(result, "draws")
    axes = ("member",) if members else ("chain", "draw")

    def on_host(leaf):
        # A slice of a jax.Array would compile; a lazy array must not be converted as a whole.
        if isinstance(leaf, jax.Array) or not (hasattr(leaf, "shape") and hasattr(leaf, "dtype")):
            leaf = np.asarray(leaf)
        if len(leaf.shape) < len(axes):
            raise ValueError(f"draws must have leading axes {axes}, got a leaf of shape {tuple(leaf.shape)}")
        return leaf[:, None] if members else leaf

    draws = jax.tree.map(on_host, result if members else result.draws)
    sizes = {tuple(leaf.shape[:2]) for leaf in jax.tree.leaves(draws)}
    if len(sizes) != 1:
        raise ValueError(f"the leaves of draws must agree in their leading axes {axes}, got {sorted(sizes)}")
    chains, num_draws = sizes.pop()
    if chains * num_draws == 0:
        raise ValueError(f"there must be at least one draw, got {chains} chains of {num_draws} draws")
    return unpack(draws, batch_ndim=2), chains, num_draws


def as_params(draws: Any, posterior: Any, members: bool = False) -> Any:
    """The draws in the posterior's own containers, where their leaves have the same paths: a store knows plain ones.

    `members` says that they were given with one leading axis, and not as those of a result.

    Raises:
        ValueError: if they are not parameters of the posterior.
    """
    wanted = ["network", "likelihood"] if posterior.likelihood.init() else ["network"]
    own = None
    if hasattr(posterior, "init"):
        own = jax.eval_shape(posterior.init, jax.random.key(0))
        if leaf_paths(draws) == (names := leaf_paths(own)):
            _check_shapes(draws, own, members)
            return jax.tree.unflatten(jax.tree.structure(own), jax.tree.leaves(draws))
        if isinstance(draws, dict) and set(draws) < set(names) and not set(draws) <= set(wanted):
            missing = [name for name in names if name not in draws]
            raise ValueError(
                f"the store of these draws keeps only some leaves, and a prediction needs all: {', '.join(missing)} "
                f"{'is' if len(missing) == 1 else 'are'} missing; sample with a store whose `select` keeps them too"
            )
    if not isinstance(draws, dict) or not set(wanted) <= set(draws):
        found = f"keys {sorted(draws)}" if isinstance(draws, dict) else f"a {type(draws).__name__}"
        raise ValueError(f"the draws must be parameters of the posterior, a dict with keys {wanted}, got {found}")
    return draws


def _check_shapes(draws: Any, own: Any, members: bool) -> None:
    for path, leaf, one in zip(leaf_paths(own), jax.tree.leaves(draws), jax.tree.leaves(own), strict=True):
        if leaf.shape[2:] == one.shape:
            continue
        if members and leaf.shape[3:] == one.shape:
            raise ValueError(
                "the draws have axes (chain, draw): give the whole result of sx.sample and not only its draws, or "
                "flatten the two axes into one of members"
            )
        given = leaf.shape[:1] + leaf.shape[2:] if members else leaf.shape
        axes = "(member, ...)" if members else "(chain, draw, ...)"
        raise ValueError(f"the draws are not of this posterior: {path} has shape {given} for {axes} of {one.shape}")


def check_inputs(x: Any, draws: Any) -> tuple[Any, int]:
    """`x`, an array or a pytree of arrays, on the host and in the precision of the draws; and its number of rows."""
    if hasattr(x, "__next__") or (hasattr(x, "num_rows") and not hasattr(x, "shape")):
        raise TypeError(f"x must be arrays, the inputs of all rows, got a {type(x).__name__}")
    if not all(hasattr(leaf, "shape") for leaf in jax.tree.leaves(x)):
        x = np.asarray(x)  # nested lists
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(draws)}
    precision = dtypes.pop() if len(dtypes) == 1 else None

    def on_host(path, leaf):
        name, leaf = "x" + jax.tree_util.keystr(path), np.asarray(leaf)
        if leaf.ndim == 0 or leaf.shape[0] == 0:
            raise ValueError(f"{name} must have at least one row on its leading axis, got shape {leaf.shape}")
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            check_finite(name, leaf)
            return leaf.astype(precision, copy=False) if precision in (np.float32, np.float64) else leaf
        if leaf.dtype.kind not in "iub":
            raise TypeError(f"{name} must be numbers, got an array of dtype {leaf.dtype}")
        return leaf

    x = jax.tree_util.tree_map_with_path(on_host, x)
    rows = {leaf.shape[0] for leaf in jax.tree.leaves(x)}
    if len(rows) != 1:
        raise ValueError(f"the arrays of x must have the same number of rows, got {sorted(rows)}")
    return x, rows.pop()


def measure(posterior: Any, draws: Any, x: Any, num_rows: int) -> tuple[jax.ShapeDtypeStruct, int]:
    """Shape (of one row) and dtype of the outputs, and the bytes that one draw takes at the rows of `x`."""
    draw = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[2:], jax.dtypes.canonicalize_dtype(a.dtype)), draws)
    try:
        jaxpr, output = jax.make_jaxpr(posterior.outputs, return_shape=True)(draw, x)
    except Exception as error:  # whatever the user's network raises
        shapes = jax.tree.map(lambda leaf: leaf.shape[1:], x)
        raise ValueError(f"the network cannot be applied to x, rows of shape {shapes}: {error}") from error
    if output.shape[:1] != (num_rows,):
        raise ValueError(f"the network must return one output per row, got shape {output.shape} for {num_rows} rows")
    params = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(draw))
    row = jax.ShapeDtypeStruct(output.shape[1:], averaging_dtype(output.dtype))
    return row, max(params, _largest_intermediate(jaxpr.jaxpr))


def _largest_intermediate(jaxpr: Any) -> int:
    """Bytes of the largest array that a computation makes, to bound what a block of draws needs."""
    largest = 0
    for equation in jaxpr.eqns:
        for variable in equation.outvars:
            itemsize = getattr(getattr(variable.aval, "dtype", None), "itemsize", 0)
            largest = max(largest, getattr(variable.aval, "size", 0) * itemsize)
        for parameter in jax.tree.leaves(equation.params, is_leaf=lambda p: hasattr(p, "eqns") or hasattr(p, "jaxpr")):
            inner = getattr(parameter, "jaxpr", parameter)
            if hasattr(inner, "eqns"):
                largest = max(largest, _largest_intermediate(inner))
    return largest


def match_targets(y: Any, shape: tuple[int, ...]) -> np.ndarray:
    """`y` as an array of the predicted targets' `shape`; only a trailing axis of one may differ, nothing broadcasts.

    Raises:
        ValueError: if it has another shape.
    """
    y = np.asarray(y)
    if y.shape != shape and (y.shape[:1] != shape[:1] or y.shape + (1,) != shape and y.shape != shape + (1,)):
        raise ValueError(f"y of shape {y.shape} does not fit the predicted targets of shape {shape}")
    return y.reshape(shape)
