"""An experiment: methods, each over a grid of settings, that start from the same networks."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from smilax.experiments.files import flat, merged, parse_changes, put, read
from smilax.experiments.problems import ConfigError, nearest, unknown_key, unknown_name
from smilax.experiments.registry import SAMPLERS
from smilax.experiments.schema import SECTIONS, Config, check

SIZES = ("full", "small")
TOP = ("name", "about", *SECTIONS, "sweep", "method", "small")
METHOD = ("label", *SECTIONS, "sweep", "small")
ENSEMBLE = "deep_ensemble"
# What the warm start is made of: methods and sweeps, which share it, cannot change it.
SHARED = ("data", "model", "likelihood", "prior", "warm_start", "run.seeds", "run.num_chains")
OWN = ("data.order", "data.replacement")


@dataclass(frozen=True)
class Case:
    """One sampler with one setting, run once for each seed.

    Attributes:
        method: its label.
        settings: what the sweep set, by path.
        config: everything.
    """

    method: str
    settings: Mapping[str, Any]
    config: Config

    @property
    def label(self) -> str:
        """Name of the case, and of its folder."""
        parts = [f"{path.rsplit('.', 1)[-1]}={value}" for path, value in self.settings.items()]
        return re.sub(r"[^\w.=+-]+", "_", "-".join([self.method, *parts]))


@dataclass(frozen=True)
class Experiment:
    """What `smilax run` runs.

    Attributes:
        name: of the experiment.
        about: what it shows.
        size: "full" or "small".
        base: what all cases share, and all there is of the warm start.
        cases: the methods' settings; none means the warm start alone.
        raw: sections, methods and sweeps as they were read, JSON-able.
        changes: `--set`, by path.
    """

    name: str
    about: str
    size: str
    base: Config
    cases: tuple[Case, ...]
    raw: Mapping[str, Any]
    changes: Mapping[str, Any]
    samplers: tuple[str, ...] = ()

    def record(self) -> dict[str, Any]:
        """What `restored` makes the experiment from."""
        return {
            "name": self.name, "size": self.size, "raw": self.raw, "changes": dict(self.changes),
            "samplers": list(self.samplers),
        }  # fmt: skip


def load_experiment(
    source: str | Path,
    *,
    size: str = "full",
    samplers: Iterable[str] = (),
    changes: Iterable[str] = (),
) -> Experiment:
    """Reads and checks an experiment.

    Args:
        source: a TOML file, or the name of a shipped experiment.
        size: "full", or "small" for what the file has under `[small]`.
        samplers: only these methods, by label, or else by the name of their sampler; a sampler that no method has runs
            with its defaults and the sections of the experiment. "deep_ensemble" is the warm start alone.
        changes: `"section.key=value"` strings, which go over everything else.

    Raises:
        ConfigError: naming every problem with its path, and the nearest valid name.

    Example:
        >>> import smilax as sx
        >>> experiment = sx.experiments.load_experiment("uci-energy", size="small", samplers=["psmile", "ismile"])
        >>> [case.label for case in experiment.cases]
        ['psmile-step_size=0.01', 'psmile-step_size=0.001', 'psmile-step_size=0.0001', 'ismile']
    """
    name, raw = read(source)
    return build(name, raw, size, tuple(samplers), parse_changes(changes))


def restored(record: Mapping[str, Any]) -> Experiment:
    """The experiment of a `record`."""
    return build(record["name"], record["raw"], record["size"], tuple(record["samplers"]), record["changes"])


def build(
    name: str, raw: Mapping[str, Any], size: str, samplers: tuple[str, ...], changes: Mapping[str, Any]
) -> Experiment:
    """The experiment of the contents of a file."""
    source, problems = str(raw.get("name", name)), []
    if size not in SIZES:
        raise ConfigError(source, [unknown_name("size", size, SIZES)])
    problems += [unknown_key(key, TOP) for key in raw if key not in TOP]
    problems += [f"{key}: must be a string" for key in ("name", "about") if not isinstance(raw.get(key, ""), str)]
    methods = raw.get("method", [])
    if not isinstance(methods, list) or not all(isinstance(method, Mapping) for method in methods):
        raise ConfigError(source, [*problems, "method: write [[method]], once for each method"])
    problems += [unknown_key(f"method.{key}", METHOD) for method in methods for key in method if key not in METHOD]
    for key in raw.get("small", {}) if isinstance(raw.get("small"), Mapping) else ():
        if key not in (*SECTIONS, "sweep"):
            problems.append(unknown_key(f"small.{key}", (*SECTIONS, "sweep")))
    for path in changes:
        if path.split(".")[0] not in (*SECTIONS, "sweep"):
            problems.append(unknown_key(path.split(".")[0], (*SECTIONS, "sweep")))
    if any(not isinstance(raw.get(key, {}), Mapping) for key in (*SECTIONS, "sweep", "small")):
        raise ConfigError(source, [*problems, "sections are tables: [data], [model], ..."])
    small = size == "small"
    base = merged({k: raw[k] for k in raw if k in (*SECTIONS, "sweep")}, raw.get("small", {}) if small else {})
    chosen = _methods(source, base, [dict(method) for method in methods], samplers)
    layers = []
    for label, method in chosen:
        own = {key: method[key] for key in method if key in (*SECTIONS, "sweep")}
        layers.append((label, merged(base, own, method.get("small", {}) if small else {})))
    cases: list[Case] = []
    for label, tree in layers:
        try:
            cases += _grid(source, label, tree, changes)
        except ConfigError as error:
            problems += error.problems
    shared = {key: value for key, value in base.items() if key not in ("sampler", "sweep")}
    for path, value in changes.items():
        if path.split(".")[0] not in ("sampler", "sweep"):
            put(shared, path, value)
    try:
        config = check(shared, source)
    except ConfigError as error:
        raise ConfigError(source, [*error.problems, *problems]) from error
    problems += _unshared(base, layers, changes)
    labels = [case.label for case in cases]
    problems += [f"method: two cases are called {label!r}; give labels" for label in labels if labels.count(label) > 1]
    if problems:
        raise ConfigError(source, problems)
    about = str(raw.get("about", ""))
    return Experiment(str(raw.get("name", name)), about, size, config, tuple(cases), raw, changes, samplers)


def _unshared(base: Mapping[str, Any], layers: list[tuple[str, dict[str, Any]]], changes: Any) -> list[str]:
    """What methods and sweeps change though it belongs to the warm start that they share."""
    common = flat({key: value for key, value in base.items() if key != "sweep"})
    problems = []
    for label, tree in layers:
        own = flat({key: value for key, value in tree.items() if key != "sweep"})
        paths = [path for path in own if own[path] != common.get(path)] + [*flat(tree.get("sweep", {}))]
        for path in paths:
            belongs = any(path == shared or path.startswith(f"{shared}.") for shared in SHARED)
            if belongs and path not in OWN and path not in changes:
                problems.append(f"{path}: all methods start from the same networks, so {label!r} cannot change it")
    return problems


def _methods(
    source: str, base: Mapping[str, Any], methods: list[dict[str, Any]], wanted: tuple[str, ...]
) -> list[tuple[str, dict[str, Any]]]:
    """The methods asked for, with their labels."""
    if not methods and "sampler" in base:
        methods = [{}]

    def sampler_of(method: Mapping[str, Any]) -> str:
        section = merged(base, method).get("sampler", {})
        return str(section.get("name", "")) if isinstance(section, Mapping) else ""

    labelled = [(str(method.get("label", sampler_of(method))), method) for method in methods]
    if not wanted:
        return labelled
    found: list[tuple[str, dict[str, Any]]] = []
    for name in wanted:
        own = [pair for pair in labelled if name == pair[0]]
        own = own or [pair for pair in labelled if name == sampler_of(pair[1])]
        if not own and name in SAMPLERS:
            own = [(name, {"sampler": {"name": name}, "sweep": {}})]
        if not own and name != ENSEMBLE:
            choices = dict.fromkeys([ENSEMBLE, *(label for label, _ in labelled), *SAMPLERS])
            raise ConfigError(source, [f"--sampler: there is no {name!r}; {nearest(name, choices)}"])
        found += [pair for pair in own if pair not in found]
    return found


def _grid(source: str, label: str, tree: dict[str, Any], changes: Mapping[str, Any]) -> list[Case]:
    """The cases of a method: the product of its sweep's values."""
    tree = merged(tree)
    for path, value in changes.items():
        put(tree, path, value)
    sweep = tree.pop("sweep", {})
    if not isinstance(sweep, Mapping):
        raise ConfigError(source, [f"sweep: must be a table of lists, got {sweep!r}"])
    # A change goes over a sweep of the same key, of what is above it and of what is below.
    axes = {
        path: values
        for path, values in flat(sweep).items()
        if not any(f"{path}.".startswith(f"{other}.") or f"{other}.".startswith(f"{path}.") for other in changes)
    }
    problems = []
    for path, values in axes.items():
        if path.split(".")[0] not in SECTIONS:
            problems.append(unknown_key(f"sweep.{path.split('.')[0]}", SECTIONS))
        elif not isinstance(values, list) or not values:
            problems.append(f"sweep.{path}: must be a list of values, got {values!r}")
    if problems:
        raise ConfigError(source, problems)
    cases = []
    for values in product(*axes.values()):
        settings = dict(zip(axes, values, strict=True))
        own = merged(tree)
        # A name clears its section of another one's options, and so comes before what is swept of them.
        for path, value in sorted(settings.items(), key=lambda item: not item[0].endswith(".name")):
            put(own, path, value)
        try:
            cases.append(Case(label, settings, check(own, source)))
        except ConfigError as error:
            # Where a sampler's own key is wrong it has to be said whose.
            problems += [f"{p} (method {label!r})" if p.startswith("sampler.") else p for p in error.problems]
    if problems:
        raise ConfigError(source, problems)
    return cases
