"""Figures of the analytical benchmark."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from smilax.experiments.analytical.biases import Setting, grid_of
from smilax.experiments.analytical.mixture import CENTRES, Visits
from smilax.plots.style import LINES, MARKERS, MUTED, palette

# A mean of x² that is ten standard deviations of x² off.
MOST_BIAS = 100.0


def bias_figure(results: Mapping[Setting, np.ndarray], path: Path) -> None:
    """Bias against step size: a row for each target and law of the noise, a column for each noise.

    Lines are medians over seeds, bands their range; a sampler that finds its step is a horizontal line. Biases above
    100 are cut off.
    """
    from matplotlib.figure import Figure

    rows = list(dict.fromkeys((s.target, s.law) for s in results))
    noises = list(dict.fromkeys(s.noise for s in results))
    samplers = list(dict.fromkeys(s.sampler for s in results))
    figure = Figure(figsize=(2.9 * len(noises) + 0.4, 2.6 * len(rows) + 0.9), dpi=120, layout="constrained")
    axes = figure.subplots(len(rows), len(noises), squeeze=False, sharex=True, sharey="row")
    for i, (target, law) in enumerate(rows):
        for j, noise in enumerate(noises):
            ax = axes[i, j]
            for k, sampler in enumerate(samplers):
                values = results.get(Setting(target, noise, law, sampler))
                if values is not None:
                    _line(ax, sampler, values, k)
            ax.set(xscale="log", yscale="log")
            if i == 0:
                ax.set_title(noise)
            if i == len(rows) - 1:
                ax.set_xlabel("step size")
        # The range that samplers are compared in is lost beside that of chains that ran off.
        low, high = axes[i, 0].get_ylim()
        axes[i, 0].set_ylim(low, min(high, MOST_BIAS))
        law_text = "" if law == "gaussian" else f", {law} noise"
        axes[i, 0].set_ylabel(f"{target}{law_text}\nbias of E[x²]")
    handles = {line.get_label(): line for ax in axes.flat for line in ax.get_lines()}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(samplers), frameon=False)
    figure.savefig(path)


def _line(ax: Any, sampler: str, values: np.ndarray, k: int) -> None:
    # A chain that ran off has no bias to show.
    values = np.where(np.isfinite(values), values, np.nan)
    style: dict[str, Any] = {"color": palette(ax)[k], "linestyle": LINES[k], "label": sampler}
    shown = ~np.isnan(values).all(1)
    if not shown.any():
        return
    median = np.full(len(values), np.nan)
    median[shown] = np.nanmedian(values[shown], axis=1)
    if len(values) == 1:
        ax.axhline(median[0], **style)
        return
    steps = grid_of(sampler, len(values))
    ax.plot(steps, median, marker=MARKERS[k], markersize=3, **style)
    low, high = np.nanmin(values[shown], axis=1), np.nanmax(values[shown], axis=1)
    ax.fill_between(steps[shown], low, high, color=style["color"], alpha=0.15, linewidth=0)


def mixture_figure(visits: Visits, path: Path) -> None:
    """One chain beside all of them, in the first two of ten dimensions; crosses are the centres."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.6, 4.4), dpi=120, layout="constrained")
    axes = figure.subplots(1, 2, sharex=True, sharey=True)
    titles = f"One chain: {visits.modes[0]} of 25 modes", f"{len(visits.draws)} chains: {visits.together} of 25 modes"
    for ax, draws, title in zip(axes, (visits.draws[:1], visits.draws), titles, strict=True):
        points = draws.reshape(-1, 2)
        points = points[:: max(1, len(points) // 5000)]
        ax.scatter(*points.T, s=2, alpha=0.3, color=palette(ax)[0], linewidths=0)
        ax.scatter(*CENTRES.T, marker="x", s=20, color=MUTED)
        ax.set(title=title, xlabel="x₁", aspect="equal")
    axes[0].set_ylabel("x₂")
    figure.savefig(path)
