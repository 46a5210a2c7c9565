"""Where configurations come from: TOML files, shipped experiments by name, and changes on the command line."""

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from smilax.experiments.problems import ConfigError, nearest

SHIPPED = Path(__file__).parent / "shipped"


def shipped() -> dict[str, Path]:
    """The experiments that come with the package, by name."""
    return {path.stem: path for path in sorted(SHIPPED.glob("*.toml"))}


def read(source: str | Path) -> tuple[str, dict[str, Any]]:
    """Name and contents of a TOML file, or of a shipped experiment.

    Raises:
        ConfigError: if there is no such file or experiment, or it is no TOML.
    """
    path = Path(source)
    if not path.is_file():
        known = shipped()
        if str(source) not in known:
            if path.suffix or len(path.parts) > 1:
                raise ConfigError(str(source), ["there is no such file"])
            raise ConfigError(str(source), [f"neither a file nor an experiment; {nearest(str(source), known)}"])
        path = known[str(source)]
    try:
        return path.stem, tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(str(source), [f"this is no TOML: {error}"]) from error


def parse_changes(changes: Iterable[str]) -> dict[str, Any]:
    """`a.b=value` strings as `{"a.b": value}`; values as in TOML, bare words being strings.

    Raises:
        ConfigError: for a string that is no assignment to a key of a section.
    """
    found: dict[str, Any] = {}
    for change in changes:
        path, sign, text = change.partition("=")
        path = path.strip()
        if not sign or "." not in path:
            raise ConfigError(f"--set {change}", ["write SECTION.KEY=VALUE, as in --set run.num_samples=2000"])
        try:
            found[path] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            # Quotes do not survive a shell.
            found[path] = text.strip()
    return found


def put(tree: dict[str, Any], path: str, value: Any) -> None:
    """Sets `a.b` in nested dictionaries. A section whose `name` is changed loses the options of the old one."""
    *parents, last = path.split(".")
    for key in parents:
        inner = tree.setdefault(key, {})
        tree = inner if isinstance(inner, dict) else tree
    if last == "name" and tree.get("name", value) != value:
        tree.clear()
    tree[last] = value


def merged(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dictionaries, later ones over earlier; a section with another `name` replaces the whole section."""
    result: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            old = result.get(key)
            if isinstance(value, Mapping) and isinstance(old, dict):
                renamed = "name" in value and value["name"] != old.get("name", value["name"])
                result[key] = merged({} if renamed else old, value)
            else:
                result[key] = merged(value) if isinstance(value, Mapping) else value
    return result


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as `{"a.b": value}`."""
    result: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            result |= flat(value, f"{prefix}{key}.")
        else:
            result[f"{prefix}{key}"] = value
    return result
