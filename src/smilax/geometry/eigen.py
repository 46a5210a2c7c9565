"""Symmetric eigenproblems, one after another."""

import jax
import jax.numpy as jnp


def eigh_in_turn(matrices: list[jax.Array]) -> list[tuple[jax.Array, jax.Array]]:
    """Eigenvalues, ascending, and eigenvectors of each symmetric matrix.

    XLA's CPU client runs independent LAPACK calls of a program concurrently, and was seen to wait for ever on batched
    ones. Making every problem depend on the solution before it keeps it to one at a time.
    """
    solutions: list[tuple[jax.Array, jax.Array]] = []
    for matrix in matrices:
        if solutions:
            matrix, _ = jax.lax.optimization_barrier((matrix, solutions[-1]))
        values, vectors = jnp.linalg.eigh(matrix)
        solutions.append((values, vectors))
    return solutions
