"""`predict`: what a posterior's draws say of new inputs."""

from typing import Any

import jax

from smilax.predict.inputs import as_params, check_draws, check_inputs, check_positive, measure
from smilax.predict.prediction import Prediction
from smilax.predict.streaming import BLOCK_BYTES, Stream


def predict(posterior: Any, result: Any, x: Any, *, batch_size: int = 1024, max_memory: int = 2**29) -> Prediction:
    """The posterior predictive distribution at new inputs.

    Nothing is computed before a statistic is asked for.

    Args:
        posterior: from `sx.bnn`.
        result: what `sx.sample` returned, or anything else with `draws`, a pytree with leaves (chain, draw, ...);
            or the members of an ensemble, a pytree with a leading member axis (then each member is a chain of one).
        x: the inputs, an array or a pytree of arrays, rows on the leading axis.
        batch_size: the most rows that go through the network at once.
        max_memory: up to this many bytes, the network's outputs for all draws and rows are kept.

    Raises:
        TypeError: if `posterior` is not a network's.
        ValueError: if `x` has no rows, holds NaN or infinity, or does not fit the network; if there are no draws
            or their leading axes differ; if `batch_size` or `max_memory` is out of range.

    Example:
        >>> import jax, jax.numpy as jnp, smilax as sx
        >>> network = sx.Network(init=lambda key: jnp.zeros(2), apply=lambda w, x: x @ w)
        >>> posterior = sx.bnn(network, sx.likelihoods.Gaussian(scale=0.5), sx.priors.Normal(0.0, 1.0), num_data=100)
        >>> members = {"network": jnp.array([[1.0, 0.0], [3.0, 0.0]])}
        >>> prediction = sx.predict(posterior, members, jnp.ones((5, 2)))
        >>> prediction
        Prediction(kind='regression', chains=2, draws=1, rows=5)
        >>> prediction.mean[0].item(), prediction.epistemic[0].item(), prediction.aleatoric[0].item()
        (2.0, 1.0, 0.25)
    """
    if not all(hasattr(posterior, name) for name in ("network", "likelihood", "outputs")):
        raise TypeError(
            f"posterior must be a network's posterior, made by sx.bnn, got {type(posterior).__name__}; for any other, "
            "map your own function of the parameters over the draws, such as "
            "jax.vmap(jax.vmap(lambda params: params['a'] + x * params['b']))(result.draws)"
        )
    batch_size = check_positive("batch_size", batch_size)
    if not max_memory >= 0:
        raise ValueError(f"max_memory must be a number of bytes, at least 0, got {max_memory!r}")
    draws, chains, num_draws = check_draws(result)
    draws = as_params(draws, posterior, members=not hasattr(result, "draws"))
    x, num_rows = check_inputs(x, draws)
    # Blocks of equal size rather than full ones and a rest: less padding, and still one compilation.
    row_block = -(-num_rows // -(-num_rows // batch_size))
    output, bytes_per_draw = measure(posterior, draws, jax.tree.map(lambda a: a[:row_block], x), row_block)
    total = chains * num_draws
    most = max(1, BLOCK_BYTES // max(1, bytes_per_draw))
    stream = Stream(
        posterior=posterior,
        draws=draws,
        chains=range(chains),
        num_draws=num_draws,
        x=x,
        num_rows=num_rows,
        row_block=row_block,
        draw_block=-(-total // -(-total // most)),
        output=output,
        max_memory=max_memory,
    )
    return Prediction(stream)
