"""One side of a weight matrix, cut in blocks that are rotated each by itself.

Square matrices of a side's blocks are kept in stacks, one for each length of block: arrays (count, length, length).
"""

import itertools

import jax
import jax.numpy as jnp

from smilax.geometry.eigen import eigh_in_turn

# On CPU XLA calls a library for products of matrices from the left, and writes those of stacks out, which is quicker up
# to this many rows (0.8 µs for 1.2 at 16 × 16).
LONGEST_INLINE = 64


def block_sizes(size: int, longest: int) -> tuple[tuple[int, int], ...]:
    """Counts and lengths of as few blocks as will do, as equal as can be."""
    count = -(-size // longest)
    length, rest = divmod(size, count)
    shorter = ((count - rest, length),)
    return (*shorter, (rest, length + 1)) if rest else shorter


def identities(side: list[jax.Array]) -> list[jax.Array]:
    """Identity matrices in stacks like these."""
    return [jnp.broadcast_to(jnp.eye(stack.shape[-1], dtype=stack.dtype), stack.shape) for stack in side]


def rotate_rows(stacks: list[jax.Array], matrix: jax.Array, back: bool = False) -> jax.Array:
    """Each block of rows times its matrix transposed, or `back` with the matrix itself."""
    if is_whole(stacks) and len(matrix) > LONGEST_INLINE:
        (one,) = stacks[0]
        return (one if back else one.T) @ matrix
    parts = [
        (stack if back else stack.mT) @ block for stack, block in zip(stacks, row_blocks(stacks, matrix), strict=True)
    ]
    return _joined([part.reshape(-1, matrix.shape[-1]) for part in parts], 0)


def rotate_columns(stacks: list[jax.Array], matrix: jax.Array, back: bool = False) -> jax.Array:
    """Each block of columns times its matrix, or `back` with that transposed."""
    if is_whole(stacks):
        (one,) = stacks[0]
        return matrix @ (one.T if back else one)
    rule = "kni,kji->nkj" if back else "kni,kij->nkj"
    blocks = column_blocks(stacks, matrix)
    parts = [jnp.einsum(rule, block, stack) for stack, block in zip(stacks, blocks, strict=True)]
    return _joined([part.reshape(len(matrix), -1) for part in parts], 1)


def is_whole(stacks: list[jax.Array]) -> bool:
    """Whether the side is one block."""
    return len(stacks) == 1 and len(stacks[0]) == 1


def row_blocks(stacks: list[jax.Array], matrix: jax.Array) -> list[jax.Array]:
    """Arrays (count, length, columns)."""
    blocks, start = [], 0
    for count, length, _ in (stack.shape for stack in stacks):
        part = jax.lax.slice_in_dim(matrix, start, start + count * length)
        blocks.append(part.reshape(count, length, matrix.shape[-1]))
        start += count * length
    return blocks


def column_blocks(stacks: list[jax.Array], matrix: jax.Array) -> list[jax.Array]:
    """Arrays (count, rows, length)."""
    blocks, start = [], 0
    for count, length, _ in (stack.shape for stack in stacks):
        part = jax.lax.slice_in_dim(matrix, start, start + count * length, axis=1)
        blocks.append(jnp.swapaxes(part.reshape(len(matrix), count, length), 0, 1))
        start += count * length
    return blocks


def eigenbases(sides: list[list[jax.Array]]) -> list[tuple[jax.Array, list[jax.Array]]]:
    """Of each side, up to a factor, its eigenvalues, block after block, and the stacks of its eigenvectors.

    Blocks of one length are solved in one loop, of whichever sides they are: a solver is dear to compile.
    """
    stacks = [stack / _level(side) for side in sides for stack in side]
    lengths = sorted({stack.shape[-1] for stack in stacks})
    alike = [[stack for stack in stacks if stack.shape[-1] == length] for length in lengths]
    solutions = eigh_in_turn([jnp.concatenate(some) for some in alike])
    parts = {}
    for length, some, (values, vectors) in zip(lengths, alike, solutions, strict=True):
        ends = list(itertools.accumulate(len(stack) for stack in some))[:-1]
        parts[length] = iter(zip(jnp.split(values, ends), jnp.split(vectors, ends), strict=True))
    solved = [[next(parts[stack.shape[-1]]) for stack in side] for side in sides]
    return [(_joined([values.ravel() for values, _ in side], 0), [vectors for _, vectors in side]) for side in solved]


def _level(side: list[jax.Array]) -> jax.Array:
    """The mean of the diagonal."""
    diagonals = _joined([jnp.trace(stack, axis1=1, axis2=2) for stack in side], 0)
    return jnp.maximum(jnp.sum(diagonals) / side_length(side), jnp.finfo(diagonals.dtype).tiny)


def side_length(side: list[jax.Array]) -> int:
    """How many rows or columns it has."""
    return sum(len(stack) * stack.shape[-1] for stack in side)


def _joined(parts: list[jax.Array], axis: int) -> jax.Array:
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis)
