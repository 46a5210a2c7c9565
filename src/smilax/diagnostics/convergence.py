"""Rank-normalised split R-hat and bulk effective sample size (Vehtari, Gelman, Simpson, Carpenter and Bürkner 2021).

In NumPy and float64, over many quantities at once: the precision of the chains is not enough for long autocorrelations.
"""

import numpy as np
from scipy.special import ndtri
from scipy.stats import rankdata

LEAST_DRAWS = 4


def split_rhat(values: np.ndarray) -> np.ndarray:
    """The larger of R-hat of ranks and of ranks of the distance from the median (equations 4 and 14).

    Args:
        values: shape `(chains, draws, quantities)`, at least 4 draws.

    Returns:
        Shape `(quantities,)`; NaN for a quantity that does not vary.
    """
    halves = _halves(values)
    folded = np.abs(halves - np.median(halves, axis=(0, 1)))
    return np.fmax(
        _potential_scale_reduction(_normal_scores(halves)), _potential_scale_reduction(_normal_scores(folded))
    )


def bulk_ess(values: np.ndarray) -> np.ndarray:
    """Effective sample size of the ranks of the halves of all chains.

    Autocorrelations are summed as long as Geyer's initial monotone sequence (1992) is positive.

    Args:
        values: shape `(chains, draws, quantities)`, at least 4 draws.

    Returns:
        Shape `(quantities,)`; NaN for a quantity that does not vary.
    """
    scores = _normal_scores(_halves(values))
    chains, draws, _ = scores.shape
    centred = scores - scores.mean(1, keepdims=True)
    power = np.abs(np.fft.rfft(centred, n=2 * draws, axis=1)) ** 2
    covariance = np.fft.irfft(power, n=2 * draws, axis=1)[:, :draws].mean(0) / draws
    within = covariance[0] * draws / (draws - 1)
    total = covariance[0] + scores.mean(1).var(0, ddof=1)
    with np.errstate(all="ignore"):
        correlation = 1 - (within - covariance) / total
        correlation[0] = 1
        even = correlation[: draws - draws % 2 : 2]
        pairs = even + correlation[1:draws:2]
        kept = np.logical_and.accumulate(pairs > 0)
        # The term after the last pair is known as well, and counts once.
        last = np.minimum(kept.sum(0), len(even) - 1)
        after = np.where(kept.all(0), 0, np.maximum(np.take_along_axis(even, last[None], 0)[0], 0))
        sums = np.where(kept, np.minimum.accumulate(pairs), 0).sum(0)
        time = np.maximum(-1 + 2 * sums + after, 1 / np.log10(chains * draws))
        return np.where(total > 0, chains * draws / time, np.nan)


def _halves(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, np.float64)
    half = values.shape[1] // 2
    return np.concatenate([values[:, :half], values[:, half : 2 * half]])


def _normal_scores(values: np.ndarray) -> np.ndarray:
    ranks = rankdata(values.reshape(-1, values.shape[-1]), axis=0)
    return ndtri((ranks - 0.375) / (len(ranks) + 0.25)).reshape(values.shape)


def _potential_scale_reduction(scores: np.ndarray) -> np.ndarray:
    draws = scores.shape[1]
    within = scores.var(1, ddof=1).mean(0)
    between = draws * scores.mean(1).var(0, ddof=1)
    with np.errstate(all="ignore"):
        return np.sqrt((between / within + draws - 1) / draws)
