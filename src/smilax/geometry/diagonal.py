"""M = diag(s²): one scale per parameter."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from smilax import trees
from smilax.geometry.base import Factored
from smilax.packing import spread, unpack


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
        return self.velocity(trees.normal_like(key, like))

    def whiten(self, gradient: Any) -> Any:
        return jax.tree.map(jnp.divide, gradient, self.scale)

    def velocity(self, momentum: Any) -> Any:
        return jax.tree.map(jnp.divide, momentum, self.scale)


class DiagonalEstimate(NamedTuple):
    """Σ̂ elementwise: the cheapest; one pass and one number per parameter."""

    def init(self, params: Any) -> Any:
        return jax.tree.map(jnp.zeros_like, params)

    def update(self, stats: Any, draw: Any, weight: jax.Array) -> Any:
        return jax.tree.map(lambda s, x: (1 - weight) * s + weight * x * x, stats, draw)

    def rotate(self, stats: Any) -> Any:
        return stats

    def leaf_means(self, stats: Any) -> list[jax.Array]:
        return [jnp.mean(leaf) for leaf in jax.tree.leaves(unpack(stats))]

    def factor(self, stats: Any, damping: list[jax.Array]) -> Factored:
        total = jax.tree.map(jnp.add, stats, spread(damping, stats))
        inverse = jax.tree.map(lambda x: 1 / x, total)
        scale = trees.total(inverse) / trees.size(total)
        return Factored(Diagonal(jax.tree.map(lambda x: jnp.sqrt(scale * x), total)), scale, damping)
