"""Running reductions over draws, and the quantities that are reduced."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


def averaging_dtype(dtype: Any) -> Any:
    """The dtype to average values of `dtype` in: half precision is not enough."""
    return dtype if jnp.dtype(dtype).itemsize >= 4 else jnp.dtype(jnp.float32)


class Reducer(NamedTuple):
    """A running reduction; `count` is the number of values with the new one, as a float."""

    init: Callable[[Any], Any]  # of one array
    update: Callable[[Any, Any, Any], Any]  # (state, value, count)
    result: Callable[[Any], Any]


def initial(reducer, value, likelihood, params, outputs, args):
    first = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), (params, outputs))
    shapes = jax.eval_shape(lambda params, outputs: value(likelihood, params, outputs, *args), *first)
    return jnp.zeros((), outputs.dtype), reducer.init(shapes)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def accumulate(reducer, value, likelihood, state, num_draws, params, outputs, args):
    # A loop over the draws, not a vmap: a cdf at many points per row must not be held for a block of draws.
    def body(i, state):
        seen, state = state
        params_i, outputs_i = jax.tree.map(lambda a: a[i], (params, outputs))
        return seen + 1, reducer.update(state, value(likelihood, params_i, outputs_i, *args), seen + 1)

    return jax.lax.fori_loop(0, num_draws, body, state)


def _zeros(shapes):
    return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)


def _update_mean(state, value, count):
    # Running means instead of sums: in float32 a sum of 10^6 values would lose the last ones' digits.
    return jax.tree.map(lambda mean, v: mean + (v - mean) / count, state, value)


def _update_variance(state, value, count):
    mean, variance = state
    new = _update_mean(mean, value, count)
    product = jax.tree.map(lambda v, m, n: (v - m) * (v - n), value, mean, new)
    return new, _update_mean(variance, product, count)


def _update_log_mean_exp(state, value, count):
    largest, mean = state
    new = jnp.maximum(largest, value)
    shift = jnp.where(new == -jnp.inf, 0.0, new)  # all densities zero so far
    mean = mean * jnp.exp(largest - shift)
    return new, mean + (jnp.exp(value - shift) - mean) / count


MEAN = Reducer(_zeros, _update_mean, lambda state: state[1])
# Welford's algorithm, so that a small variance about a large mean survives float32.
VARIANCE = Reducer(lambda shapes: (_zeros(shapes), _zeros(shapes)), _update_variance, lambda state: state[1])
LOG_MEAN_EXP = Reducer(
    lambda s: (jnp.full(s.shape, -jnp.inf, s.dtype), jnp.zeros(s.shape, s.dtype)),
    _update_log_mean_exp,
    lambda state: state[1][0] + jnp.log(state[1][1]),
)


def conditional_moments(likelihood, params, outputs):
    return likelihood.mean_and_variance(params, outputs)


def conditional_log_prob(likelihood, params, outputs, y):
    return likelihood.log_prob(params, outputs, y)


def conditional_cdf(likelihood, params, outputs, values):
    return jax.vmap(lambda value: likelihood.cdf(params, outputs, value), in_axes=1, out_axes=1)(values)


def conditional_probabilities(likelihood, params, outputs):
    probs = likelihood.probs(params, outputs)
    return probs, entropy_of(probs, jnp)


def entropy_of(probs, xp):
    return -xp.sum(probs * xp.log(xp.where(probs > 0, probs, 1.0).astype(probs.dtype)), axis=-1)
