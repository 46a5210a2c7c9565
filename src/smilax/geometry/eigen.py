"""Symmetric eigenproblems, one after another."""

import jax
import jax.numpy as jnp


def eigh_in_turn(stacks: list[jax.Array]) -> list[tuple[jax.Array, jax.Array]]:
    """Eigenvalues, ascending, and eigenvectors of each symmetric matrix in each stack (count, size, size).

    XLA's CPU client runs independent LAPACK calls of a program concurrently, and was seen to wait for ever on batched
    ones. A loop over each stack, and making it depend on the one before, keeps it to one at a time.
    """
    solutions: list[tuple[jax.Array, jax.Array]] = []
    for stack in stacks:
        if solutions:
            stack, _ = jax.lax.optimization_barrier((stack, solutions[-1]))
        values, vectors = jax.lax.map(jnp.linalg.eigh, stack)
        solutions.append((values, vectors))
    return solutions
