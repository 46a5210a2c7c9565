"""What a target of the suite is, and the numbers by which a run is judged on it."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

import smilax as sx


def all_params(params: Any) -> jax.Array:
    """The parameters themselves as a vector: what most targets are judged by."""
    return ravel_pytree(params)[0]


@dataclass(frozen=True, eq=False)
class Target:
    """A posterior with data, run lengths and the quantities whose law is compared.

    Attributes:
        name: identifier in files and on the command line.
        title: heading on the page.
        about: what it is, for the page.
        posterior: in any precision; its functions follow the precision of the parameters.
        data: arrays with N rows, or an `sx.Batches`.
        batch_size: B.
        start: parameters of `num` chains, leading chain axis, float32.
        reference: moments of the quantities, by closed form or by NUTS; a `Reference`.
        num_warmup, num_samples: steps of two gradients.
        thinning: steps between looks at the quantities.
        num_chains: chains of a run; a seed is a run.
        quantities: vector of what is compared, a function of the parameters.
        kind: "moments" (bias and variance ratios), "function" (predictions) or "modes" (indicators of modes).
        seeds: runs of ismile and mclmc.
        grid_seeds: runs at each step size of a grid.
        grid_chains: chains of a run on the grid of steps; None: `num_chains`.
        ismile: keyword arguments of ismile that the batches ask for.
        extra: further rows: `{row name: keyword arguments of ismile}`.
        full_batch: whether full-batch samplers are run.
        grid: whether the published samplers are run.
    """

    name: str
    title: str
    about: str
    posterior: sx.Posterior
    data: Any
    batch_size: int
    start: Callable[[int], Any]
    reference: Callable[["Target"], "Reference"]
    num_warmup: int = 20_000
    num_samples: int = 20_000
    thinning: int = 10
    num_chains: int = 4
    quantities: Callable[[Any], jax.Array] = all_params
    kind: str = "moments"
    seeds: int = 3
    grid_seeds: int = 1
    grid_chains: int | None = None
    ismile: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, dict[str, Any]] = field(default_factory=dict)
    full_batch: bool = True
    grid: bool = True

    @property
    def batches(self) -> sx.Batches:
        """The data as a source of batches."""
        return self.data if isinstance(self.data, sx.Batches) else sx.Batches(self.data)

    def log_density(self, params: Any, dtype: Any) -> jax.Array:
        """The full-data log density, without any batch noise, with data in the precision given."""
        data = jax.tree.map(lambda x: x.astype(dtype) if x.dtype.kind == "f" else x, self.data)
        return self.posterior.log_density(params, data)

    @cached_property
    def fingerprint(self) -> str:
        """Changes whenever the target does: data, and the density at a few points."""
        digest = hashlib.sha256(self.name.encode())
        for leaf in jax.tree.leaves(self.batches.data):
            digest.update(np.ascontiguousarray(leaf).tobytes())
        start = jax.tree.map(lambda x: jnp.asarray(x[0]), self.start(1))
        flat, unravel = ravel_pytree(start)
        batch = self.batches.draw(jax.tree.map(jnp.asarray, self.batches.data), jax.random.key(0), 0, 2)
        for i in range(2):
            point = unravel(flat + 0.3 * jnp.cos(jnp.arange(flat.size, dtype=flat.dtype) * (i + 1)))
            digest.update(f"{float(self.posterior.log_density(point, batch)):.3e}".encode())
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Reference:
    """Moments of the quantities under the posterior, float64 vectors, and what is known of their accuracy.

    Attributes:
        mean: E[x].
        variance: Var[x].
        square_variance: Var[x²].
        note: for the page: how it was found, R-hat, effective sample size.
    """

    mean: np.ndarray
    variance: np.ndarray
    square_variance: np.ndarray
    note: str

    @property
    def square(self) -> np.ndarray:
        """E[x²]."""
        return self.variance + self.mean**2


def gaussian_reference(mean: np.ndarray, variance: np.ndarray, note: str) -> Reference:
    """Moments of squares of Gaussian quantities: Var[x²] = 4 m² v + 2 v²."""
    return Reference(mean, variance, 4 * mean**2 * variance + 2 * variance**2, note)


@dataclass(frozen=True)
class Moments:
    """What is kept of a run: means over each half of each chain.

    Attributes:
        first: E[x − c], shape `(..., chain, 2, quantity)`, c the reference mean.
        second: E[(x − c)²], likewise.
    """

    first: np.ndarray
    second: np.ndarray


def scores(moments: Moments, reference: Reference, kind: str) -> dict[str, float]:
    """The numbers of a row, from all chains of a run together; infinite or NaN where a chain was lost."""
    with np.errstate(all="ignore"):
        found = _of_moments(moments, reference)
        if kind == "function":
            found |= _of_functions(moments, reference)
        if kind == "modes":
            found |= _of_modes(moments, reference)
    return {name: float(value) for name, value in found.items()}


def _of_moments(moments: Moments, reference: Reference) -> dict[str, Any]:
    """Squared biases in units of the posterior's variance, and variance ratios."""
    shift = moments.first.astype(np.float64).mean(axis=(0, 1))
    spread = moments.second.astype(np.float64).mean(axis=(0, 1))
    square = spread + 2 * reference.mean * shift + reference.mean**2
    mean_bias = shift**2 / reference.variance
    square_bias = (square - reference.square) ** 2 / reference.square_variance
    ratio = (spread - shift**2) / reference.variance
    if not np.isfinite(square_bias).all():
        mean_bias = square_bias = np.asarray(np.inf)
        ratio = np.asarray(np.nan)
    return {
        "bias_mean": mean_bias.mean(),
        "bias_mean_max": mean_bias.max(),
        "bias_square": square_bias.mean(),
        "bias_square_max": square_bias.max(),
        "ratio_min": ratio.min(),
        "ratio_median": np.median(ratio),
        "ratio_max": ratio.max(),
    }


def _of_functions(moments: Moments, reference: Reference) -> dict[str, Any]:
    """How predictive means and standard deviations compare, and how well chains from different starts agree."""
    shift = moments.first.astype(np.float64).mean(axis=(0, 1))
    variance = moments.second.astype(np.float64).mean(axis=(0, 1)) - shift**2
    ratio = np.sqrt(variance / reference.variance)
    return {
        "sd_ratio": ratio.mean(),
        "sd_off": np.abs(ratio - 1).mean(),
        "correlation": np.corrcoef(reference.mean + shift, reference.mean)[0, 1],
        "rhat": split_rhat(moments).max(),
    }


def _of_modes(moments: Moments, reference: Reference) -> dict[str, Any]:
    """Modes visited by a chain, on average, and by all together, and the share of draws near any, of indicators.

    A mode is visited if a tenth of its share of the draws is near it: chains that fly over the grid do not count.
    """
    shares = moments.first.mean(axis=1) + reference.mean
    visited = shares > 0.1 * reference.mean
    return {
        "modes_one": visited.sum(axis=1).mean(),
        "modes_all": (shares.mean(axis=0) > 0.1 * reference.mean).sum(),
        "near": shares.sum(axis=1).mean() / reference.mean.sum(),
    }


def split_rhat(moments: Moments) -> np.ndarray:
    """R-hat of each quantity from the halves of the chains, without its small-sample terms."""
    means = moments.first.astype(np.float64)
    within = (moments.second.astype(np.float64) - means**2).mean(axis=(0, 1))
    between = means.reshape(-1, means.shape[-1]).var(axis=0, ddof=1)
    return np.sqrt(1 + between / np.maximum(within, 1e-300))
