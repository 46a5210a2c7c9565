"""Rows about the chains: whether they agree, how much they say, and which are lost."""

import math

import numpy as np

from smilax.diagnostics.convergence import LEAST_DRAWS, bulk_ess, split_rhat
from smilax.diagnostics.quantities import Quantities
from smilax.diagnostics.table import Row, grade, missing

RHAT = (1.01, 1.1)
ESS = (400, 100)
# A chain is lost if its mean log density is this many robust standard deviations of chains out, and also more than one
# standard deviation along a chain; or if its mean predictions are this far out in units of their posterior spread.
LOST_DENSITY, LOST_DISTANCE = 5.0, 3.0
# A chain whose draws spread less than this share of the others' is frozen.
FROZEN = 0.05
# Of a median absolute deviation, for a Gaussian.
MAD = 1.4826
BATCHES = 10


def convergence_rows(watched: Quantities, gradients: int) -> list[Row]:
    """R-hat, effective draws and their price; `gradients` is the number of those of all chains."""
    names = "split R-hat", "bulk ESS", "gradients per draw"
    chains, draws, _ = watched.values.shape
    if draws < LEAST_DRAWS:
        return [missing(name, f"needs {LEAST_DRAWS} draws a chain, has {draws}", "Draw more.") for name in names]
    finite = np.isfinite(watched.values).all((1, 2))
    if not finite.all():
        broken = ", ".join(str(c) for c in np.flatnonzero(~finite))
        advice = "Leave out the chains named, or start them elsewhere."
        return [Row(n, math.nan, f"not finite in chain {broken}", "finite", "bad", advice) for n in names[:2]]
    varying = (watched.values != watched.values[:1, :1]).any((0, 1))
    if not varying.any():
        return [Row(n, math.nan, "all draws are equal", "", "bad", "See lost chains.") for n in names[:2]]
    values = watched.values[..., varying]
    rhat, ess = split_rhat(values), bulk_ess(values)
    worst, least = float(np.max(rhat)), float(np.min(ess))
    verdict = grade(worst, *RHAT)
    if verdict == "ok" and chains == 1:
        verdict, advice = "warning", "Run at least four chains: one cannot tell whether others would agree."
    elif verdict == "ok":
        advice = "Nothing to do."
    elif verdict == "warning":
        advice = "Run longer; where R-hat does not fall with it, chains are in different places."
    else:
        advice = "Chains are in different places, or far too short: see lost chains, then run longer."
    details = {"of": watched.kind, "worst": worst, "median": float(np.median(rhat)), "quantities": len(rhat)}
    shown = f"{worst:.3f}" if worst < 100 else "> 100"
    text = f"{shown} worst of {len(rhat)} {watched.kind}"
    rows = [Row(names[0], worst, text, f"<= {RHAT[0]}", verdict, advice, details)]

    verdict = grade(-least, -ESS[0], -ESS[1])
    advice = "Nothing to do." if verdict == "ok" else "Run longer: estimates rest on too few independent draws."
    text = f"{least:,.0f} least, {np.median(ess):,.0f} median"
    details = {"of": watched.kind, "least": least, "median": float(np.median(ess)), "draws": chains * draws}
    rows.append(Row(names[1], least, text, f">= {ESS[0]}", verdict, advice, details))

    price = gradients / least
    text = f"{price:,.0f} per effective draw"
    advice = "Compare settings by it."
    rows.append(Row(names[2], price, text, "less is better", "n/a", advice, {"gradients": gradients}))
    return rows


def lost_row(log_density: np.ndarray, watched: Quantities) -> Row:
    """Chains that are somewhere else than the others, do not move, or are not finite."""
    name, good = "lost chains", "none"
    chains, draws, _ = watched.values.shape
    log_density = np.asarray(log_density, np.float64)
    finite = np.isfinite(log_density).all(1) & np.isfinite(watched.values).all((1, 2))
    reasons: dict[int, list[str]] = {int(c): ["not finite"] for c in np.flatnonzero(~finite)}
    usable = np.flatnonzero(finite)
    details = {}
    if draws >= LEAST_DRAWS:
        spread = watched.values[finite].std(1)
        # In units of what is typical of a chain, so that quantities of any scale count alike.
        typical = np.median(spread, axis=0) if len(usable) else spread.sum(0)
        unit = np.where(typical > 0, typical, spread.max(0) if len(usable) else 1)
        moving = unit > 0
        share = np.median(spread[:, moving] / unit[moving], axis=1) if moving.any() else np.zeros(len(usable))
        for chain, value in zip(usable, share, strict=True):
            if value < FROZEN:
                reasons.setdefault(int(chain), []).append("frozen")
        details["spread"] = dict(zip(usable.tolist(), share.tolist(), strict=True))
        if len(usable) > 2:
            for what, score, most in (
                ("log density", density_scores(log_density[finite]), LOST_DENSITY),
                (watched.kind, distances(watched.values[finite]), LOST_DISTANCE),
            ):
                details[what] = dict(zip(usable.tolist(), score.tolist(), strict=True))
                for chain, value in zip(usable, score, strict=True):
                    if abs(value) > most:
                        reasons.setdefault(int(chain), []).append(f"{what} {abs(value):,.0f} sd out")
    if reasons:
        text = "; ".join(f"{chain} ({', '.join(why)})" for chain, why in sorted(reasons.items()))
        advice = (
            f"Leave out chain {', '.join(str(c) for c in sorted(reasons))}, or run on from another start; "
            "what is lost in many runs is a mode of its own, and then belongs."
        )
        return Row(name, float(len(reasons)), text, good, "bad", advice, details)
    if draws < LEAST_DRAWS:
        return missing(name, f"needs {LEAST_DRAWS} draws a chain, has {draws}", "Draw more.")
    if chains < 3:
        return missing(name, f"{chains} of 3 chains it takes to tell", "Run at least three chains, better four.")
    return Row(name, 0.0, "none", good, "ok", "Nothing to do.", details)


def density_scores(log_density: np.ndarray) -> np.ndarray:
    """How far each chain's mean log density is from the median of the chains, in robust standard deviations.

    The unit is 1.4826 times the median absolute deviation of the means, or their standard error by batch means where
    that is larger, for chains may agree by chance. Zero where the distance is less than the standard deviation along a
    chain: `(chains, draws)` to `(chains,)`.
    """
    means = log_density.mean(1)
    off = means - np.median(means)
    number = min(BATCHES, log_density.shape[1])
    batches = np.stack([part.mean(1) for part in np.array_split(log_density, number, axis=1)], axis=1)
    error = np.median(batches.std(1, ddof=1)) / number**0.5
    unit = max(MAD * float(np.median(np.abs(off))), float(error), np.finfo(np.float64).tiny)
    return np.where(np.abs(off) > np.median(log_density.std(1)), off / unit, 0.0)


def distances(values: np.ndarray) -> np.ndarray:
    """How far each chain's means are from the medians of the chains: root mean square over quantities.

    Each is in units of √(σ² + τ²), σ² being the median variance along a chain and τ 1.4826 times the median absolute
    deviation between chains: `(chains, draws, quantities)` to `(chains,)`.
    """
    means = values.mean(1)
    off = means - np.median(means, axis=0)
    unit = np.sqrt(np.median(values.var(1), axis=0) + (MAD * np.median(np.abs(off), axis=0)) ** 2)
    scaled = np.divide(off, unit, out=np.zeros_like(off), where=unit > 0)
    return np.sqrt(np.mean(scaled**2, axis=1))
