"""What regression and classification have in common: settings, fitting, and the posterior predictive."""

import dataclasses
import functools
import hashlib
import math
import time
from abc import ABC, abstractmethod
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import jax
import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from smilax.estimators.columns import columns_without_numbers, has_gaps, named_columns
from smilax.estimators.fitting import (
    TRAINING_SHARE,
    restored_state,
    run_chains,
    stored_state,
    warm_start,
)
from smilax.estimators.lengths import plan
from smilax.estimators.model import Model, build
from smilax.estimators.saving import read_model, write_model
from smilax.estimators.scaling import Scaling
from smilax.estimators.settings import check_the_same, model_settings
from smilax.likelihoods import Likelihood
from smilax.predict import Prediction, predict
from smilax.result import Result, sampling_draws
from smilax.structure import leaf_paths

# Rows go through the network in blocks of this many, the last one filled up: with one shape there is one compilation,
# and what is predicted for a row does not depend, in the last bit, on the rows beside it.
ROWS = 256
# Fewer rows than this are not divided into training and validation rows.
LEAST_DIVIDED = 40


Fit = TypeVar("Fit", bound=Callable[..., Any])


def all_or_nothing(fit: Fit) -> Fit:
    """`fit` that leaves the estimator as it was if it raises."""

    @functools.wraps(fit)
    def kept(self, *arguments, **named):
        before = dict(vars(self))
        try:
            return fit(self, *arguments, **named)
        except BaseException:
            vars(self).clear()
            vars(self).update(before)
            raise

    return cast(Fit, kept)


