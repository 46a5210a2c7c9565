"""M = diag(s²): one scale per parameter."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from smilax import trees


class Diagonal(NamedTuple):
    """A diagonal mass matrix; one multiplication and one number per parameter.

    Attributes:
        scale: s, a pytree like the parameters, with M = diag(s²).
    """

    scale: Any

    def precondition(self, gradient: Any) -> Any:
        return jax.tree.map(lambda g, s: g / (s * s), gradient, self.scale)

    def quadratic(self, velocity: Any) -> jax.Array:
        scaled = jax.tree.map(jnp.multiply, self.scale, velocity)
        return trees.dot(scaled, scaled)

    def sample(self, key: jax.Array, like: Any) -> Any:
        return jax.tree.map(jnp.divide, trees.normal_like(key, like), self.scale)
