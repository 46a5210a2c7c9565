"""What a run gives back."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np


class RunState(NamedTuple):
    """Where a run stands.

    Attributes:
        chains: the algorithm's states, leaves with a leading chain axis.
        step: steps taken since the run's beginning, warm-up included; keys of later steps follow from it.
    """

    chains: Any
    step: int


@dataclass(frozen=True, eq=False)
class Result:
    """What `sample`, `resume` and `load` return.

    Attributes:
        draws: pytree like the parameters, leaves `(chain, draw, …)`: NumPy arrays, or arrays on disk that are read
            where they are sliced (`np.asarray` reads one whole).
        info: what the steps reported at each draw, leaves `(chain, draw)`; `accepted` is a mean over the thinning
            interval. None if there was none yet.
        warmup_info: the same along warm-up, about a thousand records.
        state: where the run stands; pass the result as `params` of another `sample` to go on. None after `load`.
        config: settings of the run, JSON-able.
        seconds: wall-clock time of warm-up and sampling, compilation included; NaN after `load`.
        interrupted: whether the run was stopped before its end.
        path: the store that holds the draws, or None.
    """

    draws: Any
    info: Any
    warmup_info: Any
    state: RunState | None
    config: dict[str, Any]
    seconds: float
    interrupted: bool
    path: Path | None = None

    @property
    def num_chains(self) -> int:
        """Number of chains."""
        return int(np.shape(jax.tree.leaves(self.draws)[0])[0])

    @property
    def num_draws(self) -> int:
        """Draws per chain."""
        return int(np.shape(jax.tree.leaves(self.draws)[0])[1])
