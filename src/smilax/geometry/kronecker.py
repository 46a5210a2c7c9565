"""M in per-layer eigenbases: for each weight matrix Q_L diag Q_Rᵀ, with Q block by block where sides are long."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from smilax import trees
from smilax.geometry.base import Factored
from smilax.geometry.sides import (
    block_sizes,
    column_blocks,
    eigenbases,
    identities,
    rotate_columns,
    rotate_rows,
    row_blocks,
)
from smilax.packing import repack, unpack


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """A leaf as a matrix: vectors are columns, a convolution kernel (…, fan-in, fan-out) becomes (fan-in, fan-out)."""
    if len(shape) < 2:
        return math.prod(shape), 1
    return math.prod(shape[:-1]), shape[-1]


def rotated_sides(rows: int, columns: int, longest: int) -> tuple[int, int]:
    """Lengths of both sides, 1 for one that stays as it is."""
    rows, columns = (side if side <= MOST_BLOCKS * longest else 1 for side in (rows, columns))
    if min(rows, columns) <= longest:
        return rows, columns
    return (rows, 1) if rows <= columns else (1, columns)


class Bases(NamedTuple):
    """Orthogonal matrices of one leaf's two sides, block by block in stacks; None leaves a side as it is."""

    left: list[jax.Array] | None
    right: list[jax.Array] | None

    def into(self, matrix: jax.Array) -> jax.Array:
        """Q_Lᵀ G Q_R."""
        matrix = matrix if self.left is None else rotate_rows(self.left, matrix)
        return matrix if self.right is None else rotate_columns(self.right, matrix)

    def back(self, matrix: jax.Array) -> jax.Array:
        """Q_L G Q_Rᵀ."""
        matrix = matrix if self.left is None else rotate_rows(self.left, matrix, back=True)
        return matrix if self.right is None else rotate_columns(self.right, matrix, back=True)


class Kronecker(NamedTuple):
    """A mass matrix that is diagonal in the eigenbases of every weight matrix's two sides, or of blocks of them.

    With blocks of a rows and b columns an m × n leaf costs 2 mn (a + b) multiplications per product and holds
    a m + b n + mn numbers.

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

    left: list[jax.Array] | None
    right: list[jax.Array] | None
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
    costs as much as a product with M; a rotation has one eigenproblem for each block.

    Attributes:
        shapes: of the leaves.
        max_side: a longer side is cut in blocks, up to eight; of two longer ones only the shorter is rotated, or the
            inputs' if they are equal.
    """

    shapes: tuple[tuple[int, ...], ...]
    max_side: int = 128

    def init(self, params: Any) -> Any:
        stats = []
        for leaf in jax.tree.leaves(unpack(params)):
            rows, columns = matrix_shape(leaf.shape)
            left, right = (self._blocks(side, leaf.dtype) for side in rotated_sides(rows, columns, self.max_side))
            eye = [None if side is None else identities(side) for side in (left, right)]
            stats.append(LeafStats(left, right, Bases(*eye), jnp.zeros((rows, columns), leaf.dtype)))
        return KroneckerStats(stats, jnp.zeros((), jnp.int32))

    def _blocks(self, side: int, dtype: Any) -> list[jax.Array] | None:
        if side == 1:
            return None
        return [jnp.zeros((count, length, length), dtype) for count, length in block_sizes(side, self.max_side)]

    def update(self, stats: Any, draw: Any, weight: jax.Array) -> Any:
        # Since the last rotation the variances are a plain average at first, and then like everything else.
        counts = weight > 0
        fresh = jnp.where(counts, jnp.maximum(weight, 1 / (stats.draws + ROTATION_PRIOR).astype(weight.dtype)), 0)

        def one(leaf, noise):
            noise = noise.reshape(leaf.variance.shape)
            left = right = None
            if leaf.left is not None:
                blocks = row_blocks(leaf.left, noise)
                left = [(1 - weight) * s + weight * (d @ d.mT) for s, d in zip(leaf.left, blocks, strict=True)]
            if leaf.right is not None:
                blocks = column_blocks(leaf.right, noise)
                right = [(1 - weight) * s + weight * (d.mT @ d) for s, d in zip(leaf.right, blocks, strict=True)]
            rotated = leaf.bases.into(noise)
            variance = (1 - fresh) * leaf.variance + fresh * rotated * rotated
            return LeafStats(left, right, leaf.bases, variance)

        leaves = [one(leaf, noise) for leaf, noise in zip(stats.leaves, jax.tree.leaves(unpack(draw)), strict=True)]
        return KroneckerStats(leaves, stats.draws + counts.astype(jnp.int32))

    def rotate(self, stats: Any) -> Any:
        sides = [side for leaf in stats.leaves for side in (leaf.left, leaf.right) if side is not None]
        solutions = iter(eigenbases(sides))

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


# A side of more blocks than this stays unrotated: each would be too small a part of it.
MOST_BLOCKS = 8
# How many draws the guess after a rotation counts for.
ROTATION_PRIOR = 20
