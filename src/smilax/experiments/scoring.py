"""The metrics of a run, as one row of the table."""

import math
from typing import Any

import jax
import numpy as np

from smilax import metrics
from smilax.diagnostics.convergence import LEAST_DRAWS, split_rhat
from smilax.diagnostics.quantities import watched
from smilax.experiments.building import Problem
from smilax.predict import Prediction, predict

COLUMNS = (
    "experiment", "size", "seed", "case", "method", "settings", "order", "batch_size", "chains", "warmup", "steps",
    "draws", "lppd", "rmse", "coverage90", "accuracy", "ece", "ece_by_chance", "auroc", "perplexity",
    "worst_chain_lppd", "rhat", "step_size", "accepted", "nonfinite_chains", "gradients", "seconds",
)  # fmt: skip


def scores(problem: Problem, draws: Any, task: str) -> dict[str, float]:
    """Test metrics of the mixture over all draws, and of its worst chain.

    Args:
        problem: data and posterior.
        draws: a result, or the members of an ensemble.
        task: "regression", "classes" or "tokens"; with tokens a row of the metrics is a token, told from the mixture's
            probabilities given those before it.
    """
    x, y = problem.data.test
    prediction = predict(problem.posterior, draws, x, batch_size=256)
    if task == "tokens":
        probs, tokens = _by_token(prediction), y.reshape(-1)
        return {
            "lppd": metrics.lppd(probs, tokens),
            "perplexity": metrics.perplexity(probs, tokens),
            "accuracy": metrics.accuracy(probs, tokens),
            "ece": metrics.ece(probs, tokens),
            "ece_by_chance": metrics.ece_by_chance(probs),
            "worst_chain_lppd": min(metrics.lppd(_by_token(chain), tokens) for chain in prediction.chains),
        }
    moments = prediction.probs if task == "classes" else prediction.mean
    if np.isnan(moments).any():
        # A chain is lost, as `health` says; the others are not scored in its place.
        scored = ("accuracy", "ece", "ece_by_chance") if task == "classes" else ("rmse", "coverage90")
        outside = () if problem.data.outside is None else ("auroc",)
        return dict.fromkeys(("lppd", *scored, *outside, "worst_chain_lppd"), math.nan)
    found = {"lppd": metrics.lppd(prediction, y)}
    if task == "classes":
        found |= {"accuracy": metrics.accuracy(prediction, y), "ece": metrics.ece(prediction, y)}
        found["ece_by_chance"] = metrics.ece_by_chance(prediction)
    else:
        found |= {"rmse": metrics.rmse(prediction, y), "coverage90": metrics.coverage(prediction, y, 0.9)}
    if problem.data.outside is not None:
        found["auroc"] = metrics.auroc(prediction, predict(problem.posterior, draws, problem.data.outside))
    found["worst_chain_lppd"] = min(metrics.lppd(chain, y) for chain in prediction.chains)
    return found


def _by_token(prediction: Prediction) -> np.ndarray:
    return prediction.probs.reshape(-1, prediction.probs.shape[-1])


def health(problem: Problem, result: Any) -> dict[str, float]:
    """How the chains went: R-hat of predictions, step size, accepted steps, chains that are no longer finite."""
    finite = np.ones(result.num_chains, bool)
    for leaf in jax.tree.leaves(result.draws):
        # The last draw: nothing comes back from infinity.
        finite &= np.isfinite(np.asarray(leaf[:, -1])).reshape(result.num_chains, -1).all(1)
    found = {"nonfinite_chains": float(np.sum(~finite))}
    if result.info is not None:
        found["step_size"] = float(np.mean(np.asarray(result.info.step_size)[:, -1]))
        found["accepted"] = float(np.mean(result.info.accepted))
    if result.num_draws >= LEAST_DRAWS and finite.all():
        rhat = split_rhat(watched(result, problem.posterior, None, 0, problem.data.test[0]).values)
        if np.isfinite(rhat).any():
            found["rhat"] = float(np.nanmax(rhat))
    return found
