"""The gradient noise in the sampler's metric."""

import re
from typing import Any

import numpy as np

from smilax.diagnostics import Diagnosis
from smilax.plots.style import MUTED, below, make_axes, palette

# Leaves within this are as good as isotropic, as in `diagnose`.
GOOD = 0.1
HEIGHT_PER_LEAF = 0.3


def noise_isotropy(diagnosis: Diagnosis, *, ax: Any = None) -> Any:
    """Noise per parameter in each array of the parameters, relative to the mean of all; at 1 it is isotropic.

    In units of the sampler's metric, with two standard errors. The band is what `sx.diagnose` calls good.

    Args:
        diagnosis: what `sx.diagnose` returned, given algorithm and data.
        ax: matplotlib axes.

    Raises:
        TypeError: if it is something else.
        ValueError: if there is no noise per leaf in it: without algorithm and data, or with a single leaf.

    Example:
        >>> import smilax as sx
        >>> from smilax.diagnostics import Row
        >>> leaf = {"omega": 1.2, "standard_error": 0.05, "variance_ratio": 1.2}
        >>> row = Row("noise per leaf", 1.2, "", "", "ok", "", {"['w']": leaf, "['b']": leaf})
        >>> sx.plots.noise_isotropy(sx.Diagnosis("a run", (row,))).get_xlabel()
        'noise relative to the mean'
    """
    if not isinstance(diagnosis, Diagnosis):
        raise TypeError(f"diagnosis must be what sx.diagnose returned, got {type(diagnosis).__name__}")
    rows = [row for row in diagnosis.rows if row.name == "noise per leaf" and row.details]
    if not rows:
        raise ValueError(
            "the diagnosis has no noise per leaf: it takes sx.diagnose(result, algorithm, data) of a sampler with "
            "batch noise, and parameters of several arrays"
        )
    leaves = rows[0].details
    omega, error = (np.array([leaf[key] for leaf in leaves.values()]) for key in ("omega", "standard_error"))
    ax = make_axes(ax, (4.5, max(2.5, 1.4 + HEIGHT_PER_LEAF * len(leaves))))
    place = np.arange(len(leaves))
    ax.axvspan(1 - GOOD, 1 + GOOD, color=MUTED, alpha=0.25, linewidth=0, label=f"within {GOOD:.0%}")
    ax.axvline(1, color=MUTED, linewidth=1, linestyle="--", label="isotropic")
    ax.errorbar(
        omega,
        place,
        xerr=2 * error,
        fmt="o",
        markersize=5,
        color=palette(ax)[0],
        elinewidth=1.5,
        label="± 2 std. errors",
    )
    ax.set_yticks(place, [plain_name(name) for name in leaves])
    ax.set(xlabel="noise relative to the mean", title="Noise by layer", ylim=(len(leaves) - 0.5, -0.5))
    # Around 1, however close the values are.
    reach = max(2 * GOOD, 1.1 * float(np.nanmax(np.abs(omega - 1) + 2 * error, initial=0.0)))
    ax.set_xlim(max(1 - reach, 0.0), 1 + reach)
    below(ax)
    return ax


def plain_name(path: str) -> str:
    """A leaf's path as it is written in `sx.priors.by_path`: network/layers/0/weight."""
    return re.sub(r"\['?([^\]']*)'?\]|\.(\w+)", lambda match: f"/{match[1] or match[2]}", path).lstrip("/")
