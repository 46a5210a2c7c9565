"""Distributions over parameters.

Normal, Laplace and Student-t are written out here: their log density is one fused sum a leaf, and NumPyro, half a
second of import, is needed only by those who pass one of its distributions.
"""

import abc
import copy
import fnmatch
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from smilax.structure import leaf_paths

__all__ = ["Flat", "Laplace", "Normal", "Prior", "StudentT", "as_prior", "by_path"]

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


def _check_number(name: str, value: Any, positive: bool) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise TypeError(f"{name} must be a number (for arrays pass a NumPyro distribution), got {value!r}")
    if not math.isfinite(value) or (positive and value <= 0):
        raise ValueError(f"{name} must be {'positive and ' if positive else ''}finite, got {value!r}")


@dataclass(frozen=True)
class Normal(LeafPrior):
    """Independent normal distributions over all entries.

    Attributes:
        loc: the mean.
        scale: the standard deviation.

    Raises:
        TypeError, ValueError: unless both are finite numbers and the scale positive.

    Example:
        >>> import jax.numpy as jnp, smilax as sx
        >>> prior = sx.priors.Normal(0.0, 0.5)
        >>> prior.precision({"weight": jnp.zeros((3, 2))})
        {'weight': 4.0}
        >>> round(prior.log_prob(jnp.zeros(2)).item(), 4)
        -0.4516
    """

    elementwise = True

    loc: float = 0.0
    scale: float = 1.0

    def __post_init__(self):
        _check_number("Normal: loc", self.loc, positive=False)
        _check_number("Normal: scale", self.scale, positive=True)

    def leaf_log_prob(self, leaf):
        squares = jnp.sum(jnp.square(leaf - self.loc if self.loc else leaf))
        constant = jnp.size(leaf) * (math.log(self.scale) + 0.5 * math.log(2 * math.pi))
        return (-0.5 / self.scale**2) * squares - constant

    def leaf_sample(self, key, shape, dtype):
        return self.loc + self.scale * jax.random.normal(key, shape, dtype)

    def leaf_precision(self):
        return float(1 / self.scale**2)


@dataclass(frozen=True)
class Laplace(LeafPrior):
    """Independent Laplace distributions, `exp(-|x - loc| / scale) / (2 scale)`, over all entries.

    Attributes:
        loc: the centre.
        scale: the mean distance from it; the variance is `2 * scale**2`.

    Raises:
        TypeError, ValueError: unless both are finite numbers and the scale positive.

    Example:
        >>> import jax.numpy as jnp, smilax as sx
        >>> sx.priors.Laplace(scale=0.5).log_prob(jnp.array([1.0, -1.0])).item()
        -4.0
    """

    elementwise = True

    loc: float = 0.0
    scale: float = 1.0

    def __post_init__(self):
        _check_number("Laplace: loc", self.loc, positive=False)
        _check_number("Laplace: scale", self.scale, positive=True)

    def leaf_log_prob(self, leaf):
        distances = jnp.sum(jnp.abs(leaf - self.loc if self.loc else leaf))
        return (-1.0 / self.scale) * distances - jnp.size(leaf) * math.log(2 * self.scale)

    def leaf_sample(self, key, shape, dtype):
        return self.loc + self.scale * jax.random.laplace(key, shape, dtype)

    def leaf_precision(self):
        return float(1 / self.scale**2)


