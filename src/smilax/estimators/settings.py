"""Checks of an estimator's settings, and which of them make the model, as opposed to how it is fitted."""

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np

from smilax.checks import check_count
from smilax.estimators.model import ACTIVATIONS
from smilax.network import Network
from smilax.samplers.base import check_number, check_positive

MODEL_SETTINGS = ("hidden", "activation", "network", "likelihood", "prior", "algorithm")


def check_settings(estimator: Any) -> None:
    """Refuses settings that make no sense, by name."""
    name = type(estimator).__name__
    for setting, least in (("num_chains", 1), ("num_draws", 1), ("max_epochs", 1), ("patience", 1)):
        check_count(f"{name}: {setting}", getattr(estimator, setting), least)
    for setting, least in (("num_warmup", 0), ("num_samples", 1), ("batch_size", 1)):
        if getattr(estimator, setting) is not None:
            check_count(f"{name}: {setting}", getattr(estimator, setting), least)
    network, hidden, activation = estimator.network, estimator.hidden, estimator.activation
    if network is None:
        if activation not in ACTIVATIONS:
            raise ValueError(
                f"{name}: activation must be one of {', '.join(map(repr, ACTIVATIONS))}, got {activation!r}"
            )
        if isinstance(hidden, str) or not all(hasattr(width, "__index__") for width in np.atleast_1d(hidden)):
            raise TypeError(f"{name}: hidden must be a sequence of widths such as (32, 32), got {hidden!r}")
    elif not (isinstance(network, Network) or callable(network)):
        raise TypeError(
            f"{name}: network must be None, an sx.Network or a function (in_size, out_size) -> sx.Network, got "
            f"{network!r}"
        )
    _check_algorithm(name, estimator.algorithm)
    check_number(f"{name}: validation_fraction", estimator.validation_fraction)
    if not 0 <= estimator.validation_fraction < 1:
        raise ValueError(f"{name}: validation_fraction must be in [0, 1), got {estimator.validation_fraction!r}")
    if estimator.max_seconds is not None:
        check_positive(f"{name}: max_seconds", estimator.max_seconds)


def _check_algorithm(name: str, algorithm: Any) -> None:
    """Refuses what cannot be called with a posterior and nothing else."""
    if algorithm is None:
        return
    if not callable(algorithm):
        raise TypeError(
            f"{name}: algorithm must be None or a function from a posterior to a sampler, such as sx.ismile, got "
            f"{algorithm!r}"
        )
    try:
        inspect.signature(algorithm).bind(None)
    except TypeError as error:
        raise TypeError(
            f"{name}: algorithm is called with the posterior alone, and {getattr(algorithm, '__name__', algorithm)} "
            f"cannot be ({error}); give the rest before, as in functools.partial(sx.sgld, step_size=1e-4)"
        ) from error


def model_settings(estimator: Any) -> dict[str, Any]:
    """Those of `MODEL_SETTINGS`, as they are now."""
    settings = {name: getattr(estimator, name, None) for name in MODEL_SETTINGS}
    return {**settings, "hidden": tuple(np.atleast_1d(estimator.hidden).tolist())}


def check_the_same(
    estimator: Any,
    fitted: Mapping[str, Any],
    settings: Mapping[str, Any],
    lengths: Mapping[str, int],
    batch_size: int,
) -> None:
    """Refuses to go on with the chains of another model.

    Args:
        estimator: that is to go on.
        fitted: `model_settings` of the last fit.
        settings: those of now.
        lengths: `lengths_` of the last fit.
        batch_size: of now.
    """
    before = {**fitted, "batch_size": lengths["batch_size"], "num_chains": lengths["num_chains"]}
    now = {**settings, "batch_size": batch_size, "num_chains": estimator.num_chains}
    changed = [f"{name}={now[name]!r}, not {before[name]!r}" for name in now if not _same(now[name], before[name])]
    if changed:
        raise ValueError(
            f"{type(estimator).__name__}: warm_start=True goes on with the chains of the last fit, and these are set "
            f"otherwise now: {'; '.join(changed)}; use warm_start=False"
        )


def _same(one: Any, other: Any) -> bool:
    if one is other:
        return True
    try:
        return bool(one == other)
    except (TypeError, ValueError):
        return False
