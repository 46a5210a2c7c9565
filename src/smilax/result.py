"""What a run gives back."""

from dataclasses import dataclass, replace
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

    def select(self, keep: Any) -> "Result":
        """The result with some of its draws only, such as those of cyclical SGLD outside of the exploration phases.

        Args:
            keep: which draws, a boolean array of shape `(draw,)`, or `(chain, draw)` if the same for all chains.

        Returns:
            A result with these draws and their reports, read into memory; its `state` is None, as it is no longer
            known what came before it.

        Raises:
            ValueError: if the shape is another, nothing is kept, or chains differ in what they keep.
        """
        keep = np.asarray(keep)
        shape = (self.num_chains, self.num_draws)
        if keep.dtype != bool or keep.shape not in (shape, shape[1:]):
            raise ValueError(f"keep must be boolean of shape {shape[1:]} or {shape}, got {keep.dtype} {keep.shape}")
        if keep.ndim == 2 and (keep != keep[:1]).any():
            raise ValueError("keep must be the same for all chains: every chain has as many draws as the others")
        draws = np.flatnonzero(keep[0] if keep.ndim == 2 else keep)
        if not len(draws):
            raise ValueError("keep keeps no draw")

        def chosen(tree):
            return jax.tree.map(lambda leaf: np.asarray(leaf[:, draws]), tree)

        return replace(self, draws=chosen(self.draws), info=chosen(self.info), state=None)
