"""A full matrix M, for up to about a thousand parameters."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from smilax import threefry
from smilax.geometry.base import Factored
from smilax.packing import flatten, unflatten


class Dense(NamedTuple):
    """A full mass matrix: 2 d² multiplications per product, 2 d² numbers.

    Attributes:
        factor: A with A Aᵀ = P, shape `(d, d)`.
        inverse: A⁻¹, shape `(d, d)`.
    """

    factor: jax.Array
    inverse: jax.Array

    def precondition(self, gradient: Any) -> Any:
        # In two halves: small components of A Aᵀ g would drown in the rounding of large ones.
        return unflatten(self.factor @ (flatten(gradient) @ self.factor), gradient)

    def quadratic(self, velocity: Any) -> jax.Array:
        whitened = self.inverse @ flatten(velocity)
        return whitened @ whitened

    def sample(self, key: jax.Array, like: Any) -> Any:
        vector = flatten(like)
        return unflatten(self.factor @ threefry.normal(key, vector.shape, vector.dtype), like)


@dataclass(frozen=True)
class DenseEstimate:
    """Σ̂ as a full matrix: d² multiplications and numbers per draw, one symmetric eigenproblem per factorisation.

    The matrix is scaled to unit diagonal before its eigenvalues are taken, so that the parameters' scales do not enter
    its condition number, which is what float32 needs. Eigenvalues that rounding has pushed below what the damping
    guarantees are put back there.

    Attributes:
        sizes: how many numbers each leaf has.
    """

    sizes: tuple[int, ...]

    def init(self, params: Any) -> Any:
        vector = flatten(params)
        return jnp.zeros((vector.size, vector.size), vector.dtype)

    def update(self, stats: Any, draw: Any, weight: jax.Array) -> Any:
        vector = flatten(draw)
        return (1 - weight) * stats + (weight * vector)[:, None] * vector[None, :]

    def rotate(self, stats: Any) -> Any:
        return stats

    def leaf_means(self, stats: Any) -> list[jax.Array]:
        starts = [sum(self.sizes[:i]) for i in range(len(self.sizes))]
        variances = jnp.diagonal(stats)
        return [jnp.mean(variances[i : i + n]) for i, n in zip(starts, self.sizes, strict=True)]

    def factor(self, stats: Any, damping: list[jax.Array]) -> Factored:
        added = jnp.concatenate([jnp.broadcast_to(v, (n,)) for v, n in zip(damping, self.sizes, strict=True)])
        diagonal = jnp.diagonal(stats) + added
        root = jnp.sqrt(diagonal)
        correlation = (stats / root[:, None]) / root[None, :]
        correlation = jnp.where(jnp.eye(len(root), dtype=bool), 1, (correlation + correlation.T) / 2)
        values, vectors = jnp.linalg.eigh(correlation)
        # Σ̂ is positive semidefinite, so this is at least the scaled Λ; rounding knows it to ε times the largest.
        least = jnp.maximum(jnp.min(added / diagonal), 4 * jnp.finfo(values.dtype).eps * values[-1])
        values = jnp.maximum(values, least)
        factor = vectors / jnp.sqrt(values)[None, :] / root[:, None]
        inverse = (vectors * jnp.sqrt(values)[None, :]).T * root[None, :]
        scale = jnp.sum(factor**2) / len(root)
        return Factored(Dense(factor / jnp.sqrt(scale), inverse * jnp.sqrt(scale)), scale, damping)
