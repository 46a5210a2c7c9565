"""The law of the noise in the metric, from fresh draws: how far it is from isotropic, and how much of it there is.

With noise n of covariance C and P = M⁻¹, the noise in the metric has covariance Ω = P^{1/2} C P^{1/2}. No root of P and
no d × d matrix is needed: nᵀPn has mean tr Ω, and for independent draws (nᵀPn')² has mean tr Ω².

C depends on where the chain stands. To first order what an anisotropy does to the stationary law is linear in it, so it
is the mean of Ω over the posterior that counts: two draws at different places have mean tr(Ω̄²). Two draws at one place
tell in addition how isotropic the noise is there.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from smilax import trees
from smilax.data import Batches
from smilax.geometry import Identity
from smilax.geometry.base import Geometry
from smilax.microcanonical import GRADIENT_UNIT
from smilax.noise import half_batch_gradients
from smilax.packing import Packed, pack, spread, unpack
from smilax.posterior import Posterior
from smilax.samplers.smile_kernel import SmileState

# Draws that are held at once: as many as make the pairs count, or fit this much memory.
MOST_AT_ONCE, LEAST_AT_ONCE, HELD_BYTES = 64, 4, 2**27
# Independent blocks of draws per chain, whose scatter gives the standard errors.
LEAST_BLOCKS = 4


class NoiseLaw(NamedTuple):
    """Second moments of the noise in the metric, means over chains; leaves in the order of the parameters.

    Attributes:
        alpha: d tr(Ω̄²)/(tr Ω̄)², which is one plus the squared coefficient of variation of the eigenvalues ω of Ω̄.
        alpha_error: its standard error.
        local: the same of Ω where a chain stands, d tr(Ω²)/(tr Ω)² with means over places taken of both.
        level: tr(Ω)/d of each chain, shape `(chains,)`, before the factor f of batches without replacement.
        leaves: mean ω in each leaf over the mean of all, shape `(leaves,)`.
        leaves_error: their standard errors.
        names: of the leaves.
        broken: numbers of chains whose draws are not finite; they are left out of the means.
        num_draws: draws per chain.
    """

    alpha: float
    alpha_error: float
    local: float
    level: np.ndarray
    leaves: np.ndarray
    leaves_error: np.ndarray
    names: tuple[str, ...]
    broken: tuple[int, ...]
    num_draws: int


def kernel_metric(state: Any) -> tuple[Geometry, list[jax.Array] | None] | None:
    """The geometry in which a sampler's state moves, and the damping that its added noise matches; or None."""
    if hasattr(state, "geometry"):
        return state.geometry, getattr(state, "damping", None)
    if isinstance(state, SmileState):
        return Identity() if state.scale is None else state.scale, None
    return None


