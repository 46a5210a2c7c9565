"""M = I: no preconditioning."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from smilax import trees
from smilax.geometry.base import Factored
from smilax.packing import unpack


class Identity(NamedTuple):
    """The unit mass matrix, at no cost and no memory: the published SMILE, and references."""

    def precondition(self, gradient: Any) -> Any:
        return gradient

    def quadratic(self, velocity: Any) -> jax.Array:
        return trees.dot(velocity, velocity)

    def sample(self, key: jax.Array, like: Any) -> Any:
        return trees.normal_like(key, like)

    def whiten(self, gradient: Any) -> Any:
        return gradient

    def velocity(self, momentum: Any) -> Any:
        return momentum


class IdentityEstimate(NamedTuple):
    """Σ̂ = σ² I: no products, one number a leaf."""

    def init(self, params: Any) -> Any:
        leaves = jax.tree.leaves(unpack(params))
        return [jnp.zeros((), x.dtype) for x in leaves], [jnp.asarray(x.size, x.dtype) for x in leaves]

    def update(self, stats: Any, draw: Any, weight: jax.Array) -> Any:
        means, sizes = stats
        squares = [jnp.mean(x * x) for x in jax.tree.leaves(unpack(draw))]
        return [(1 - weight) * m + weight * x for m, x in zip(means, squares, strict=True)], sizes

    def rotate(self, stats: Any) -> Any:
        return stats

    def leaf_means(self, stats: Any) -> list[jax.Array]:
        means, sizes = stats
        return [_average(means, sizes)] * len(means)

    def factor(self, stats: Any, damping: list[jax.Array]) -> Factored:
        # M is a multiple of the identity, so Λ has to be one as well.
        level = _average(damping, stats[1])
        return Factored(Identity(), 1 / (self.leaf_means(stats)[0] + level), [level] * len(damping))


def _average(values: list[jax.Array], sizes: list[jax.Array]) -> jax.Array:
    weights = jnp.stack(sizes)
    return jnp.sum(jnp.stack(values) * weights) / jnp.sum(weights)
