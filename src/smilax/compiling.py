"""Compiled programs, kept for as long as the model or sampler that they were made from."""

import threading
import weakref
from collections.abc import Callable, Hashable
from concurrent.futures import Executor, Future
from typing import Any

import jax

_PROGRAMS: weakref.WeakKeyDictionary[Any, dict[Hashable, Any]] = weakref.WeakKeyDictionary()
_LOCK = threading.Lock()
# Of JAX, on which a program depends as well.
SETTINGS = ("jax_enable_x64", "jax_default_device", "jax_default_matmul_precision", "jax_debug_nans")
# LLVM's third level takes twice as long as its first, and the steps of a small model are no faster for it.
QUICK = {"xla_backend_optimization_level": 1}


def _where(leaf: Any) -> Any:
    """On which devices an array has been put, for which its program is then; None if on none in particular."""
    return leaf.sharding if isinstance(leaf, jax.Array) and leaf.committed else None


def compiled_for(jitted: Any, *args: Any, quick: bool = False, executor: Executor | None = None) -> Any:
    """Compiles a function under `jax.jit` for these arguments.

    Args:
        jitted: the function.
        args: arguments, arrays or their shapes.
        quick: whether compiling matters more than running: for what runs once, and for small models.
        executor: compiles, so that this returns a future of the program as soon as the function is traced.
    """
    # Who asks for no optimisation at all, as tests may, gets none.
    quick = quick and jax.default_backend() == "cpu" and not jax.config.values["jax_disable_most_optimizations"]
    options = QUICK if quick else None
    # Traced in this thread, whose settings of JAX others do not see.
    lowered = jitted.lower(*args)
    return lowered.compile(options) if executor is None else executor.submit(lowered.compile, options)


def compiled(
    owner: Any,
    key: Hashable,
    jitted: Callable[[], Any],
    *args: Any,
    quick: bool = False,
    executor: Executor | None = None,
) -> Any:
    """The program compiled for arguments like these.

    A second run of the same sampler, or a second training of the same posterior, on data of the same shapes finds the
    program of the first. It may only depend on what `owner`, `key` and the arguments' shapes and dtypes determine.

    Args:
        owner: the posterior, or a function of the sampler; its programs go when it goes. Of what has no hash or cannot
            be referred to weakly, programs are not kept.
        key: all else that the program depends on; of one without a hash the program is not kept.
        jitted: makes the function under `jax.jit`; called if the program is not there yet.
        args: arguments, arrays or their shapes.
        quick: as for `compiled_for`; part of the key.
        executor: compiles a program that is not there yet, which is then waited for by whoever asks next, without an
            executor; what is returned to the first may be a future.
    """
    leaves, treedef = jax.tree.flatten(args)
    shapes = tuple((leaf.shape, str(leaf.dtype), _where(leaf)) for leaf in leaves)
    # As attributes, not in `jax.config.values`: there, what a context manager sets in this thread is missing.
    place = (key, quick, treedef, shapes, *(str(getattr(jax.config, name)) for name in SETTINGS))
    try:
        hash(place)
        with _LOCK:
            programs = _PROGRAMS.setdefault(owner, {})
    except TypeError:
        return compiled_for(jitted(), *args, quick=quick, executor=executor)
    found = programs.get(place)
    if found is None:
        found = programs[place] = compiled_for(jitted(), *args, quick=quick, executor=executor)
    if executor is None and isinstance(found, Future):
        try:
            found = programs[place] = found.result()
        except BaseException:
            programs.pop(place, None)
            raise
    return found