def noise_law(
    key: jax.Array,
    posterior: Posterior,
    states: Any,
    draws: Any,
    batches: Batches,
    batch_size: int,
    num_noise: int,
) -> NoiseLaw:
    """The law of batch noise plus added noise where the chains have been.

    Two noise draws are made at each of many places of a chain, in blocks. Both tr Ω² and (tr Ω)² are means over pairs
    of different draws (U-statistics), so neither is inflated by the number of draws being finite; their ratio is taken
    over all blocks of a chain.

    Args:
        key: JAX random key.
        posterior: the target.
        states: the sampler's states, leaves with a leading chain axis.
        draws: the chains' draws, leaves `(chain, draw, …)`; where there are none, the states' places are taken.
        batches: where batches come from; they must be independent.
        batch_size: B, at least 2.
        num_noise: noise draws over all chains, at least 16 a chain.
    """
    num_chains = jax.tree.leaves(states.params)[0].shape[0]
    packed = isinstance(states.params, Packed)
    tree = unpack(jax.tree.map(lambda x: x[0], states.params))
    names = tuple(jax.tree_util.keystr(path) or "params" for path, _ in jax.tree_util.tree_leaves_with_path(tree))
    sizes = np.array([leaf.size for leaf in jax.tree.leaves(tree)])
    places = jax.tree.leaves(draws)[0].shape[1]
    if not places:
        draws, places = jax.tree.map(lambda x: np.asarray(x)[:, None], unpack(states.params, 1)), 1
    each = num_noise // num_chains
    held = HELD_BYTES // (2 * sum(leaf.nbytes for leaf in jax.tree.leaves(tree)))
    pairs = int(np.clip(min(held, each // LEAST_BLOCKS), LEAST_AT_ONCE, MOST_AT_ONCE)) // 2
    blocks = max(LEAST_BLOCKS, each // (2 * pairs))
    data = jax.tree.map(jnp.asarray, batches.data)

    @jax.jit
    def products(state, params, data, key):
        """nᵀPn' for all pairs of a block, shape `(2 pairs, 2 pairs)`, and its part in each leaf for n' = n."""
        metric = kernel_metric(state)
        assert metric is not None
        geometry, damping = metric

        def one(place):
            params, key = place
            params = pack(params) if packed else params
            data_key, added_key = jax.random.split(key)
            batch = batches.draw(data, data_key, jnp.zeros((), jnp.uint32), batch_size)
            _, _, noise = half_batch_gradients(posterior, params, batch)
            if damping is not None:
                amplitude = spread([jnp.sqrt(level) for level in damping], params)
                added = jax.tree.map(jnp.multiply, amplitude, trees.normal_like(added_key, params))
                noise = jax.tree.map(jnp.add, noise, added)
            noise = trees.scale(GRADIENT_UNIT, noise)
            return noise, geometry.precondition(noise)

        twice = jax.tree.map(lambda x: jnp.repeat(x, 2, axis=0), params)
        both = jax.lax.map(one, (twice, jax.random.split(key, 2 * pairs)))
        noise, force = (jax.tree.leaves(unpack(tree, 1)) for tree in both)
        grams = [
            jnp.matmul(n.reshape(2 * pairs, -1), p.reshape(2 * pairs, -1).T, precision="highest")
            for n, p in zip(noise, force, strict=True)
        ]
        return jnp.sum(jnp.stack(grams), axis=0), jnp.stack([jnp.diagonal(gram) for gram in grams])

    laws = []
    for chain, chain_key in enumerate(jax.random.split(key, num_chains)):
        state = jax.tree.map(lambda x, c=chain: jnp.asarray(x[c]), states)
        # Evenly over the chain, and the places of a block far from one another.
        order = np.linspace(0, places - 1, blocks * pairs).round().astype(int).reshape(pairs, blocks).T
        parts = []
        for rows, block_key in zip(order, jax.random.split(chain_key, blocks), strict=True):
            params = jax.tree.map(lambda x, c=chain, r=rows: jnp.asarray(x[c, r]), draws)
            parts.append(products(state, params, data, block_key))
        gram, own = (np.stack([np.asarray(part[i], np.float64) for part in parts]) for i in (0, 1))
        order = np.repeat(order, 2, axis=1)
        laws.append(_chain_law(gram / GRADIENT_UNIT**2, own / GRADIENT_UNIT**2, sizes, order))
    alpha, alpha_error, local, level, leaves, leaves_error = (np.array(values) for values in zip(*laws, strict=True))
    finite = np.isfinite(alpha) & np.isfinite(leaves).all(1)

    def mean(values):
        return values[finite].mean(0) if finite.any() else np.full(values.shape[1:], np.nan)

    def error(errors):
        return np.sqrt(mean(errors**2) / max(int(finite.sum()), 1))

    return NoiseLaw(
        alpha=float(mean(alpha)),
        alpha_error=float(error(alpha_error)),
        local=float(mean(local)),
        level=level,
        leaves=mean(leaves),
        leaves_error=error(leaves_error),
        names=names,
        broken=tuple(int(i) for i in np.flatnonzero(~finite)),
        num_draws=2 * pairs * blocks,
    )


def _chain_law(gram: np.ndarray, own: np.ndarray, sizes: np.ndarray, places: np.ndarray) -> tuple:
    """One chain's law, with standard errors, which for ratios are those of their linearisation.

    Args:
        gram: nᵀPn' of all pairs, shape `(blocks, n, n)`.
        own: the parts of nᵀPn, shape `(blocks, leaves, n)`.
        sizes: of the leaves.
        places: numbers of the places of the draws, shape `(blocks, n)`.
    """
    size, blocks = sizes.sum(), len(gram)
    here = places[:, :, None] == places[:, None, :]
    other = ~np.eye(gram.shape[1], dtype=bool)[None] & np.ones_like(here)
    # Where a chain has one place only, its noise there is all there is to know.
    apart = ~here if (~here).any((1, 2)).all() else other
    with np.errstate(all="ignore"):
        traces = np.diagonal(gram, axis1=1, axis2=2)
        products = traces[:, :, None] * traces[:, None, :]

        def moments(chosen):
            number = chosen.sum((1, 2))
            return (np.where(chosen, x, 0).sum((1, 2)) / number for x in (gram**2, products))

        second, first = moments(apart)
        alpha = second.mean() / first.mean()
        alpha_error = np.std(second - alpha * first, ddof=1) / first.mean() / blocks**0.5
        local_second, local_first = moments(here & other)
        local = local_second.mean() / local_first.mean()
        level = traces.mean() / size
        per_leaf = np.moveaxis(own, 1, 0).reshape(len(sizes), -1) / sizes[:, None]
        leaves = per_leaf.mean(1) / level
        residual = per_leaf - leaves[:, None] * traces.ravel()[None, :] / size
        leaves_error = np.std(residual, axis=1, ddof=1) / level / traces.size**0.5
    return size * alpha, size * alpha_error, size * local, level, leaves, leaves_error
