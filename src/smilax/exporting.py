"""Draws in a file of their own."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from smilax.recording import leaf_names
from smilax.result import Result
from smilax.store.files import write_file
from smilax.store.header import encode
from smilax.store.shards import as_bytes

# Draws are copied in pieces of about this size, however many there are.
PIECE_BYTES = 2**24


def save_draws(path: str | Path, result: Result) -> None:
    """Writes all draws of a result to one safetensors file, which is there in full or not at all.

    Arrays have shape `(chain, draw, …)`, the dtype of the parameters, and the names of `sx.priors.by_path`; "params"
    where the parameters are a single array. Draws in a store are read and written piece by piece.

    Args:
        path: the file; one that exists is replaced.
        result: of `sample`, `resume` or `load`.

    Raises:
        TypeError: if `result` is none, or safetensors has no such dtype.
        OSError: if the file cannot be written.

    Example:
        >>> import jax, jax.numpy as jnp, numpy as np, safetensors.numpy, smilax as sx, tempfile
        >>> posterior = sx.Posterior(
        ...     lambda m: -0.5 * jnp.sum(m**2), lambda m, x: -0.5 * jnp.sum((x - m) ** 2, axis=-1), num_data=100
        ... )
        >>> result = sx.sample(
        ...     jax.random.key(0), sx.sgld(posterior, 1e-3), np.ones((100, 2), np.float32), jnp.zeros(2), num_chains=3,
        ...     num_warmup=0, num_samples=20, batch_size=10, progress_bar=False,
        ... )
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     sx.save_draws(f"{folder}/draws.safetensors", result)
        ...     safetensors.numpy.load_file(f"{folder}/draws.safetensors")["params"].shape
        (3, 20, 2)
    """
    if not isinstance(result, Result):
        raise TypeError(f"result must be what sample, resume or load returned, got {type(result).__name__}")
    path = Path(path)
    leaves: dict[str, Any] = dict(zip(leaf_names(result.draws), jax.tree.leaves(result.draws), strict=True))
    header, order = encode({name: (np.dtype(leaf.dtype), tuple(leaf.shape)) for name, leaf in leaves.items()})

    def pieces() -> Iterator[memoryview]:
        yield memoryview(header)
        for name in order:
            leaf = leaves[name]
            num_chains, num_draws = leaf.shape[:2]
            row = max(1, leaf.nbytes // max(1, num_chains * num_draws))
            count = max(1, PIECE_BYTES // row)
            for chain in range(num_chains):
                for start in range(0, num_draws, count):
                    block = np.asarray(leaf[chain, start : start + count])
                    yield as_bytes(np.ascontiguousarray(block, block.dtype.newbyteorder("<")))

    write_file(path.parent, path.name, pieces())
