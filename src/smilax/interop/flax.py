"""Networks from Flax: Linen modules and NNX constructors."""

import contextlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from smilax.interop.freezing import Frozen, refuse_batch_statistics, refuse_random_numbers, sampled, warn_of_dropout
from smilax.network import Network

BETTER = "{0}.GroupNorm or {0}.LayerNorm"


def from_flax(
    module: Any, example_x: Any = None, *, params: Any = None, frozen: Frozen | None = None, **kwargs: Any
) -> Network:
    """A network from a Flax module: a Linen module, or a function that builds an NNX one.

    Parameters are a nested dictionary of arrays, with the names that Flax gives them. Dropout is switched off, with a
    warning. Modules with batch statistics are refused: group and layer normalisation work.

    Args:
        module: a Linen module; or a function of `rngs` (also a class) that returns an NNX module.
        example_x: for Linen, inputs of the kind that the module gets, examples on the leading axis; NNX needs none.
        params: Linen: values from elsewhere, a nested dictionary as `module.init` gives under "params"; chains and
            members then start there, and what is frozen is frozen there. (For NNX let the function return the module.)
        frozen: `frozen(path, leaf) -> bool` says which parameters are left as they are, `path` being such as
            `"Dense_0/kernel"`; only the others are parameters of the network: sampled, and stored. Frozen values are
            those of `params`, or of the initialisation with `jax.random.key(0)`.
        kwargs: for each call of the module, such as `train=False`.

    Raises:
        TypeError: for anything but such a module; for Linen without `example_x`.
        ValueError: for batch statistics; in Linen for other variables besides parameters (in NNX each call finds them
            as they were built); for a call that draws random numbers; for parameters that are none, complex, no
            floating-point numbers, all or none of them frozen; for outputs without the examples on the leading axis.

    Example:
        >>> import flax.linen as nn, jax, jax.numpy as jnp, smilax as sx
        >>> module = nn.Sequential([nn.Dense(16), nn.tanh, nn.Dense(1)])
        >>> network = sx.from_flax(module, jnp.ones((1, 3)), frozen=lambda path, leaf: path.startswith("layers_0"))
        >>> params = network.init(jax.random.key(0))
        >>> list(params), network.apply(params, jnp.ones((5, 3))).shape
        (['layers_2'], (5, 1))
    """
    import flax.linen as nn

    if isinstance(module, nn.Module):
        if example_x is None:
            raise TypeError(f"example_x must be given for the Linen module {type(module).__name__}: it fixes shapes")
        for leaf in jax.tree.leaves(example_x):
            if not (hasattr(leaf, "shape") and hasattr(leaf, "__getitem__")) or not np.ndim(leaf):
                raise TypeError(
                    "example_x must be arrays of inputs, examples on the leading axis (jnp.ones((1, 3)), say, and not "
                    f"its shape), got {leaf!r}"
                )
        return _from_linen(module, jax.tree.map(lambda leaf: jnp.asarray(leaf[:1]), example_x), params, frozen, kwargs)
    if inspect.isclass(module) and issubclass(module, nn.Module):
        raise TypeError(f"module must be a Linen module, and {module.__name__} is a class: give {module.__name__}(...)")
    from flax import nnx

    if isinstance(module, nnx.Module):
        raise TypeError(
            f"module must be a function of rngs that builds the NNX module, got a {type(module).__name__}: give "
            "lambda rngs: module if chains are to start from its values"
        )
    if not callable(module):
        raise TypeError(
            f"module must be a Linen module, or a function of rngs that builds an NNX module, got "
            f"{type(module).__name__}"
        )
    if params is not None:
        raise TypeError("params is for Linen; for NNX let the function return the module with its values")
    return _from_nnx(module, example_x, frozen, kwargs)


def _from_linen(module: Any, x: Any, params: Any, frozen: Frozen | None, kwargs: dict[str, Any]) -> Network:
    import flax.linen as nn

    name = type(module).__name__
    dropped = []

    def without_dropout(call, args, options, context):
        if isinstance(context.module, nn.Dropout) and context.method_name == "__call__":
            flags = (context.module.deterministic, options.get("deterministic"), *args[1:2])
            if context.module.rate > 0 and not any(flags):
                dropped.append(context.module.name)
            return args[0] if args else options["inputs"]
        return call(*args, **options)

    def variables(key):
        with _relaxed(), nn.intercept_methods(without_dropout):
            return nn.unbox(module.init({"params": key, "dropout": key}, x, **kwargs))

    template = jax.eval_shape(variables, jax.random.key(0))
    others = sorted(set(template) - {"params"})
    if "batch_stats" in others:
        refuse_batch_statistics(name, "collection 'batch_stats'", BETTER.format("flax.linen"))
    if others:
        raise ValueError(
            f"{name} has variables besides its parameters, in the collections {others}: it must be a pure function"
        )
    if dropped:
        warn_of_dropout(name)
    flat = _flat(template.get("params", {}))
    whole = [_join(path) for path, leaf in flat.items() if not hasattr(leaf, "shape")]
    if whole:
        raise ValueError(
            f"{name} has parameters that are more than one array each, {', '.join(whole)}: name them apart"
        )
    if params is not None:
        if set(params) == {"params"} and "params" not in template.get("params", {}):
            raise ValueError(f'params of {name} are what is under "params" of what module.init gives: params["params"]')
        given = _flat(params)
        wrong = {path: (np.shape(given[path]) if path in given else None, leaf.shape) for path, leaf in flat.items()}
        wrong = {path: both for path, both in wrong.items() if path not in given or both[0] != both[1]}
        if wrong or set(given) != set(flat):
            raise ValueError(
                f"params are not those of {name}: it has {[_join(path) for path in flat]} with shapes "
                f"{[leaf.shape for leaf in flat.values()]}, got {[_join(path) for path in given]} with shapes "
                f"{[np.shape(leaf) for leaf in given.values()]}"
            )

    def values(key):
        return _flat(variables(key)["params"]) if params is None else _flat(params)

    def run(flat, x):
        with _relaxed(), nn.intercept_methods(without_dropout):
            return module.apply({"params": _nested(flat)}, x, **kwargs)

    return _network(name, flat, values, run, frozen, x)


