"""Regression for scikit-learn."""

from typing import Any

import jax
import numpy as np
from sklearn.base import RegressorMixin
from sklearn.utils import check_random_state

from smilax.estimators.base import SmileEstimator, all_or_nothing, columns
from smilax.estimators.scaling import Scaling
from smilax.estimators.settings import check_settings
from smilax.likelihoods import Likelihood
from smilax.samplers.base import check_number


class SmileRegressor(RegressorMixin, SmileEstimator):
    """A Bayesian neural network as a scikit-learn regressor.

    `fit` standardises features and targets, trains a deep ensemble from `num_chains` starts, and samples the posterior
    from its members by `sx.ismile`. Every prediction is then a mixture over all draws: means, standard deviations,
    quantiles and intervals take account of noise and of what the data leave open. With a `random_state`, and without
    `max_seconds`, a fit can be repeated exactly. Works with data frames of numbers, pipelines, searches, cross
    validation, clone and joblib.

    Args:
        hidden: widths of the hidden layers of the multilayer perceptron.
        activation: its activation: "relu", "silu" or "tanh".
        network: in its place an `sx.Network`, or a function `(in_size, out_size) -> sx.Network`.
        likelihood: one of `sx.likelihoods`, in units of the target's standard deviation; None: normal, with a learned
            scale for each target. `sx.likelihoods.Gaussian("input")` lets the noise depend on the features.
            `sx.likelihoods.Poisson()` is for counts, which are not standardised.
        prior: one of `sx.priors` or a NumPyro distribution, over standardised units; None: normal, of a scale that
            suits each layer's width.
        algorithm: the sampler, a function of the posterior; None: `sx.ismile`, whose geometry is diagonal below 1,000
            rows, where a richer one would take longer to compile than to run.
        num_chains: number of chains, and of members of the ensemble.
        num_warmup: steps of warm-up; None chooses by the number of rows.
        num_samples: steps after warm-up; None chooses by the number of rows.
        num_draws: draws kept of each chain, at most; exactly so many if they divide `num_samples` or that is None.
        batch_size: rows in a batch, all where there are fewer; None: an eighth of all, but between 32 and 256, and for
            samplers that need all rows these.
        max_epochs: the most epochs of the warm start.
        patience: epochs without improvement on validation rows after which a member stops.
        validation_fraction: rows held out in the warm start (chains then see all rows); none of fewer than 40.
        max_seconds: the time that `fit` aims to take. The chains' speed is measured, and lengths are cut to what
            there is time for, though never below a tenth. None takes as long as it takes.
        warm_start: whether another `fit` on the same data draws more, in place of beginning again.
        random_state: seed, `RandomState` or None.
        verbose: whether to show progress bars.

    Attributes:
        draws_: parameters by path, arrays `(chain, draw, …)`.
        info_: what the sampler reported at each draw, arrays `(chain, draw)`.
        lengths_: chains, batch size and steps of the last fit.
        x_mean_, x_scale_, y_mean_, y_scale_: the standardisation.
        n_features_in_: number of features.
        n_outputs_: number of targets.

    Example:
        >>> import smilax as sx
        >>> from sklearn.datasets import load_diabetes
        >>> X, y = load_diabetes(return_X_y=True)
        >>> model = sx.SmileRegressor(
        ...     hidden=(8,), num_chains=2, num_warmup=200, num_samples=100, max_epochs=20, random_state=0
        ... )
        >>> mean, std = model.fit(X, y).predict(X[:3], return_std=True)
        >>> mean.shape, std.shape, model.predict_quantiles(X[:3], [0.05, 0.5, 0.95]).shape
        ((3,), (3,), (3, 3))
    """

    @all_or_nothing
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "SmileRegressor":
        """Fits the model.

        Args:
            X: features, `(n_samples, n_features)`.
            y: targets, `(n_samples,)` or `(n_samples, n_outputs)`.
            sample_weight: how often each sample counts, `(n_samples,)`; None for once.

        Raises:
            TypeError, ValueError: for settings or data that make no sense, which are named.
        """
        check_settings(self)
        likelihood = self.likelihood
        if likelihood is not None and not (isinstance(likelihood, Likelihood) and likelihood.kind != "classification"):
            raise TypeError(
                f"SmileRegressor: likelihood must be None or one of sx.likelihoods for numbers, got {likelihood!r}"
            )
        if _holds_text(y):
            raise ValueError(
                "SmileRegressor: y holds text; it must be numbers, and for classes there is SmileClassifier"
            )
        if any(dtype.kind in "mM" for dtype in _dtypes(y)):
            raise ValueError("SmileRegressor: y holds dates or times; make numbers of them, in a unit of your choice")
        x, y = self._checked(X, y, reset=True, multi_output=True, y_numeric=True, ensure_min_samples=2)
        weight = self._checked_weight(sample_weight, x)
        targets = columns(np.asarray(y, np.float64))
        scaling = Scaling.of(x, weight)
        if likelihood is not None and likelihood.kind == "count":
            units = Scaling(np.zeros(targets.shape[1]), np.ones(targets.shape[1]))
        else:
            units = Scaling.of(targets, weight)
        standardised = units.apply(targets)
        standardised = standardised[:, 0] if targets.shape[1] == 1 else standardised
        self._fit(scaling.apply(x), standardised, weight, targets.shape[1])
        self.x_mean_, self.x_scale_ = scaling
        self.y_mean_, self.y_scale_ = units
        self.n_outputs_, self._ndim = targets.shape[1], y.ndim
        return self

    def _likelihood(self, given: Any, num_targets: int) -> Likelihood | None:
        return given

    @property
    def _units(self) -> Scaling:
        return Scaling(self.y_mean_, self.y_scale_)

    def _in_units(self, values: np.ndarray, leading: int = 0, shift: bool = True) -> np.ndarray:
        """Standardised values in the target's units; after so many leading axes `(rows,)` or `(rows, outputs)`."""
        values = np.asarray(values, np.float64)
        values = values[..., None] if values.ndim == leading + 1 else values
        values = self._units.undo(values) if shift else values * self._units.scale
        return values if self._ndim == 2 else values[..., 0]

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """The predictive mean, and with `return_std=True` the predictive standard deviation too.

        Args:
            X: features, `(n_samples, n_features)`.
            return_std: whether to return the pair.

        Returns:
            Arrays in the shape of the targets of `fit`.
        """
        prediction, count = self._predicted(X)
        mean = self._in_units(prediction.mean[:count])
        return (mean, self._in_units(prediction.std[:count], shift=False)) if return_std else mean

    def predict_quantiles(self, X: Any, quantiles: Any) -> np.ndarray:
        """Quantiles of the predictive distribution.

        Args:
            X: features.
            quantiles: probabilities strictly between 0 and 1, `(n_quantiles,)`.

        Returns:
            `(n_samples, n_quantiles)`; `(n_samples, n_quantiles, n_outputs)` for targets with two axes.
        """
        asked = _numbers("quantiles", quantiles)
        if asked.ndim > 1 or asked.size == 0 or not np.all((asked > 0) & (asked < 1)):
            raise ValueError(f"quantiles must be probabilities strictly between 0 and 1, got {quantiles!r}")
        prediction, count = self._predicted(X)
        found = prediction.quantile(np.atleast_1d(asked))
        return np.moveaxis(self._in_units(found[:, :count], leading=1), 0, 1)

    def predict_interval(self, X: Any, level: float = 0.9) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper end of the central interval that holds a new target with probability `level`."""
        check_number("level", level)
        if not 0 < level < 1:
            raise ValueError(f"level must be strictly between 0 and 1, got {level!r}")
        both = self.predict_quantiles(X, [0.5 - level / 2, 0.5 + level / 2])
        return both[:, 0], both[:, 1]

    def log_prob(self, X: Any, y: Any) -> np.ndarray:
        """The log predictive density of each sample's targets, in nats and the targets' own units, `(n_samples,)`."""
        targets = columns(_numbers("y", y))
        prediction, count = self._predicted(X)
        if targets.shape != (count, self.n_outputs_):
            raise ValueError(f"y must have {count} rows and {self.n_outputs_} outputs, got shape {np.shape(y)}")
        standardised = self._units.apply(targets)
        padded = standardised[np.minimum(np.arange(prediction.num_rows), count - 1)]
        value = prediction.log_prob(padded[:, 0] if self.n_outputs_ == 1 else padded)[:count]
        return np.asarray(value, np.float64) - np.sum(np.log(self.y_scale_))

    def sample_posterior(self, X: Any, num_samples: int = 100, *, random_state: Any = None) -> np.ndarray:
        """Samples of the targets at all rows of X, noise included; each is of one draw of the posterior.

        Args:
            X: features.
            num_samples: how many.
            random_state: seed, `RandomState` or None.

        Returns:
            `(n_samples, num_samples)`; `(n_samples, num_samples, n_outputs)` for targets with two axes.
        """
        prediction, count = self._predicted(X)
        key = jax.random.key(int(check_random_state(random_state).randint(2**31)))
        drawn = prediction.sample(key, num_samples)[:, :count]
        return np.moveaxis(self._in_units(drawn, leading=1), 0, 1)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


def _numbers(name: str, values: Any) -> np.ndarray:
    try:
        return np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be numbers, got {values!r}") from error


def _dtypes(values: Any) -> list[np.dtype]:
    """Of an array or a series, or of each column of a data frame."""
    given: Any = getattr(values, "dtypes", None)
    return list(given) if hasattr(given, "__iter__") else [np.asarray(values).dtype]


def _holds_text(values: Any) -> bool:
    array = np.asarray(values)
    return array.dtype.kind in "US" or (array.dtype.kind == "O" and any(isinstance(item, str) for item in array.flat))
