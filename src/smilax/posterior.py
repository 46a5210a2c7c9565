"""The target of every sampler: a prior, a likelihood and the number of data, evaluated on mini-batches."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from smilax.packing import unpack

# Products with the prior's Hessian, which only parameters that depend on one another need more than one of.
PROBES = 16


class LogDensity(NamedTuple):
    """A mini-batch log density kept in parts, so that differences do not cancel in float32.

    Attributes:
        total: `log prior + scale * sum(log_likelihood)`, shape `()`.
        log_prior: shape `()`.
        log_likelihood: one value per example of the batch, shape `(B,)`.
        scale: N / B, shape `()`.
        weights: of the examples, shape `(B,)`, or None for ones; they enter `weighted` and `minus`, not `total`.
    """

    total: jax.Array
    log_prior: jax.Array
    log_likelihood: jax.Array
    scale: jax.Array
    weights: jax.Array | None = None

    @property
    def weighted(self) -> jax.Array:
        """`log prior + scale * sum(weights * log_likelihood)`, shape `()`."""
        return self.total if self.weights is None else self.log_prior + self._sum(self.log_likelihood)

    def minus(self, other: "LogDensity") -> jax.Array:
        """`self.weighted - other.weighted` on one batch, summed from per-example differences (see docs/theory.md)."""
        return (self.log_prior - other.log_prior) + self._sum(self.log_likelihood - other.log_likelihood)

    def _sum(self, values: jax.Array) -> jax.Array:
        return self.scale * jnp.sum(values if self.weights is None else self.weights * values)


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

    def evaluate(self, params: Any, batch: Any, weights: jax.Array | None = None) -> LogDensity:
        """The mini-batch log posterior and its parts.

        Args:
            params: a pytree, or the same packed.
            batch: B examples.
            weights: of the examples, shape `(B,)`, carried along for `minus` and `value_and_grad`; None is ones.

        Raises:
            ValueError: if the functions given do not return shapes `()` and `(B,)`.
        """
        return self._parts(self._prior_density(params), self._likelihoods(params, batch), weights)

    def _likelihoods(self, params: Any, batch: Any) -> jax.Array:
        """`log_likelihood` in the dtype of the parameters, whatever the data and the model's inside are of."""
        dtype = jnp.result_type(*jax.tree.leaves(params))
        values = jnp.asarray(self.log_likelihood(unpack(params), batch)).astype(dtype)
        examples = {jnp.shape(leaf)[0] for leaf in jax.tree.leaves(batch) if jnp.ndim(leaf)}
        if values.ndim == 1 and len(examples) == 1 and len(values) not in examples:
            raise ValueError(
                "log_likelihood must return one value per example, shape (B,), got "
                f"{len(values)} values for {examples.pop()} examples"
            )
        return values

    def _parts(self, log_prior: Any, log_likelihood: Any, weights: jax.Array | None) -> LogDensity:
        log_prior = jnp.asarray(log_prior)
        if log_prior.shape != ():
            raise ValueError(f"log_prior must return a scalar, got shape {log_prior.shape}")
        if log_likelihood.ndim != 1:
            raise ValueError(
                f"log_likelihood must return one value per example, shape (B,), got shape {log_likelihood.shape}"
            )
        dtype = log_likelihood.dtype
        scale = jnp.asarray(self.num_data / log_likelihood.shape[0], dtype)
        log_prior = log_prior.astype(dtype)
        return LogDensity(log_prior + scale * jnp.sum(log_likelihood), log_prior, log_likelihood, scale, weights)

    def _prior_density(self, params: Any) -> jax.Array:
        # In the parameters' dtype: a prior may be a plain number.
        return jnp.asarray(self.log_prior(unpack(params))).astype(jnp.result_type(*jax.tree.leaves(params)))

    def prior_precision(self, params: Any) -> list[jax.Array]:
        """For each leaf the mean of −∂² log prior over its entries, scalars; not positive where it has no meaning.

        By products of the Hessian with random signs (Hutchinson 1989): exact for independent parameters.
        """
        params = unpack(params)
        leaves, treedef = jax.tree.flatten(params)

        def probe(key):
            keys = jax.random.split(key, len(leaves))
            signs = [jax.random.rademacher(k, x.shape, x.dtype) for k, x in zip(keys, leaves, strict=True)]
            _, curved = jax.jvp(jax.grad(self._prior_density), (params,), (jax.tree.unflatten(treedef, signs),))
            return [-jnp.mean(s * h) for s, h in zip(signs, jax.tree.leaves(curved), strict=True)]

        total, _ = jax.lax.scan(
            lambda total, key: (jax.tree.map(jnp.add, total, probe(key)), None),
            [jnp.zeros((), x.dtype) for x in leaves],
            jax.random.split(jax.random.key(0), PROBES),
        )
        return [value / PROBES for value in total]

    def value_and_grad(self, params: Any, batch: Any, weights: jax.Array | None = None) -> tuple[LogDensity, Any]:
        """The mini-batch log posterior in parts, and its gradient, a pytree like `params`.

        With weights, shape `(B,)`, the gradient is that of log prior + scale · Σ wᵢ log likelihoodᵢ.
        """

        def total(params):
            value = self.evaluate(params, batch, weights)
            return value.weighted, value

        gradient, value = jax.grad(total, has_aux=True)(params)
        return value, gradient

    def slopes(self, params: Any, batch: Any, direction: Any) -> jax.Array:
        """The derivative of each example's log likelihood along `direction`, shape `(B,)`; one forward-mode pass."""
        with _forward_mode():
            return jax.jvp(lambda x: self._likelihoods(x, batch), (params,), (direction,))[1]

    def value_and_weighted_grad(
        self, params: Any, batch: Any, direction: Any, weigh: Callable[[jax.Array], tuple[jax.Array, Any]]
    ) -> tuple[LogDensity, Any, Any]:
        """As `value_and_grad`, with weights that depend on the examples' slopes along `direction`.

        The forward pass serves the slopes and the gradient: the slopes cost a third of a gradient more, not two.

        Args:
            params: a pytree, or the same packed.
            batch: B examples.
            direction: a pytree like `params`.
            weigh: from the slopes, shape `(B,)`, to the weights, of the same shape, and whatever else is wanted.

        Returns:
            The log posterior in parts, the gradient, and what `weigh` gave besides.
        """
        with _forward_mode():
            log_likelihood, along = jax.linearize(lambda x: self._likelihoods(x, batch), params)
            slopes = along(direction)
        log_prior, gradient = jax.value_and_grad(self._prior_density)(params)
        weights, extra = weigh(slopes)
        value = self._parts(log_prior, log_likelihood, weights)
        (likelihood_gradient,) = jax.linear_transpose(along, params)(value.scale * weights)
        return value, jax.tree.map(jnp.add, gradient, likelihood_gradient), extra


@contextlib.contextmanager
def _forward_mode() -> Iterator[None]:
    """Says what to do about a likelihood that has a derivative in reverse mode only."""
    try:
        yield
    except TypeError as error:
        if "custom_vjp" not in str(error):
            raise
        raise TypeError(
            "log_likelihood has no forward-mode derivative, which the friction of sx.ismile takes: a part of it is a "
            "jax.custom_vjp (as jax.experimental.ode.odeint is). Make that a jax.custom_jvp, or take "
            "sx.ismile(posterior, friction=False)"
        ) from error
