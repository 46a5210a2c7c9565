"""What every likelihood offers, and the rule that matches outputs to targets."""

import abc
from typing import Any, ClassVar

import jax
import jax.numpy as jnp


def target_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of the target that outputs of this shape predict."""
    return shape[:1] if len(shape) == 2 and shape[1] == 1 else shape


def check_width(output_shape: tuple[int, ...], name: str) -> None:
    """Refuses outputs that cannot be halved into a location and a log scale for each target."""
    if len(output_shape) < 2 or output_shape[-1] % 2:
        raise ValueError(f"{name} needs outputs of shape (B, 2 * K), got outputs of shape {tuple(output_shape)}")


def check_match(output_shape: tuple[int, ...], y_shape: tuple[int, ...], name: str, width: int = 1) -> None:
    """Refuses outputs, `width` of them per target, that do not stand for targets of shape `y_shape`."""
    if width == 2:
        check_width(output_shape, name)
    one = output_shape if width == 1 else (*output_shape[:-1], output_shape[-1] // width)
    if len(y_shape) == 0 or target_shape(one) != target_shape(y_shape):
        last = "" if width == 1 else f" ({width} outputs for each target)"
        raise ValueError(
            f"{name}: outputs of shape {tuple(output_shape)} do not match targets of shape {tuple(y_shape)}{last}; "
            "allowed are equal shapes, and (B,) for (B, 1)"
        )


def sum_events(values: jax.Array) -> jax.Array:
    """Sums `(B, ...)` to `(B,)`."""
    return jnp.sum(values, axis=tuple(range(1, values.ndim)))


class Likelihood(abc.ABC):
    """Base class of the likelihoods: `log p(y | outputs)` for a batch, with what prediction needs besides.

    `params` is the dictionary of the likelihood's own, learned parameters, `{}` where there are none.

    Attributes:
        kind: `"regression"`, `"classification"` or `"count"`.
    """

    kind: ClassVar[str]

    def init(self) -> dict[str, jax.Array]:
        """The start of the learned parameters; `{}` if nothing is learned."""
        return {}

    @abc.abstractmethod
    def log_prob(self, params: dict, outputs: jax.Array, y: jax.Array) -> jax.Array:
        """`log p(y | outputs)` in nats, shape `(B,)`: summed over all axes of the target but the first."""

    @abc.abstractmethod
    def mean_and_variance(self, params: dict, outputs: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Mean and variance of the target, each of the target's shape; for classes `(B, K)`: p and p(1 - p)."""

    @abc.abstractmethod
    def sample(self, key: jax.Array, params: dict, outputs: jax.Array) -> jax.Array:
        """One draw of the targets."""

    def cdf(self, params: dict, outputs: jax.Array, value: jax.Array) -> jax.Array:
        """`P(y <= value)`, marginally for each number of the target; `value` and the result have its shape.

        Raises:
            TypeError: for classes, which have no order, and for a likelihood that does not define it.
        """
        reason = "its targets are classes" if self.kind == "classification" else "define its method cdf"
        raise TypeError(f"{type(self).__name__} has no cumulative distribution: {reason}")

    def identified(self, outputs: jax.Array) -> jax.Array:
        """Outputs less what no prediction depends on, in the same shape: what chains have to agree about."""
        return outputs

    def probs(self, params: dict, outputs: jax.Array) -> jax.Array:
        """Class probabilities, shape `(B, K)`.

        Raises:
            TypeError: for anything but classes.
        """
        raise TypeError(f"{type(self).__name__} has no class probabilities: its targets are no classes")

    @abc.abstractmethod
    def check(self, y: Any, output_shape: tuple[int, ...]) -> None:
        """Checks all targets, a host array, against the shape of the network's outputs for them.

        Raises:
            TypeError: if the targets' type does not suit the likelihood.
            ValueError: for shapes that do not match, values that are not finite or outside the support.
        """

    def fit_residual(self, params: dict, outputs: jax.Array, y: jax.Array, weight: jax.Array | None = None) -> dict:
        """The learned parameters of largest likelihood at these outputs; `params` itself if nothing is learned.

        `weight`, shape `(B,)`, counts each example that often.
        """
        return params

    @property
    def learned(self) -> bool:
        """Whether the likelihood has parameters of its own."""
        return bool(self.init())
