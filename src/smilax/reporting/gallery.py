"""Which figures a page shows, with their captions and what they say to those who cannot see them."""

from typing import Any

import jax
import numpy as np

from smilax import plots
from smilax.diagnostics import Diagnosis
from smilax.predict import Prediction
from smilax.reporting.figures import Plot
from smilax.result import Result


def prediction_plots(predictions: dict[str, Prediction], x: Any, y: Any, references: dict[str, float]) -> list[Plot]:
    """Figures of predictions by label, the chains' first, on scored rows.

    Args:
        predictions: at most six.
        x: the inputs.
        y: the targets.
        references: LPPDs to compare with, by name.
    """
    label, prediction = next(iter(predictions.items()))
    shown: list[Plot] = []
    if prediction.kind == "classification":
        shown.append(
            Plot(
                "Reliability",
                "Accuracy among rows of equal confidence: on the dashed line the confidence can be taken at its word, "
                "below it predictions are too sure.",
                lambda: plots.reliability(predictions, y),
                lambda ax: "Accuracy against confidence. " + _ends(ax, "accuracy"),
            )
        )
    else:
        shown.append(
            Plot(
                "Coverage",
                "How many targets central intervals hold against how many they should: below the dashed line they are "
                "too narrow; the grey band is what chance allows.",
                lambda: plots.coverage(predictions, y),
                lambda ax: "Share of targets inside central intervals of 5 % to 95 %. " + _ends(ax, "share inside"),
            )
        )
        if int(np.prod(prediction.mean.shape[1:])) == 1:
            shown.append(_bands(prediction, x, y))
    shown += [
        Plot(
            "Risk and coverage",
            "The loss that is left if only the surest predictions are given: a curve that rises to the right knows "
            "where it is wrong.",
            lambda: plots.risk_coverage(predictions, y),
            lambda ax: "Loss against the share of rows answered, surest first. " + _ends(ax, "loss"),
        ),
        Plot(
            "Epistemic and aleatoric uncertainty",
            f"Each dot is a row as {label} see it: more data would bring it down, not to the left; crosses are rows "
            "that were missed.",
            lambda: plots.epistemic_aleatoric(prediction, y),
            lambda ax: f"Scatter of {prediction.num_rows} rows, {len(ax.lines[2].get_xdata())} of them missed.",
        ),
        Plot(
            "LPPD by draws and chains",
            "What a shorter run or fewer chains would have given: lines that still rise at the right ask for a longer "
            "run, lines far apart for more chains.",
            lambda: plots.lppd_by_draws(prediction, y, references=references),
            lambda ax: "Log predictive density against draws per chain. " + _ends(ax, "LPPD"),
        ),
    ]
    return shown


def _bands(prediction: Prediction, x: Any, y: Any) -> Plot:
    leaves = jax.tree.leaves(x)
    if len(leaves) == 1 and np.size(leaves[0]) == prediction.num_rows:
        along = np.ravel(leaves[0])
        return Plot(
            "Predictive bands",
            "Mean prediction and central intervals along the input, with the targets as dots.",
            lambda: plots.bands(prediction, along, y),
            lambda ax: f"Predictive mean and intervals for inputs from {along.min():.3g} to {along.max():.3g}.",
        )
    return Plot(
        "Predictive intervals",
        "90 % intervals of up to 60 rows in the order of their predicted means; crosses are targets outside, of which "
        "there should be one in ten.",
        lambda: plots.intervals(prediction, y),
        lambda ax: (
            f"Intervals of {len(ax.lines[0].get_xdata())} rows; targets outside: {len(ax.lines[2].get_xdata())}."
        ),
    )


def chain_plots(result: Result, posterior: Any, inputs: Any) -> list[Plot]:
    """Figures of what the chains reported, and whether they agree."""
    return [
        Plot(
            "Agreement of chains",
            "R-hat of each quantity watched: right of the dashed line, 1.01, chains have not yet been to the same "
            "places.",
            lambda: plots.rhat(result, posterior, inputs),
            lambda ax: f"Histogram of split R-hat: {ax.get_legend().get_texts()[0].get_text()}.",
        ),
        Plot(
            "Log density",
            "Mini-batch log density along the run, warm-up on grey: after it, lines should be level and overlap.",
            lambda: plots.trace(result, "log_density"),
            lambda ax: f"Log density of {result.num_chains} chains by step. " + _spread(ax),
        ),
        Plot(
            "Step size",
            "The step size along the run: found in warm-up, on grey, and fixed afterwards where the sampler adapts.",
            lambda: plots.trace(result, "step_size"),
            lambda ax: f"Step size of {result.num_chains} chains by step. " + _spread(ax),
        ),
        Plot(
            "Energy error",
            "The energy error of a step on its own batch, where the sampler measures it: level lines near the dashed "
            "one, where there is one, are as intended, single peaks come from batches with unusual rows.",
            lambda: plots.trace(result, "energy_error"),
            lambda ax: f"Energy error of {result.num_chains} chains by step. " + _spread(ax),
        ),
    ]


def noise_plot(diagnosis: Diagnosis) -> Plot:
    """The noise by layer."""
    return Plot(
        "Noise by layer",
        "Gradient noise in each array of parameters, in the sampler's metric: at 1 all are alike; a friction that "
        "matches the noise, which ismile has, makes other values harmless.",
        lambda: plots.noise_isotropy(diagnosis),
        lambda ax: (
            "Noise relative to the mean by array of parameters: "
            + "; ".join(
                f"{label.get_text()} {value:.2f}"
                for label, value in zip(ax.get_yticklabels(), ax.lines[1].get_xdata(), strict=True)
            )
            + "."
        ),
    )


def _ends(ax: Any, what: str) -> str:
    """The last value of every line that has a name."""
    found = [
        f"{line.get_label()}: {what} {np.asarray(line.get_ydata())[-1]:.3g} at the right end"
        for line in ax.lines
        if not line.get_label().startswith("_")
        and line.get_label() not in ("calibrated", "at random")
        and len(line.get_ydata())
    ]
    return "; ".join(found) + "."


def _spread(ax: Any) -> str:
    """The last values of the chains."""
    last = np.array([np.asarray(line.get_ydata())[-1] for line in ax.lines if line.get_label() != "aimed at"], float)
    last = last[np.isfinite(last)]
    return f"At the end from {last.min():.4g} to {last.max():.4g}." if len(last) else "Nothing finite at the end."
