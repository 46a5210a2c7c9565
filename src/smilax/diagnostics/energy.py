"""Energy errors where the chains have been, of samplers whose own steps do not measure them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from smilax.data import Batches
from smilax.microcanonical import draw_velocity
from smilax.packing import Packed, pack, unpack
from smilax.posterior import Posterior
from smilax.samplers.ismile_kernel import Kernel, whole_step
from smilax.samplers.ismile_state import IsmileState


def energy_errors(
    key: jax.Array,
    posterior: Posterior,
    config: Any,
    states: IsmileState,
    draws: Any,
    batches: Batches,
    batch_size: int,
    number: int,
) -> tuple[np.ndarray, np.ndarray]:
    """ΔE of steps of ismile on whole batches, in nats, and whether each stood: `(chains, number)`, both.

    The steps begin at draws of the chains, with fresh velocities, which is what a chain meets if its law is right.

    Args:
        key: JAX random key.
        posterior: the target.
        config: of the algorithm.
        states: of the chains after their warm-up, leaves with a leading chain axis.
        draws: leaves `(chain, draw, …)`; where there are none, the states' places are taken.
        batches: where batches come from; they must be independent.
        batch_size: B.
        number: steps of each chain.
    """
    kernel = Kernel(posterior, *(config[name] for name in ("replacement", "friction", "matched_noise", "max_reject")))
    packed = isinstance(states.params, Packed)
    places = jax.tree.leaves(draws)[0].shape[1]
    if not places:
        draws, places = jax.tree.map(lambda x: np.asarray(x)[:, None], unpack(states.params, 1)), 1
    data = jax.tree.map(jnp.asarray, batches.data)

    @jax.jit
    def measured(state, params, data, keys):
        def one(place):
            params, key = place
            data_key, velocity_key, step_key = jax.random.split(key, 3)
            params = pack(params) if packed else params
            batch = batches.draw(data, data_key, jnp.zeros((), jnp.uint32), batch_size)
            start = state._replace(params=params, velocity=draw_velocity(velocity_key, params, state.geometry))
            info = whole_step(kernel, step_key, start, batch, jnp.exp(state.tuner.average), False)[1]
            return info.energy_error, info.accepted

        return jax.lax.map(one, (params, keys))

    found = []
    rows = np.linspace(0, places - 1, number).round().astype(int)
    for chain, chain_key in enumerate(jax.random.split(key, jax.tree.leaves(states.params)[0].shape[0])):
        state = jax.tree.map(lambda x, c=chain: jnp.asarray(x[c]), states)
        params = jax.tree.map(lambda x, c=chain: jnp.asarray(x[c, rows]), draws)
        found.append(measured(state, params, data, jax.random.split(chain_key, number)))
    energy, accepted = (np.stack([np.asarray(part[i]) for part in found]) for i in (0, 1))
    return energy, accepted
