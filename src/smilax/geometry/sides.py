"""The orthogonal bases of one side of a weight matrix, and what they are learnt from.

A short side is rotated whole. Of a long one only the leading directions are, into its first coordinates, by a product
of few reflections: the spectra of gradient noise fall fast, and the rest is left to its variances.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from smilax.geometry.eigen import reflectors


class Basis(Protocol):
    """An orthogonal matrix Q that acts on rows (from the left) or on columns (from the right)."""

    def rows_into(self, matrix: jax.Array) -> jax.Array:
        """Qᵀ G."""
        ...

    def rows_back(self, matrix: jax.Array) -> jax.Array:
        """Q G."""
        ...

    def columns_into(self, matrix: jax.Array) -> jax.Array:
        """G Q."""
        ...

    def columns_back(self, matrix: jax.Array) -> jax.Array:
        """G Qᵀ."""
        ...


class Identity(NamedTuple):
    """Q = I: a side of length one."""

    def rows_into(self, matrix: jax.Array) -> jax.Array:
        return matrix

    def rows_back(self, matrix: jax.Array) -> jax.Array:
        return matrix

    def columns_into(self, matrix: jax.Array) -> jax.Array:
        return matrix

    def columns_back(self, matrix: jax.Array) -> jax.Array:
        return matrix


class Whole(NamedTuple):
    """Q as it is, n × n."""

    q: jax.Array

    def rows_into(self, matrix: jax.Array) -> jax.Array:
        return self.q.T @ matrix

    def rows_back(self, matrix: jax.Array) -> jax.Array:
        return self.q @ matrix

    def columns_into(self, matrix: jax.Array) -> jax.Array:
        return matrix @ self.q

    def columns_back(self, matrix: jax.Array) -> jax.Array:
        return matrix @ self.q.T


class Leading(NamedTuple):
    """Q = I − W Vᵀ with W and V of shape n × k."""

    w: jax.Array
    v: jax.Array

    def rows_into(self, matrix: jax.Array) -> jax.Array:
        return matrix - self.v @ (self.w.T @ matrix)

    def rows_back(self, matrix: jax.Array) -> jax.Array:
        return matrix - self.w @ (self.v.T @ matrix)

    def columns_into(self, matrix: jax.Array) -> jax.Array:
        return matrix - (matrix @ self.w) @ self.v.T

    def columns_back(self, matrix: jax.Array) -> jax.Array:
        return matrix - (matrix @ self.v) @ self.w.T


def of_both_sides(matrix: jax.Array, a: jax.Array, b: jax.Array, c: jax.Array, d: jax.Array) -> jax.Array:
    """(I − A Bᵀ) G (I − C Dᵀ), in six passes over G where one side after the other takes ten."""
    rows = b.T @ matrix
    columns = matrix @ c - a @ (rows @ c)
    return matrix - jnp.concatenate([a, columns], axis=1) @ jnp.concatenate([rows, d.T])


class SideStats(Protocol):
    """Statistics of A = E[DDᵀ], D being a draw with this side as its rows."""

    def update(self, draw: jax.Array, weight: jax.Array, fresh: jax.Array) -> "SideStats":
        """With one more draw: `weight` is its part in all of them, `fresh` in those since the last rotation."""
        ...

    def problem(self) -> tuple[Callable[[jax.Array], Any], jax.Array] | None:
        """An eigenproblem as `eigen.in_turn` takes it; None if there is nothing to solve."""
        ...

    def rotated(self, solution: Any) -> tuple[Basis, jax.Array, "SideStats"]:
        """The new basis, the diagonal of A in it (shape (n,), up to a factor), and statistics to go on with."""
        ...


class NoStats(NamedTuple):
    """Of a side of length one."""

    def update(self, draw: jax.Array, weight: jax.Array, fresh: jax.Array) -> "NoStats":
        return self

    def problem(self) -> None:
        return None

    def rotated(self, solution: Any) -> tuple[Basis, Any, "NoStats"]:
        return Identity(), jnp.ones(1), self


class WholeStats(NamedTuple):
    """A itself, n × n."""

    moment: jax.Array

    def update(self, draw: jax.Array, weight: jax.Array, fresh: jax.Array) -> "WholeStats":
        return WholeStats((1 - weight) * self.moment + weight * (draw @ draw.T))

    def problem(self) -> tuple[Callable[[jax.Array], Any], jax.Array]:
        level = jnp.maximum(jnp.trace(self.moment) / len(self.moment), jnp.finfo(self.moment.dtype).tiny)
        return jnp.linalg.eigh, self.moment / level

    def rotated(self, solution: Any) -> tuple[Basis, jax.Array, "WholeStats"]:
        values, vectors = solution
        return Whole(vectors), jnp.maximum(values, 0), self


class LeadingStats(NamedTuple):
    """What subspace iteration needs of A, which is never formed.

    Attributes:
        probes: X, n × k with XᵀX = I: the leading directions as they are known.
        images: E[D(DᵀX)] = A X over the draws since the last rotation.
        marginal: the diagonal of A, shape (n,).
    """

    probes: jax.Array
    images: jax.Array
    marginal: jax.Array

    def update(self, draw: jax.Array, weight: jax.Array, fresh: jax.Array) -> "LeadingStats":
        images = (1 - fresh) * self.images + fresh * (draw @ (draw.T @ self.probes))
        marginal = (1 - weight) * self.marginal + weight * jnp.sum(draw * draw, axis=1)
        return LeadingStats(self.probes, images, marginal)

    def problem(self) -> tuple[Callable[[jax.Array], Any], jax.Array]:
        return reflectors, self.images

    def rotated(self, solution: Any) -> tuple[Basis, jax.Array, "LeadingStats"]:
        values, w, v = solution
        count = len(values)
        probes = jnp.eye(w.shape[0], w.shape[1], dtype=w.dtype) - w @ v[:count].T
        # Away from the leading directions the coordinates are nearly the old ones, less what those have taken.
        scaled = probes * values[None, :]
        rest = self.marginal - jnp.sum(scaled * probes, axis=1)
        rest = jnp.maximum(rest, LEAST_REST * self.marginal)
        diagonal = jnp.concatenate([values, rest[count:]])
        return Leading(w, v), diagonal, LeadingStats(probes, scaled, self.marginal)


def side(size: int, dtype: Any, max_side: int, rank: int) -> tuple[Basis, SideStats]:
    """Basis and statistics of a side before the first draw: whole up to `max_side`, else `rank` leading directions."""
    if size == 1:
        return Identity(), NoStats()
    if size <= max_side or 2 * rank >= size:
        return Whole(jnp.eye(size, dtype=dtype)), WholeStats(jnp.zeros((size, size), dtype))
    # Any subspace will do to begin with: smooth functions of the index, from a cosine transform.
    position, frequency = jnp.arange(size, dtype=dtype) + 0.5, jnp.arange(rank, dtype=dtype) + 0.5
    probes = jnp.cos(jnp.pi / size * jnp.outer(position, frequency)) * (2 / size) ** 0.5
    nothing = jnp.zeros((size, rank), dtype)
    return Leading(nothing, nothing), LeadingStats(probes, nothing, jnp.zeros(size, dtype))


# What is left of a coordinate's variance, at the least, when the leading directions are taken out of it.
LEAST_REST = 0.01
