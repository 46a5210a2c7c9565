"""Networks from Equinox modules."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from smilax.network import Network


def from_equinox(make: Callable[[jax.Array], eqx.Module], *, batched: bool = False) -> Network:
    """A network from a function that builds an Equinox module.

    The parameters are the module with everything but its floating-point arrays removed, that is
    `eqx.partition(module, eqx.is_inexact_array)[0]`, so a module trained elsewhere gives a starting point. What is
    removed is kept from one build: integer arrays (from `jax.random.key(0)`, if they are random), functions, settings.
    The module is run in inference mode, because a posterior needs outputs that do not change from call to call.

    Args:
        make: `make(key) -> module`.
        batched: `False`: the module takes one example, as is the custom in Equinox, and is vectorised over the batch.
            `True`: it takes a whole batch.

    Raises:
        TypeError: if `make` does not build a callable Equinox module.
        ValueError: if the module has no floating-point arrays, or complex ones.

    Example:
        >>> import equinox as eqx, jax, jax.numpy as jnp, smilax as sx
        >>> network = sx.from_equinox(lambda key: eqx.nn.Linear(3, 2, key=key))
        >>> params = network.init(jax.random.key(0))
        >>> network.apply(params, jnp.ones((5, 3))).shape
        (5, 2)
    """
    template = eqx.filter_eval_shape(make, jax.random.key(0))
    if not isinstance(template, eqx.Module) or not callable(template):
        raise TypeError(f"make(key) must build a callable equinox.Module, got {type(template).__name__}")
    shapes, static = eqx.partition(template, _is_parameter)
    treedef = jax.tree.structure(shapes)
    if not jax.tree.leaves(shapes):
        raise ValueError(f"{type(template).__name__} has no floating-point arrays to be parameters")
    if any(jnp.issubdtype(leaf.dtype, jnp.complexfloating) for leaf in jax.tree.leaves(shapes)):
        raise ValueError(f"{type(template).__name__} has complex parameters; only real ones can be sampled")
    static = eqx.nn.inference_mode(_fill_buffers(make, static))

    def init(key: jax.Array) -> Any:
        # The structure is always that of the template: a function made anew in each build would make each one's
        # its own.
        leaves = jax.tree.leaves(eqx.filter(make(key), eqx.is_inexact_array))
        return jax.tree.unflatten(treedef, [jnp.asarray(leaf) for leaf in leaves])

    def apply(params: Any, x: Any) -> jax.Array:
        module = eqx.combine(jax.tree.unflatten(treedef, jax.tree.leaves(params)), static)
        return module(x) if batched else jax.vmap(module)(x)

    return Network(init, apply)


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
