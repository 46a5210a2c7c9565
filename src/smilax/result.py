"""What a run gives back."""

import functools
import math
import warnings
from collections import namedtuple
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from smilax.structure import leaf_paths


@functools.cache
def _info_class(fields: tuple[str, ...]) -> Any:
    def reduce(self):
        # Made anew where it is unpickled: there is no module to find it in.
        return info_of, (dict(zip(fields, self, strict=True)),)

    return type("Info", (namedtuple("Info", fields),), {"__slots__": (), "__reduce__": reduce})


def info_of(reports: dict[str, Any]) -> Any:
    """What steps reported, read from disk, as a NamedTuple."""
    return _info_class(tuple(reports))(*reports.values())


class RunState(NamedTuple):
    """Where a run stands.

    Attributes:
        chains: the algorithm's states, leaves with a leading chain axis.
        step: steps taken since the run's beginning, warm-up included; keys of later steps follow from it.
        place: where a source of batches stands that is no function of the step, such as an `sx.Stream`; else None.
    """

    chains: Any
    step: int
    place: Any = None


@dataclass(frozen=True, eq=False)
class Result:
    """What `sample`, `resume` and `load` return.

    Attributes:
        draws: pytree like the parameters, leaves `(chain, draw, …)`: NumPy arrays, or arrays on disk that are read
            where they are sliced (`np.asarray` reads one whole).
        info: what the steps reported at each draw, leaves `(chain, draw)`; `accepted` is a mean over the thinning
            interval. None if there was none yet.
        warmup_info: the same along warm-up, about a thousand records.
        state: where the run stands; pass the result as `params` of another `sample` to go on. None after `load`.
        config: settings of the run, JSON-able.
        seconds: wall-clock time of warm-up and sampling, compilation included; NaN after `load`.
        interrupted: whether the run has not come to its end: stopped, killed, or, in what `load` returns, still going.
        path: the store that holds the draws, or None.
    """

    draws: Any
    info: Any
    warmup_info: Any
    state: RunState | None
    config: dict[str, Any]
    seconds: float
    interrupted: bool
    path: Path | None = None

    def __repr__(self) -> str:
        params = sum(math.prod(np.shape(leaf)[2:]) for leaf in jax.tree.leaves(self.draws))
        name = self.config.get("algorithm", {}).get("name", "unknown sampler")
        parts = [name, f"{self.num_chains} chains of {self.num_draws} draws", f"{params:,} parameters"]
        parts += ["interrupted"] * self.interrupted + [str(self.path)] * (self.path is not None)
        return f"Result({', '.join(parts)})"

    @property
    def num_chains(self) -> int:
        """Number of chains."""
        return int(np.shape(jax.tree.leaves(self.draws)[0])[0])

    @property
    def num_draws(self) -> int:
        """Draws per chain."""
        return int(np.shape(jax.tree.leaves(self.draws)[0])[1])

    def join(self, *later: "Result") -> "Result":
        """This result's draws followed by those of runs that went on from it.

        Args:
            later: results of the same chains, in their order in time.

        Returns:
            A result with all draws and their reports, read into memory, the warm-up of the first run, and the state of
            the last, from which the chains can go on.

        Raises:
            ValueError: if the results differ in their chains or in the parameters' names or shapes, or if one begins
                elsewhere than the one before it ends.

        Example:
            >>> import jax, jax.numpy as jnp, numpy as np, smilax as sx
            >>> posterior = sx.Posterior(
            ...     lambda m: -0.5 * jnp.sum(m**2), lambda m, x: -0.5 * (x - jnp.sum(m)) ** 2, num_data=100
            ... )
            >>> algorithm = sx.psmile_naive(posterior, step_size=0.01)
            >>> options = dict(num_warmup=50, num_samples=50, batch_size=10, progress_bar=False)
            >>> key, x = jax.random.key(0), np.ones(100, np.float32)
            >>> first = sx.sample(key, algorithm, x, jnp.zeros(2), num_chains=2, **options)
            >>> more = sx.sample(key, algorithm, x, first, **{**options, "num_warmup": 0})
            >>> first.join(more)
            Result(psmile_naive, 2 chains of 100 draws, 2 parameters)
        """
        parts = (self, *later)
        for k, part in enumerate(later):
            for what, of in (("number of chains", lambda one: one.num_chains), ("parameters", _leaf_shapes)):
                if of(part) != of(self):
                    raise ValueError(f"results differ in their {what}: {of(self)}, but {of(part)} in later[{k}]")
        for k, (before, after) in enumerate(zip(parts, later, strict=False)):
            began = after.config.get("first_step")
            if before.state is not None and began is not None and began != before.state.step:
                raise ValueError(
                    f"later[{k}] did not go on from the result before it: it began at step {began}, and that ends at "
                    f"step {before.state.step}"
                )
        reports = [part.info for part in parts if part.info is not None]
        fields = {tuple(info._fields) for info in reports}
        if len(fields) > 1:
            raise ValueError(f"results differ in what their steps report: {sorted(fields)}")

        def joined(trees):
            return jax.tree.map(lambda *leaves: np.concatenate([np.asarray(x) for x in leaves], axis=1), *trees)

        last, structure = parts[-1], jax.tree.structure(parts[-1].draws)
        return replace(
            last,
            # What was loaded from a store has plain containers.
            draws=joined(jax.tree.unflatten(structure, jax.tree.leaves(part.draws)) for part in parts),
            info=reports[-1]._replace(**joined(info._asdict() for info in reports)) if reports else None,
            warmup_info=self.warmup_info,
            seconds=sum(part.seconds for part in parts),
            path=None,
        )

    def select(self, keep: Any = None, *, chains: Any = None) -> "Result":
        """The result with some of its draws only: those of cyclical SGLD outside of the exploration phases, or chains.

        Args:
            keep: which draws, a boolean array of shape `(draw,)`, or `(chain, draw)` if the same for all chains; None
                keeps all.
            chains: which chains, their numbers, such as all but those that `sx.diagnose` calls lost; None keeps all.

        Returns:
            A result with these draws and their reports, read into memory; its `state` is None, as it is no longer
            known what came before it.

        Raises:
            ValueError: if the shape is another, nothing is kept, or chains differ in what they keep.
            IndexError: if there is no such chain.

        Example:
            >>> import jax, jax.numpy as jnp, numpy as np, smilax as sx
            >>> posterior = sx.Posterior(
            ...     lambda m: -0.5 * jnp.sum(m**2), lambda m, x: -0.5 * (x - jnp.sum(m)) ** 2, num_data=100
            ... )
            >>> result = sx.sample(
            ...     jax.random.key(0), sx.sgld(posterior, 1e-3), np.ones(100, np.float32), jnp.zeros(2), num_chains=3,
            ...     num_warmup=10, num_samples=20, batch_size=10, progress_bar=False,
            ... )
            >>> result.select(np.arange(20) >= 5, chains=[0, 2])
            Result(sgld, 2 chains of 15 draws, 2 parameters)
        """
        if chains is not None:
            numbers = np.arange(self.num_chains)[np.asarray(chains, int)]
            if numbers.ndim != 1 or not len(numbers) or len(set(numbers.tolist())) < len(numbers):
                raise ValueError(f"chains must be numbers of chains, each once, got {chains!r}")

            def of_chains(tree: Any) -> Any:
                return jax.tree.map(lambda leaf: np.asarray(leaf[numbers]), tree)

            kept = None if keep is None or np.ndim(keep) < 2 else np.asarray(keep)[numbers]
            part = replace(
                self,
                draws=of_chains(self.draws),
                info=of_chains(self.info),
                warmup_info=of_chains(self.warmup_info),
                state=None,
                path=None,
                config=self.config | {"num_chains": len(numbers)},
            )
            return part if keep is None else part.select(keep if kept is None else kept)
        if keep is None:
            raise ValueError("select needs keep, chains, or both")
        keep = np.asarray(keep)
        shape = (self.num_chains, self.num_draws)
        if keep.dtype != bool or keep.shape not in (shape, shape[1:]):
            raise ValueError(f"keep must be boolean of shape {shape[1:]} or {shape}, got {keep.dtype} {keep.shape}")
        if keep.ndim == 2 and (keep != keep[:1]).any():
            raise ValueError("keep must be the same for all chains: every chain has as many draws as the others")
        draws = np.flatnonzero(keep[0] if keep.ndim == 2 else keep)
        if not len(draws):
            raise ValueError("keep keeps no draw")

        def chosen(tree):
            return jax.tree.map(lambda leaf: np.asarray(leaf[:, draws]), tree)

        return replace(self, draws=chosen(self.draws), info=chosen(self.info), state=None, path=None)


