"""Rows about the kernel: whether the conditions hold under which its stationary law is the posterior."""

import math
from typing import Any

import numpy as np

from smilax.diagnostics.isotropy import NoiseLaw
from smilax.diagnostics.table import Row, Verdict, grade, missing
from smilax.samplers.ismile_kernel import INFLATION
from smilax.samplers.ismile_warmup import CURVATURE, noise_limit

# Relative errors of single variances, as the noise's anisotropy predicts them, that are good, and that are bad.
TYPICAL_ERROR = (0.2, 0.7)
LEAF_ERROR = (0.1, 0.5)
# The noise may be so much weaker or stronger than the geometry has learnt.
LEVEL_RANGE = (1.25, 2.0)
# An L_eff below this share of the radius makes a random walk of what could be straight.
LEAST_STRAIGHT = 0.3
# The variance error that discretisation may cause in samplers that were not given an accuracy, and a bad one.
CURVATURE_ERROR = (0.1, 0.3)
# EEVPD may exceed its target by these factors: an error of variances goes as its third root.
ABOVE_TARGET = (3.0, 20.0)
# A variance of ΔE so much larger than its effective value is made by few steps.
HEAVY = 4.0
# E|z|^{2/3} of a standard normal z.
TWO_THIRDS = 2 ** (1 / 3) * math.gamma(5 / 6) / math.sqrt(math.pi)
REJECTS = (1e-3, 1e-2)
# Standard errors within which nothing is held against a value.
CERTAIN = 2.0


def isotropy_row(law: NoiseLaw, share: float, friction: bool = False) -> Row:
    """α of the noise; `share` is that of batch noise in all noise, the rest being isotropic by construction.

    With friction that matches the noise, α says how well the geometry fits, and no variance depends on it.
    """
    name = "noise isotropy"
    if law.broken:
        return _broken(name, law)
    if friction:
        text = f"alpha {law.alpha:.3f} ± {law.alpha_error:.3f} (local {law.local:.2f})"
        details = {"alpha": law.alpha, "standard_error": law.alpha_error, "local": law.local, "share": share}
        return Row(name, law.alpha, text, "any: friction matches it", "ok", "Nothing to do.", details)
    certain = max(law.alpha - CERTAIN * law.alpha_error - 1, 0.0)
    error = share * math.sqrt(certain)
    most = 1 + (TYPICAL_ERROR[0] / max(share, 1e-6)) ** 2
    verdict = grade(error, *TYPICAL_ERROR)
    good = f"alpha <= {most:.3g}" if most < 100 else "any: little batch noise"
    text = f"alpha {law.alpha:.3f} ± {law.alpha_error:.3f} (local {law.local:.2f})"
    if verdict == "ok" and share * math.sqrt(CERTAIN * law.alpha_error) > TYPICAL_ERROR[1]:
        verdict, text = "warning", text + " (too uncertain)"
        advice = "Give a larger num_noise: the draws do not settle whether the noise is isotropic."
    elif verdict == "ok":
        advice = "Nothing to do."
    else:
        advice = (
            f"Variances of single directions are off by typically {error:.0%}: take a geometry that can express the "
            "noise (dense, kronecker), a longer warm-up, a larger batch, or a larger noise_floor."
        )
    details = {"alpha": law.alpha, "standard_error": law.alpha_error, "local": law.local, "share": share}
    return Row(name, law.alpha, text, good, verdict, advice, details)


def leaves_row(law: NoiseLaw, share: float, friction: bool = False) -> Row:
    """The range of the noise per parameter over leaves, which is that of the variances' ratios to the truth."""
    name = "noise per leaf"
    if law.broken:
        return _broken(name, law)
    if len(law.names) == 1:
        return missing(name, "one leaf", "Nothing to do.")
    low, high = int(np.argmin(law.leaves)), int(np.argmax(law.leaves))
    share = 0.0 if friction else share
    # The extremes of many leaves are off by more than one standard error.
    certain = np.maximum(np.abs(law.leaves - 1) - (CERTAIN + 1) * law.leaves_error, 0)
    error = share * float(certain.max())
    verdict = grade(error, *LEAF_ERROR)
    predicted = 1 + share * (law.leaves - 1)
    ratio = float(law.leaves[high] / law.leaves[low]) if law.leaves[low] > 0 else math.inf
    text = f"max/min {ratio:.2f}; variances x {predicted[low]:.2f} to {predicted[high]:.2f}"
    if verdict == "ok":
        advice = "Nothing to do."
    else:
        worst = law.names[int(np.argmax(certain))]
        side = "wide" if law.leaves[int(np.argmax(certain))] > 1 else "narrow"
        advice = (
            f"Posterior variances in {worst} come out too {side}: take a geometry that can express the noise, or a "
            "longer warm-up."
        )
    leaves = {
        leaf: {"omega": float(w), "standard_error": float(e), "variance_ratio": float(p)}
        for leaf, w, e, p in zip(law.names, law.leaves, law.leaves_error, predicted, strict=True)
    }
    return Row(name, ratio, text, f"each within {LEAF_ERROR[0]:.0%}", verdict, advice, leaves)