class SmileEstimator(BaseEstimator, ABC):
    """Base class of the estimators; see `SmileRegressor` and `SmileClassifier`."""

    _digest: str
    _state: Any
    _shape: dict[str, int]
    lengths_: dict[str, int]
    # As they were when it was fitted: `set_params` afterwards is for the next fit.
    _settings: dict[str, Any]

    def __init__(
        self,
        hidden=(32, 32),
        activation="relu",
        network=None,
        likelihood=None,
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
        self.likelihood = likelihood
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

    # Fitting ----------------------------------------------------------------------------------------------------

    def _checked(self, X: Any, y: Any = "no_validation", reset: bool = False, **options: Any) -> Any:
        """X, and y if given, as arrays of numbers."""
        try:
            return validate_data(self, X, y, reset=reset, dtype=np.float64, **options)
        except (TypeError, ValueError) as error:
            name, unfit = type(self).__name__, columns_without_numbers(X)
            if unfit:
                raise ValueError(
                    f"{name}: columns {unfit} of X are no numbers; encode them before, for example by "
                    "sklearn.preprocessing.OneHotEncoder in a Pipeline"
                ) from error
            if gaps := [column_name for column_name, column in named_columns(X) if has_gaps(column)]:
                raise ValueError(
                    f"{name}: columns {gaps} of X have missing values; fill them before, for example by "
                    "sklearn.impute.SimpleImputer in a Pipeline"
                ) from error
            raise

    def _checked_weight(self, sample_weight: Any, X: np.ndarray) -> np.ndarray | None:
        if sample_weight is None:
            return None
        weight = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
        if not weight.any():
            raise ValueError(f"{type(self).__name__}: sample_weight must not be zero for all samples")
        return weight

    def _fit(self, x: np.ndarray, y: np.ndarray, weight: np.ndarray | None, num_targets: int) -> None:
        """Fits standardised data; `num_targets` numbers or classes' outputs."""
        begin = time.perf_counter()
        dtype = jax.dtypes.canonicalize_dtype(np.float64)
        data: tuple[np.ndarray, ...] = (x.astype(dtype), y.astype(dtype) if y.dtype.kind == "f" else y.astype(np.int32))
        if weight is not None:
            # A row of no weight is no row: it would only add noise to the batches.
            data = tuple(leaf[weight > 0] for leaf in (*data, weight.astype(dtype)))
        num_rows = len(data[0])
        if num_rows < 2:
            raise ValueError(f"{type(self).__name__}: at least 2 samples of positive weight are needed, got {num_rows}")
        digest = hashlib.blake2b(b"".join(np.ascontiguousarray(leaf).tobytes() for leaf in data)).hexdigest()
        more = bool(self.warm_start) and hasattr(self, "draws_")
        if more and self._digest != digest:
            raise ValueError(
                f"{type(self).__name__}: warm_start=True draws more from the same posterior, and these are other data "
                "than those of the last fit; use warm_start=False"
            )
        if more and self._state is None:
            raise ValueError(
                f"{type(self).__name__}: warm_start=True needs chains to go on from, and a model that was loaded from "
                "a directory has only their draws; use warm_start=False, or keep the model with joblib"
            )
        settings = model_settings(self)
        seed = int(check_random_state(self.random_state).randint(2**31))
        keys = jax.random.split(jax.random.key(seed), 3)
        held_out = np.zeros(num_rows, bool)
        count = math.floor(self.validation_fraction * num_rows)
        if num_rows >= LEAST_DIVIDED and count:
            held_out[np.random.default_rng(seed).permutation(num_rows)[:count]] = True
        shape = {"in_size": x.shape[1], "num_targets": num_targets}
        shape |= {"num_data": num_rows, "num_train": int(num_rows - held_out.sum())}
        model = self._built(shape, settings)
        full = model.algorithm.config.get("batches") == "full"
        lengths = plan(num_rows, self.batch_size, self.num_warmup, self.num_samples, self.num_draws, full)
        if more:
            check_the_same(self, self._settings, settings, self.lengths_, lengths.batch_size)
        deadline = None if self.max_seconds is None else begin + self.max_seconds
        old = None
        if more:
            old = self._result(model)
            state = restored_state(model, len(self._state[0][0]), self._state)
            old = Result(old.draws, old.info, old.warmup_info, state, old.config, old.seconds, False)
            start, lengths = old, lengths._replace(num_warmup=0)
        else:
            start = warm_start(
                keys[0], model, data, held_out,
                num_members=self.num_chains, max_epochs=self.max_epochs, patience=self.patience,
                max_seconds=None if self.max_seconds is None else TRAINING_SHARE * self.max_seconds,
                progress_bar=bool(self.verbose),
            )  # fmt: skip
        result, lengths = run_chains(keys[1], model, data, start, lengths, deadline, bool(self.verbose))
        if old is not None:
            result = old.join(result)
        result = sampling_draws(result)
        if not result.num_draws:
            raise ValueError("algorithm: all draws are of its exploration phases; take a larger num_samples")
        self._shape, self._settings, self._digest, self._state = shape, settings, digest, stored_state(result)
        self.draws_ = dict(zip(leaf_paths(result.draws), map(np.asarray, jax.tree.leaves(result.draws)), strict=True))
        self._config = dict(result.config)
        self.lengths_ = {"num_chains": len(next(iter(self.draws_.values()))), **lengths._asdict()}
        self.info_ = {name: np.asarray(leaf) for name, leaf in result.info._asdict().items()}

    def _built(self, shape: dict[str, int], settings: dict[str, Any]) -> Model:
        likelihood = self._likelihood(settings["likelihood"], shape["num_targets"])
        arguments: dict[str, Any] = {**settings, "likelihood": likelihood, **shape}
        return build(**arguments)

    @abstractmethod
    def _likelihood(self, given: Any, num_targets: int) -> Likelihood | None:
        """The likelihood of this many targets or classes; None for the default."""

    # Predicting -------------------------------------------------------------------------------------------------

    @property
    def _fitted_model(self) -> Model:
        check_is_fitted(self)
        return self._built(self._shape, self._settings)

    @property
    def posterior_(self) -> Any:
        """The posterior that was sampled, of standardised data."""
        return self._fitted_model.posterior

    @property
    def result_(self) -> Result:
        """The draws as `sx.sample` returns them, for `sx.predict` and `sx.diagnose`; units are standardised."""
        model = self._fitted_model
        result = self._result(model)
        if self._state is None:
            return result
        return dataclasses.replace(result, state=restored_state(model, len(self._state[0][0]), self._state))

    def _result(self, model: Model) -> Result:
        like = jax.eval_shape(model.posterior.init, jax.random.key(0))
        draws = jax.tree.unflatten(jax.tree.structure(like), [self.draws_[name] for name in leaf_paths(like)])
        info = namedtuple("Info", tuple(self.info_))(**self.info_)
        return Result(draws, info, None, None, dict(self._config), math.nan, False)

    def _predicted(self, X: Any) -> tuple[Prediction, int]:
        """The prediction for standardised X, whose last block is filled up, and the number of rows of X."""
        model = self._fitted_model
        x = self._x_scaling.apply(self._checked(X))
        blocks = -(-len(x) // ROWS)
        rows = np.minimum(np.arange(blocks * ROWS), len(x) - 1)
        dtype = next(iter(self.draws_.values())).dtype
        return predict(model.posterior, self._result(model), x[rows].astype(dtype), batch_size=ROWS), len(x)

    @property
    def _x_scaling(self) -> Scaling:
        return Scaling(self.x_mean_, self.x_scale_)

    # Keeping ----------------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Writes the fitted model to a new directory, preprocessing included: JSON and safetensors, no pickle.

        The chains' states are not kept: a model that was loaded predicts, but does not go on sampling. A network,
        likelihood, prior or algorithm of one's own cannot be written down and is given again to `load`.

        Args:
            path: the directory; made, with its parents.

        Raises:
            FileExistsError: if there is something already.
            NotFittedError: if the model is not fitted.
        """
        check_is_fitted(self)
        write_model(Path(path), self)

    @classmethod
    def load(
        cls, path: str | Path, *, network: Any = None, likelihood: Any = None, prior: Any = None, algorithm: Any = None
    ) -> Any:
        """Reads a model that `save` wrote; neither the training data nor pickle are needed.

        Args:
            path: the directory.
            network: the one that the model was fitted with, if it was not the default one.
            likelihood: likewise, if it was none of `sx.likelihoods`.
            prior: likewise, if it was none of the plain `sx.priors`.
            algorithm: likewise; without it the model predicts, and `fit` would take the default one.

        Raises:
            FileNotFoundError: if there is no such model.
            ValueError: if it is one of another class, was written by a newer version, or needs something of
                its own.
        """
        own = {"network": network, "likelihood": likelihood, "prior": prior, "algorithm": algorithm}
        return read_model(Path(path), cls, own)


def columns(array: np.ndarray) -> np.ndarray:
    """Targets as `(N, K)`."""
    return array[:, None] if array.ndim == 1 else array
