"""What is wrong with a configuration, in words that name the place and the nearest thing that is right."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel, ValidationError


class ConfigError(ValueError):
    """A configuration that cannot be run.

    Attributes:
        source: the file or experiment.
        problems: one sentence for each thing that is wrong.

    Example:
        >>> import smilax as sx
        >>> try:
        ...     sx.experiments.load_experiment("uci-enrgy")
        ... except sx.experiments.ConfigError as error:
        ...     print(error.problems[0][:65])
        neither a file nor an experiment; did you mean 'uci-energy'? Allo
    """

    def __init__(self, source: str, problems: Iterable[str]):
        # The same mistake is found in every method of an experiment, and said once.
        self.source, self.problems = source, list(dict.fromkeys(problems))
        count = f"{len(self.problems)} problem{'s' if len(self.problems) != 1 else ''}"
        super().__init__("\n".join([f"{source}: {count}", *(f"  {problem}" for problem in self.problems)]))


def nearest(name: str, allowed: Iterable[str]) -> str:
    """'; did you mean …?' if one of the names is close, and all of them."""
    allowed = list(allowed)
    lowered = {choice.lower(): choice for choice in allowed}
    found = get_close_matches(str(name).lower(), list(lowered), n=1, cutoff=0.6)
    hint = f"did you mean {lowered[found[0]]!r}? " if found else ""
    return f"{hint}Allowed: {', '.join(allowed)}"


def unknown_key(path: str, allowed: Iterable[str]) -> str:
    """The sentence about a key that does not exist."""
    key = path.rsplit(".", 1)[-1]
    return f"{path}: unknown key; {nearest(key, allowed)}"


def unknown_name(path: str, value: Any, allowed: Iterable[str]) -> str:
    """The sentence about a name that is none of those there are."""
    return f"{path}: there is no {value!r}; {nearest(str(value), allowed)}"


def explain(path: str, model: type[BaseModel], error: ValidationError) -> list[str]:
    """One sentence for each error that pydantic found in a section.

    Args:
        path: of the section.
        model: what it was checked against.
        error: what pydantic raised.
    """
    sentences: dict[str, str] = {}
    for item in error.errors(include_url=False):
        # Deeper places are those of the branches of a union, or of items of a list.
        keys = [str(key) for key in item["loc"] if isinstance(key, int) or str(key).isidentifier()]
        where = ".".join([path, *keys[:1]])
        field = model.model_fields.get(keys[0]) if keys else None
        if item["type"] == "extra_forbidden" and len(item["loc"]) == 1:
            sentence = unknown_key(where, model.model_fields)
        elif item["type"] == "missing" and len(item["loc"]) == 1:
            sentence = f"{where}: required, but missing"
        elif item["type"] == "literal_error":
            sentence = f"{where}: must be {item['ctx']['expected']}, got {_short(item['input'])}"
        else:
            what = item["msg"][:1].lower() + item["msg"][1:]
            sentence = f"{where}: {what.removeprefix('value error, ')}, got {_short(item['input'])}"
        if where in sentences and field is not None:
            # A value that fits no branch of a union: what all of them want.
            sentences[where] += "; or " + sentence.removeprefix(f"{where}: ").rsplit(", got ", 1)[0]
        else:
            sentences[where] = sentence
    return list(sentences.values())


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
