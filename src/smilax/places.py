"""Where a source of batches stands, as JSON: what `state_dict` of a data loader returns, with its arrays, and back."""

import base64
import importlib
from typing import Any

import numpy as np


def encode(state: Any) -> Any:
    """Of None, booleans, numbers, strings, bytes, lists, tuples, dictionaries, NumPy arrays and PyTorch tensors.

    Raises:
        TypeError: if there is anything else in it.
    """
    if state is None or isinstance(state, (bool, int, float, str)) and type(state).__module__ == "builtins":
        return state
    if isinstance(state, list):
        return [encode(value) for value in state]
    if type(state) is tuple:
        return {"tuple": [encode(value) for value in state]}
    if isinstance(state, dict):
        return {"dict": [[encode(key), encode(value)] for key, value in state.items()]}
    if isinstance(state, bytes):
        return {"bytes": base64.b64encode(state).decode()}
    if isinstance(state, (np.ndarray, np.generic)) and state.dtype.kind in "biuf":
        return {"numpy": _array(np.asarray(state))}
    if type(state).__module__ == "torch" and type(state).__name__ == "Tensor":
        return {"torch": _array(state.detach().cpu().numpy())}
    raise TypeError(
        f"source: its state holds a {type(state).__module__}.{type(state).__qualname__}, which cannot be stored; only "
        "None, booleans, numbers, strings, bytes, lists, tuples, dictionaries, NumPy arrays and PyTorch tensors can"
    )


def decode(content: Any) -> Any:
    """The inverse of `encode`."""
    if isinstance(content, list):
        return [decode(value) for value in content]
    if not isinstance(content, dict):
        return content
    ((kind, value),) = content.items()
    if kind == "tuple":
        return tuple(decode(each) for each in value)
    if kind == "dict":
        return {decode(key): decode(each) for key, each in value}
    if kind == "bytes":
        return base64.b64decode(value)
    found = np.frombuffer(base64.b64decode(value["data"]), value["dtype"]).reshape(value["shape"]).copy()
    if kind == "torch":
        return importlib.import_module("torch").from_numpy(found)
    if kind == "numpy":
        return found if found.ndim else found[()]
    raise ValueError(f"unknown kind {kind!r}")


def _array(array: np.ndarray) -> dict[str, Any]:
    data = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
    return {"dtype": str(array.dtype), "shape": list(array.shape), "data": data}
