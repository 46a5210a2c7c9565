"""Draws of the mini-batch gradient noise, at no extra gradient."""

from typing import Any

import jax
import jax.numpy as jnp

from smilax.posterior import LogDensity, Posterior


def half_batch_gradients(
    posterior: Posterior, params: Any, batch: Any, weights: jax.Array | None = None
) -> tuple[LogDensity, Any, Any]:
    """Log density and gradient on a batch, and a draw of the gradient noise.

    With gradients g_a and g_b on two parts of the batch, n_a + n_b = B, the gradient is (n_a g_a + n_b g_b)/B and
    √(n_a n_b)/B · (g_a − g_b) has the covariance of its noise (that of draws with replacement) and mean zero.
    """
    size = rows(batch)
    if size < 2:
        raise ValueError(f"batch_size must be at least 2 for an estimate of the gradient noise, got {size}")
    first = size // 2
    both = (batch, weights)
    parts = [jax.tree.map(lambda x: x[:first], both), jax.tree.map(lambda x: x[first:], both)]
    (value_a, a), (value_b, b) = [posterior.value_and_grad(params, *part) for part in parts]
    share = first / size
    gradient = jax.tree.map(lambda x, y: share * x + (1 - share) * y, a, b)
    root = (share * (1 - share)) ** 0.5
    draw = jax.tree.map(lambda x, y: root * (x - y), a, b)
    log_likelihood = jnp.concatenate([value_a.log_likelihood, value_b.log_likelihood])
    total = share * value_a.total + (1 - share) * value_b.total
    scale = jnp.asarray(posterior.num_data / size, log_likelihood.dtype)
    return LogDensity(total, value_a.log_prior, log_likelihood, scale, weights), gradient, draw


def rows(batch: Any) -> int:
    """B, the number of examples in a batch."""
    return jax.tree.leaves(batch)[0].shape[0]
