"""Predictions and targets as arrays, checked at the door."""

from typing import Any

import numpy as np

from smilax.checks import check_finite
from smilax.predict import Prediction, match_targets


def mean_and_targets(name: str, prediction: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    if not isinstance(prediction, Prediction):
        raise TypeError(f"{name} needs a Prediction, got {type(prediction).__name__}")
    if prediction.kind == "classification":
        raise TypeError(f"{name} needs numeric targets; this prediction is a classification")
    mean = np.asarray(prediction.mean, np.float64)
    _check_known(name, mean)
    y = match_targets(np.asarray(y, np.float64), mean.shape)
    check_finite("y", y)
    return mean, y


def probs_and_labels(name: str, prediction: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    probs = class_probs(name, prediction)
    labels = match_targets(y, probs.shape[:-1]).ravel()
    probs = probs.reshape(-1, probs.shape[-1])
    if labels.dtype.kind == "f" and np.all(labels == np.floor(labels)):
        labels = labels.astype(np.int64)
    if labels.dtype.kind not in "iub":
        raise TypeError(f"y must be integer labels, got an array of dtype {labels.dtype}")
    labels = labels.astype(np.int64)
    bad = np.flatnonzero((labels < 0) | (labels >= probs.shape[1]))
    if bad.size:
        allowed = f"0 to {probs.shape[1] - 1}"
        raise ValueError(f"y must be labels from {allowed}, got {labels[bad[0]]} in row {bad[0]}")
    return probs, labels


def class_probs(name: str, prediction: Any) -> np.ndarray:
    """Probabilities `(..., K)` of a classification, or of an array `(rows, K)` of them."""
    if isinstance(prediction, Prediction):
        if prediction.kind != "classification":
            raise TypeError(f"{name} needs a classification; this prediction is a {prediction.kind}")
        probs = np.asarray(prediction.probs, np.float64)
        _check_known(name, probs)
    else:
        probs = np.asarray(prediction, np.float64)
        if probs.ndim != 2 or probs.shape[0] == 0 or probs.shape[1] < 2:
            raise ValueError(f"probabilities must have shape (rows, K), K at least 2, got {probs.shape}")
        if not (np.all(probs >= 0) and np.all(np.abs(np.sum(probs, axis=1) - 1) < 1e-3)):
            raise ValueError("probabilities must be at least 0 and add up to 1 in each row")
    return probs


def _check_known(name: str, values: np.ndarray) -> None:
    if np.isnan(values).any():
        raise ValueError(
            f"{name}: {np.isnan(values).mean():.0%} of the prediction is NaN, as a draw is not finite: sx.diagnose "
            "says which chains are lost, and prediction.chain(k) is that of one alone"
        )
