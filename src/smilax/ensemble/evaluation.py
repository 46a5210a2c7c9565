"""What is worked out of all rows with nothing differentiated, in blocks that bound the memory."""

import jax
import jax.numpy as jnp
import numpy as np

from smilax.compiling import compiled
from smilax.packing import unpack

# Rows that go through the network at once.
EVALUATION_ROWS = 1024


def take(data, rows):
    return jax.tree.map(lambda leaf: leaf.at[rows].get(mode="promise_in_bounds"), data)


def _blocks(num_rows):
    """Row numbers in blocks, shape (blocks, rows), wrapping around at the end, and which of them count."""
    width = min(num_rows, EVALUATION_ROWS)
    count = -(-num_rows // width)
    numbers = np.arange(count * width, dtype=np.int32).reshape(count, width)
    return jnp.asarray(numbers % num_rows), jnp.asarray(numbers < num_rows)


def _num_rows(data):
    return jax.tree.leaves(data)[0].shape[0]


def mean_log_likelihood(posterior, params, data):
    """The mean over all rows; takes them in blocks to bound the memory."""
    num_rows = _num_rows(data)
    params = unpack(params)

    def block(inputs):
        rows, counts = inputs
        return jnp.sum(jnp.where(counts, posterior.log_likelihood(params, take(data, rows)), 0.0))

    return jnp.sum(jax.lax.map(block, _blocks(num_rows))) / num_rows


def fit_residuals(posterior, members, data, transform=None):
    """The likelihood's parameters of largest likelihood for each member's residuals, on rows as `transform` makes them.

    They are transformed once, by a fixed key: what the network has learnt from may be nothing like the raw rows.
    """
    num_rows = _num_rows(data)

    def one(params, data):
        rows, _ = _blocks(num_rows)

        def block(inputs):
            rows, number = inputs
            batch = take(data, rows)
            if transform is not None:
                batch = transform(jax.random.fold_in(jax.random.key(0), number), batch)
            return posterior.outputs(params, batch[0]), tuple(batch[1:])

        blocks = jax.lax.map(block, (rows, jnp.arange(len(rows), dtype=jnp.uint32)))
        outputs, targets = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:num_rows], blocks)
        return posterior.likelihood.fit_residual(params["likelihood"], outputs, *targets)

    fit = compiled(
        posterior,
        ("residuals", transform),
        lambda: jax.jit(lambda members, data: jax.lax.map(lambda params: one(params, data), members)),
        members, data,
        quick=True,
    )  # fmt: skip
    return fit(members, data)
