"""Priors of independent entries, written out: their log density is one fused sum a leaf."""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from smilax.priors.base import LeafPrior


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
