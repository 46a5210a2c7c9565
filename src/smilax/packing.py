"""A parameter pytree held in one flat buffer.

On CPU a step over a dozen small leaves is bound by the number of operations, not by their size.
`Packed` lets every tree-native function run on a single leaf without knowing about it: it is itself
a pytree with one array leaf, and `Posterior` unpacks it where the model needs its own structure.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

# Above this many parameters the arithmetic dominates and a second copy of the model would hurt.
PACKING_LIMIT = 100_000


@jax.tree_util.register_pytree_with_keys_class
class Packed:
    """A pytree of one leaf: the concatenated leaves of `tree`, whose structure is kept statically."""

    def __init__(self, buffer: jax.Array, treedef: Any, shapes: tuple[tuple[int, ...], ...]):
        self.buffer = buffer
        self.treedef = treedef
        self.shapes = shapes

    def tree_flatten_with_keys(self):
        return ((jax.tree_util.GetAttrKey("buffer"), self.buffer),), (self.treedef, self.shapes)

    @classmethod
    def tree_unflatten(cls, aux, children):
        return cls(children[0], *aux)


def packable(params: Any) -> bool:
    """Whether `params` has several leaves of one dtype and few enough numbers to gain from packing."""
    leaves = jax.tree.leaves(params)
    return (
        not isinstance(params, Packed)
        and len(leaves) > 1
        and len({jnp.result_type(leaf) for leaf in leaves}) == 1
        and sum(math.prod(jnp.shape(leaf)) for leaf in leaves) <= PACKING_LIMIT
    )


def pack(params: Any) -> Packed:
    """Concatenates the leaves of `params` into one buffer."""
    leaves, treedef = jax.tree.flatten(params)
    shapes = tuple(jnp.shape(leaf) for leaf in leaves)
    return Packed(jnp.concatenate([jnp.ravel(leaf) for leaf in leaves]), treedef, shapes)


def unpack(params: Any, batch_ndim: int = 0) -> Any:
    """The tree that was packed; anything else is returned as it is.

    `batch_ndim` leading axes of the buffer (chains, draws) are kept in front of every leaf. A NumPy buffer
    gives NumPy views.
    """
    if not isinstance(params, Packed):
        return params
    buffer, sizes = params.buffer, [math.prod(shape) for shape in params.shapes]
    batch_shape = buffer.shape[:batch_ndim]
    if isinstance(buffer, jax.Array):
        # `split` transposes to one concatenation; separate slices would transpose to a chain of padded sums.
        pieces = jax.lax.split(buffer, sizes, axis=batch_ndim)
    else:
        offsets = [0]
        for size in sizes:
            offsets.append(offsets[-1] + size)
        pieces = [buffer[..., i:j] for i, j in zip(offsets, offsets[1:], strict=False)]
    leaves = [p.reshape(batch_shape + s) for p, s in zip(pieces, params.shapes, strict=True)]
    return jax.tree.unflatten(params.treedef, leaves)


def flatten(params: Any) -> jax.Array:
    """All numbers of `params` in one vector, in the order of its leaves."""
    if isinstance(params, Packed):
        return params.buffer
    return jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(params)])


def unflatten(vector: jax.Array, like: Any) -> Any:
    """The inverse of `flatten`: a pytree like `like`."""
    if isinstance(like, Packed):
        return Packed(vector, like.treedef, like.shapes)
    return unpack(Packed(vector, jax.tree.structure(like), tuple(jnp.shape(leaf) for leaf in jax.tree.leaves(like))))


def repack(leaves: list[jax.Array], like: Any) -> Any:
    """Leaves of the unpacked tree, in order, as a pytree like `like`."""
    if isinstance(like, Packed):
        return Packed(jnp.concatenate([jnp.ravel(leaf) for leaf in leaves]), like.treedef, like.shapes)
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def spread(values: list[jax.Array], like: Any) -> Any:
    """One number per leaf of the unpacked tree, as a pytree that broadcasts against `like` leaf by leaf."""
    if isinstance(like, Packed):
        sizes = [math.prod(shape) for shape in like.shapes]
        return repack([jnp.broadcast_to(v, (n,)) for v, n in zip(values, sizes, strict=True)], like)
    return jax.tree.unflatten(jax.tree.structure(like), values)
