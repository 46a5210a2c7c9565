"""The configurational temperature: whether draws spread as far as the gradient of the density says that they should.

For any density p that vanishes far out, any constant c and each parameter, E[−(x − c) ∂ log p(x)] = 1 (integrate by
parts). A sampler whose draws are too wide, because its steps are too long or its noise has not been accounted for,
makes more of it, whatever the sampler is: on a Gaussian the ratio of its variance to the true one. Taken over many
parameters it is the configurational temperature of molecular dynamics (Leimkuhler and Matthews 2015), which Wenzel et
al. (2020) look at in Bayesian networks. The gradients are those of fresh batches, whose noise has mean zero at a given
draw.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from smilax.data import Batches
from smilax.diagnostics.table import Row, grade, missing
from smilax.posterior import Posterior

# Groups of draws, chains or parts of them, whose scatter gives the standard errors; and the draws that make one.
LEAST_GROUPS, LEAST_DRAWS = 4, 8
# Too hot is what exceeds the bounds by so many standard errors, of a leaf of the parameters.
ERRORS = 3.0
HOT = (1.25, 2.0)
# Below this, taken over all parameters, the chains have not been where they would come in time.
COLD = 0.5


class Temperatures(NamedTuple):
    """Means over groups of draws, with their standard errors.

    Attributes:
        whole, whole_error: of all parameters.
        leaves, leaves_error: of each leaf, shape `(leaves,)`, in the order of the parameters.
        names: of the leaves.
        num_draws: over all chains.
    """

    whole: float
    whole_error: float
    leaves: np.ndarray
    leaves_error: np.ndarray
    names: tuple[str, ...]
    num_draws: int


def temperatures(
    key: jax.Array, posterior: Posterior, draws: Any, batches: Batches, batch_size: int, number: int
) -> Temperatures | None:
    """Configurational temperatures of a run's draws; None where there are too few draws.

    The constant c is the mean of a group's draws, for which n draws lose a share of 1/n, put back here. One pass, with
    two arrays of the parameters' size.

    Args:
        key: JAX random key.
        posterior: the target.
        draws: leaves `(chain, draw, …)`.
        batches: where batches come from; they must be independent.
        batch_size: B.
        number: gradients to take over all chains.
    """
    chains, places = np.shape(jax.tree.leaves(draws)[0])[:2]
    parts = -(-LEAST_GROUPS // chains)
    each = min(max(number // chains, LEAST_DRAWS * parts), places) // parts
    if each < LEAST_DRAWS:
        return None
    data = jax.tree.map(jnp.asarray, batches.data)

    @jax.jit
    def add(sums, params, first, data, key):
        """One more draw: Σ (x − x₀) ∂ log p of each leaf, Σ (x − x₀) and Σ ∂ log p."""
        products, offsets, gradients = sums
        batch = batches.draw(data, key, jnp.zeros((), jnp.uint32), batch_size)
        _, gradient = posterior.value_and_grad(params, batch)
        offset = jax.tree.map(jnp.subtract, params, first)
        new = [jnp.vdot(x, g) for x, g in zip(jax.tree.leaves(offset), jax.tree.leaves(gradient), strict=True)]
        return (
            [a + b for a, b in zip(products, new, strict=True)],
            jax.tree.map(jnp.add, offsets, offset),
            jax.tree.map(jnp.add, gradients, gradient),
        )

    @jax.jit
    def finish(sums):
        products, offsets, gradients = sums
        between = [jnp.vdot(x, g) for x, g in zip(jax.tree.leaves(offsets), jax.tree.leaves(gradients), strict=True)]
        return jnp.stack([(b / each - a) / (each - 1) for a, b in zip(products, between, strict=True)])

    found = []
    for chain, chain_key in enumerate(jax.random.split(key, chains)):
        rows = np.linspace(0, places - 1, each * parts).round().astype(int).reshape(parts, each)
        for part, group_key in zip(rows, jax.random.split(chain_key, parts), strict=True):
            # Read one after another: a group of draws of a large model need not fit into memory.
            one = jax.tree.map(lambda x, c=chain, r=part[0]: jnp.asarray(x[c, r]), draws)
            zeros = jax.tree.map(jnp.zeros_like, one)
            sums = ([jnp.zeros((), leaf.dtype) for leaf in jax.tree.leaves(one)], zeros, zeros)
            for row, draw_key in zip(part, jax.random.split(group_key, each), strict=True):
                params = jax.tree.map(lambda x, c=chain, r=row: jnp.asarray(x[c, r]), draws)
                sums = add(sums, params, one, data, draw_key)
            found.append(np.asarray(finish(sums), np.float64))
    sizes = np.array([leaf.size for leaf in jax.tree.leaves(one)])
    sums_of_leaves = np.stack(found)
    sums_of_leaves = sums_of_leaves[np.isfinite(sums_of_leaves).all(1)]
    if len(sums_of_leaves) < LEAST_GROUPS:
        return None
    root = len(sums_of_leaves) ** 0.5
    whole, leaves = sums_of_leaves.sum(1) / sizes.sum(), sums_of_leaves / sizes
    return Temperatures(
        whole=float(whole.mean()),
        whole_error=float(whole.std(ddof=1) / root),
        leaves=leaves.mean(0),
        leaves_error=leaves.std(0, ddof=1) / root,
        names=tuple(jax.tree_util.keystr(path) or "params" for path, _ in jax.tree_util.tree_leaves_with_path(one)),
        num_draws=each * parts * chains,
    )


def temperature_row(found: Temperatures | None) -> Row:
    """Whether some leaf of the parameters is too hot, or all of them together are too cold."""
    name = "temperature"
    if found is None:
        return missing(name, f"needs {LEAST_DRAWS} finite draws in each of {LEAST_GROUPS} groups", "Draw more.")
    least = found.leaves - ERRORS * found.leaves_error
    worst = int(np.argmax(least))
    verdict = grade(float(least[worst]), *HOT)
    text = f"{found.whole:.2f} +- {found.whole_error:.2f}"
    if len(found.leaves) > 1:
        text += f", hottest {found.names[worst]} {found.leaves[worst]:.2f} +- {found.leaves_error[worst]:.2f}"
    advice = "Nothing to do."
    if verdict == "ok" and found.whole + ERRORS * found.whole_error < COLD:
        verdict = "warning"
        advice = (
            "Draws spread less than the posterior does where they are: run longer, or, of a sampler whose step size is "
            "yours, take a larger one."
        )
    elif verdict != "ok":
        advice = (
            f"Draws spread further than the posterior, in {found.names[worst]} {found.leaves[worst]:.1f} times in "
            "variance: take a smaller step size, larger batches, or sx.ismile."
        )
    details = {
        "whole": found.whole, "whole error": found.whole_error, "draws": found.num_draws,
        "leaves": dict(zip(found.names, found.leaves.tolist(), strict=True)),
        "errors": dict(zip(found.names, found.leaves_error.tolist(), strict=True)),
    }  # fmt: skip
    return Row(name, found.whole, text, f"{COLD} to {HOT[0]}", verdict, advice, details)
