"""A warm start, and chains from it, within a time budget."""

import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from smilax.data import Batches
from smilax.ensemble import train_ensemble
from smilax.estimators.lengths import Plan, shortened
from smilax.estimators.model import Model
from smilax.packing import pack, packable
from smilax.result import Result, RunState
from smilax.sampling import sample

# The share of the time that the warm start may take, and that of a chunk after which the clock is looked at.
TRAINING_SHARE = 0.3
PIECES = 8
# Compiling warm-up takes about so many times as long as compiling the steps after it.
WARMUP_COMPILATION = 2.0
# Chains do not start at a smaller noise than this, in standard deviations of the target: a network that fits every
# training target exactly would set the scale to nothing, and no step size would do there.
LEAST_LOG_SCALE = -5.0


class Fitted(NamedTuple):
    """Draws and where the chains stand.

    Attributes:
        result: of the sampling, with the state to go on from.
        plan: the lengths that were run.
    """

    result: Result
    plan: Plan


def warm_start(
    key: jax.Array,
    model: Model,
    data: tuple,
    held_out: np.ndarray,
    *,
    num_members: int,
    max_epochs: int,
    patience: int,
    max_seconds: float | None,
    progress_bar: bool,
) -> Any:
    """A deep ensemble, fitted to the rows that are not held out; leaves have a leading member axis."""
    train = tuple(leaf[~held_out] for leaf in data)
    valid = tuple(leaf[held_out] for leaf in data) if held_out.any() else None
    members = train_ensemble(
        key, model.training, train, valid, num_members=num_members, max_epochs=max_epochs, patience=patience,
        batch_size=min(32, len(train[0])), max_seconds=max_seconds, progress_bar=progress_bar,
    )  # fmt: skip
    if "likelihood" not in members:
        return members
    likelihood = {name: jnp.maximum(leaf, LEAST_LOG_SCALE) for name, leaf in members["likelihood"].items()}
    return {**members, "likelihood": likelihood}


def run_chains(
    key: jax.Array, model: Model, data: tuple, start: Any, plan: Plan, deadline: float | None, progress_bar: bool
) -> Fitted:
    """Samples from `start`: parameters with a leading chain axis, or a `Result` to go on from.

    Args:
        key: random key.
        model: posterior and sampler.
        data: all rows.
        start: where the chains start.
        plan: lengths wanted.
        deadline: on the clock `time.perf_counter`; None for the whole plan. The first steps are timed, and the plan is
            shortened to what there is time for.
        progress_bar: whether to show one.

    Raises:
        KeyboardInterrupt: if the run was interrupted before there was a draw; later, what was drawn is returned.
    """
    replacement = bool(model.algorithm.config.get("replacement", False))
    batches = Batches(data, replacement=replacement)

    def run(params, num_warmup, num_samples):
        return sample(
            key, model.algorithm, batches, params, num_warmup=num_warmup, num_samples=num_samples,
            thinning=plan.thinning, batch_size=plan.batch_size, progress_bar=progress_bar,
        )  # fmt: skip

    def fitted(parts):
        if not any(part.num_draws for part in parts):
            raise KeyboardInterrupt
        return Fitted(
            parts[0].join(*parts[1:]), plan._replace(num_samples=sum(part.num_draws for part in parts) * plan.thinning)
        )

    if deadline is None:
        return fitted([run(start, plan.num_warmup, plan.num_samples)])

    piece = max(1, plan.num_samples // plan.thinning // PIECES) * plan.thinning
    # Pieces of one length share one program, so the first of the two pays for the compilation of all.
    timed = [run(start, 0, piece) for _ in range(2)]
    if any(one.interrupted for one in timed):
        raise KeyboardInterrupt
    first, second = (one.seconds for one in timed)
    left = deadline - time.perf_counter()
    if plan.num_warmup:
        left -= WARMUP_COMPILATION * max(0.0, first - second)
    plan = shortened(plan, left / second * piece)
    result = run(start, plan.num_warmup, min(piece, plan.num_samples))
    parts = [result]
    done = min(piece, plan.num_samples)
    while done + piece <= plan.num_samples and time.perf_counter() < deadline and not result.interrupted:
        result = run(result, 0, piece)
        parts.append(result)
        done += piece
    return fitted(parts)


def stored_state(result: Result) -> tuple[list[np.ndarray], int]:
    """The chains' states as plain arrays, and the number of steps they have taken."""
    assert result.state is not None
    return [np.asarray(leaf) for leaf in jax.tree.leaves(result.state.chains)], result.state.step


def restored_state(model: Model, num_chains: int, state: tuple[list[np.ndarray], int]) -> RunState:
    """The inverse of `stored_state`."""
    leaves, step = state
    keys = jax.random.split(jax.random.key(0), num_chains)

    def states(keys):
        params = jax.vmap(model.posterior.init)(keys)
        one = jax.eval_shape(model.posterior.init, keys[0])
        return jax.vmap(model.algorithm.init)(keys, jax.vmap(pack)(params) if packable(one) else params)

    treedef = jax.tree.structure(jax.eval_shape(states, keys))
    return RunState(jax.tree.unflatten(treedef, [jnp.asarray(leaf) for leaf in leaves]), step)
