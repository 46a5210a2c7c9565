"""The targets and the rows of their tables; results from the cache, or from runs."""

import bisect
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import blackjax
import numpy as np
from benchmarks.truth import analytical, cache, glm
from benchmarks.truth.full_batch import run_mclmc
from benchmarks.truth.hierarchy import hierarchy
from benchmarks.truth.modes import mixture
from benchmarks.truth.network import tanh
from benchmarks.truth.runner import run_grid, run_ismile
from benchmarks.truth.samplers import SAMPLERS
from benchmarks.truth.target import Reference, Target, scores

import smilax as sx
from smilax.samplers.cost import chain_gradients

VERSION = 1  # of the runners: a change of theirs that could move a number needs another
TARGETS: dict[str, Callable[[], Target]] = {
    "linear": glm.linear,
    "breast_cancer": glm.breast_cancer,
    "digits": glm.digits,
    "softmax": glm.softmax,
    "softmax_256": glm.softmax_larger_batches,
    "interactions": glm.interactions,
    "poisson": glm.poisson,
    "wine": glm.wine,
    "student": glm.student,
    "hierarchy": hierarchy,
    "tanh": tanh,
    "mixture": mixture,
    **analytical.MAKERS,
}
HELD_OUT = ("interactions", "poisson", "wine", "student")
QUICK = 10  # runs of the quick slice are shorter by this


def shortened(target: Target) -> Target:
    """The target with a tenth of the steps and one seed."""
    return dataclasses.replace(
        target, num_warmup=target.num_warmup // QUICK, num_samples=target.num_samples // QUICK, seeds=1, grid_seeds=1
    )


def _settings(target: Target) -> dict[str, Any]:
    return {
        "version": VERSION, "target": target.fingerprint, "warmup": target.num_warmup, "samples": target.num_samples,
        "thinning": target.thinning, "batch": target.batch_size,
    }  # fmt: skip


def _gradients(target: Target, options: dict[str, Any], num_warmup: int, num_samples: int) -> int:
    """Of a chain of ismile."""
    config, num_data = sx.ismile(target.posterior, **options).config, target.posterior.num_data
    return chain_gradients(config, target.batch_size, num_data, num_warmup, num_samples)


def _at_the_budget(target: Target, options: dict[str, Any]) -> Target:
    """With as many steps of ismile, looked at as often, as take the gradients of the target's steps of two."""
    factor = 2 * target.num_samples // _gradients(target, options, 0, target.num_samples)
    lengths = range(2 * target.num_warmup + 1)
    warmup = bisect.bisect(lengths, 2 * target.num_warmup, key=lambda num: _gradients(target, options, num, 0)) - 1
    return dataclasses.replace(
        target, num_warmup=warmup, num_samples=factor * target.num_samples, thinning=factor * target.thinning
    )


def _grid_row(target, reference, name, grid, seeds):
    sampler = SAMPLERS[name]
    chains = target.grid_chains or target.num_chains
    moments, seconds = run_grid(target, sampler, reference, grid, seeds, chains)
    found = [[scores(m, reference, target.kind) for m in by_step] for by_step in moments]
    return {"steps": list(map(float, grid)), "scores": found, "seconds": seconds, "chains": chains}


def row(
    target: Target, reference: Reference, name: str, *, seeds: int, refresh: bool, quick: bool, cached: bool
) -> dict[str, Any] | None:
    """What is known of a sampler on a target: scores per seed at the best step, or at its own.

    The best step is that of the least mean squared bias of E[x²] on average over seeds, the number it is judged by.
    None if nothing may be run and it is not in the cache.
    """
    options = target.ismile | target.extra.get(name, {})
    if name.startswith("ismile"):
        target = _at_the_budget(target, options)
    settings = _settings(target)
    if name in SAMPLERS:
        seeds = min(seeds, target.grid_seeds)
        grid = SAMPLERS[name].grid[::4] if quick else SAMPLERS[name].grid
        settings |= {"grid": list(map(float, grid)), "chains": target.grid_chains or target.num_chains}
    else:
        seeds = min(seeds, target.seeds)
        settings |= {"chains": target.num_chains}
    if name.startswith("ismile"):
        settings |= {"options": options}
    if name == "mclmc":
        settings |= {"blackjax": blackjax.__version__}
    settings |= {"seeds": seeds}
    found = None if refresh else cache.load_rows(f"{target.name}-{name}", settings)
    if found is None and cached:
        return None
    if found is None:
        if name in SAMPLERS:
            found = _grid_row(target, reference, name, grid, seeds)
        else:
            run = (
                run_mclmc(target, reference, seeds)
                if name == "mclmc"
                else run_ismile(target, reference, options, seeds)
            )
            moments, seconds, notes = run
            found = {
                "steps": [notes["step_size"]],
                "scores": [[scores(m, reference, target.kind)] for m in moments],
                "seconds": seconds,
                "chains": target.num_chains,
            }
        cache.save_rows(f"{target.name}-{name}", settings, found)
    # Samplers with one gradient a step take twice the steps: the budget is the same for all.
    gradients = 2 * (target.num_warmup + target.num_samples) * found["chains"]
    if name.startswith("ismile"):
        gradients = found["chains"] * _gradients(target, options, target.num_warmup, target.num_samples)
    shared = {"target": target.name, "sampler": name, "gradients": gradients, "seeds": seeds, "chains": found["chains"]}
    return shared | _best(found) | {"seconds": found["seconds"]}


def _best(found: dict[str, Any]) -> dict[str, float]:
    """Mean scores over seeds at the best step; extremes of variance ratios over them; one standard error."""
    table = {
        name: np.asarray([[s[name] for s in by_step] for by_step in found["scores"]]) for name in found["scores"][0][0]
    }
    best = int(table["bias_square"].mean(axis=0).argmin())
    reduce = {"ratio_min": np.min, "ratio_max": np.max}
    means = {name: float(reduce.get(name, np.mean)(values[:, best])) for name, values in table.items()}
    of_seeds = table["bias_square"][:, best]
    error = float(of_seeds.std(ddof=1) / len(of_seeds) ** 0.5) if len(of_seeds) > 1 else math.nan
    return {"step": found["steps"][best], "bias_square_error": error} | means


def rows_of(target: Target, samplers: list[str]) -> list[str]:
    """Names of the rows of a target's table, those of `extra` behind ismile."""
    names = []
    for name in samplers:
        if (name == "mclmc" and not target.full_batch) or (name in SAMPLERS and not target.grid):
            continue
        names += [name, *target.extra] if name == "ismile" else [name]
    return names
