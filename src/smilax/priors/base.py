"""What a prior is: a density over a parameter pytree, leaf by leaf."""

import abc
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from smilax.structure import leaf_paths

UNKNOWN = float("nan")


class Prior(abc.ABC):
    """Base class of the priors: a density over a whole parameter pytree, leaf by leaf.

    Attributes:
        elementwise: whether it is one and the same density for every single number, whatever leaf it belongs to.
    """

    elementwise: ClassVar[bool] = False

    def log_prob(self, params: Any) -> jax.Array:
        """The log density in nats, summed over all parameters; shape `()`."""
        leaves = jax.tree.leaves(params)
        terms = [part.leaf_log_prob(leaf) for part, leaf in zip(self.parts(params), leaves, strict=True)]
        dtype = max((term.dtype for term in terms), key=lambda dtype: dtype.itemsize)
        return sum((term.astype(dtype) for term in terms), start=jnp.zeros((), dtype))

    def sample(self, key: jax.Array, params_like: Any) -> Any:
        """A draw in the structure, shapes and dtypes of `params_like`."""
        leaves, treedef = jax.tree.flatten(params_like)
        keys = jax.random.split(key, len(leaves))
        parts = self.parts(params_like)
        draws = [
            part.leaf_sample(k, jnp.shape(leaf), jnp.result_type(leaf))
            for part, k, leaf in zip(parts, keys, leaves, strict=True)
        ]
        return jax.tree.unflatten(treedef, draws)

    def precision(self, params: Any) -> Any:
        """For every leaf one float: the mean over its entries of `E[-d² log prior]`; NaN where it is not known.

        The expectation is the prior's own: the Fisher information of its location.
        """
        values = [part.leaf_precision() for part in self.parts(params)]
        return jax.tree.unflatten(jax.tree.structure(params), values)

    @abc.abstractmethod
    def parts(self, params: Any) -> list["LeafPrior"]:
        """The prior of every leaf, in the order of `jax.tree.leaves`."""


class LeafPrior(Prior):
    """A prior that is the same for every leaf it is given."""

    def parts(self, params):
        for path, leaf in zip(leaf_paths(params), jax.tree.leaves(params), strict=True):
            self.check_leaf(path, jnp.shape(leaf))
        return [self] * len(jax.tree.leaves(params))

    def check_leaf(self, path: str, shape: tuple[int, ...]) -> None:
        """Raises a ValueError if the prior does not fit a leaf."""

    @abc.abstractmethod
    def leaf_log_prob(self, leaf: jax.Array) -> jax.Array:
        """The log density of one leaf, summed over its entries; shape `()`."""

    @abc.abstractmethod
    def leaf_sample(self, key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        """A draw of one leaf."""

    def leaf_precision(self) -> float:
        """`precision` of one leaf."""
        return UNKNOWN
