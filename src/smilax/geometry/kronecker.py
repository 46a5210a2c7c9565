"""M in per-layer eigenbases: for each weight matrix Q_L diag Q_Rᵀ."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from smilax import trees
from smilax.geometry.base import Factored
from smilax.geometry.eigen import eigh_in_turn
from smilax.packing import repack, unpack


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """A leaf as a matrix: vectors are columns, a convolution kernel (…, fan-in, fan-out) becomes (fan-in, fan-out)."""
    if len(shape) < 2:
        return math.prod(shape), 1
    return math.prod(shape[:-1]), shape[-1]


class Bases(NamedTuple):
    """Orthogonal matrices of one leaf's two sides; None leaves a side as it is."""

    left: jax.Array | None
    right: jax.Array | None

    def into(self, matrix: jax.Array) -> jax.Array:
        """Q_Lᵀ G Q_R."""
        matrix = matrix if self.left is None else self.left.T @ matrix
        return matrix if self.right is None else matrix @ self.right

    def back(self, matrix: jax.Array) -> jax.Array:
        """Q_L G Q_Rᵀ."""
        matrix = matrix if self.left is None else self.left @ matrix
        return matrix if self.right is None else matrix @ self.right.T


class Kronecker(NamedTuple):
    """A mass matrix that is diagonal in the eigenbases of every weight matrix's two sides.

    An m × n leaf costs 2 mn (m + n) multiplications per product and m² + n² + mn numbers.

    Attributes:
        bases: of each leaf.
        scales: square roots of M's diagonal in those bases, one matrix per leaf.
    """

    bases: list[Bases]
    scales: list[jax.Array]

    def precondition(self, gradient: Any) -> Any:
        return self._through(gradient, lambda bases, scale, g: bases.back(bases.into(g) / (scale * scale)))

    def quadratic(self, velocity: Any) -> jax.Array:
        leaves = jax.tree.leaves(unpack(velocity))
        parts = [
            jnp.sum((scale * bases.into(leaf.reshape(scale.shape))) ** 2)
            for leaf, bases, scale in zip(leaves, self.bases, self.scales, strict=True)
        ]
        return jnp.sum(jnp.stack(parts))

    def sample(self, key: jax.Array, like: Any) -> Any:
        # Of a packed tree in one go: what makes random numbers takes long to compile.
        return self._through(trees.normal_like(key, like), lambda bases, scale, z: bases.back(z / scale))

    def _through(self, tree: Any, function: Any) -> Any:
        leaves = jax.tree.leaves(unpack(tree))
        new = [
            function(bases, scale, leaf.reshape(scale.shape)).reshape(leaf.shape)
            for leaf, bases, scale in zip(leaves, self.bases, self.scales, strict=True)
        ]
        return repack(new, tree)


class LeafStats(NamedTuple):
    """E[DDᵀ] and E[DᵀD] of one leaf's draws D, its bases, and the variances in them."""

    left: jax.Array | None
    right: jax.Array | None
    bases: Bases
    variance: jax.Array


class KroneckerStats(NamedTuple):
    """Statistics of all leaves, and the number of draws since the bases were chosen."""

    leaves: list[LeafStats]
    draws: jax.Array


@dataclass(frozen=True)
class KroneckerEstimate:
    """Σ̂ by eigenbases of E[DDᵀ] and E[DᵀD] and elementwise variances in them (EKFAC; George et al. 2018).

    Built from noise draws and not from layer inputs, so any leaf will do: on a vector the estimate is dense. A draw
    costs an m × n leaf 2 mn (m + n) multiplications, a rotation two eigenproblems.

    Attributes:
        shapes: of the leaves.
        max_side: a side longer than this stays unrotated.
    """

    shapes: tuple[tuple[int, ...], ...]
    max_side: int = 1024

    def init(self, params: Any) -> Any:
        stats = []
        for leaf in jax.tree.leaves(unpack(params)):
            rows, columns = matrix_shape(leaf.shape)
            left, right = self._side(rows, leaf.dtype), self._side(columns, leaf.dtype)
            eye = [None if s is None else jnp.eye(len(s), dtype=s.dtype) for s in (left, right)]
            stats.append(LeafStats(left, right, Bases(*eye), jnp.zeros((rows, columns), leaf.dtype)))
        return KroneckerStats(stats, jnp.zeros((), jnp.int32))

    def _side(self, size: int, dtype: Any) -> jax.Array | None:
        return jnp.zeros((size, size), dtype) if 1 < size <= self.max_side else None

    def update(self, stats: Any, draw: Any, weight: jax.Array) -> Any:
        # Since the last rotation the variances are a plain average at first, and then like everything else.
        fresh = jnp.maximum(weight, 1 / (stats.draws + ROTATION_PRIOR).astype(weight.dtype))

        def one(leaf, noise):
            noise = noise.reshape(leaf.variance.shape)
            left = None if leaf.left is None else (1 - weight) * leaf.left + weight * (noise @ noise.T)
            right = None if leaf.right is None else (1 - weight) * leaf.right + weight * (noise.T @ noise)
            rotated = leaf.bases.into(noise)
            variance = (1 - fresh) * leaf.variance + fresh * rotated * rotated
            return LeafStats(left, right, leaf.bases, variance)

        leaves = [one(leaf, noise) for leaf, noise in zip(stats.leaves, jax.tree.leaves(unpack(draw)), strict=True)]
        return KroneckerStats(leaves, stats.draws + 1)

    def rotate(self, stats: Any) -> Any:
        sides = [side for leaf in stats.leaves for side in (leaf.left, leaf.right) if side is not None]
        levels = [jnp.maximum(jnp.trace(side) / len(side), jnp.finfo(side.dtype).tiny) for side in sides]
        solutions = iter(eigh_in_turn([side / level for side, level in zip(sides, levels, strict=True)]))

        def one(leaf):
            left = None if leaf.left is None else next(solutions)
            right = None if leaf.right is None else next(solutions)
            # Until there are draws in the new basis: what a Kronecker product would have, with the same total variance.
            guess = jnp.ones_like(leaf.variance)
            if left is not None:
                guess = guess * jnp.maximum(left[0], 0)[:, None]
            if right is not None:
                guess = guess * jnp.maximum(right[0], 0)[None, :]
            guess = guess * (jnp.sum(leaf.variance) / jnp.maximum(jnp.sum(guess), jnp.finfo(guess.dtype).tiny))
            bases = Bases(None if left is None else left[1], None if right is None else right[1])
            return LeafStats(leaf.left, leaf.right, bases, guess)

        return KroneckerStats([one(leaf) for leaf in stats.leaves], jnp.zeros((), jnp.int32))

    def leaf_means(self, stats: Any) -> list[jax.Array]:
        return [jnp.mean(leaf.variance) for leaf in stats.leaves]

    def factor(self, stats: Any, damping: list[jax.Array]) -> Factored:
        totals = [leaf.variance + level for leaf, level in zip(stats.leaves, damping, strict=True)]
        size = sum(total.size for total in totals)
        scale = jnp.sum(jnp.stack([jnp.sum(1 / total) for total in totals])) / size
        geometry = Kronecker([leaf.bases for leaf in stats.leaves], [jnp.sqrt(scale * total) for total in totals])
        return Factored(geometry, scale, damping)


# How many draws the guess after a rotation counts for.
ROTATION_PRIOR = 20