def sampling_draws(result: Result) -> Result:
    """Without the draws of exploration phases, where a sampler has them; there may be no others."""
    exploring = getattr(result.info, "exploring", None)
    if exploring is None:
        return result
    kept = np.flatnonzero(~np.asarray(exploring, bool).any(0))
    draws, info = jax.tree.map(lambda leaf: np.asarray(leaf[:, kept]), (result.draws, result.info))
    return replace(result, draws=draws, info=info, path=None)


# Of fewer draws it may be chance that all steps were undone.
LEAST_TELLING = 10


def warn_of_stuck_chains(result: Result, stacklevel: int) -> None:
    """Warns of chains of which no step was accepted: all of their draws are the same."""
    accepted = np.asarray(getattr(result.info, "accepted", ()))
    if accepted.ndim != 2 or accepted.shape[1] < LEAST_TELLING:
        return
    stuck = np.flatnonzero(~accepted.any(axis=1)).tolist()
    if stuck:
        which = "all chains" if len(stuck) == len(accepted) else f"chains {stuck}"
        warnings.warn(
            f"no step of {which} was accepted, so that their draws are all the same: take a smaller step size, a "
            "longer warm-up, or another start",
            stacklevel=stacklevel + 1,
        )


def _leaf_shapes(result: Result) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree.leaves(result.draws)
    return {path: tuple(np.shape(leaf)[2:]) for path, leaf in zip(leaf_paths(result.draws), leaves, strict=True)}