def _from_nnx(make: Callable, x: Any, frozen: Frozen | None, kwargs: dict[str, Any]) -> Network:
    from flax import nnx

    # The metaclass of NNX hides what a class's constructor takes.
    by_name = "rngs" in inspect.signature(make.__init__ if inspect.isclass(make) else make).parameters

    def build(key):
        rngs = nnx.Rngs(key)
        with _relaxed():
            module = make(rngs=rngs) if by_name else make(rngs)
        if not isinstance(module, nnx.Module):
            raise TypeError(f"module(rngs) must build an nnx.Module, got {type(module).__name__}")
        return module

    module = build(jax.random.key(0))
    name = type(module).__name__
    layers = [layer for _, layer in nnx.iter_modules(module)]
    if jax.tree.leaves(nnx.state(module, nnx.BatchStat)):
        refuse_batch_statistics(name, "nnx.BatchStat", BETTER.format("flax.nnx"))
    if any(isinstance(layer, nnx.Dropout) and layer.rate > 0 and not layer.deterministic for layer in layers):
        warn_of_dropout(name)
    # The module may be one that the caller goes on training.
    module = nnx.clone(module)
    module.eval()
    graph, state, rest = nnx.split(module, nnx.Param, ...)  # type: ignore[misc]
    treedef = jax.tree.structure(state)
    paths = [tuple(str(_key(part)) for part in path) for path in _paths(state)]

    def values(key):
        _, state, _ = nnx.split(build(key), nnx.Param, ...)  # type: ignore[misc]
        return dict(zip(paths, jax.tree.leaves(state), strict=True))

    def called(state, rest, x):
        # A copy: a call may count, or store what it saw, and must find things as they were the next time.
        with _relaxed():
            return nnx.merge(graph, state, rest, copy=True)(x, **kwargs)

    random, others = nnx.split_state(rest, nnx.RngState, ...)
    looked: list[bool] = []

    def run(flat, x):
        state = jax.tree.unflatten(treedef, [flat[path] for path in paths])
        if not looked and jax.tree.leaves(random):
            refuse_random_numbers(name, lambda random: called(state, nnx.merge_state(random, others), x), random)
            looked.append(True)
        return called(state, rest, x)

    flat = dict(zip(paths, jax.tree.leaves(state), strict=True))
    return _network(name, flat, values, run, frozen, x)


def _network(
    name: str, flat: dict[tuple[str, ...], Any], values: Callable, run: Callable, frozen: Frozen | None, x: Any
) -> Network:
    """The network of flat parameters: `values(key)` gives all of them, `run(all, x)` the outputs."""
    flags = sampled(name, [_join(path) for path in flat], list(flat.values()), frozen)
    chosen = {path for path, flag in zip(flat, flags, strict=True) if flag}
    fixed = (
        {} if frozen is None else {k: jnp.asarray(v) for k, v in values(jax.random.key(0)).items() if k not in chosen}
    )

    def init(key: jax.Array) -> Any:
        return _nested({path: jnp.asarray(leaf) for path, leaf in values(key).items() if path in chosen})

    def apply(params: Any, x: Any) -> jax.Array:
        return run({**fixed, **_flat(params)}, x)

    if x is not None:
        rows = jax.tree.leaves(x)[0].shape[0]
        outputs = jax.eval_shape(lambda key: apply(init(key), x), jax.random.key(0))
        if not hasattr(outputs, "shape") or outputs.shape[:1] != (rows,):
            found = f"shape {outputs.shape}" if hasattr(outputs, "shape") else type(outputs).__name__
            raise ValueError(f"{name} must return one array with the {rows} examples on its leading axis, got {found}")
    return Network(init, apply)


@contextlib.contextmanager
def _relaxed() -> Iterator[None]:
    # Flax broadcasts and promotes as NumPy does; this holds while tracing, and only in this thread.
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def _key(part: Any) -> Any:
    return getattr(part, "key", getattr(part, "name", getattr(part, "idx", part)))


def _paths(tree: Any) -> list[Sequence[Any]]:
    """Of a state's variables; the last part, which stands for the variable's value, is left out."""
    paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(tree)[0]]
    return [
        path[:-1] if path and str(_key(path[-1])) in ("value", "raw_value", "_raw_value") else path for path in paths
    ]


def _join(path: Sequence[str]) -> str:
    return "/".join(path)


def _flat(tree: Any, prefix: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Leaves of nested mappings by path, in the order in which JAX has them."""
    flat: dict[tuple[str, ...], Any] = {}
    for key in sorted(tree):
        child, path = tree[key], (*prefix, str(key))
        flat |= _flat(child, path) if hasattr(child, "keys") else {path: child}
    return flat


def _nested(flat: dict[tuple[str, ...], Any]) -> dict[str, Any]:
    """The inverse of `_flat`."""
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        node = tree
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = leaf
    return tree
