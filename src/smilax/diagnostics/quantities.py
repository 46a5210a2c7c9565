"""The quantities whose convergence is watched: predictions where there are any, else parameters."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from smilax import trees
from smilax.bnn import NetworkPosterior
from smilax.data import Batches
from smilax.predict import predict

# So many rows are taken of the inputs, spread evenly, and so many quantities at most.
MOST_ROWS, MOST_QUANTITIES = 64, 256
# Up to this many parameters each is watched by itself, and so many random projections of more.
MOST_PARAMETERS, PROJECTIONS = 64, 32
PIECE = 2**16


class Quantities(NamedTuple):
    """Functions of the parameters along the chains.

    Attributes:
        kind: what they are, in words.
        values: float64, shape `(chains, draws, quantities)`.
    """

    kind: str
    values: np.ndarray


def watched(result: Any, posterior: Any, batches: Batches | None, batch_size: int, inputs: Any) -> Quantities:
    """Predictions of a network at `inputs`, or at rows of the data; for any other posterior, parameters.

    A network's parameters need not converge for its predictions to: permuting hidden units changes nothing.
    """
    if isinstance(posterior, NetworkPosterior) and is_whole(result):
        if inputs is None and batches is not None:
            # A batch, and not the rows themselves: the network may need what the transform makes of them.
            key, step = jax.random.key(0), jnp.zeros((), jnp.uint32)
            size = min(MOST_ROWS, max(batch_size, 1))
            inputs = batches.draw(jax.tree.map(jnp.asarray, batches.data), key, step, size)[0]
        if inputs is not None:
            return Quantities("predictions", _outputs(result, posterior, inputs))
    size = trees.size(result.draws) // max(result.num_chains * result.num_draws, 1)
    if size <= MOST_PARAMETERS:
        leaves = [_rows(leaf) for leaf in jax.tree.leaves(result.draws)]
        return Quantities("parameters", np.concatenate(leaves, axis=-1).astype(np.float64))
    return Quantities("random projections", _projections(result))


def is_whole(result: Any) -> bool:
    """Whether the draws hold all parameters; a store may keep only some leaves."""
    return trees.size(result.draws) == result.num_chains * result.num_draws * result.config["num_params"]


def _outputs(result: Any, posterior: NetworkPosterior, inputs: Any) -> np.ndarray:
    inputs = inputs if all(hasattr(leaf, "shape") for leaf in jax.tree.leaves(inputs)) else np.asarray(inputs)
    rows = jax.tree.leaves(inputs)[0].shape[0]
    chosen = np.unique(np.linspace(0, rows - 1, min(rows, MOST_ROWS)).round().astype(int))
    x = jax.tree.map(lambda leaf: np.asarray(leaf)[chosen], inputs)
    stream = predict(posterior, result, x, max_memory=0)._stream
    pieces = []
    for start in range(0, stream.total, stream.draw_block):
        block = stream.draw_at(np.arange(start, min(start + stream.draw_block, stream.total)))
        (rows,) = stream.row_slices()
        identified = posterior.likelihood.identified(jnp.asarray(block.outputs(rows)))
        outputs = np.asarray(identified, np.float64)[: block.num_draws]
        outputs = outputs.reshape(len(outputs), -1)
        some = np.linspace(0, outputs.shape[1] - 1, min(outputs.shape[1], MOST_QUANTITIES)).round().astype(int)
        pieces.append(outputs[:, some])
    return np.concatenate(pieces).reshape(result.num_chains, result.num_draws, -1)


def _rows(leaf: Any) -> np.ndarray:
    """A leaf `(chain, draw, …)` as `(chain, draw, size)`."""
    return np.asarray(leaf).reshape(*leaf.shape[:2], math.prod(leaf.shape[2:]))


def _projections(result: Any) -> np.ndarray:
    """Sums of all parameters with random signs, each in units of its standard deviation; the same in every call."""
    rng = np.random.default_rng(0)
    total = np.zeros((result.num_chains, result.num_draws, PROJECTIONS))
    for leaf in jax.tree.leaves(result.draws):
        rows = _rows(leaf)
        for start in range(0, rows.shape[-1], PIECE):
            piece = rows[..., start : start + PIECE].astype(np.float64)
            # A chain that is not finite must not take the others' projections with it.
            finite = np.isfinite(piece)
            known = np.where(finite, piece, 0)
            count = np.maximum(finite.sum((0, 1)), 1)
            mean = known.sum((0, 1)) / count
            spread = np.sqrt(np.sum(np.where(finite, known - mean, 0) ** 2, (0, 1)) / count)
            weight = np.divide(1, spread, out=np.zeros_like(spread), where=spread > 0)
            signs = rng.choice([-1.0, 1.0], (len(weight), PROJECTIONS))
            total += np.where(finite, piece - mean, np.nan) @ (signs * weight[:, None])
    return total
