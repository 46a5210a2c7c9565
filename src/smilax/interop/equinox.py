"""Networks from Equinox modules."""

import inspect
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from smilax.interop.freezing import Frozen, refuse_batch_statistics, refuse_random_numbers, sampled, warn_of_dropout
from smilax.network import Network
from smilax.structure import leaf_paths


def from_equinox(
    make: Callable[[jax.Array], eqx.Module], *, batched: bool = False, frozen: Frozen | None = None
) -> Network:
    """A network from a function that builds an Equinox module.

    The parameters are the module with everything but its floating-point arrays removed, that is
    `eqx.partition(module, eqx.is_inexact_array)[0]`, so a module trained elsewhere gives a starting point. What is
    removed is kept from one build: integer arrays (from `jax.random.key(0)`, if they are random), functions, settings.
    The module is run in inference mode, because a posterior needs outputs that do not change from call to call; if it
    has dropout there is a warning; a call that needs a `key` gets one, and must not depend on it. Modules with state,
    such as batch normalisation, are refused: group and layer normalisation work.

    Args:
        make: `make(key) -> module`. It may return a module trained elsewhere, from which chains then start.
        batched: `False`: the module takes one example, as is the custom in Equinox, and is vectorised over the batch.
            `True`: it takes a whole batch.
        frozen: `frozen(path, leaf) -> bool` says which arrays are left as they are, `path` being such as
            `"layers/0/weight"`; only the others are parameters of the network: sampled, and stored. Frozen values are
            those of `make(jax.random.key(0))`.

    Raises:
        TypeError: if `make` does not build a callable Equinox module.
        ValueError: if the module has no floating-point arrays, or complex ones, or state; if `frozen` holds for all
            arrays or for none; in a call, if it draws random numbers.

    Example:
        >>> import equinox as eqx, jax, jax.numpy as jnp, smilax as sx
        >>> network = sx.from_equinox(lambda key: eqx.nn.Linear(3, 2, key=key))
        >>> params = network.init(jax.random.key(0))
        >>> network.apply(params, jnp.ones((5, 3))).shape
        (5, 2)
    """
    _check_maker(make)
    template = eqx.filter_eval_shape(make, jax.random.key(0))
    _refuse_state(template)
    if not isinstance(template, eqx.Module) or not callable(template):
        raise TypeError(f"make(key) must build a callable equinox.Module, got {type(template).__name__}")
    shapes, static = eqx.partition(template, _is_parameter)
    name = type(template).__name__
    flags = sampled(name, leaf_paths(shapes), jax.tree.leaves(shapes), frozen)
    if any(isinstance(layer, eqx.nn.Dropout) and _is_active(layer) for layer in _layers(template)):
        warn_of_dropout(name)
    static = eqx.nn.inference_mode(_fill_buffers(make, static))
    treedef = jax.tree.structure(shapes)
    if frozen is not None:
        # The structure of what is sampled has gaps, which the frozen arrays fill.
        chosen = jax.tree.unflatten(treedef, flags)
        values = eqx.filter(make(jax.random.key(0)), eqx.is_inexact_array)
        values = jax.tree.unflatten(treedef, [jnp.asarray(leaf) for leaf in jax.tree.leaves(values)])
        static = eqx.combine(static, eqx.filter(values, chosen, inverse=True))
        treedef = jax.tree.structure(eqx.filter(shapes, chosen))

    def init(key: jax.Array) -> Any:
        # The structure is always that of the template: a function made anew in each build would make each one's
        # its own.
        leaves = jax.tree.leaves(eqx.filter(make(key), eqx.is_inexact_array))
        return jax.tree.unflatten(
            treedef, [jnp.asarray(leaf) for leaf, flag in zip(leaves, flags, strict=True) if flag]
        )

    keyed = _needs_key(template)
    looked: list[bool] = []

    def called(key: jax.Array, params: Any, x: Any) -> jax.Array:
        module = eqx.combine(jax.tree.unflatten(treedef, jax.tree.leaves(params)), static)
        call = (lambda x: module(x, key=key)) if keyed else module
        return call(x) if batched else jax.vmap(call)(x)

    def apply(params: Any, x: Any) -> jax.Array:
        key = jax.random.key(0)
        if keyed and not looked:
            refuse_random_numbers(name, lambda key: called(key, params, x), key)
            looked.append(True)
        return called(key, params, x)

    return Network(init, apply)


def _check_maker(make: Any) -> None:
    if isinstance(make, eqx.Module) and not isinstance(make, eqx.Partial):
        raise TypeError(
            f"make must be a function that builds the module from a key, got a {type(make).__name__}: give "
            "lambda key: module if chains are to start from its values"
        )
    if not callable(make):
        raise TypeError(f"make must be a function that builds a module from a key, got {make!r}")
    try:
        signature = inspect.signature(make)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(None)
    except TypeError as error:
        name = getattr(make, "__name__", repr(make))
        raise TypeError(
            f"make is called with one key, and {name} cannot be ({error}); give a function such as "
            f"lambda key: {name}(..., key=key)"
        ) from error


def _needs_key(module: Any) -> bool:
    """Whether a call has to be given a `key`, as that of a module with dropout often has."""
    key = inspect.signature(type(module).__call__).parameters.get("key")
    return key is not None and key.default is inspect.Parameter.empty


def _layers(module: Any) -> list[Any]:
    """All dropout layers and all that keeps state."""
    kinds = (eqx.nn.Dropout, eqx.nn.BatchNorm, eqx.nn.StateIndex)
    return jax.tree.leaves(module, is_leaf=lambda node: isinstance(node, kinds))


def _is_active(dropout: eqx.nn.Dropout) -> bool:
    # Also while only shapes are known.
    return not dropout.inference and (not isinstance(dropout.p, (int, float)) or dropout.p > 0)


def _refuse_state(built: Any) -> None:
    found = [type(node).__name__ for node in _layers(built) if isinstance(node, (eqx.nn.BatchNorm, eqx.nn.StateIndex))]
    if found:
        name = type(built[0] if isinstance(built, tuple) else built).__name__
        refuse_batch_statistics(name, found[0], "equinox.nn.GroupNorm or equinox.nn.LayerNorm")


def _is_parameter(leaf: Any) -> bool:
    return isinstance(leaf, jax.ShapeDtypeStruct) and jnp.issubdtype(leaf.dtype, jnp.inexact)


def _is_struct(leaf: Any) -> bool:
    return isinstance(leaf, jax.ShapeDtypeStruct)


def _fill_buffers(make: Callable, static: Any) -> Any:
    """Puts values to the arrays that are no parameters."""
    structs, rest = eqx.partition(static, _is_struct)
    if not jax.tree.leaves(structs):
        return static

    def is_buffer(leaf):
        return eqx.is_array(leaf) and not eqx.is_inexact_array(leaf)

    # Compiled, so that the parameters, which are not asked for, are never computed.
    buffers = jax.jit(lambda key: jax.tree.leaves(eqx.filter(make(key), is_buffer)))(jax.random.key(0))
    return eqx.combine(jax.tree.unflatten(jax.tree.structure(structs), buffers), rest)
