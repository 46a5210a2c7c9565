"""What the dynamics ask of a mass matrix M, with P = M⁻¹ and A a factor, A Aᵀ = P."""

from typing import Any, Protocol

import jax


class Geometry(Protocol):
    """A symmetric positive definite mass matrix on the space of the parameters; itself a pytree."""

    def precondition(self, gradient: Any) -> Any:
        """P g, a pytree like `gradient`."""
        ...

    def quadratic(self, velocity: Any) -> jax.Array:
        """vᵀMv, shape `()`."""
        ...

    def sample(self, key: jax.Array, like: Any) -> Any:
        """A z with z ~ N(0, I): a draw with covariance P, a pytree like `like`."""
        ...
