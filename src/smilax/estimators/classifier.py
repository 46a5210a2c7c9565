"""Classification for scikit-learn."""

from typing import Any

import jax
import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets

from smilax.estimators.base import SmileEstimator, all_or_nothing
from smilax.estimators.scaling import Scaling
from smilax.estimators.settings import check_settings
from smilax.likelihoods import Bernoulli, Categorical, Likelihood


class SmileClassifier(ClassifierMixin, SmileEstimator):
    """A Bayesian neural network as a scikit-learn classifier.

    As `SmileRegressor`, with classes of any type: numbers, strings. Probabilities are means over all draws, so that
    they fall back to indifference where the data say nothing.

    Args:
        hidden: widths of the hidden layers of the multilayer perceptron.
        activation: its activation: "relu", "silu" or "tanh".
        network: in its place an `sx.Network`, or a function `(in_size, out_size) -> sx.Network`; `out_size` is 1 for
            two classes, else their number.
        prior: one of `sx.priors` or a NumPyro distribution; None: normal, of a scale that suits each layer's width.
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
        max_seconds: the time that `fit` aims to take; see `SmileRegressor`.
        warm_start: whether another `fit` on the same data draws more, in place of beginning again.
        random_state: seed, `RandomState` or None.
        verbose: whether to show progress bars.

    Attributes:
        classes_: the classes, sorted.
        draws_: parameters by path, arrays `(chain, draw, …)`.
        info_: what the sampler reported at each draw, arrays `(chain, draw)`.
        lengths_: chains, batch size and steps of the last fit.
        x_mean_, x_scale_: the standardisation.
        n_features_in_: number of features.

    Example:
        >>> import smilax as sx
        >>> from sklearn.datasets import load_iris
        >>> X, y = load_iris(return_X_y=True)
        >>> model = sx.SmileClassifier(
        ...     hidden=(8,), num_chains=2, num_warmup=200, num_samples=100, max_epochs=20, random_state=0
        ... )
        >>> model.fit(X, y).predict_proba(X[:5]).shape
        (5, 3)
    """

    def __init__(
        self,
        hidden=(32, 32),
        activation="relu",
        network=None,
        prior=None,
        algorithm=None,
        num_chains=8,
        num_warmup=None,
        num_samples=None,
        num_draws=100,
        batch_size=None,
        max_epochs=200,
        patience=10,
        validation_fraction=0.1,
        max_seconds=None,
        warm_start=False,
        random_state=None,
        verbose=False,
    ):
        self.hidden = hidden
        self.activation = activation
        self.network = network
        self.prior = prior
        self.algorithm = algorithm
        self.num_chains = num_chains
        self.num_warmup = num_warmup
        self.num_samples = num_samples
        self.num_draws = num_draws
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.patience = patience
        self.validation_fraction = validation_fraction
        self.max_seconds = max_seconds
        self.warm_start = warm_start
        self.random_state = random_state
        self.verbose = verbose

    @all_or_nothing
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "SmileClassifier":
        """Fits the model.

        Args:
            X: features, `(n_samples, n_features)`.
            y: classes, `(n_samples,)`, of at least two kinds among the samples of positive weight.
            sample_weight: how often each sample counts, `(n_samples,)`; None for once.

        Raises:
            TypeError, ValueError: for settings or data that make no sense, which are named.
        """
        check_settings(self)
        x, y = self._checked(X, y, reset=True, ensure_min_samples=2)
        classes, labels = _classes_and_labels(y)
        weight = self._checked_weight(sample_weight, x)
        if len(np.unique(labels if weight is None else labels[weight > 0])) < 2:
            raise ValueError(
                "SmileClassifier needs samples of at least 2 classes, but of positive weight there is one class only"
            )
        scaling = Scaling.of(x, weight)
        self._fit(scaling.apply(x), labels, weight, 1 if len(classes) == 2 else len(classes))
        self.x_mean_, self.x_scale_ = scaling
        self.classes_ = classes
        return self

    def _likelihood(self, given: Any, num_targets: int) -> Likelihood | None:
        return Bernoulli() if num_targets == 1 else Categorical()

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities of the classes, `(n_samples, n_classes)`, in the order of `classes_`."""
        prediction, count = self._predicted(X)
        probabilities = np.asarray(prediction.probs[:count], np.float64)
        return probabilities / probabilities.sum(axis=1, keepdims=True)

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Their logarithms."""
        return np.log(np.maximum(self.predict_proba(X), np.finfo(np.float64).tiny))

    def predict(self, X: Any) -> np.ndarray:
        """The most probable class of each sample, `(n_samples,)`."""
        probabilities = self.predict_proba(X)
        return self.classes_[np.argmax(probabilities, axis=1)]

    def sample_posterior(self, X: Any, num_samples: int = 100, *, random_state: Any = None) -> np.ndarray:
        """Samples of the classes at all rows of X; each is of one draw of the posterior.

        Args:
            X: features.
            num_samples: how many.
            random_state: seed, `RandomState` or None.

        Returns:
            `(n_samples, num_samples)`.
        """
        prediction, count = self._predicted(X)
        key = jax.random.key(int(check_random_state(random_state).randint(2**31)))
        drawn = prediction.sample(key, num_samples)[:, :count].reshape(num_samples, count)
        return self.classes_[drawn.astype(np.int64)].T


def _classes_and_labels(y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The classes in order, and for each sample which it is."""
    try:
        check_classification_targets(y)
        classes, labels = np.unique(y, return_inverse=True)
    except TypeError as error:
        raise ValueError(
            f"SmileClassifier: y has labels that cannot be sorted, such as text beside numbers or None ({error})"
        ) from error
    return classes, labels
