"""Which parameters are sampled, and which stay as they are; and what no posterior can be made of."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.interpreters.partial_eval import dce_jaxpr

# `frozen(path, leaf)`: whether a parameter is left as it is.
Frozen = Callable[[str, Any], bool]


def sampled(name: str, paths: Sequence[str], leaves: Sequence[Any], frozen: Frozen | None) -> list[bool]:
    """For each parameter whether it is sampled.

    Args:
        name: of the module, for errors.
        paths: of the parameters, parts joined by slashes.
        leaves: arrays or their shapes.
        frozen: which to leave out; None samples all.

    Raises:
        TypeError: if `frozen` is no function.
        ValueError: if there are no floating-point parameters, complex ones, or if all or none of them are frozen.
    """
    if not leaves:
        raise ValueError(f"{name} has no floating-point arrays to be parameters")
    if any(jnp.issubdtype(leaf.dtype, jnp.complexfloating) for leaf in leaves):
        raise ValueError(f"{name} has complex parameters; only real ones can be sampled")
    whole = [path for path, leaf in zip(paths, leaves, strict=True) if not jnp.issubdtype(leaf.dtype, jnp.floating)]
    if frozen is None:
        if whole:
            raise ValueError(
                f"{name} has parameters that are no floating-point numbers, {', '.join(whole)}: freeze them"
            )
        return [True] * len(leaves)
    if not callable(frozen):
        raise TypeError(f"frozen must be a function (path, leaf) -> bool, got {frozen!r}")
    flags = [not frozen(path, leaf) for path, leaf in zip(paths, leaves, strict=True)]
    if all(flags) or not any(flags):
        which = "no parameter" if all(flags) else "every parameter"
        raise ValueError(f"frozen holds for {which} of {name}; they are {', '.join(paths)}")
    left = [path for path, flag in zip(paths, flags, strict=True) if flag and path in whole]
    if left:
        raise ValueError(f"{name} has parameters that are no floating-point numbers, {', '.join(left)}: freeze them")
    return flags


def refuse_batch_statistics(name: str, layers: str, better: str) -> None:
    """Raises the ValueError for a module with batch normalisation."""
    raise ValueError(
        f"{name} keeps statistics of batches ({layers}): what it says of one example depends on the others in its "
        "batch, so that there is no likelihood of single examples, and no posterior that mini-batches estimate. Use a "
        f"normalisation of each example by itself: {better}; or, with a trained network's averages held fixed, an "
        "sx.Network of two functions (docs/network.md)"
    )


def refuse_random_numbers(name: str, outputs: Callable[[Any], Any], random: Any) -> None:
    """Raises the ValueError if `outputs(random)`, of keys or generators, depends on them; many take them and do not."""
    jaxpr = jax.make_jaxpr(outputs)(random).jaxpr
    _, used = dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    if any(used):
        raise ValueError(
            f"{name} draws random numbers when it is called: what it says of an example has to be the same each time"
        )


def warn_of_dropout(name: str) -> None:
    """Tells that dropout is off."""
    warnings.warn(
        f"{name} has dropout, which is switched off: a posterior needs outputs that do not change from call to call, "
        "and takes over what dropout was for",
        UserWarning,
        stacklevel=4,
    )
