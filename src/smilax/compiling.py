"""Compiled programs, kept for as long as the model or sampler that they were made from."""

import threading
import weakref
from collections.abc import Callable, Hashable
from typing import Any

import jax

_PROGRAMS: weakref.WeakKeyDictionary[Any, dict[Hashable, Any]] = weakref.WeakKeyDictionary()
_LOCK = threading.Lock()
# Of JAX, on which a program depends as well.
SETTINGS = ("jax_enable_x64", "jax_default_device")


def compiled(owner: Any, key: Hashable, jitted: Callable[[], Any], *args: Any) -> Any:
    """The program compiled for arguments like these.

    A second run of the same sampler, or a second training of the same posterior, on data of the same shapes finds the
    program of the first. It may only depend on what `owner`, `key` and the arguments' shapes and dtypes determine.

    Args:
        owner: the posterior, or a function of the sampler; its programs go when it goes.
        key: all else that the program depends on.
        jitted: makes the function under `jax.jit`; called if the program is not there yet.
        args: arguments, arrays or their shapes.
    """
    leaves, treedef = jax.tree.flatten(args)
    shapes = tuple((leaf.shape, str(leaf.dtype)) for leaf in leaves)
    place = (key, treedef, shapes, *(str(jax.config.values[name]) for name in SETTINGS))
    with _LOCK:
        programs = _PROGRAMS.setdefault(owner, {})
    found = programs.get(place)
    if found is None:
        found = programs[place] = jitted().lower(*args).compile()
    return found
