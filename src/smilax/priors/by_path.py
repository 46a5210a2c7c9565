"""Priors chosen by the path of a parameter."""

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from smilax.priors.base import LeafPrior, Prior
from smilax.priors.conversion import as_prior
from smilax.structure import leaf_paths


@dataclass(frozen=True, eq=False)
class _ByPath(Prior):
    """One prior for every pattern of leaf paths, tried in order."""

    priors: tuple[tuple[str, LeafPrior], ...]

    def parts(self, params):
        paths, leaves = leaf_paths(params), jax.tree.leaves(params)
        parts: list[LeafPrior] = []
        unused = dict.fromkeys(pattern for pattern, _ in self.priors)
        unmatched = []
        for path, leaf in zip(paths, leaves, strict=True):
            found = next(((p, prior) for p, prior in self.priors if fnmatch.fnmatchcase(path, p)), None)
            if found is None:
                unmatched.append(path)
                continue
            unused.pop(found[0], None)
            found[1].check_leaf(path, jnp.shape(leaf))
            parts.append(found[1])
        if unmatched:
            raise ValueError(f"by_path: no pattern matches {unmatched}; the patterns are {[p for p, _ in self.priors]}")
        if unused:
            raise ValueError(
                f"by_path: no parameter is left for the patterns {list(unused)}; the parameters are {paths}"
            )
        return parts


def by_path(priors: Mapping[str, Any]) -> Prior:
    """A prior for each parameter, chosen by its path.

    Args:
        priors: from glob patterns to priors (`Normal`, …, or NumPyro distributions). A path joins keys, attributes and
            indices by slashes: `"network/layers/0/weight"`, `"likelihood/log_scale"`; `*` stands for any part of it,
            slashes included. The first pattern that matches is taken.

    Raises:
        ValueError: when it is used on parameters of which one is matched by no pattern, or on which a pattern is
            never the first to match; without any patterns.
        TypeError: if one of the values is no prior.

    Example:
        >>> import jax.numpy as jnp, smilax as sx
        >>> prior = sx.priors.by_path({"*/bias": sx.priors.Flat(), "*": sx.priors.Normal(0.0, 0.1)})
        >>> prior.precision({"layer": {"bias": jnp.zeros(2), "weight": jnp.zeros((2, 2))}})["layer"]["weight"]
        99.99999999999999
    """
    if not isinstance(priors, Mapping) or not priors:
        raise ValueError(f"by_path needs a dictionary from patterns to priors, got {priors!r}")
    converted = []
    for pattern, given in priors.items():
        prior = as_prior(given)
        if not isinstance(prior, LeafPrior):
            raise TypeError(f"by_path: the prior for {pattern!r} must be one for single leaves, got {prior!r}")
        converted.append((pattern, prior))
    return _ByPath(tuple(converted))
