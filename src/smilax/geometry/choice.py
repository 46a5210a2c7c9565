"""Which geometry for which model."""

from typing import Any

import jax
import jax.numpy as jnp

from smilax.geometry.base import NoiseEstimate
from smilax.geometry.dense import DenseEstimate
from smilax.geometry.diagonal import DiagonalEstimate
from smilax.geometry.identity import IdentityEstimate
from smilax.geometry.kronecker import KroneckerEstimate
from smilax.geometry.low_rank import LowRankEstimate
from smilax.packing import unpack

NAMES = ("auto", "identity", "diagonal", "kronecker", "low_rank", "dense")
# Up to here a full matrix costs no more than the gradient of most models.
DENSE_LIMIT = 256


def noise_estimate(name: str, params: Any, *, max_side: int = 128, rank: int = 16) -> NoiseEstimate:
    """The estimate of this name for parameters like these.

    `"auto"` is dense up to 256 parameters and kronecker above.
    """
    shapes = tuple(jnp.shape(leaf) for leaf in jax.tree.leaves(unpack(params)))
    sizes = tuple(leaf.size for leaf in jax.tree.leaves(unpack(params)))
    if name == "auto":
        name = "dense" if sum(sizes) <= DENSE_LIMIT else "kronecker"
    match name:
        case "identity":
            return IdentityEstimate()
        case "diagonal":
            return DiagonalEstimate()
        case "kronecker":
            return KroneckerEstimate(shapes, max_side)
        case "low_rank":
            return LowRankEstimate(rank)
        case "dense":
            return DenseEstimate(sizes)
    raise ValueError(f"geometry must be one of {', '.join(map(repr, NAMES))}, got {name!r}")
