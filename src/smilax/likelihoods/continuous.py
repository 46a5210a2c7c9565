"""Likelihoods of real-valued targets: a location and a scale."""

import abc
import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import betainc, ndtr

from smilax.checks import check_finite
from smilax.likelihoods.base import Likelihood, check_match, check_width, sum_events, target_shape

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
# df² eps from which a t distribution's cdf is taken for that of a normal variable: df = 290 in float32.
ALMOST_NORMAL = 0.01


class _LocationScale(Likelihood):
    """A location from the outputs and a scale that is fixed, learned or from the outputs as well."""

    kind = "regression"
    scale: float | str | None

    def _check_scale(self):
        name, scale = type(self).__name__, self.scale
        if scale is None or scale == "input":
            return
        if isinstance(scale, str | bool) or not isinstance(scale, int | float | np.number):
            raise ValueError(f'{name}: scale must be None (learned), a positive number or "input", got {scale!r}')
        if not (math.isfinite(scale) and scale > 0):
            raise ValueError(f"{name}: a fixed scale must be positive and finite, got {scale!r}")

    def init(self):
        return {"log_scale": jnp.zeros(())} if self.scale is None else {}

    def _check_outputs(self, output_shape, y_shape=None):
        name = f"{type(self).__name__}(scale={self.scale!r})"
        if y_shape is not None:
            check_match(output_shape, y_shape, name, 2 if self.scale == "input" else 1)
        elif self.scale == "input":
            check_width(output_shape, name)

    def _split(self, params, outputs, shape=None):
        """Location and log scale (an array like it, or a scalar) for targets of `shape`."""
        self._check_outputs(outputs.shape, shape)
        if self.scale == "input":
            loc, log_scale = jnp.split(outputs, 2, axis=-1)
        else:
            loc, fixed = outputs, self.scale
            log_scale = jnp.asarray(params["log_scale"] if fixed is None else math.log(float(fixed)), outputs.dtype)
        shape = target_shape(loc.shape) if shape is None else shape
        return loc.reshape(shape), log_scale.reshape(shape) if log_scale.ndim else log_scale

    def _standardise(self, params, outputs, value):
        """`(value - loc) / scale` and log scale."""
        value = jnp.asarray(value)
        loc, log_scale = self._split(params, outputs, value.shape)
        return (value.astype(loc.dtype) - loc) * jnp.exp(-log_scale), log_scale

    def check(self, y, output_shape):
        y = np.asarray(y)
        if not (jnp.issubdtype(y.dtype, jnp.floating) or jnp.issubdtype(y.dtype, jnp.integer)):
            raise TypeError(f"{type(self).__name__} needs targets y that are real numbers, got dtype {y.dtype}")
        self._check_outputs(tuple(output_shape), y.shape)
        check_finite("y", y)

    @abc.abstractmethod
    def _fit_variance(self, square, weight):
        """The square of the scale of largest likelihood; the weights have the squares' shape and sum to one."""

    def fit_residual(self, params, outputs, y, weight=None):
        if self.scale is not None:
            return params
        y = jnp.asarray(y)
        loc, _ = self._split(params, outputs, y.shape)
        square = jnp.square(y.astype(loc.dtype) - loc)
        weight = jnp.ones(y.shape[:1], loc.dtype) if weight is None else jnp.asarray(weight, loc.dtype)
        weight = jnp.broadcast_to(weight.reshape(weight.shape + (1,) * (y.ndim - 1)), y.shape)
        variance = self._fit_variance(square, weight / jnp.sum(weight))
        # A network that fits every target exactly would leave no scale at all.
        variance = jnp.maximum(variance, jnp.finfo(loc.dtype).eps ** 2)
        return {"log_scale": (0.5 * jnp.log(variance)).astype(jnp.result_type(params["log_scale"]))}


