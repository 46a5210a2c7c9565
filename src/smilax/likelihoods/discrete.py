"""Likelihoods of classes and of counts."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaincc, gammaln, ndtr

from smilax.checks import at_first, check_finite
from smilax.likelihoods.base import Likelihood, check_match, sum_events, target_shape

# Rates above this have their Poisson distribution function from a normal approximation.
LARGE_RATE = 200.0
# And above this Poisson numbers are drawn as normal ones; those above 2³¹ − 1 are that.
NORMAL_RATE = 1e6


@dataclass(frozen=True)
class Categorical(Likelihood):
    """One of K classes: outputs `(B, K)` are logits, targets `(B,)` integers from 0 to K - 1.

    Targets may have more axes, as tokens `(B, T)` with outputs `(B, T, K)`.

    Example:
        >>> import jax.numpy as jnp, smilax as sx
        >>> sx.likelihoods.Categorical().probs({}, jnp.zeros((1, 4))).tolist()
        [[0.25, 0.25, 0.25, 0.25]]
    """

    kind = "classification"

    def log_prob(self, params, outputs, y):
        y = jnp.asarray(y)
        self._check_types(y.dtype)
        self._check_shapes(y.shape, outputs.shape)
        # A comparison fuses with the sum; a gather would transpose to a scatter.
        chosen = jax.lax.broadcasted_iota(jnp.int32, outputs.shape, outputs.ndim - 1) == y.astype(jnp.int32)[..., None]
        log_probs = jax.nn.log_softmax(outputs, axis=-1)
        return sum_events(jnp.sum(jnp.where(chosen, log_probs, 0.0), axis=-1))

    def mean_and_variance(self, params, outputs):
        p = self.probs(params, outputs)
        return p, p * (1.0 - p)

    def identified(self, outputs):
        """Log probabilities: logits have an offset in common."""
        return jax.nn.log_softmax(outputs, axis=-1)

    def probs(self, params, outputs):
        if outputs.ndim < 2:
            raise ValueError(f"Categorical needs outputs of shape (B, K), got outputs {outputs.shape}")
        return jax.nn.softmax(outputs, axis=-1)

    def sample(self, key, params, outputs):
        return jax.random.categorical(key, outputs, axis=-1)

    def _check_types(self, dtype):
        if not jnp.issubdtype(dtype, jnp.integer):
            raise TypeError(f"Categorical needs targets y that are integer class labels, got dtype {dtype}")

    def _check_shapes(self, y_shape, output_shape):
        if len(y_shape) == 0 or tuple(output_shape[:-1]) != tuple(y_shape):
            raise ValueError(
                f"Categorical: outputs of shape {tuple(output_shape)} do not match targets of shape {tuple(y_shape)}; "
                "allowed are outputs (B, K) with targets (B,)"
            )

    def check(self, y, output_shape):
        y = np.asarray(y)
        self._check_types(y.dtype)
        self._check_shapes(y.shape, output_shape)
        num_classes = output_shape[-1]
        bad = (y < 0) | (y >= num_classes)
        if bad.any():
            raise ValueError(
                f"labels must be 0 to {num_classes - 1} for {num_classes} outputs, "
                f"but {at_first('y', bad)} is {y.ravel()[np.argmax(bad)]}"
            )


@dataclass(frozen=True)
class Bernoulli(Likelihood):
    """Yes or no: outputs are the logits of yes, targets 0 or 1 (or booleans), one or several for an example.

    Example:
        >>> import jax.numpy as jnp, smilax as sx
        >>> sx.likelihoods.Bernoulli().probs({}, jnp.zeros((1, 1))).tolist()
        [[0.5, 0.5]]
    """

    kind = "classification"

    def log_prob(self, params, outputs, y):
        y = jnp.asarray(y)
        check_match(outputs.shape, y.shape, "Bernoulli")
        logits = outputs.reshape(y.shape)
        return sum_events(y.astype(logits.dtype) * logits - jax.nn.softplus(logits))

    def mean_and_variance(self, params, outputs):
        logits = outputs.reshape(target_shape(outputs.shape))
        p = jax.nn.sigmoid(logits)
        # 1 − p loses its digits where p is near one.
        return p, p * jax.nn.sigmoid(-logits)

    def probs(self, params, outputs):
        """Probabilities of no and yes, shape `(B, 2)`, or `(B, K, 2)` for K targets an example."""
        logits = outputs.reshape(target_shape(outputs.shape))
        return jnp.stack([jax.nn.sigmoid(-logits), jax.nn.sigmoid(logits)], axis=-1)

    def sample(self, key, params, outputs):
        p, _ = self.mean_and_variance(params, outputs)
        return jax.random.bernoulli(key, p).astype(jnp.int32)

    def check(self, y, output_shape):
        y = np.asarray(y)
        if y.dtype.kind not in "biuf":
            raise TypeError(f"Bernoulli needs targets y that are 0 or 1, got dtype {y.dtype}")
        check_match(tuple(output_shape), y.shape, "Bernoulli")
        bad = (y != 0) & (y != 1)
        if bad.any():
            raise ValueError(
                f"Bernoulli labels must be 0 or 1, but {at_first('y', bad)} is {y.ravel()[np.argmax(bad)]}"
            )


@dataclass(frozen=True)
class Poisson(Likelihood):
    """Counts: outputs are the logarithm of the rate, targets whole numbers from zero on.

    Example:
        >>> import jax.numpy as jnp, smilax as sx
        >>> sx.likelihoods.Poisson().log_prob({}, jnp.zeros((1, 1)), jnp.array([0])).round(4).tolist()
        [-1.0]
    """

    kind = "count"

    def log_prob(self, params, outputs, y):
        y = jnp.asarray(y)
        check_match(outputs.shape, y.shape, "Poisson")
        log_rate = outputs.reshape(y.shape)
        y = y.astype(log_rate.dtype)
        # As y log λ − λ − log y! three numbers of size y log y would leave one of size log y: at counts of 10⁴ single
        # precision cannot tell where the maximum is. So the deviance (Loader 2000), which is zero at λ = y.
        count = jnp.maximum(y, 1.0)
        off = log_rate - jnp.log(count)
        deviance = count * (jnp.expm1(off) - off)
        value = -deviance - 0.5 * jnp.log(2 * jnp.pi * count) - _stirling_error(count)
        return sum_events(jnp.where(y > 0, value, -jnp.exp(log_rate)))

    def _rate(self, outputs):
        return jnp.exp(outputs.reshape(target_shape(outputs.shape)))

    def mean_and_variance(self, params, outputs):
        rate = self._rate(outputs)
        return rate, rate

    def cdf(self, params, outputs, value):
        value = jnp.asarray(value)
        check_match(outputs.shape, value.shape, "Poisson")
        rate = jnp.exp(outputs.reshape(value.shape))
        count = jnp.floor(value.astype(rate.dtype))
        shape = jnp.maximum(count, 0.0) + 1.0
        # In float32 the incomplete gamma function loses its digits at large rates (1e-3 at 10⁴, all at 10⁶), where
        # the cube root of a Gamma variable is as good as normal (Wilson and Hilferty 1931; 3e-5 at 200).
        large = jnp.maximum(rate, LARGE_RATE)
        root = jnp.expm1(jnp.log1p((large - shape) / shape) / 3)
        normal = ndtr(-(root + 1 / (9 * shape)) * 3 * jnp.sqrt(shape))
        exact = gammaincc(shape, jnp.minimum(rate, LARGE_RATE))
        return jnp.where(count < 0, 0.0, jnp.where(rate > LARGE_RATE, normal, exact))

    def sample(self, key, params, outputs):
        rate = self._rate(outputs)
        # Beyond it JAX's algorithm is no longer right in single precision, and a normal number is.
        normal = rate + jnp.sqrt(rate) * jax.random.normal(jax.random.fold_in(key, 0), rate.shape, rate.dtype)
        few = jax.random.poisson(key, jnp.minimum(rate, NORMAL_RATE))
        return jnp.where(rate > NORMAL_RATE, jnp.round(normal).astype(few.dtype), few)

    def check(self, y, output_shape):
        y = np.asarray(y)
        if y.dtype.kind not in "iuf":
            raise TypeError(f"Poisson needs targets y that are counts, got dtype {y.dtype}")
        check_match(tuple(output_shape), y.shape, "Poisson")
        check_finite("y", y)
        bad = (y < 0) | (y != np.floor(y))
        if bad.any():
            raise ValueError(
                f"Poisson targets must be counts 0, 1, 2, …, but {at_first('y', bad)} is {y.ravel()[np.argmax(bad)]}"
            )


def _stirling_error(count):
    """log n! − (n + ½) log n + n − ½ log 2π, for n ≥ 1 (Loader 2000)."""
    small = jnp.minimum(count, 16.0)
    exact = gammaln(small + 1.0) - (small + 0.5) * jnp.log(small) + small - 0.5 * jnp.log(2 * jnp.pi)
    series = (1 / 12 - 1 / (360 * count**2)) / count
    return jnp.where(count < 16, exact, series)
