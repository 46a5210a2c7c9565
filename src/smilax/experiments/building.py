"""What a configuration describes, as objects."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from smilax import augment
from smilax.bnn import NetworkPosterior, bnn
from smilax.data import Batches
from smilax.ensemble import train_ensemble
from smilax.experiments.options import chosen
from smilax.experiments.problems import ConfigError
from smilax.experiments.registry import MODELS
from smilax.experiments.schema import Config, make, task_of
from smilax.experiments.sections import DataRules, Flip, PaddedCrop
from smilax.experiments.sources import SOURCES, Data, DataDir, load_data
from smilax.samplers import SamplingAlgorithm

# Seeds of the chains are apart from those of the warm start.
CHAIN_SEED = 1000
RATE, DECAY = 1e-2, 5e-3


class Problem(NamedTuple):
    """What all methods share, for one seed.

    Attributes:
        data: training, validation and test rows.
        posterior: over the network's parameters.
    """

    data: Data
    posterior: NetworkPosterior


def problem_of(config: Config, seed: int, data_dir: DataDir) -> Problem:
    """Loads the data and builds the posterior.

    Raises:
        ConfigError: if the network cannot take this data.
        OSError: if the data cannot be had.
    """
    options = chosen(config.data, DataRules.model_fields)
    data = load_data(
        SOURCES[config.data.name], data_dir, seed, options, config.data.max_rows, config.data.max_test_rows
    )
    return pose(config, data)


def pose(config: Config, data: Data) -> Problem:
    """The posterior of these data.

    Raises:
        ConfigError: if the network cannot take them.
    """
    x, y = data.train[:2]
    shape = x.shape[1:]
    if len(shape) not in MODELS[config.model.name].ndims:
        raise ConfigError(
            config.data.name,
            [f"model.name: {config.model.name!r} cannot take rows of shape {shape}, which {config.data.name!r} has"],
        )
    if task_of(config.data) == "regression":
        outputs = math.prod(y.shape[1:])
    else:
        outputs = int(max(part[1].max() for part in (data.train, data.valid, data.test))) + 1
    if task_of(config.data) == "tokens":
        # The first character of all is in no target.
        outputs = max(outputs, int(x.max()) + 1)
    likelihood = make("likelihood", config.likelihood)
    if getattr(likelihood, "scale", None) == "input":
        outputs *= 2
    network = make("model", config.model, shape=shape, outputs=outputs)
    return Problem(data, bnn(network, likelihood, make("prior", config.prior), num_data=len(y)))


def algorithm_of(config: Config, posterior: NetworkPosterior) -> SamplingAlgorithm:
    """The sampler of a configuration."""
    steps = config.run.num_warmup + config.run.num_samples
    return make("sampler", config.sampler, posterior=posterior, steps=steps, replacement=config.data.replacement)


def batches_of(config: Config, data: Data) -> Batches:
    """Training rows, and how batches are drawn from them."""
    return Batches(
        data.train, order=config.data.order, replacement=config.data.replacement, transform=transform_of(config)
    )


def transform_of(config: Config) -> Callable | None:
    """The augmentation of the training images."""
    changes: list[Callable] = []
    for change in config.data.augment:
        if isinstance(change, Flip):
            changes.append(augment.Flip())
        elif isinstance(change, PaddedCrop):
            changes.append(augment.PaddedCrop(change.padding))
        else:
            changes.append(augment.ResizedCrop(area=(change.area[0], change.area[1])))
    return augment.Compose(*changes) if changes else None


def batch_size_of(config: Config, data: Data) -> int | None:
    """Rows per step: all there are if the configuration asks for more."""
    size = config.run.batch_size
    rows = len(data.train[1])
    return None if size == "full" else size if config.data.replacement else min(size, rows)


def members_of(config: Config, problem: Problem, seed: int, progress: bool = False) -> Any:
    """The parameters from which the chains start, with a leading member axis."""
    start, num, key = config.warm_start, config.run.num_chains, jax.random.key(seed)
    if start.kind == "random":
        return jax.vmap(problem.posterior.init)(jax.random.split(key, num))
    rows = len(problem.data.train[1])
    batch_size = min(start.batch_size, rows)
    optimizer = None
    if (start.learning_rate, start.weight_decay, start.schedule) != (RATE, DECAY, "constant"):
        steps = start.max_epochs * math.ceil(rows / batch_size)
        rates: dict[str, Any] = {
            "constant": start.learning_rate,
            "cosine": optax.cosine_decay_schedule(start.learning_rate, steps),
            "linear": optax.linear_schedule(start.learning_rate, 0.0, steps),
        }
        optimizer = optax.adamw(rates[start.schedule], weight_decay=start.weight_decay)
    return train_ensemble(
        key, problem.posterior, Batches(problem.data.train, transform=transform_of(config)), problem.data.valid,
        num_members=num, optimizer=optimizer, max_epochs=start.max_epochs, patience=start.patience,
        batch_size=batch_size, objective=start.objective, progress_bar=progress,
    )  # fmt: skip


def save_members(path: Path, members: Any) -> None:
    """Writes the members to one file, whole or not at all."""
    from safetensors.numpy import save_file

    from smilax.structure import leaf_paths

    arrays = {n: np.asarray(a) for n, a in zip(leaf_paths(members), jax.tree.leaves(members), strict=True)}
    partial = path.with_suffix(".partial")
    save_file(arrays, partial)
    partial.replace(path)


def load_members(path: Path, posterior: NetworkPosterior) -> Any:
    """The members that were saved, in the posterior's own containers."""
    from safetensors.numpy import load_file

    from smilax.structure import leaf_paths

    like = jax.eval_shape(posterior.init, jax.random.key(0))
    arrays = load_file(path)
    return jax.tree.unflatten(jax.tree.structure(like), [arrays[name] for name in leaf_paths(like)])