@dataclass(frozen=True)
class Gaussian(_LocationScale):
    """Normal targets: outputs are the mean.

    Attributes:
        scale: the standard deviation. `None`: one scale for all targets is learned, as the parameter `log_scale`.
            A number: fixed. `"input"`: outputs have shape `(B, 2 K)`, the first half the means, the second half the
            logarithms of the standard deviations.

    Raises:
        ValueError: for a scale that is neither of these.

    Example:
        >>> import jax.numpy as jnp, smilax as sx
        >>> likelihood = sx.likelihoods.Gaussian(scale=2.0)
        >>> log_prob = likelihood.log_prob({}, jnp.zeros((3, 1)), jnp.array([0.0, 2.0, 4.0]))
        >>> [round(value, 3) for value in log_prob.tolist()]
        [-1.612, -2.112, -3.612]
    """

    scale: float | str | None = None

    def __post_init__(self):
        self._check_scale()

    def log_prob(self, params, outputs, y):
        z, log_scale = self._standardise(params, outputs, y)
        return sum_events(-0.5 * jnp.square(z) - log_scale - _HALF_LOG_2PI)

    def mean_and_variance(self, params, outputs):
        loc, log_scale = self._split(params, outputs)
        return loc, jnp.broadcast_to(jnp.exp(2.0 * log_scale), loc.shape)

    def cdf(self, params, outputs, value):
        return ndtr(self._standardise(params, outputs, value)[0])

    def sample(self, key, params, outputs):
        loc, log_scale = self._split(params, outputs)
        return loc + jnp.exp(log_scale) * jax.random.normal(key, loc.shape, loc.dtype)

    def _fit_variance(self, square, weight):
        return jnp.sum(weight * square)


@dataclass(frozen=True)
class StudentT(_LocationScale):
    """Targets with heavy tails, Student's t: outputs are the location.

    The variance is `scale**2 * df / (df - 2)`.

    Attributes:
        df: degrees of freedom, more than two, so that the variance exists.
        scale: learned, fixed or from the outputs, as for `Gaussian`.

    Raises:
        ValueError: for `df` of two or less, or a scale that is not allowed.

    Example:
        >>> import jax.numpy as jnp, smilax as sx
        >>> mean, variance = sx.likelihoods.StudentT(df=4.0, scale=1.0).mean_and_variance({}, jnp.zeros((2, 1)))
        >>> variance.tolist()
        [2.0, 2.0]
    """

    df: float = 4.0
    scale: float | str | None = None

    def __post_init__(self):
        self._check_scale()
        if not (math.isfinite(self.df) and self.df > 2):
            raise ValueError(f"StudentT: df must be finite and more than 2 for a variance to exist, got {self.df!r}")

    def log_prob(self, params, outputs, y):
        z, log_scale = self._standardise(params, outputs, y)
        df = float(self.df)
        constant = math.lgamma((df + 1) / 2) - math.lgamma(df / 2) - 0.5 * math.log(df * math.pi)
        return sum_events(constant - log_scale - 0.5 * (df + 1) * jnp.log1p(jnp.square(z) / df))

    def mean_and_variance(self, params, outputs):
        loc, log_scale = self._split(params, outputs)
        return loc, jnp.broadcast_to(jnp.exp(2.0 * log_scale) * (self.df / (self.df - 2)), loc.shape)

    def cdf(self, params, outputs, value):
        z, _ = self._standardise(params, outputs, value)
        if self.df**2 * jnp.finfo(z.dtype).eps > ALMOST_NORMAL:
            # Abramowitz and Stegun 26.7.8, off by 0.09/df², where the incomplete beta function has lost its digits.
            return ndtr(z * (1 - 1 / (4 * self.df)) * jax.lax.rsqrt(1 + jnp.square(z) / (2 * self.df)))
        half, df, square = jnp.asarray(0.5, z.dtype), jnp.asarray(self.df, z.dtype), jnp.square(z)
        # Two forms of one integral: the first keeps its digits in the tails, the second near the centre.
        tail = 0.5 * betainc(0.5 * df, half, df / (df + square))
        centre = 0.5 * betainc(half, 0.5 * df, square / (df + square))
        outer = jnp.where(z > 0, 1.0 - tail, tail)
        return jnp.where(square < 1.0, 0.5 + jnp.sign(z) * centre, outer)

    def sample(self, key, params, outputs):
        loc, log_scale = self._split(params, outputs)
        return loc + jnp.exp(log_scale) * jax.random.t(key, float(self.df), loc.shape, loc.dtype)

    def _fit_variance(self, square, weight):
        start = jnp.sum(weight * square)
        tiny = jnp.finfo(square.dtype).tiny

        # EM for the scale of a t distribution (Lange, Little, Taylor 1989); its error shrinks by 3 / (df + 3) a step.
        def step(_, variance):
            gain = (self.df + 1) / (self.df + square / jnp.maximum(variance, tiny))
            return jnp.sum(weight * gain * square)

        return jax.lax.fori_loop(0, 40, step, start)
