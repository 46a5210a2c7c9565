"""Priors from what the user gives: one of ours, or a NumPyro distribution."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from smilax.priors.base import UNKNOWN, LeafPrior, Prior
from smilax.priors.families import Laplace, Normal, StudentT

# NumPyro's scalar distributions have the closed forms above.
_CLOSED_FORMS: dict[str, tuple[Callable, tuple[str, ...]]] = {
    "Normal": (Normal, ("loc", "scale")),
    "Laplace": (Laplace, ("loc", "scale")),
    "StudentT": (StudentT, ("df", "loc", "scale")),
}


def as_prior(prior: Any) -> Prior:
    """A prior from a prior or a NumPyro distribution.

    A distribution without batch and event axes is that of every entry; one with axes covers the trailing axes of
    each leaf, which must have the same shape, and is independent over the others.

    Raises:
        TypeError: for anything else.
        ValueError: for a distribution whose support is not all real numbers.

    Example:
        >>> import numpyro.distributions as dist, smilax as sx
        >>> sx.priors.as_prior(dist.Normal(0.0, 2.0))
        Normal(loc=0.0, scale=2.0)
    """
    if isinstance(prior, Prior):
        return prior
    if isinstance(prior, type) or not all(hasattr(prior, n) for n in ("log_prob", "sample", "event_shape", "support")):
        given = prior.__name__ if isinstance(prior, type) else type(prior).__name__
        raise TypeError(f"prior must be one of sx.priors or a NumPyro distribution, got {given}")
    closed_form, names = _CLOSED_FORMS.get(type(prior).__name__, (None, ()))
    if closed_form is not None and prior.batch_shape == () and prior.event_shape == ():
        return closed_form(*(float(getattr(prior, name)) for name in names))
    return _FromNumPyro(prior)


@dataclass(frozen=True, eq=False)
class _FromNumPyro(LeafPrior):
    """A NumPyro distribution over each leaf: of independent entries, or of the leaf's trailing axes."""

    distribution: Any

    def __post_init__(self):
        # Validation would look at every entry of every draw.
        distribution = copy.copy(self.distribution)
        distribution._validate_args = False
        object.__setattr__(self, "distribution", distribution)
        support = distribution.support
        while hasattr(support, "base_constraint"):
            support = support.base_constraint
        if type(support).__name__.strip("_").lower() != "real":
            raise ValueError(
                f"a prior needs all real numbers as its support, because samplers move freely; got "
                f"{type(distribution).__name__} with support {distribution.support}"
            )

    def check_leaf(self, path, shape):
        own = tuple(self.distribution.batch_shape) + tuple(self.distribution.event_shape)
        if tuple(shape[len(shape) - len(own) :]) != own or len(own) > len(shape):
            raise ValueError(
                f"the prior of parameter {path!r}, of shape {tuple(shape)}, has batch and event shape {own}, "
                "which must be equal to the parameter's trailing axes"
            )

    def _cast(self, dtype):
        def cast(x):
            return jnp.asarray(x, dtype) if jnp.issubdtype(jnp.result_type(x), jnp.floating) else x

        return jax.tree.map(cast, self.distribution)

    def leaf_log_prob(self, leaf):
        # NumPyro broadcasts and promotes as NumPy does; this holds while tracing, and only in this thread.
        with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
            return jnp.sum(self._cast(leaf.dtype).log_prob(leaf)).astype(leaf.dtype)

    def leaf_sample(self, key, shape, dtype):
        own = len(self.distribution.batch_shape) + len(self.distribution.event_shape)
        with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
            return self._cast(dtype).sample(key, tuple(shape[: len(shape) - own])).astype(dtype)

    def leaf_precision(self):
        return _numpyro_precision(self.distribution)


def _numpyro_precision(distribution: Any) -> float:
    while hasattr(distribution, "base_dist") and type(distribution).__name__ in ("Independent", "ExpandedDistribution"):
        distribution = distribution.base_dist
    match type(distribution).__name__:
        case "Normal" | "Laplace":
            return float(np.mean(1 / np.square(distribution.scale)))
        case "StudentT":
            df = np.asarray(distribution.df)
            return float(np.mean((df + 1) / ((df + 3) * np.square(distribution.scale))))
        case "MultivariateNormal":
            return float(np.mean(np.diagonal(distribution.precision_matrix, axis1=-2, axis2=-1)))
    return UNKNOWN
