"""The schema of a run, and the checks that no single key can make."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from pydantic import ValidationError

from smilax.experiments.options import Decay, chosen
from smilax.experiments.problems import ConfigError, explain, unknown_key, unknown_name
from smilax.experiments.registry import ACTIVATIONS, FULL_BATCH, INDEPENDENT, NAMED, SAMPLERS, section_of
from smilax.experiments.sections import Output, Run, Section, WarmStart
from smilax.experiments.sources import SOURCES
from smilax.posterior import Posterior

PLAIN: dict[str, type[Section]] = {"warm_start": WarmStart, "run": Run, "output": Output}
SECTIONS = ("data", "model", "likelihood", "prior", "warm_start", "sampler", "run", "output")
# Without a [sampler] the experiment is the warm start alone.
REQUIRED = ("data", "model", "likelihood")


@dataclass(frozen=True)
class Config:
    """One run, checked.

    Attributes:
        data, model, likelihood, prior, sampler: sections with a `name`; no sampler means the warm start alone.
        warm_start, run, output: the others.
    """

    data: Any
    model: Any
    likelihood: Any
    prior: Any
    sampler: Any
    warm_start: WarmStart
    run: Run
    output: Output


def task_of(data: Any) -> str:
    """Whether the targets of a `[data]` section are numbers, classes or tokens."""
    return SOURCES[data.name].task or data.task


def check(raw: Mapping[str, Any], source: str = "config") -> Config:
    """The configuration that a nested dictionary describes.

    Args:
        raw: sections as dictionaries.
        source: what to call it in errors.

    Raises:
        ConfigError: naming every problem found.
    """
    problems = [unknown_key(key, SECTIONS) for key in raw if key not in SECTIONS]
    sections: dict[str, Any] = {"sampler": None}
    for name in SECTIONS:
        if name not in raw and name in REQUIRED:
            problems.append(f"{name}: the section [{name}] is missing")
        elif name in raw or name != "sampler":
            section = raw.get(name, {"name": "normal"} if name == "prior" else {})
            found = _section(name, section)
            if isinstance(found, list):
                problems += found
            else:
                sections[name] = found
    problems += _combinations(sections)
    if problems:
        raise ConfigError(source, problems)
    return Config(**sections)


def _section(name: str, raw: Any) -> Section | list[str]:
    """The section, or what is wrong with it."""
    if not isinstance(raw, Mapping):
        return [f"{name}: must be a table, got {raw!r}"]
    model = PLAIN.get(name)
    if model is None:
        if "name" not in raw:
            return [f"{name}.name: required, but missing. Allowed: {', '.join(NAMED[name])}"]
        if raw["name"] not in NAMED[name]:
            return [unknown_name(f"{name}.name", raw["name"], NAMED[name])]
        model = section_of(name, raw["name"])
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        return explain(name, model, error)


def _combinations(sections: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong between keys, each of which is right by itself."""
    data, run, sampler = sections.get("data"), sections.get("run"), sections.get("sampler")
    model, likelihood = sections.get("model"), sections.get("likelihood")
    if data is not None and data.order == "epochs" and data.replacement:
        yield 'data.replacement: true has no meaning with data.order = "epochs"'
    if data is not None and likelihood is not None:
        classes = likelihood.name == "categorical"
        if classes != (task_of(data) != "regression"):
            wanted = 'likelihood.name = "categorical"' if not classes else '"gaussian" or "student_t"'
            kind = "classes" if not classes else "numbers"
            what = f"{likelihood.name!r} does not suit {data.name!r}, whose targets are {kind}"
            yield f"likelihood.name: {what}: {wanted}"
    if data is not None and model is not None and NAMED["model"][model.name].tokens != (task_of(data) == "tokens"):
        reads = "tokens" if NAMED["model"][model.name].tokens else "numbers"
        yield f"model.name: {model.name!r} reads {reads}, which the rows of {data.name!r} are not"
    if run is not None and run.thinning > run.num_samples:
        yield f"run.thinning: {run.thinning} keeps no draw of run.num_samples = {run.num_samples} steps"
    if sampler is not None and run is not None:
        if sampler.name in FULL_BATCH and run.batch_size != "full":
            yield f'run.batch_size: {sampler.name} is a full-batch sampler and needs "full", got {run.batch_size}'
    if sampler is not None and data is not None and sampler.name in INDEPENDENT and data.order != "independent":
        needed = f"data.order: {sampler.name} needs batches that are drawn independently at each step"
        yield f'{needed}: set data.order = "independent", got {data.order!r}'
    for name, section in (("model", model), ("likelihood", likelihood), ("prior", sections.get("prior"))):
        if section is not None:
            yield from _refusals(name, section)
    if sampler is not None:
        yield from _refusals("sampler", sampler)


def _refusals(name: str, section: Any) -> Iterator[str]:
    """What the library itself has against the options: found now, and not after the warm start."""
    try:
        make(name, section)
    except (TypeError, ValueError) as error:
        yield f"{name}: {error}"


def make(name: str, section: Any, **given: Any) -> Any:
    """The object that a named section describes.

    Args:
        name: of the section: "model", "likelihood", "prior" or "sampler".
        section: checked options.
        given: what the run and the data decide; the least that does for a trial without.
    """
    options = chosen(section)
    if name == "model":
        entry = NAMED["model"][section.name]
        if "activation" in options:
            options["activation"] = ACTIVATIONS[options["activation"]]
        # A size that suits every network here.
        shape, outputs = given.get("shape", (32, 32, 1)[: entry.ndims[-1]]), given.get("outputs", 10)
        return entry.make(**options, **entry.sizes(shape, outputs))
    if name != "sampler":
        return NAMED[name][section.name](**options)
    posterior = given.get("posterior", Posterior(jnp.sum, lambda x, batch: jnp.sum(batch), 10))
    steps = given.get("steps", 1)
    if isinstance(options.get("step_size"), Decay):
        options["step_size"] = _schedule(options["step_size"], steps)
    if isinstance(options.get("energy_variance"), list):
        options["energy_variance"] = tuple(options["energy_variance"])
    if section.name == "csgld" and "num_cycles" in options:
        options["num_steps"] = steps
    if section.name in INDEPENDENT:
        options["replacement"] = given.get("replacement", False)
    return SAMPLERS[section.name](posterior, **options)


def _schedule(decay: Decay, steps: int) -> Any:
    import optax

    if decay.decay == "cosine":
        rule = optax.cosine_decay_schedule(decay.start, steps, alpha=decay.stop / decay.start)
    else:
        rule = optax.linear_schedule(decay.start, decay.stop, steps)

    def schedule(count: Any) -> Any:
        return rule(count)

    # What a store compares when a run is taken up again.
    schedule.__name__ = f"{decay.decay} from {decay.start:g} to {decay.stop:g} in {steps} steps"
    return schedule
