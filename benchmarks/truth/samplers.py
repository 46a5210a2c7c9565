"""The rows of the tables: how each sampler is built with a step size that may be traced, and its grid."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

import smilax as sx


@dataclass(frozen=True)
class GridSampler:
    """A published sampler, run at every step size of a grid.

    Attributes:
        build: `build(posterior, step_size) -> (algorithm, adjust)`; the step size may be traced. `adjust(state)` puts
            it into a fresh state where the algorithm takes only Python numbers.
        gradients: new gradients a step.
        grid: step sizes; 13 of them, two decades and more.
    """

    build: Callable[[sx.Posterior, Any], tuple[sx.SamplingAlgorithm, Callable[[Any], Any]]]
    gradients: int
    grid: np.ndarray


def _scheduled(make: Callable[..., sx.SamplingAlgorithm]):
    return lambda posterior, step_size: (make(posterior, lambda count: step_size), lambda state: state)


def _tuned(make: Callable[..., sx.SamplingAlgorithm]):
    def build(posterior, step_size):
        def adjust(state):
            return state._replace(tuner=state.tuner._replace(step_size=jnp.asarray(step_size)))

        return make(posterior), adjust

    return build


STEPS = np.logspace(-3, 1, 13)
SAMPLERS = {
    "smile_naive": GridSampler(_scheduled(sx.smile_naive), 2, STEPS),
    "psmile_naive": GridSampler(_scheduled(sx.psmile_naive), 2, STEPS),
    # Here the grid is of starting values, which the tuner forgets only slowly.
    "smile": GridSampler(_tuned(sx.smile), 2, STEPS),
    "psmile": GridSampler(_tuned(sx.psmile), 2, STEPS),
}
# Steps in other units: those of a squared parameter for SGLD, of a time for SGHMC. `csgld` takes no traced step size.
for _name, _grid in (
    ("sgld", np.logspace(-6, -2, 13)),
    ("psgld", np.logspace(-7.5, -3.5, 13)),
    ("sghmc", np.logspace(-4, -1, 13)),
    ("adaptive_sghmc", np.logspace(-3, 0, 13)),
    ("sgnht", np.logspace(-4, -1, 13)),
):
    SAMPLERS[_name] = GridSampler(_scheduled(getattr(sx, _name)), 1, _grid)

NAMES = (*SAMPLERS, "mclmc", "ismile")
