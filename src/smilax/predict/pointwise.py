"""The log density of every target under every draw, of which the log predictive density is the mean in one way."""

import functools
from typing import Any

import jax
import numpy as np

from smilax.predict.prediction import Prediction


def pointwise_log_prob(prediction: Prediction, y: Any) -> np.ndarray:
    """log p(y_i | x_i, draw t) in nats, shape `(chains, draws, rows)`.

    Args:
        prediction: from `sx.predict`.
        y: the targets.

    Raises:
        TypeError, ValueError: as `Prediction.log_prob`.
    """
    y, stream = np.asarray(y), prediction._stream
    if y.shape[:1] != (stream.num_rows,):
        raise ValueError(f"y must have {stream.num_rows} rows, as many as x, got shape {y.shape}")
    stream.likelihood.check(y, (stream.num_rows, *stream.output.shape))
    if prediction.kind == "regression":
        y = y.astype(stream.output.dtype)
    result = np.empty((stream.total, stream.num_rows), stream.output.dtype)
    for start in range(0, stream.total, stream.draw_block):
        block = stream.draw_at(np.arange(start, min(start + stream.draw_block, stream.total)))
        for rows in stream.row_slices():
            targets = stream.on_device(y, rows)
            part = np.asarray(_log_probs(stream.likelihood, block.likelihood, block.outputs(rows), targets))
            result[start : start + block.num_draws, rows] = part[: block.num_draws, : rows.stop - rows.start]
    return result.reshape(prediction.num_chains, prediction.num_draws, stream.num_rows)


@functools.partial(jax.jit, static_argnums=0)
def _log_probs(likelihood, params, outputs, y):
    return jax.vmap(lambda params, outputs: likelihood.log_prob(params, outputs, y))(params, outputs)
