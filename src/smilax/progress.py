"""One line that says how a run is doing."""

import sys
from typing import Any

import numpy as np


class Progress:
    """A tqdm bar over steps: steps/s, time left, mean |ΔE|, rejects; silent when not asked for."""

    def __init__(self, total: int, num_chains: int, enabled: bool):
        self._total, self._chains, self._enabled = total, num_chains, enabled
        self._bar, self._rejects = None, 0.0

    def __enter__(self):
        if self._enabled:
            from tqdm.auto import tqdm

            self._bar = tqdm(total=self._total, unit="step", file=sys.stderr, desc="compiling", mininterval=0.2)
        return self

    def __exit__(self, *exception):
        if self._bar is not None:
            self._bar.close()

    def skip(self, steps: int) -> None:
        """Steps that an earlier run has done: part of the whole, and of no rate."""
        if self._bar is not None and steps:
            self._bar.initial = self._bar.n = steps
            self._bar.refresh()

    def update(self, steps: int, infos: Any, filled: int, warming_up: bool) -> None:
        """Shows a chunk of `steps` steps whose reports fill the first `filled` slots of `infos`."""
        if self._bar is None:
            return
        # A sampler of one's own may report no more than what it accepted.
        errors = np.abs(np.asarray(getattr(infos, "energy_error", np.nan * infos.accepted))[:, :filled])
        accepted = np.asarray(infos.accepted)[:, :filled]
        self._rejects += float(np.sum(1 - accepted)) / filled * steps
        self._bar.set_description("warm-up" if warming_up else "sampling", refresh=False)
        finite = errors[np.isfinite(errors)]
        fields = {"|dE|": f"{finite.mean():.2g}"} if finite.size else {}
        self._bar.set_postfix(fields | {"rejects": f"{self._rejects:.0f}", "chains": self._chains}, refresh=False)
        self._bar.update(steps)