def level_row(law: NoiseLaw, scale: np.ndarray) -> Row:
    """tr(Ω)/d against 1/s, what ismile takes it for; `scale` is s of each chain."""
    name = "noise level"
    if law.broken:
        return _broken(name, law)
    ratios = law.level * np.asarray(scale, np.float64)
    value, worst = float(np.mean(ratios)), int(np.argmax(np.abs(np.log(ratios))))
    off = max(ratios[worst], 1 / ratios[worst])
    verdict = grade(float(off), *LEVEL_RANGE)
    advice = "Nothing to do."
    if verdict != "ok":
        advice = (
            f"The noise of chain {worst} is {ratios[worst]:.2g} times what its geometry has learnt: warm up longer, "
            "and start where the posterior is (sx.train_ensemble); if it is many times, take a larger shrinkage."
        )
    text = f"{value:.2f} x learnt (chains {ratios.min():.2f} to {ratios.max():.2f})"
    good = f"{1 / LEVEL_RANGE[0]:.2g} to {LEVEL_RANGE[0]:.3g}"
    return Row(name, value, text, good, verdict, advice, {"chains": ratios.tolist()})


def step_row(ratio: np.ndarray, config: Any, measured: bool, dilution: float = 1.0) -> Row:
    """ε/L_eff of each chain, against what the accuracy allows at a dilution N/B, and which of the limits set ε.

    A dilution of 0 says that no row comes back.

    At r = 0.32 ε/L_eff ismile's kick correction leaves a relative error of about 1.2 r² in each variance, and of r N/B
    where a single row decides; without a correction r itself is left.
    """
    name = "step / L_eff"
    value = float(np.max(ratio))
    if measured:
        most = CURVATURE_ERROR[0] / INFLATION
        verdict = grade(value, most, CURVATURE_ERROR[1] / INFLATION)
        text = f"{value:.3f}, variances x {1 + INFLATION * value:.3f}" if math.isfinite(value) else "not finite"
    else:
        # Few posteriors have such rows: what would do without them is no more than a warning.
        most, steady = noise_limit(config["accuracy"], dilution), noise_limit(config["accuracy"], 0.0)
        verdict = grade(value, 1.05 * most, 2 * steady)
        if config["step_size"] is not None:
            limit = "step size given"
        else:
            limit = "set by noise" if np.median(ratio) > 0.9 * most else "set by curvature"
        text = f"{value:.3g}, {limit}" if math.isfinite(value) else "not finite"
    advice = "Nothing to do."
    if verdict != "ok":
        advice = "Batch noise turns the velocity within few steps: take a smaller step size, or larger batches."
    return Row(name, value, text, f"<= {most:.3g}", verdict, advice, {"chains": np.asarray(ratio, float).tolist()})


def radius_row(ratio: np.ndarray) -> Row:
    """L_eff over the posterior's radius, of each chain."""
    name = "L_eff / radius"
    value = float(np.median(ratio))
    if math.isnan(value):
        return Row(name, value, "not finite", f">= {LEAST_STRAIGHT}", "bad", "Warm up longer: nothing was learnt.")
    if value > 1e6:
        text = "no batch noise: explicit noise alone"
    elif value > 1:
        text = f"{value:.2f}: {1 - 1 / value:.0%} of the noise explicit"
    else:
        text = f"{value:.2f}: batch noise alone"
    slow = value < LEAST_STRAIGHT
    advice = "Nothing to do."
    if slow:
        advice = "The law is right, but chains walk rather than run: larger batches would mix faster."
    verdict: Verdict = "warning" if slow else "ok"
    return Row(
        name, value, text, f">= {LEAST_STRAIGHT}", verdict, advice, {"chains": np.asarray(ratio, float).tolist()}
    )


