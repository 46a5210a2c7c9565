"""M = diagonal + a few strong directions."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from smilax import trees
from smilax.geometry.base import Factored
from smilax.packing import spread, unpack


def _project(directions: Any, tree: Any) -> jax.Array:
    """Vᵀx, shape `(r,)`; `directions` has a trailing axis of r in every leaf."""
    parts = jax.tree.map(lambda v, x: jnp.tensordot(x, v, x.ndim), directions, tree)
    return jnp.sum(jnp.stack(jax.tree.leaves(parts)), axis=0)


def _expand(directions: Any, weights: jax.Array) -> Any:
    """V w, a pytree like the parameters."""
    return jax.tree.map(lambda v: v @ weights, directions)


class LowRank(NamedTuple):
    """M = S (I + V diag(e − 1) Vᵀ) S with S = diag(scale) and orthonormal V; 2 r d multiplications per product.

    Attributes:
        scale: pytree like the parameters.
        directions: V, pytree like the parameters with a trailing axis of r.
        eigenvalues: e, shape `(r,)`, positive.
    """

    scale: Any
    directions: Any
    eigenvalues: jax.Array

    def _power(self, exponent: float, tree: Any) -> Any:
        weights = (self.eigenvalues**exponent - 1) * _project(self.directions, tree)
        return jax.tree.map(jnp.add, tree, _expand(self.directions, weights))

    def precondition(self, gradient: Any) -> Any:
        scaled = jax.tree.map(jnp.divide, gradient, self.scale)
        return jax.tree.map(jnp.divide, self._power(-1.0, scaled), self.scale)

    def quadratic(self, velocity: Any) -> jax.Array:
        scaled = jax.tree.map(jnp.multiply, self.scale, velocity)
        return trees.dot(scaled, self._power(1.0, scaled))

    def sample(self, key: jax.Array, like: Any) -> Any:
        return jax.tree.map(jnp.divide, self._power(-0.5, trees.normal_like(key, like)), self.scale)


class LowRankStats(NamedTuple):
    """Elementwise variances; directions V in units of `scale`; C V and VᵀCV, C being the correlation matrix."""

    variance: Any
    scale: Any
    directions: Any
    image: Any
    along: jax.Array
    draws: jax.Array


@dataclass(frozen=True)
class LowRankEstimate:
    """Σ̂ as a diagonal plus `rank` eigenvectors of the correlation matrix, by subspace iteration over the stream.

    Each rotation multiplies the subspace by the correlation matrix of the draws since the one before. A draw costs
    4 r d multiplications; memory is (2 r + 2) d.

    Attributes:
        rank: r.
    """

    rank: int = 16

    def init(self, params: Any) -> Any:
        leaves, treedef = jax.tree.flatten(params)
        rank = min(self.rank, trees.size(params))
        keys = jax.random.split(jax.random.key(0), len(leaves))
        start = [jax.random.normal(k, (*x.shape, rank), x.dtype) for k, x in zip(keys, leaves, strict=True)]
        directions = _orthonormal(jax.tree.unflatten(treedef, start))
        return LowRankStats(
            variance=jax.tree.map(jnp.zeros_like, params),
            scale=jax.tree.map(jnp.ones_like, params),
            directions=directions,
            image=jax.tree.map(jnp.zeros_like, directions),
            along=jnp.zeros((rank, rank), leaves[0].dtype),
            draws=jnp.zeros((), jnp.int32),
        )

    def update(self, stats: Any, draw: Any, weight: jax.Array) -> Any:
        scaled = jax.tree.map(jnp.divide, draw, stats.scale)
        along = _project(stats.directions, scaled)
        counts = weight > 0
        fresh = jnp.where(counts, jnp.maximum(weight, 1 / (stats.draws + 1).astype(weight.dtype)), 0)
        return stats._replace(
            variance=jax.tree.map(lambda s, x: (1 - weight) * s + weight * x * x, stats.variance, draw),
            image=jax.tree.map(lambda y, z: (1 - fresh) * y + fresh * jnp.tensordot(z, along, 0), stats.image, scaled),
            along=(1 - fresh) * stats.along + fresh * along[:, None] * along[None, :],
            draws=stats.draws + counts.astype(jnp.int32),
        )

    def rotate(self, stats: Any) -> Any:
        scale = jax.tree.map(lambda x: jnp.sqrt(jnp.maximum(x, jnp.finfo(x.dtype).tiny)), stats.variance)
        # What is left over of the old scale changes the subspace a little; the next rotation mends it.
        directions = _orthonormal(stats.image)
        # Until there are draws: what the old directions knew, as far as the new ones are among them.
        turn = _overlap(stats.directions, directions)
        return stats._replace(
            scale=scale,
            directions=directions,
            along=turn.T @ stats.along @ turn,
            image=jax.tree.map(jnp.zeros_like, stats.image),
            draws=jnp.zeros((), jnp.int32),
        )

    def leaf_means(self, stats: Any) -> list[jax.Array]:
        return [jnp.mean(leaf) for leaf in jax.tree.leaves(unpack(stats.variance))]

    def factor(self, stats: Any, damping: list[jax.Array]) -> Factored:
        size = trees.size(stats.variance)
        kept, ritz, excess = _split(stats)
        root = jax.tree.map(lambda x, level: jnp.sqrt(x + level), kept, spread(damping, kept))
        # Σ̂ + Λ = T (I + B Bᵀ) T with B = T⁻¹ S V √excess, diagonalised through its r × r Gram matrix.
        spikes = jax.tree.map(
            lambda v, s, t: (v * (s / t)[..., None]) @ jnp.diag(jnp.sqrt(excess)), ritz, stats.scale, root
        )
        values, vectors = jnp.linalg.eigh(_gram(spikes))
        values = jnp.maximum(values, 0)
        whiten = vectors / jnp.sqrt(jnp.maximum(values, jnp.finfo(values.dtype).eps * values[-1] + TINY))[None, :]
        directions = jax.tree.map(lambda b: b @ whiten, spikes)
        shrink = 1 / (1 + values) - 1
        trace = trees.total(jax.tree.map(lambda t, v: (1 + (v * v) @ shrink) / (t * t), root, directions))
        scale = trace / size
        geometry = LowRank(jax.tree.map(lambda t: jnp.sqrt(scale) * t, root), directions, 1 + values)
        return Factored(geometry, scale, damping)


# The diagonal keeps at least this share of a parameter's variance, however much the directions carry.
LEAST_KEPT = 0.05
TINY = 1e-30


def _split(stats: LowRankStats) -> tuple[Any, Any, jax.Array]:
    """The variance left to the diagonal, the directions' eigenvectors, and the variance along them above the rest."""
    size, rank = trees.size(stats.variance), len(stats.along)
    # Within the subspace the eigenvectors are those of VᵀCV (Rayleigh and Ritz).
    along, turn = jnp.linalg.eigh(stats.along)
    ritz = jax.tree.map(lambda v: v @ turn, stats.directions)
    scaled = jax.tree.map(lambda x, s: x / (s * s), stats.variance, stats.scale)
    rest = jnp.maximum(trees.total(scaled) - jnp.sum(along), 0) / max(size - rank, 1)
    excess = jnp.maximum(along - rest, 0)
    carried = jax.tree.map(lambda v, s: (s * s) * ((v * v) @ excess), ritz, stats.scale)
    kept = jax.tree.map(lambda x, c: jnp.maximum(x - c, LEAST_KEPT * x), stats.variance, carried)
    return kept, ritz, excess


def _gram(directions: Any) -> jax.Array:
    return _overlap(directions, directions)


def _overlap(a: Any, b: Any) -> jax.Array:
    """AᵀB."""
    parts = [
        jnp.tensordot(v, w, (tuple(range(v.ndim - 1)),) * 2)
        for v, w in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    ]
    return jnp.sum(jnp.stack(parts), axis=0)


def _orthonormal(directions: Any) -> Any:
    """Orthonormal columns with the same span; twice, because the Gram matrix squares the condition number."""
    for _ in range(2):
        values, vectors = jnp.linalg.eigh(_gram(directions))
        whiten = vectors / jnp.sqrt(jnp.maximum(values, jnp.finfo(values.dtype).eps * values[-1] + TINY))[None, :]
        directions = jax.tree.map(lambda v, w=whiten: v @ w, directions)
    return directions