@dataclass(frozen=True)
class StudentT(LeafPrior):
    """Independent Student's t distributions over all entries.

    Attributes:
        df: degrees of freedom, positive.
        loc: the centre.
        scale: the scale; the variance is `scale**2 * df / (df - 2)` for `df > 2`.

    Raises:
        TypeError, ValueError: unless all are finite numbers, `df` and the scale positive.

    Example:
        >>> import jax.numpy as jnp, smilax as sx
        >>> sx.priors.StudentT(df=3.0).precision(jnp.zeros(2))  # (df + 1) / ((df + 3) * scale**2)
        0.6666666666666666
    """

    elementwise = True

    df: float
    loc: float = 0.0
    scale: float = 1.0

    def __post_init__(self):
        _check_number("StudentT: df", self.df, positive=True)
        _check_number("StudentT: loc", self.loc, positive=False)
        _check_number("StudentT: scale", self.scale, positive=True)

    def leaf_log_prob(self, leaf):
        df = self.df
        squares = jnp.square((leaf - self.loc) / self.scale)
        constant = math.lgamma((df + 1) / 2) - math.lgamma(df / 2) - 0.5 * math.log(df * math.pi) - math.log(self.scale)
        return jnp.size(leaf) * constant - 0.5 * (df + 1) * jnp.sum(jnp.log1p(squares / df))

    def leaf_sample(self, key, shape, dtype):
        return self.loc + self.scale * jax.random.t(key, float(self.df), shape, dtype)

    def leaf_precision(self):
        return float((self.df + 1) / ((self.df + 3) * self.scale**2))


@dataclass(frozen=True)
class Flat(LeafPrior):
    """The improper uniform density: a log prior of zero. It cannot be sampled, and its precision is unknown (NaN).

    Example:
        >>> import jax.numpy as jnp, smilax as sx
        >>> sx.priors.Flat().log_prob(jnp.ones(3)).item()
        0.0
    """

    elementwise = True

    def leaf_log_prob(self, leaf):
        return jnp.zeros((), jnp.result_type(leaf))

    def leaf_sample(self, key, shape, dtype):
        raise ValueError("a flat prior is improper and cannot be sampled")


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


@dataclass(frozen=True, eq=False)
class _ByPath(Prior):
    """One prior for every pattern of leaf paths, tried in order."""

    priors: tuple[tuple[str, LeafPrior], ...]

    def parts(self, params):
        paths, leaves = leaf_paths(params), jax.tree.leaves(params)
        parts: list[LeafPrior] = []
        unused = dict.fromkeys(pattern for pattern, _ in self.priors)
        unmatched = []
        for path, leaf in zip(paths, leaves, strict=True):
            found = next(((p, prior) for p, prior in self.priors if fnmatch.fnmatchcase(path, p)), None)
            if found is None:
                unmatched.append(path)
                continue
            unused.pop(found[0], None)
            found[1].check_leaf(path, jnp.shape(leaf))
            parts.append(found[1])
        if unmatched:
            raise ValueError(f"by_path: no pattern matches {unmatched}; the patterns are {[p for p, _ in self.priors]}")
        if unused:
            raise ValueError(
                f"by_path: no parameter is left for the patterns {list(unused)}; the parameters are {paths}"
            )
        return parts


def by_path(priors: Mapping[str, Any]) -> Prior:
    """A prior for each parameter, chosen by its path.

    Args:
        priors: from glob patterns to priors (`Normal`, …, or NumPyro distributions). A path joins keys, attributes and
            indices by slashes: `"network/layers/0/weight"`, `"likelihood/log_scale"`; `*` stands for any part of it,
            slashes included. The first pattern that matches is taken.

    Raises:
        ValueError: when it is used on parameters of which one is matched by no pattern, or on which a pattern is
            never the first to match; without any patterns.
        TypeError: if one of the values is no prior.

    Example:
        >>> import jax.numpy as jnp, smilax as sx
        >>> prior = sx.priors.by_path({"*/bias": sx.priors.Flat(), "*": sx.priors.Normal(0.0, 0.1)})
        >>> prior.precision({"layer": {"bias": jnp.zeros(2), "weight": jnp.zeros((2, 2))}})["layer"]["weight"]
        99.99999999999999
    """
    if not isinstance(priors, Mapping) or not priors:
        raise ValueError(f"by_path needs a dictionary from patterns to priors, got {priors!r}")
    converted = []
    for pattern, given in priors.items():
        prior = as_prior(given)
        if not isinstance(prior, LeafPrior):
            raise TypeError(f"by_path: the prior for {pattern!r} must be one for single leaves, got {prior!r}")
        converted.append((pattern, prior))
    return _ByPath(tuple(converted))


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
