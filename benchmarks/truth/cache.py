"""References and results between runs of the command, in a folder that git ignores."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(".truth-cache")


def key_of(settings: dict[str, Any]) -> str:
    """A short name for these settings: results of other settings are never taken for theirs."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:12]


def _path(kind: str, name: str, settings: dict[str, Any], suffix: str) -> Path:
    return FOLDER / kind / f"{name}-{key_of(settings)}.{suffix}"


def load_arrays(kind: str, name: str, settings: dict[str, Any]) -> dict[str, np.ndarray] | None:
    """What `save_arrays` saved under these settings, or None."""
    path = _path(kind, name, settings, "npz")
    if not path.exists():
        return None
    with np.load(path) as arrays:
        return dict(arrays)


def save_arrays(kind: str, name: str, settings: dict[str, Any], **arrays: Any) -> None:
    """Keeps arrays."""
    path = _path(kind, name, settings, "npz")
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)


def load_rows(name: str, settings: dict[str, Any]) -> dict[str, Any] | None:
    """A result kept under these settings, or None."""
    path = _path("results", name, settings, "json")
    return json.loads(path.read_text()) if path.exists() else None


def save_rows(name: str, settings: dict[str, Any], rows: dict[str, Any]) -> None:
    """Keeps a result."""
    path = _path("results", name, settings, "json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows))