def energy_row(energy: np.ndarray, accepted: np.ndarray, size: int, config: Any) -> Row:
    """EEVPD, Var(ΔE)/d: the mean over chains of the variance along a chain, judged by its effective value.

    What curvature does to a variance goes as ε², EEVPD^{1/3}, and adds up over the batches, whose curvatures differ. So
    the mean of |ΔE|^{2/3} says what the errors come to, where few batches make nearly all of their variance; for
    normal ΔE it comes to the same. That is a mean over directions too: where the plain variance is far above its bound,
    the directions that few batches see may fare worse.
    """
    name = "EEVPD"
    energy = np.where(np.asarray(accepted) > 0, np.asarray(energy, np.float64), np.nan)
    if energy.size == 0 or energy.shape[1] < 2:
        return missing(name, "needs two draws", "Draw more.")
    usable = np.isfinite(energy)
    lacking = [c for c in range(len(energy)) if usable[c].sum() < 2]
    if len(lacking) == len(energy):
        return missing(name, "no finite energy error", "See rejects; a sampler without an energy has none.")
    chains = [e[u] for e, u in zip(energy, usable, strict=True) if u.sum() > 1]
    with np.errstate(all="ignore"):
        plain = np.array([np.var(e, ddof=1) for e in chains]) / size
        roots = np.array([np.mean(np.cbrt(e - np.median(e)) ** 2) for e in chains]) / TWO_THIRDS
    value, effective = float(plain.mean()), float(roots.mean() ** 3 / size)
    error = CURVATURE * np.cbrt(effective)
    target = config.get("target_eevpd")
    if target is None:
        ok, bad = ((limit / CURVATURE) ** 3 for limit in CURVATURE_ERROR)
    else:
        ok, bad = (factor * target for factor in ABOVE_TARGET)
    verdict = grade(effective, ok, bad)
    text, advice = f"{effective:.2g} effective (plain {value:.2g})", "Nothing to do."
    if value > HEAVY * effective:
        text += ", heavy tails"
    if verdict != "ok":
        advice = f"Curvature inflates variances by about {error:.0%}: take a smaller step size or a longer warm-up."
    elif value > bad:
        verdict = "warning"
        advice = (
            "A few batches make nearly all of the energy error, those with rows of high leverage: variances along such "
            "rows may be off. Take larger batches, a smaller accuracy or step size, and see lost chains."
        )
    if lacking:
        text, verdict = f"{text}; none of chain {_join(lacking)}", "bad"
        advice = "Leave out the chains named, or start them elsewhere: their energy errors are not finite."
    details = {"effective": effective, "target": target, "variance_error": float(error), "chains": plain.tolist()}
    return Row(name, value, text, f"<= {ok:.2g}", verdict, advice, details)


def warmup_energy_row(eevpd: np.ndarray, config: Any) -> Row:
    """EEVPD as the end of warm-up had it, plain, of each chain: where nothing else is known."""
    value = float(np.mean(eevpd))
    ok, bad = (factor * config["target_eevpd"] for factor in ABOVE_TARGET)
    verdict = grade(value, ok, bad) if math.isfinite(value) else "bad"
    error = CURVATURE * float(np.cbrt(value))
    advice = "Nothing to do."
    if verdict != "ok":
        advice = (
            f"Curvature inflates variances by up to {error:.0%}: give diagnose algorithm and data, which tell more."
        )
    details = {"target": config["target_eevpd"], "variance_error": error, "chains": np.asarray(eevpd, float).tolist()}
    return Row("EEVPD", value, f"{value:.2g} in warm-up", f"<= {ok:.2g}", verdict, advice, details)


def rejects_row(accepted: np.ndarray, config: Any) -> Row:
    """The share of steps that the guardrail undid."""
    name = "rejects"
    chains = 1 - np.mean(np.asarray(accepted, np.float64), axis=1)
    value, worst = float(chains.mean()), int(np.argmax(chains))
    # The published tuner undoes this share of the steps by design.
    designed = 1 - config.get("reset", 1.0)
    ok, bad = (designed * 1.5 + limit for limit in REJECTS)
    verdict = grade(value, ok, bad)
    advice = "Nothing to do."
    if verdict == "ok" and chains[worst] > bad:
        verdict = "warning"
    if verdict != "ok":
        advice = (
            f"Most are of chain {worst} ({chains[worst]:.1%}): undone steps bias a chain where they are frequent; "
            "take a smaller step size, or see whether it is lost."
        )
    text = f"{value:.2%}" if value else "none"
    return Row(name, value, text, f"<= {ok:.2%}", verdict, advice, {"chains": chains.tolist()})


def _broken(name: str, law: NoiseLaw) -> Row:
    advice = "Leave out the chains named, or start them elsewhere: gradients where they stand are not finite."
    return Row(name, math.nan, f"not finite in chain {_join(law.broken)}", "finite", "bad", advice)


def _join(numbers: Any) -> str:
    return ", ".join(str(n) for n in numbers)
