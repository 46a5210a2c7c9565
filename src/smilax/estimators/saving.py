"""A fitted model in one directory: `model.json` and `arrays.safetensors`."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from smilax import likelihoods, priors
from smilax.estimators.settings import model_settings
from smilax.store import read_shard, write_shard

FORMAT = 1
SETTINGS, ARRAYS = "model.json", "arrays.safetensors"
# Attributes that prediction needs, by where they go.
_ARRAYS = ("x_mean_", "x_scale_", "y_mean_", "y_scale_")
_JSON = ("n_features_in_", "n_outputs_", "lengths_", "_shape", "_ndim", "_digest", "_config")


def write_model(path: Path, estimator: Any) -> None:
    """Writes a fitted estimator; `model.json` comes last, so that a model is there in full or not at all."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise FileExistsError(f"{path} exists already and is not empty; save to a new directory")
    state = vars(estimator)
    arrays = {f"draws/{name}": leaf for name, leaf in estimator.draws_.items()}
    arrays |= {f"info/{name}": leaf for name, leaf in estimator.info_.items()}
    arrays |= {name: state[name] for name in _ARRAYS if name in state}
    classes = state.get("classes_")
    described = {
        "format": FORMAT,
        "estimator": type(estimator).__name__,
        # Those of the model as they were at the fit.
        "settings": {
            name: _described(state["_settings"].get(name, value))
            for name, value in estimator.get_params(deep=False).items()
        },
        "attributes": {name: state[name] for name in _JSON if name in state},
        "feature_names": [str(name) for name in state["feature_names_in_"]] if "feature_names_in_" in state else None,
        "classes": None if classes is None else _written_classes(classes),
        "leaves": list(estimator.draws_),
    }
    text = json.dumps(described, indent=1, default=_number, allow_nan=False)
    path.mkdir(parents=True, exist_ok=True)
    write_shard(path, ARRAYS, arrays)
    (path / SETTINGS).write_text(text + "\n", encoding="utf-8")


def read_model(path: Path, cls: type, own: dict[str, Any]) -> Any:
    """The estimator that `write_model` wrote; `own` has settings that it could not write."""
    file = path / SETTINGS
    if not file.is_file():
        raise FileNotFoundError(f"{path} holds no model: it has no {SETTINGS}")
    described = json.loads(file.read_text(encoding="utf-8"))
    if described.get("format") != FORMAT:
        raise ValueError(f"{path} has format {described.get('format')}; this version of smilax reads format {FORMAT}")
    if described["estimator"] != cls.__name__:
        name = described["estimator"]
        raise ValueError(f"{path} holds a {name}: load it with sx.{name}.load")
    settings = {name: _restored(value) for name, value in described["settings"].items()}
    for name, given in own.items():
        if name not in settings:
            if given is not None:
                raise ValueError(f"a {cls.__name__} has no {name}: load it without {name}=")
        elif settings[name] is _OWN:
            # Predictions do not depend on the algorithm that drew.
            if given is None and name != "algorithm":
                raise ValueError(
                    f"{path} holds a model with a {name} of its own: give it again, load(path, {name}=...)"
                )
            settings[name] = given
        elif given is not None:
            raise ValueError(f"{path} has the model's {name}: load it without {name}=")
    estimator = cls(**{name: None if value is _OWN else value for name, value in settings.items()})
    arrays = read_shard(path / ARRAYS)
    state: dict[str, Any] = {"_config": {}, **described["attributes"], "_state": None}
    state["draws_"] = {name: arrays[f"draws/{name}"] for name in described["leaves"]}
    state["info_"] = {k.removeprefix("info/"): v for k, v in arrays.items() if k.startswith("info/")}
    state |= {name: arrays[name] for name in _ARRAYS if name in arrays}
    if described["feature_names"] is not None:
        state["feature_names_in_"] = np.asarray(described["feature_names"], object)
    if described["classes"] is not None:
        dtype = np.dtype(described["classes"]["dtype"])
        plain = np.int64 if dtype.kind in "mM" else dtype
        state["classes_"] = np.asarray(described["classes"]["values"], plain).astype(dtype)
    vars(estimator).update(state, _settings=model_settings(estimator))
    return estimator


def _written_classes(classes: np.ndarray) -> dict[str, Any]:
    # Dates by how far they are from 1970, in their own unit.
    plain = classes.astype(np.int64) if classes.dtype.kind in "mM" else classes
    return {"dtype": classes.dtype.str, "values": plain.tolist()}


class _Own:
    """Stands for a setting that cannot be written down."""


_OWN = _Own()


def _described(value: Any) -> Any:
    for module in (likelihoods, priors):
        kind = type(value).__name__
        if getattr(module, kind, None) is type(value) and dataclasses.is_dataclass(value):
            return {"of": module.__name__.rpartition(".")[2], "name": kind, "fields": dataclasses.asdict(value)}  # type: ignore[arg-type]
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_number(item) if isinstance(item, np.generic) else item for item in value]
    if isinstance(value, np.generic):
        return _number(value)
    return value if value is None or isinstance(value, (bool, int, float, str)) else {"own": type(value).__name__}


def _number(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{value!r} cannot be written as JSON")


def _restored(value: Any) -> Any:
    if not isinstance(value, dict):
        return tuple(value) if isinstance(value, list) else value
    if "own" in value:
        return _OWN
    module = {"likelihoods": likelihoods, "priors": priors}[value["of"]]
    return getattr(module, value["name"])(**value["fields"])
