"""From an estimator's settings to a posterior and a sampler."""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from smilax.bnn import NetworkPosterior, bnn
from smilax.likelihoods import Gaussian, Likelihood
from smilax.models import mlp
from smilax.network import Network
from smilax.priors import Normal, Prior, as_prior, by_path
from smilax.samplers import SamplingAlgorithm, ismile

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "tanh": jnp.tanh,
}
# Of hidden layers' weights, times 1/√(fan-in): the units of every layer then have about the same prior scale.
WEIGHT_SCALE = 1.5
# The default sampler's geometry is diagonal below this many rows: there, compiling a richer one takes longer than all
# steps, and friction makes up for what a diagonal misses.
RICH_ROWS = 1000


@dataclass(frozen=True)
class Model:
    """What is fitted: the posterior given all rows, the sampler, and the posterior to which the warm start is fitted.

    Attributes:
        posterior: of all rows.
        algorithm: the sampler.
        training: the same with as many rows as are left for training; `posterior` where none are held out.
    """

    posterior: NetworkPosterior
    algorithm: SamplingAlgorithm
    training: NetworkPosterior


def build(
    network: Any,
    hidden: Sequence[int],
    activation: str,
    likelihood: Likelihood | None,
    prior: Any,
    algorithm: Callable | None,
    in_size: int,
    num_targets: int,
    num_data: int,
    num_train: int,
) -> Model:
    """The model; the very same one for the same settings, so that what was compiled for it is used again.

    Args:
        network: as given to the estimator.
        hidden: likewise.
        activation: likewise.
        likelihood: likewise; None is a normal one with a learned scale for each target.
        prior: likewise.
        algorithm: likewise.
        in_size: number of features.
        num_targets: numbers that the likelihood's targets have, or classes that it has outputs for.
        num_data: rows.
        num_train: of them, those that the warm start is fitted to.
    """
    if type(algorithm) is functools.partial:
        algorithm = _Call(algorithm.func, algorithm.args, tuple(sorted(algorithm.keywords.items())))
    settings = network, tuple(hidden), activation, likelihood, prior, algorithm, in_size, num_targets, num_data
    try:
        hash(settings)
    except TypeError:
        return _build(*settings, num_train)
    return _known(*settings, num_train)


@dataclass(frozen=True)
class _Call:
    """What `functools.partial` says, equal if it says the same: estimators' clones have partials of their own."""

    function: Callable
    args: tuple
    keywords: tuple[tuple[str, Any], ...]

    def __call__(self, posterior: Any) -> Any:
        return self.function(*self.args, posterior, **dict(self.keywords))


def _build(
    network: Any,
    hidden: Any,
    activation: str,
    likelihood: Any,
    prior: Any,
    algorithm: Any,
    in_size: int,
    num_targets: int,
    num_data: int,
    num_train: int,
) -> Model:
    per_target = likelihood is None and num_targets > 1
    if per_target:
        likelihood = Gaussian(scale="input")
    elif likelihood is None:
        likelihood = Gaussian()
    given = getattr(likelihood, "scale", None) == "input" and not per_target
    out_size = 2 * num_targets if given else num_targets
    default = network is None
    if default:
        network = mlp(in_size, out_size, hidden=hidden, activation=ACTIVATIONS[activation])
    elif not isinstance(network, Network):
        network = network(in_size, out_size)
        if not isinstance(network, Network):
            raise TypeError(
                f"network must be an sx.Network or a function (in_size, out_size) -> sx.Network; it returned "
                f"{type(network).__name__}"
            )
    if per_target:
        network = with_scales(network, num_targets)
    if prior is None:
        sizes = (in_size, *hidden)
        prior = scaled_prior(sizes, "network/network/" if per_target else "network/") if default else Normal()
    if not isinstance(prior, Prior):
        prior = as_prior(prior)
    posterior = bnn(network, likelihood, prior, num_data)
    training = posterior if num_train == num_data else bnn(network, likelihood, prior, num_train)
    if algorithm is None:
        algorithm = functools.partial(ismile, geometry="diagonal" if num_data < RICH_ROWS else "auto")
    made = algorithm(posterior)
    if not isinstance(made, SamplingAlgorithm):
        raise TypeError(f"algorithm must be a function from a posterior to a sampler, it returned {made!r}")
    return Model(posterior, made, training)


_known = functools.lru_cache(maxsize=16)(_build)


def scaled_prior(sizes: Sequence[int], prefix: str) -> Prior:
    """Normal priors for the layers of `sx.models.mlp`: weights of scale `WEIGHT_SCALE`/√(fan-in), all else of one."""
    priors: dict[str, Any] = {
        f"{prefix}layers/{i}/weight": Normal(0.0, WEIGHT_SCALE / math.sqrt(fan_in)) for i, fan_in in enumerate(sizes)
    }
    return by_path({**priors, "*": Normal()})


def with_scales(network: Network, num_targets: int) -> Network:
    """The network with as many learned log scales, the same for all rows, behind its outputs."""

    def init(key):
        inner = network.init(key)
        dtype = jnp.result_type(*jax.tree.leaves(inner))
        return {"network": inner, "log_scale": jnp.zeros(num_targets, dtype)}

    def apply(params, x):
        outputs = network.apply(params["network"], x)
        scales = jnp.broadcast_to(params["log_scale"].astype(outputs.dtype)[None], outputs.shape)
        return jnp.concatenate([outputs, scales], axis=-1)

    return Network(init, apply)
