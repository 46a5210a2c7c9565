"""The closing bars: what ismile has to reach, each with the number found."""

import math
from dataclasses import dataclass
from typing import Any

from benchmarks.truth.analytical import NOISES
from benchmarks.truth.suite import HELD_OUT

PSMILES = ("psmile", "psmile_naive")
BIAS, RATIOS = 0.004, (0.85, 1.15)


@dataclass(frozen=True)
class Bar:
    """A claim, the number found and whether it holds."""

    target: str
    claim: str
    found: str
    holds: bool


class _Bars:
    """Collects bars about rows that are there."""

    def __init__(self, results: list[dict[str, Any]]):
        self.rows = {(row["target"], row["sampler"]): row for row in results}
        self.bars: list[Bar] = []

    def at_most(self, target, sampler, column, limit, what):
        row = self.rows.get((target, sampler))
        if row:
            self._add(target, f"{sampler}: {what} ≤ {limit:g}", f"{row[column]:.4f}", row[column] <= limit)

    def at_least(self, target, sampler, column, limit, what):
        row = self.rows.get((target, sampler))
        if row:
            self._add(target, f"{sampler}: {what} ≥ {limit:g}", f"{row[column]:.4f}", row[column] >= limit)

    def ratios(self, target, sampler, low, high):
        row = self.rows.get((target, sampler))
        if row:
            found = f"{row['ratio_min']:.3f} to {row['ratio_max']:.3f}"
            claim = f"{sampler}: all variance ratios in [{low:g}, {high:g}]"
            self._add(target, claim, found, row["ratio_min"] >= low and row["ratio_max"] <= high)

    def median(self, target, sampler, low, high):
        row = self.rows.get((target, sampler))
        if row:
            median = row["ratio_median"]
            claim = f"{sampler}: median variance ratio in [{low:g}, {high:g}]"
            self._add(target, claim, f"{median:.3f}", low <= median <= high)

    def times_less(self, target, others, factor, what):
        """ismile has so many times less bias than the best of the others."""
        ours = self.rows.get((target, "ismile"))
        theirs = [self.rows[target, name]["bias_square"] for name in others if (target, name) in self.rows]
        if ours and theirs:
            ratio = min(theirs) / max(ours["bias_square"], 1e-30)
            found = f"{ours['bias_square']:.4f} against {min(theirs):.4f}, {ratio:.3g} times less"
            self._add(target, f"ismile: {factor} times less bias of E[x²] than the best {what}", found, ratio >= factor)

    def no_more(self, target, others, what):
        """ismile has no more bias than the best of the others, by two standard errors of the difference."""
        ours = self.rows.get((target, "ismile"))
        theirs = [self.rows[target, name] for name in others if (target, name) in self.rows]
        if ours and theirs:
            best = min(theirs, key=lambda row: row["bias_square"])
            error = math.hypot(ours["bias_square_error"], best["bias_square_error"])
            texts = [f"{row['bias_square']:.4f} ± {row['bias_square_error']:.4f}" for row in (ours, best)]
            holds = ours["bias_square"] <= best["bias_square"] + 2 * error
            claim = f"ismile: no more bias of E[x²] than the best {what}, by two standard errors"
            self._add(target, claim, " against ".join(texts), holds)

    def _add(self, target, claim, found, holds):
        self.bars.append(Bar(target, claim, found, bool(holds)))


def verdicts(results: list[dict[str, Any]]) -> list[Bar]:
    """All bars whose rows are among the results."""
    bars = _Bars(results)
    bias = "mean squared bias of E[x²]"
    bars.at_most("breast_cancer", "ismile", "bias_square", BIAS, bias)
    bars.ratios("breast_cancer", "ismile", *RATIOS)
    bars.times_less("breast_cancer", ("sghmc",), 4, "SGHMC")
    bars.times_less("breast_cancer", PSMILES, 10, "pSMILE")
    for start in ("ismile from 1e-6", "ismile from 10"):
        bars.at_most("breast_cancer", start, "bias_square", BIAS, bias)
        bars.ratios("breast_cancer", start, *RATIOS)
    bars.at_most("breast_cancer", "ismile, diagonal", "bias_square", 0.02, bias)
    bars.ratios("breast_cancer", "ismile, diagonal", 0.6, 1.3)
    for target in HELD_OUT:
        bars.at_most(target, "ismile", "bias_square", BIAS, bias)
        bars.ratios(target, "ismile", *RATIOS)
        bars.times_less(target, ("sghmc",), 4, "SGHMC")
        bars.times_less(target, PSMILES, 10, "pSMILE")
    # The default geometry is kronecker there.
    for target in ("softmax", "softmax_256"):
        bars.median(target, "ismile", 0.9, 1.1)
        bars.ratios(target, "ismile", 0.8, 1.25)
    bars.at_most("gaussian_fisher", "ismile", "bias_square", BIAS, bias)
    for noise in NOISES:
        if noise != "fisher":
            bars.no_more(f"gaussian_{noise}", PSMILES, "pSMILE")
    bars.at_most("tanh", "ismile", "sd_off", 0.15, "mean relative error of predictive standard deviations")
    bars.at_least("tanh", "ismile", "correlation", 0.99, "correlation of predictive means with those of NUTS")
    bars.at_most("tanh", "ismile", "rhat", 1.1, "largest split R-hat of predictions")
    return bars.bars
