"""Networks, likelihoods, priors and samplers that a configuration can name, and the keys that each has."""

from collections.abc import Callable
from functools import cache
from typing import Any, Literal, NamedTuple

import jax

from smilax import likelihoods, models, priors, samplers
from smilax.experiments.options import options_of
from smilax.experiments.sections import DataRules, Section
from smilax.experiments.sources import SOURCES

Geometry = Literal["auto", "identity", "diagonal", "kronecker", "low_rank", "dense"]


class Model(NamedTuple):
    """A network.

    Attributes:
        make: the function in `sx.models`.
        sizes: the arguments that the data decide, from the shape of one row and the number of outputs.
        ndims: how many axes a row may have.
        tokens: whether rows are integers, each followed by one to be told.
    """

    make: Callable
    sizes: Callable[[tuple[int, ...], int], dict[str, Any]]
    ndims: tuple[int, ...]
    tokens: bool = False


def _table_sizes(shape: tuple[int, ...], outputs: int) -> dict[str, Any]:
    return {"in_size": shape[0], "out_size": outputs}


def _image_sizes(shape: tuple[int, ...], outputs: int) -> dict[str, Any]:
    channels = shape[2] if len(shape) == 3 else 1
    return {"num_classes": outputs, "image_size": shape[0], "channels": channels}


def _token_sizes(shape: tuple[int, ...], outputs: int) -> dict[str, Any]:
    return {"vocab_size": outputs, "context": shape[0]}


# To add a network: a line here. Its options are the arguments that the data do not decide.
MODELS: dict[str, Model] = {
    "mlp": Model(models.mlp, _table_sizes, (1,)),
    "lenet": Model(models.lenet, _image_sizes, (2, 3)),
    "resnet7": Model(models.resnet7, _image_sizes, (2, 3)),
    "resnet18": Model(models.resnet18, _image_sizes, (2, 3)),
    "vit": Model(models.vit, _image_sizes, (2, 3)),
    "gpt": Model(models.gpt, _token_sizes, (1,), tokens=True),
}
ACTIVATIONS: dict[str, Callable] = {
    "relu": jax.nn.relu,
    "gelu": jax.nn.gelu,
    "silu": jax.nn.silu,
    "tanh": jax.numpy.tanh,
}
LIKELIHOODS: dict[str, Any] = {
    "gaussian": likelihoods.Gaussian,
    "student_t": likelihoods.StudentT,
    "categorical": likelihoods.Categorical,
}
PRIORS: dict[str, Any] = {"normal": priors.Normal, "laplace": priors.Laplace, "student_t": priors.StudentT}
SAMPLERS: dict[str, Callable] = {
    name: getattr(samplers, name)
    for name in (
        "ismile", "psmile", "smile", "psmile_naive", "smile_naive", "adaptive_sghmc", "sghmc", "sgnht", "sgld",
        "psgld", "csgld", "mclmc", "nuts",
    )
}  # fmt: skip
# Samplers that see all rows at each step, and those that need fresh batches.
FULL_BATCH, INDEPENDENT = ("mclmc", "nuts"), ("ismile",)
NAMED: dict[str, Any] = {
    "data": SOURCES, "model": MODELS, "likelihood": LIKELIHOODS, "prior": PRIORS, "sampler": SAMPLERS,
}  # fmt: skip


@cache
def section_of(section: str, name: str) -> type[Section]:
    """The keys that a section has if its `name` is this."""
    if section == "data":
        return options_of(name, SOURCES[name].load, given=("data_dir", "seed"), base=DataRules)
    if section == "model":
        model = MODELS[name]
        return options_of(name, model.make, given=model.sizes((1, 1, 1)[: model.ndims[-1]], 1))
    if section == "sampler":
        given = ["posterior"]
        if name in INDEPENDENT:
            given.append("replacement")  # data.replacement says it
        if name == "csgld":
            given.append("num_steps")  # those of the run
        return options_of(name, SAMPLERS[name], given=given, types_of={"geometry": Geometry})
    return options_of(name, NAMED[section][name])
