"""`Prediction`: the posterior predictive distribution of every row."""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from smilax.predict.inputs import check_positive, match_targets
from smilax.predict.quantiles import POINTS, search, search_counts
from smilax.predict.reductions import (
    LOG_MEAN_EXP,
    MEAN,
    VARIANCE,
    conditional_cdf,
    conditional_log_prob,
    conditional_moments,
    conditional_probabilities,
    entropy_of,
)
from smilax.predict.streaming import PART_BYTES, Stream, pad, sample_block


class Prediction:
    """The posterior predictive distribution of every row; made by `sx.predict`.

    It is the equally weighted mixture, over all draws of all chains, of the likelihood's conditional distributions.
    Below, `rows` is the shape of the targets: `(rows,)`, or `(rows, K)` for K targets or classes. Results are NumPy
    arrays in the dtype of the network's outputs.

    Args:
        stream: where the blocks of network outputs come from; internal.

    Example:
        >>> import jax, jax.numpy as jnp, smilax as sx
        >>> network = sx.Network(init=lambda key: jnp.zeros(2), apply=lambda w, x: x @ w)
        >>> posterior = sx.bnn(network, sx.likelihoods.Gaussian(scale=1.0), sx.priors.Normal(0.0, 1.0), num_data=100)
        >>> prediction = sx.predict(posterior, {"network": jnp.zeros((4, 2))}, jnp.ones((3, 2)))
        >>> lower, upper = prediction.interval(0.9)
        >>> lower.round(3), upper.round(3)
        (array([-1.645, -1.645, -1.645], dtype=float32), array([1.645, 1.645, 1.645], dtype=float32))
    """

    def __init__(self, stream: Stream):
        self._stream = stream

    def __repr__(self) -> str:
        sizes = f"chains={self.num_chains}, draws={self.num_draws}, rows={self.num_rows}"
        return f"Prediction(kind={self.kind!r}, {sizes})"

    @property
    def kind(self) -> str:
        """What is predicted: "regression", "classification" or "count"."""
        return self._stream.likelihood.kind

    @property
    def num_chains(self) -> int:
        """The number of chains (or ensemble members)."""
        return len(self._stream.chains)

    @property
    def num_draws(self) -> int:
        """The number of draws per chain."""
        return self._stream.num_draws

    @property
    def num_rows(self) -> int:
        """The number of rows of `x`."""
        return self._stream.num_rows

    # Views ------------------------------------------------------------------------------------------------------

    def chain(self, k: int) -> "Prediction":
        """The prediction of chain `k` (ensemble member `k`) alone; it shares the cached network outputs.

        Raises:
            IndexError: if there is no such chain.
        """
        if not -self.num_chains <= k < self.num_chains:
            raise IndexError(f"chain must be below {self.num_chains}, the number of chains, got {k}")
        k %= self.num_chains
        return Prediction(self._stream.select(chains=slice(k, k + 1)))

    @property
    def chains(self) -> list["Prediction"]:
        """One prediction per chain."""
        return [self.chain(k) for k in range(self.num_chains)]

    def rows(self, start: int, stop: int) -> "Prediction":
        """The prediction of the rows from `start` up to `stop`; it shares what is already computed.

        Raises:
            ValueError: if there are no such rows.
        """
        if not 0 <= start < stop <= self.num_rows:
            raise ValueError(f"rows must satisfy 0 <= start < stop <= {self.num_rows}, got {start} and {stop}")
        view = Prediction(self._stream.select(rows=slice(start, stop)))
        for name in ("_moments", "_probabilities"):
            if name in self.__dict__:
                view.__dict__[name] = tuple(part[start:stop] for part in self.__dict__[name])
        return view

    @property
    def outputs(self) -> np.ndarray:
        """The network's outputs for every draw, shape `(chain, draw, rows, ...)`.

        Raises:
            ValueError: if they take more than `max_memory`.
        """
        stream = self._stream
        if stream.output_bytes > stream.max_memory:
            raise ValueError(
                f"the outputs of {stream.total} draws at {self.num_rows} rows take {stream.output_bytes} bytes, more "
                f"than max_memory={stream.max_memory}: give predict() more, or fewer rows or chains"
            )
        outputs = stream.cached()
        if outputs is None:
            outputs = stream.compute()
        return outputs.reshape((self.num_chains, self.num_draws) + outputs.shape[1:])

    # Moments ----------------------------------------------------------------------------------------------------

    @functools.cached_property
    def _moments(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        (mean, aleatoric), (epistemic, _) = self._stream.reduce(VARIANCE, conditional_moments)
        return mean, aleatoric, epistemic

    @property
    def mean(self) -> np.ndarray:
        """The predictive mean (class probabilities in classification)."""
        return self._moments[0]

    @property
    def aleatoric(self) -> np.ndarray:
        """The mean over draws of the conditional variance: noise that no further data would remove."""
        return self._moments[1]

    @property
    def epistemic(self) -> np.ndarray:
        """The variance over draws of the conditional mean: what the posterior does not know."""
        return self._moments[2]

    @property
    def variance(self) -> np.ndarray:
        """The predictive variance, by the law of total variance `aleatoric + epistemic`."""
        return self.aleatoric + self.epistemic

    @property
    def std(self) -> np.ndarray:
        """The predictive standard deviation."""
        return np.sqrt(self.variance)

    # Classification ---------------------------------------------------------------------------------------------

    @functools.cached_property
    def _probabilities(self) -> tuple[np.ndarray, np.ndarray]:
        if self.kind != "classification":
            raise TypeError(f"class probabilities belong to a classification likelihood; this is a {self.kind}")
        return self._stream.reduce(MEAN, conditional_probabilities)

    @property
    def probs(self) -> np.ndarray:
        """The predictive class probabilities, shape `(rows, K)`, K = 2 for Bernoulli.

        Raises:
            TypeError: as all of the entropies below, if this is no classification.
        """
        return self._probabilities[0]

    @property
    def entropy(self) -> np.ndarray:
        """The entropy of `probs` in nats, shape `(rows,)`: the total uncertainty."""
        return np.asarray(entropy_of(self.probs, np))

    @property
    def aleatoric_entropy(self) -> np.ndarray:
        """The mean over draws of the conditional entropy in nats, shape `(rows,)`."""
        return self._probabilities[1]

    @property
    def mutual_information(self) -> np.ndarray:
        """Between label and parameters, in nats, shape `(rows,)`: `entropy - aleatoric_entropy`, the epistemic part."""
        return np.maximum(self.entropy - self.aleatoric_entropy, 0)

    # Distribution -----------------------------------------------------------------------------------------------

    def log_prob(self, y: Any) -> np.ndarray:
        """The log of the mixture's density at each row's target, in nats, shape `(rows,)`.

        It is log(1/T sum_t p(y | x, draw t)) over all T draws: the log predictive density.

        Args:
            y: the targets, matched to the network's outputs by the likelihood's rules.

        Raises:
            ValueError: if `y` has another number of rows or a shape the likelihood refuses.
            TypeError: if `y` is of the wrong type for the likelihood.
        """
        y = np.asarray(y)
        if y.shape[:1] != (self.num_rows,):
            raise ValueError(f"y must have {self.num_rows} rows, as many as x, got shape {y.shape}")
        stream = self._stream
        stream.likelihood.check(y, (self.num_rows, *stream.output.shape))
        if self.kind == "regression":
            y = y.astype(stream.output.dtype)
        return stream.reduce(LOG_MEAN_EXP, conditional_log_prob, (y,))

    def cdf(self, y: Any) -> np.ndarray:
        """The mixture's cumulative distribution function, of each target on its own.

        Args:
            y: values in the shape of the targets, or several values per target, shape `(P, rows, ...)`.

        Returns:
            Probabilities, in the shape of `y`.

        Raises:
            TypeError: in classification.
            ValueError: if `y` has another shape.
        """
        self._require_ordered("cdf")
        y = np.asarray(y)
        target = self._stream.target_shape
        several = y.ndim == len(target) + 1 and y.shape[1:] == target
        values = y if several else match_targets(y, target)[None]
        values = np.moveaxis(values.astype(self._stream.output.dtype), 0, 1)
        parts = [part._cdf(values[rows]) for rows, part in self._parts(values[0].nbytes)]
        result = np.moveaxis(np.concatenate(parts), 1, 0)
        return result if several else result[0].reshape(y.shape)

    def _cdf(self, values: np.ndarray) -> np.ndarray:
        """With the row axis first: values and result `(rows, P, ...)`."""
        return self._stream.reduce(MEAN, conditional_cdf, (values,))

    def quantile(self, q: Any) -> np.ndarray:
        """Quantiles of the mixture, of each target on its own; for counts the smallest integer with cdf >= q.

        The mixture's cdf is searched between the bounds of Cantelli's inequality, m - s sqrt((1-q)/q) and
        m + s sqrt(q/(1-q)), m and s the predictive mean and standard deviation: each pass over the draws evaluates
        it at 8 points and narrows the bracket to a ninth; the last bracket is interpolated linearly.

        Args:
            q: a probability strictly between 0 and 1, or a sequence of Q of them.

        Returns:
            Shape `(rows, ...)` for one `q`, `(Q, rows, ...)` for several.

        Raises:
            TypeError: in classification.
            ValueError: if a `q` is outside (0, 1).
        """
        self._require_ordered("quantile")
        probabilities = np.atleast_1d(np.asarray(q, np.float64))
        if probabilities.ndim != 1 or probabilities.size == 0 or not np.all((probabilities > 0) & (probabilities < 1)):
            raise ValueError(f"q must be a probability strictly between 0 and 1 or a sequence of them, got {q!r}")
        _ = self._moments  # one pass for all the parts below
        find = search_counts if self.kind == "count" else search
        bytes_per_row = probabilities.size * (POINTS + 4) * self.mean[0].nbytes
        parts = [find(part, probabilities) for _, part in self._parts(bytes_per_row)]
        result = np.moveaxis(np.concatenate(parts), 1, 0)
        return result if np.ndim(q) else result[0]

    def interval(self, level: float = 0.9) -> tuple[np.ndarray, np.ndarray]:
        """The central interval that holds a new target with probability `level`: its lower and upper ends.

        Raises:
            TypeError: in classification.
            ValueError: if `level` is outside (0, 1).
        """
        if not 0 < level < 1:
            raise ValueError(f"level must be strictly between 0 and 1, got {level!r}")
        lower, upper = self.quantile([0.5 - level / 2, 0.5 + level / 2])
        return lower, upper

    def sample(self, key: jax.Array, num_samples: int = 1) -> np.ndarray:
        """Independent samples of the targets of all rows, shape `(num_samples, rows, ...)`.

        One sample takes one draw of the posterior for all its rows, so that it keeps their dependence.

        Raises:
            ValueError: if `num_samples` is less than one.
        """
        num_samples = check_positive("num_samples", num_samples)
        stream = self._stream
        which_key, noise_key = jax.random.split(key)
        which = np.asarray(jax.random.randint(which_key, (num_samples,), 0, stream.total))
        order = np.argsort(which, kind="stable")  # the draws are then read once, in order
        size = min(stream.draw_block, num_samples)
        samples: np.ndarray | None = None
        for start in range(0, num_samples, size):
            chosen = order[start : start + size]
            block = stream.draw_at(which[chosen], size)
            keys = jax.vmap(lambda s: jax.random.fold_in(noise_key, s))(jnp.asarray(pad(chosen, size)))
            for i, rows in enumerate(stream.row_slices()):
                part = np.asarray(sample_block(stream.likelihood, keys, i, block.likelihood, block.outputs(rows)))
                if samples is None:
                    samples = np.empty((num_samples, self.num_rows, *part.shape[2:]), part.dtype)
                samples[chosen, rows] = part[: len(chosen), : rows.stop - rows.start]
        assert samples is not None
        return samples

    # Helpers ----------------------------------------------------------------------------------------------------

    def _require_ordered(self, name: str) -> None:
        if self.kind == "classification":
            raise TypeError(f"{name} needs ordered targets; this is a classification, see .probs")

    def _parts(self, bytes_per_row: int) -> Iterator[tuple[slice, "Prediction"]]:
        """Views of as many rows as keep an intermediate of `bytes_per_row` small, at whole row blocks."""
        block = self._stream.row_block
        step = block * max(1, PART_BYTES // (bytes_per_row * block))
        for start in range(0, self.num_rows, step):
            rows = slice(start, min(start + step, self.num_rows))
            yield rows, self if step >= self.num_rows else self.rows(rows.start, rows.stop)
