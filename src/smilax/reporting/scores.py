"""How good the predictions are, beside those of the warm start."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from smilax import metrics
from smilax.predict import Prediction
from smilax.reporting.markup import Html, element, table


class Score(NamedTuple):
    """A metric and how to read it.

    Attributes:
        name: what it is called.
        of: computes it.
        best: the value to aim at: infinity for the more the better, minus infinity for the less the better.
        meaning: a few words.
    """

    name: str
    of: Callable[[Any, Any], float]
    best: float
    meaning: str


def width(prediction: Any, y: Any) -> float:
    """The mean width of the 90 % interval, in the units of the targets."""
    low, high = prediction.interval(0.9)
    return float(np.mean(np.asarray(high, np.float64) - low))


NUMERIC = (
    Score("LPPD", metrics.lppd, np.inf, "log predictive density, nats per row; more is better"),
    Score("RMSE", metrics.rmse, -np.inf, "error of the mean, target units; less is better"),
    Score("CRPS", metrics.crps, -np.inf, "distance of the whole distribution, target units; less is better"),
    Score("90% coverage", lambda p, y: metrics.coverage(p, y, 0.9), 0.9, "share of targets inside; 0.9 is right"),
    Score("50% coverage", lambda p, y: metrics.coverage(p, y, 0.5), 0.5, "share of targets inside; 0.5 is right"),
    Score("90% width", width, np.nan, "mean width of the interval; less is better at equal coverage"),
)
SCORES = {
    "regression": NUMERIC,
    "count": NUMERIC,
    "classification": (
        Score("LPPD", metrics.lppd, np.inf, "log probability of the label, nats per row; more is better"),
        Score("accuracy", metrics.accuracy, np.inf, "share of right answers; more is better"),
        Score("Brier score", metrics.brier, -np.inf, "squared error of the probabilities; less is better"),
        Score("ECE", metrics.ece, -np.inf, "gap between confidence and accuracy; less is better"),
        Score("AURC", metrics.aurc, -np.inf, "wrong answers, the surest first; less is better"),
    ),
}


class Scored(NamedTuple):
    """A metric of the chains and of the warm start, None where there is none."""

    score: Score
    chains: float
    start: float | None


def scored(prediction: Prediction, start: Prediction | None, y: Any) -> list[Scored]:
    """All metrics that the kind of prediction has."""
    return [
        Scored(score, score.of(prediction, y), None if start is None else score.of(start, y))
        for score in SCORES[prediction.kind]
    ]


def compared(score: Score, chains: float, start: float) -> str:
    """How the chains compare: "better", "worse" or "same"; empty where more is neither."""
    if np.isnan(score.best):
        return ""
    if np.isinf(score.best):
        gain = np.sign(score.best) * (chains - start)
    else:
        gain = abs(start - score.best) - abs(chains - score.best)
    return "same" if abs(gain) < 5e-4 else ("better" if gain > 0 else "worse")


def score_table(scores: list[Scored]) -> Html:
    """The metrics as a table."""
    head = ("", "chains")
    against = any(line.start is not None for line in scores)
    rows = []
    for line in scores:
        name = element("span", line.score.name, Html("<br>"), element("small", line.score.meaning, class_="soft"))
        row: tuple[Any, ...] = (name, f"{line.chains:.3f}")
        if line.start is not None:
            word = compared(line.score, line.chains, line.start)
            row += (f"{line.start:.3f}", element("span", word, class_=word or "soft"))
        rows.append(row)
    return table(head + (("warm start", "chains are") if against else ()), rows, class_="scores")


def gain(prediction: Prediction, start: Prediction, y: Any) -> tuple[float, float]:
    """The mean difference of log predictive densities, in nats per row, and its standard error over rows."""
    difference = np.asarray(prediction.log_prob(y), np.float64) - start.log_prob(y)
    return float(difference.mean()), float(difference.std(ddof=1) / len(difference) ** 0.5) if len(y) > 1 else np.nan
