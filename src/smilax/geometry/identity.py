"""M = I: no preconditioning."""

from typing import Any, NamedTuple

import jax

from smilax import trees


class Identity(NamedTuple):
    """The unit mass matrix, at no cost and no memory: the published SMILE, and references."""

    def precondition(self, gradient: Any) -> Any:
        return gradient

    def quadratic(self, velocity: Any) -> jax.Array:
        return trees.dot(velocity, velocity)

    def sample(self, key: jax.Array, like: Any) -> Any:
        return trees.normal_like(key, like)
