"""How many mini-batch gradients a chain takes: the unit in which samplers are compared."""

import math
from typing import Any

from smilax.samplers.ismile import in_halves
from smilax.samplers.ismile_warmup import MEASURED_EVERY, SEARCH

# New mini-batch gradients that a step takes; samplers not named take two, or as many as `step_gradients` says.
SINGLE_GRADIENT = ("sgld", "psgld", "csgld", "sghmc", "adaptive_sghmc", "sgnht")
# Steps of these grow a trajectory, of at least one gradient, until it turns.
OPEN_ENDED = ("nuts",)


def step_gradients(config: Any, batch_size: int | None, num_data: float) -> int:
    """Of a step after warm-up, by a sampler's `config`; the least there can be where that is open.

    Args:
        config: of the `SamplingAlgorithm`.
        batch_size: B; None supposes that ismile takes batches in halves if it may.
        num_data: N.
    """
    if config["name"] in (*SINGLE_GRADIENT, *OPEN_ENDED):
        return 1
    return 1 if config["name"] == "ismile" and _halves(config, batch_size, num_data) else 2


def chain_gradients(config: Any, batch_size: int | None, num_data: float, num_warmup: int, num_samples: int) -> int:
    """Of a chain with its warm-up; where ismile takes halves, and no step is rejected while the step size is found."""
    each = step_gradients(config, batch_size, num_data)
    descent = math.ceil(config.get("descent", 0) * num_warmup)  # one gradient a step
    rest = num_warmup - descent
    if config["name"] == "ismile" and each == 1:
        searching = min(rest, SEARCH)
        measuring = searching + math.ceil((rest - searching) / MEASURED_EVERY)
        return descent + rest + measuring + num_samples
    return descent + each * (rest + num_samples)


def _halves(config: Any, batch_size: int | None, num_data: float) -> bool:
    split = config.get("split", False)  # runs of before there was a choice took whole batches
    if batch_size is None:
        return split is not False
    return in_halves(split, batch_size, 1.0 if config["replacement"] else max(1 - batch_size / num_data, 0))
