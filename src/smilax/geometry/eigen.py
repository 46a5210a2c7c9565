"""Eigenproblems, one after another."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular


def in_turn(problems: list[tuple[Callable[[jax.Array], Any], jax.Array]]) -> list[Any]:
    """`function(matrix)` of each pair.

    XLA's CPU client runs independent LAPACK calls of a program concurrently, and was seen to wait for ever on batched
    ones. Making every problem depend on the solution before it keeps it to one at a time.
    """
    solutions: list[Any] = []
    for function, matrix in problems:
        if solutions:
            matrix, _ = jax.lax.optimization_barrier((matrix, solutions[-1]))
        solutions.append(function(matrix))
    return solutions


def reflectors(images: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Eigenvalues λ and an orthogonal Q = I − W Vᵀ of the symmetric A of which A X = `images` is known, XᵀX = I.

    One step of subspace iteration: the first k columns of Q span the images, ordered by their share, largest first;
    λ is the norm of each (the eigenvalue where X is an eigenspace). Q is a product of k Householder reflections in
    compact form, which costs 2k multiplications a number where a whole basis costs n.

    Args:
        images: n × k with k < n; need not have full rank.

    Returns:
        λ of shape (k,), W and V of shape n × k.
    """
    unit = jnp.maximum(jnp.max(jnp.abs(images)), jnp.finfo(images.dtype).tiny)
    images = images / unit
    squares, mix = jnp.linalg.eigh(images.T @ images)
    order = jnp.flip(mix, axis=1)
    below, tau = jnp.linalg.qr(images @ order, mode="raw")
    reflected = tau != 0  # a direction without images is left alone
    rows, columns = images.shape
    v = (jnp.tril(below.T, -1) + jnp.eye(rows, columns, dtype=images.dtype)) * reflected.astype(images.dtype)[None, :]
    # H₁ ⋯ Hₖ = I − V T Vᵀ, where T⁻¹ has the upper triangle of VᵀV and 1/τ (Puglisi 1992).
    inverse = jnp.triu(v.T @ v, 1) + jnp.diag(1 / jnp.where(reflected, tau, 1))
    w = solve_triangular(inverse, v.T, trans=1).T
    return unit * jnp.sqrt(jnp.maximum(jnp.flip(squares), 0)), w, v
