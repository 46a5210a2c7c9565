"""A parameter pytree whose small leaves are held in one flat buffer.

On CPU a step over a dozen small leaves is bound by the number of operations, not by their size, and everywhere the time
to compile it goes with the number of leaves, most of which are small in a deep network (biases, norms).
`Packed` lets every tree-native function run on few leaves without knowing about it: it is itself
a pytree, and `Posterior` unpacks it where the model needs its own structure.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

# Up to this many parameters all leaves are packed. Above it the arithmetic dominates, a second copy of the model would
# hurt, and only leaves up to the second size are.
PACKING_LIMIT = 100_000
LARGEST_PACKED = 16_384


@jax.tree_util.register_pytree_with_keys_class
class Packed:
    """A pytree of the concatenated small leaves of a tree, and its large ones.

    Attributes:
        buffer: the small leaves, in their order.
        large: the large leaves, in their order.
        treedef: the tree's structure.
        shapes: of all leaves, in their order.
        kept: for each leaf whether it is among the large ones.
    """

    def __init__(
        self,
        buffer: Any,
        large: tuple[Any, ...],
        treedef: Any,
        shapes: tuple[tuple[int, ...], ...],
        kept: tuple[bool, ...],
    ):
        self.buffer = buffer
        self.large = large
        self.treedef = treedef
        self.shapes = shapes
        self.kept = kept

    def tree_flatten_with_keys(self):
        keys = jax.tree_util.GetAttrKey("buffer"), jax.tree_util.GetAttrKey("large")
        return tuple(zip(keys, (self.buffer, self.large), strict=True)), (self.treedef, self.shapes, self.kept)

    @classmethod
    def tree_unflatten(cls, aux, children):
        return cls(*children, *aux)

    def like(self, leaves: list[Any]) -> "Packed":
        """The same tree with these leaves, in the order of the unpacked tree."""
        small = [jnp.ravel(leaf) for leaf, kept in zip(leaves, self.kept, strict=True) if not kept]
        large = tuple(leaf for leaf, kept in zip(leaves, self.kept, strict=True) if kept)
        return Packed(jnp.concatenate(small), large, self.treedef, self.shapes, self.kept)


def packable(params: Any) -> bool:
    """Whether `params` has several small leaves, and all of one dtype, to gain from packing."""
    leaves = jax.tree.leaves(params)
    return (
        not isinstance(params, Packed)
        and _kept(leaves).count(False) > 1
        and len({jnp.result_type(leaf) for leaf in leaves}) == 1
    )


def pack(params: Any) -> Packed:
    """Concatenates the small leaves of `params`, of which there is at least one."""
    leaves, treedef = jax.tree.flatten(params)
    shapes = tuple(jnp.shape(leaf) for leaf in leaves)
    return Packed(None, (), treedef, shapes, _kept(leaves)).like(leaves)


def _kept(leaves: list[Any]) -> tuple[bool, ...]:
    sizes = [math.prod(jnp.shape(leaf)) for leaf in leaves]
    limit = PACKING_LIMIT if sum(sizes) <= PACKING_LIMIT else LARGEST_PACKED
    return tuple(size > limit for size in sizes)


def all_packed(params: Any) -> bool:
    """Whether all leaves are in one buffer."""
    return isinstance(params, Packed) and not params.large


def unpack(params: Any, batch_ndim: int = 0) -> Any:
    """The tree that was packed; anything else is returned as it is.

    `batch_ndim` leading axes of the buffer (chains, draws) are kept in front of every leaf. A NumPy buffer
    gives NumPy views.
    """
    if not isinstance(params, Packed):
        return params
    buffer = params.buffer
    shapes = [shape for shape, kept in zip(params.shapes, params.kept, strict=True) if not kept]
    sizes = [math.prod(shape) for shape in shapes]
    batch_shape = buffer.shape[:batch_ndim]
    if isinstance(buffer, jax.Array):
        # `split` transposes to one concatenation; separate slices would transpose to a chain of padded sums.
        pieces = jax.lax.split(buffer, sizes, axis=batch_ndim)
    else:
        offsets = [0]
        for size in sizes:
            offsets.append(offsets[-1] + size)
        pieces = [buffer[..., i:j] for i, j in zip(offsets, offsets[1:], strict=False)]
    small = iter([p.reshape(batch_shape + s) for p, s in zip(pieces, shapes, strict=True)])
    large = iter(params.large)
    return jax.tree.unflatten(params.treedef, [next(large if kept else small) for kept in params.kept])


def flatten(params: Any) -> jax.Array:
    """All numbers of `params` in one vector, in the order of the unpacked tree's leaves."""
    if isinstance(params, Packed) and not params.large:
        return params.buffer
    return jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(unpack(params))])


def unflatten(vector: jax.Array, like: Any) -> Any:
    """The inverse of `flatten`: a pytree like `like`."""
    if isinstance(like, Packed) and not like.large:
        return Packed(vector, (), like.treedef, like.shapes, like.kept)
    leaves, treedef = jax.tree.flatten(unpack(like))
    shapes = tuple(jnp.shape(leaf) for leaf in leaves)
    tree = unpack(Packed(vector, (), treedef, shapes, (False,) * len(shapes)))
    return like.like(jax.tree.leaves(tree)) if isinstance(like, Packed) else tree


def repack(leaves: list[jax.Array], like: Any) -> Any:
    """Leaves of the unpacked tree, in order, as a pytree like `like`."""
    if isinstance(like, Packed):
        return like.like(leaves)
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def spread(values: list[jax.Array], like: Any) -> Any:
    """One number per leaf of the unpacked tree, as a pytree that broadcasts against `like` leaf by leaf."""
    if isinstance(like, Packed):
        spread = [
            value if kept else jnp.broadcast_to(value, shape)
            for value, shape, kept in zip(values, like.shapes, like.kept, strict=True)
        ]
        return like.like(spread)
    return jax.tree.unflatten(jax.tree.structure(like), values)
