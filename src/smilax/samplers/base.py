"""The one form that every sampler has."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from smilax import trees
from smilax.posterior import Posterior

StepSize = float | Callable[[jax.Array], jax.Array]


class Info(NamedTuple):
    """What every step reports.

    Attributes:
        log_density: mini-batch log density at the last gradient evaluation, in nats, shape `()`.
        energy_error: same-batch energy error of the step, in nats; NaN for samplers without an energy.
        step_size: the step size used.
        accepted: 1.0, or 0.0 where a guardrail rejected the step; averaged over the steps that a draw summarises.
    """

    log_density: jax.Array
    energy_error: jax.Array
    step_size: jax.Array
    accepted: jax.Array


class SamplingAlgorithm(NamedTuple):
    """A sampler as pure functions of one chain; every function runs under `jit`, `vmap` and `scan`.

    Attributes:
        init: `state = init(key, params)`; the state has an attribute `params`, a pytree like the argument.
        warmup: `state, info = warmup(key, state, batch, fraction)`, `fraction` in [0, 1) telling how far warm-up
            has come.
        step: `state, info = step(key, state, batch)`.
        config: name and settings, JSON-able; identifies the algorithm in a store.
        posterior: the target; `sample` reads it for its checks.

    Example:
        >>> import jax, jax.numpy as jnp, smilax as sx
        >>> posterior = sx.Posterior(lambda x: -0.5 * jnp.sum(x**2), lambda x, batch: jnp.zeros(len(batch)), 10)
        >>> algorithm = sx.smile_naive(posterior, step_size=0.1)
        >>> state = algorithm.init(jax.random.key(0), jnp.ones(5))
        >>> state, info = jax.jit(algorithm.step)(jax.random.key(1), state, jnp.zeros(4))
        >>> state.params.shape
        (5,)
    """

    init: Callable[[jax.Array, Any], Any]
    warmup: Callable[[jax.Array, Any, Any, jax.Array], tuple[Any, Any]]
    step: Callable[[jax.Array, Any, Any], tuple[Any, Any]]
    config: Mapping[str, Any]
    posterior: Posterior | None = None


def check_posterior(value: Any) -> None:
    """Raises unless `value` is a posterior."""
    if not isinstance(value, Posterior):
        raise TypeError(f"posterior must be one of sx.bnn, sx.from_numpyro or sx.Posterior, got {type(value).__name__}")


def check_number(name: str, value: Any) -> None:
    """Raises unless `value` is a real number (a Python or NumPy one)."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name} must be a number, got {value!r}")


def check_step_size(value: Any) -> None:
    """Raises unless `value` is a positive finite number or a schedule (any function)."""
    if callable(value):
        return
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"step_size must be a number or a schedule (a function of the step), got {value!r}")
    check_positive("step_size", value)


def check_positive(name: str, value: Any) -> None:
    """Raises unless `value` is a positive finite number."""
    check_number(name, value)
    if not 0 < value < float("inf"):
        raise ValueError(f"{name} must be positive and finite, got {value!r}")


def check_probability(name: str, value: Any) -> None:
    """Raises unless `value` is in (0, 1]."""
    check_number(name, value)
    if not 0 < value <= 1:
        raise ValueError(f"{name} must be in (0, 1], got {value!r}")


def check_params(params: Any, *, turning: bool = False) -> None:
    """Raises unless all leaves are arrays of one floating-point dtype, not empty; of two numbers at least if `turning`.

    That is what microcanonical dynamics need.
    """
    named = jax.tree_util.tree_leaves_with_path(params)
    for path, leaf in named:
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise TypeError(
                f"params{jax.tree_util.keystr(path)} has dtype {jnp.result_type(leaf)}; "
                "every parameter leaf must be floating-point (keep other arrays outside the parameters)"
            )
        if jnp.size(leaf) == 0:
            raise ValueError(
                f"params{jax.tree_util.keystr(path)} has shape {jnp.shape(leaf)}; every parameter leaf must hold at "
                "least one number"
            )
    dtypes = {str(jnp.result_type(leaf)): jax.tree_util.keystr(path) for path, leaf in named}
    if len(dtypes) > 1:
        found = ", ".join(f"{dtype} (as params{where})" for dtype, where in sorted(dtypes.items()))
        raise TypeError(f"params must be of one dtype, got {found}; cast them with jax.tree.map")
    for dtype, where in dtypes.items():
        if jnp.finfo(dtype).bits < 32:
            raise TypeError(
                f"params{where} has dtype {dtype}; parameters must be float32 or float64, as one step is less than "
                "what 16 bits round off (the network may compute in bfloat16 all the same)"
            )
    if not named:
        raise ValueError("params holds no arrays")
    if turning and trees.size(params) < 2:
        raise ValueError(
            f"params must hold at least 2 numbers, got {trees.size(params)}: microcanonical dynamics turn a velocity "
            "of fixed length, and in one dimension there is nothing to turn"
        )


def schedule(step_size: StepSize) -> Callable[[jax.Array], jax.Array]:
    """The step size as a function of the step count, always an array."""
    return lambda count: jnp.asarray(step_size(count) if callable(step_size) else step_size)


def describe(step_size: StepSize) -> Any:
    """A JSON-able form of a step size; of a schedule its name, and what it gives by powers of ten of the count."""
    if not callable(step_size):
        return float(step_size)
    name = getattr(step_size, "__name__", "schedule")
    counts = [0, *(10**power for power in range(1, 7))]
    try:
        with jax.ensure_compile_time_eval(), jax.numpy_dtype_promotion("standard"):
            values = [_given(step_size, count) for count in counts]
    except jax.errors.ConcretizationTypeError:
        # Under a transformation, of one that depends on what is transformed, there are no numbers to show.
        return name
    # Three digits: the last ones of a cosine are not the same on every machine.
    return f"{name}: {', '.join(f'{value:.3g}' for value in values)} at steps 0, 10, ..., 10^6"


def _given(step_size: Callable[[jax.Array], Any], count: int) -> float:
    """What a schedule gives for this count, once it has passed."""
    value = step_size(jnp.asarray(count, jnp.int32))
    if not (isinstance(value, (int, float)) or hasattr(value, "shape") and value.shape == ()):
        shape = f"an array of shape {value.shape}" if hasattr(value, "shape") else f"a {type(value).__name__}"
        raise TypeError(f"step_size(count) must return one number, and for {count} returns {shape}")
    number = float(value)
    # Later ones the run may never come to.
    if count == 0 and not 0 < number < float("inf"):
        raise ValueError(f"step_size(count) must be positive and finite, and for 0 is {number:g}")
    return number
