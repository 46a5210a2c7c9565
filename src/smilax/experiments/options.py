"""Sections whose keys are the arguments of a function: a sampler's, a network's, a likelihood's."""

import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

from pydantic import Field, PositiveFloat, create_model

from smilax.experiments.sections import Section

# Where a function takes a function, a configuration names one.
Activation = Literal["relu", "gelu", "silu", "tanh"]
Precision = Literal["float32", "bfloat16"]


class Decay(Section):
    """A step size that changes along the run, warm-up included."""

    start: PositiveFloat
    stop: float = Field(0.0, ge=0)
    decay: Literal["cosine", "linear"] = "cosine"


def options_of(
    name: str,
    function: Callable,
    *,
    given: Iterable[str] = (),
    types_of: Mapping[str, Any] | None = None,
    base: type[Section] = Section,
) -> type[Section]:
    """The section of a function: its arguments are the keys, with their types and defaults.

    Args:
        name: what the section's `name` says.
        function: whose signature is read.
        given: arguments that are no keys, because the run gives them.
        types_of: types of arguments whose annotation says too little.
        base: the class to extend.
    """
    fields: dict[str, Any] = {"name": (Literal[name], ...)}
    types_of = types_of or {}
    for parameter in inspect.signature(function, eval_str=True).parameters.values():
        if parameter.name in {*given, "self", "name"}:
            continue
        annotation = types_of.get(parameter.name, _plain(parameter.name, parameter.annotation))
        if parameter.default is inspect.Parameter.empty:
            fields[parameter.name] = (annotation, ...)
        else:
            # What a default means is for the function to say: options that are not set are not passed on.
            fields[parameter.name] = (annotation | None, None)
    return create_model(f"{name}_options", __base__=base, **fields)


def chosen(section: Section, without: Iterable[str] = ()) -> dict[str, Any]:
    """The options that were set, as keyword arguments."""
    return {key: getattr(section, key) for key in section.model_fields_set if key not in {"name", *without}}


def _plain(name: str, annotation: Any) -> Any:
    """The type of a key, from that of an argument."""
    if name == "step_size" and _takes_function(annotation):
        return float | Decay
    if name == "activation":
        return Activation
    if name == "compute_dtype":
        return Precision
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        plain = [_plain(name, argument) for argument in arguments if argument is not type(None)]
        return typing.Union[tuple(plain)]  # noqa: UP007 (the members are computed)
    if origin is not None and inspect.isclass(origin) and issubclass(origin, Iterable) and origin is not dict:
        # TOML has lists only.
        items = [argument for argument in arguments if argument is not Ellipsis]
        return list[items[0]]  # type: ignore[valid-type]
    return annotation


def _takes_function(annotation: Any) -> bool:
    return any(typing.get_origin(part) is not None and "Callable" in str(part) for part in typing.get_args(annotation))
