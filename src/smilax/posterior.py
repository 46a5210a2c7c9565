"""The target of every sampler: a prior, a likelihood and the number of data, evaluated on mini-batches."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from smilax.packing import unpack


class LogDensity(NamedTuple):
    """A mini-batch log density kept in parts, so that differences do not cancel in float32.

    Attributes:
        total: `log prior + scale * sum(log_likelihood)`, shape `()`.
        log_prior: shape `()`.
        log_likelihood: one value per example of the batch, shape `(B,)`.
        scale: N / B, shape `()`.
    """

    total: jax.Array
    log_prior: jax.Array
    log_likelihood: jax.Array
    scale: jax.Array

    def minus(self, other: "LogDensity") -> jax.Array:
        """`self.total - other.total` on one batch, summed from per-example differences (see docs/theory.md)."""
        return (self.log_prior - other.log_prior) + self.scale * jnp.sum(self.log_likelihood - other.log_likelihood)


@dataclass(frozen=True, eq=False)
class Posterior:
    """A Bayesian posterior that can be evaluated on mini-batches.

    The target is `log p(x) = log_prior(x) + sum over all N examples of log_likelihood(x)`, unnormalised; on a
    batch of B examples it is estimated by `log_prior(x) + N / B * sum(log_likelihood(x, batch))`.

    Attributes:
        log_prior: `log_prior(params) -> ()`.
        log_likelihood: `log_likelihood(params, batch) -> (B,)`, one value per example.
        num_data: N, the number of examples in the whole data set.

    Raises:
        TypeError: if one of the functions is not callable or `num_data` is no integer.
        ValueError: if `num_data` is less than one.

    Example:
        >>> import jax, jax.numpy as jnp, smilax as sx
        >>> posterior = sx.Posterior(
        ...     log_prior=lambda mean: -0.5 * jnp.sum(mean**2),
        ...     log_likelihood=lambda mean, batch: -0.5 * jnp.sum((batch - mean) ** 2, axis=-1),
        ...     num_data=100,
        ... )
        >>> posterior.log_density(jnp.zeros(2), jnp.ones((4, 2))).item()
        -100.0
    """

    log_prior: Callable[[Any], jax.Array]
    log_likelihood: Callable[[Any, Any], jax.Array]
    num_data: int

    def __post_init__(self):
        for name in ("log_prior", "log_likelihood"):
            if not callable(getattr(self, name)):
                raise TypeError(f"{name} must be a function, got {type(getattr(self, name)).__name__}")
        if isinstance(self.num_data, bool) or not hasattr(self.num_data, "__index__"):
            raise TypeError(f"num_data must be an integer, got {self.num_data!r}")
        if self.num_data < 1:
            raise ValueError(f"num_data must be at least 1, got {self.num_data}")

    def log_density(self, params: Any, batch: Any) -> jax.Array:
        """The mini-batch estimate of the log posterior, in nats; shape `()`."""
        return self.evaluate(params, batch).total

    def evaluate(self, params: Any, batch: Any) -> LogDensity:
        """The mini-batch log posterior and its parts.

        Raises:
            ValueError: if the functions given do not return shapes `()` and `(B,)`.
        """
        log_prior = jnp.asarray(self._prior_density(params))
        log_likelihood = jnp.asarray(self.log_likelihood(unpack(params), batch))
        if log_prior.shape != ():
            raise ValueError(f"log_prior must return a scalar, got shape {log_prior.shape}")
        if log_likelihood.ndim != 1:
            raise ValueError(
                f"log_likelihood must return one value per example, shape (B,), got shape {log_likelihood.shape}"
            )
        dtype = log_likelihood.dtype
        scale = jnp.asarray(self.num_data / log_likelihood.shape[0], dtype)
        log_prior = log_prior.astype(dtype)
        return LogDensity(log_prior + scale * jnp.sum(log_likelihood), log_prior, log_likelihood, scale)

    def _prior_density(self, params: Any) -> jax.Array:
        return self.log_prior(unpack(params))

    def prior_precision(self, params: Any) -> list[jax.Array]:
        """For each leaf the mean of −∂² log prior over its entries, scalars; not positive where it has no meaning.

        By one product of the Hessian with random signs (Hutchinson 1989), exact for independent parameters.
        """
        params = unpack(params)
        leaves, treedef = jax.tree.flatten(params)
        keys = jax.random.split(jax.random.key(0), len(leaves))
        signs = [jax.random.rademacher(k, x.shape, x.dtype) for k, x in zip(keys, leaves, strict=True)]
        _, curved = jax.jvp(jax.grad(self.log_prior), (params,), (jax.tree.unflatten(treedef, signs),))
        return [-jnp.mean(s * h) for s, h in zip(signs, jax.tree.leaves(curved), strict=True)]

    def value_and_grad(self, params: Any, batch: Any) -> tuple[LogDensity, Any]:
        """The mini-batch log posterior in parts, and its gradient, a pytree like `params`."""

        def total(params):
            value = self.evaluate(params, batch)
            return value.total, value

        gradient, value = jax.grad(total, has_aux=True)(params)
        return value, gradient
