"""The posterior of a Bayesian neural network: a network, a likelihood and a prior put together."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from smilax.checks import at_first, check_finite
from smilax.likelihoods import Likelihood
from smilax.network import Network
from smilax.packing import unpack
from smilax.posterior import Posterior
from smilax.priors import Prior, as_prior


@dataclass(frozen=True, eq=False)
class NetworkPosterior(Posterior):
    """The posterior over the parameters of a neural network, made by `sx.bnn`.

    Parameters are a dictionary: `"network"`, what `network.init` gives, and `"likelihood"`, the likelihood's own
    parameters where it learns any. A batch is `(x, y)` or `(x, y, weight)`.

    Attributes:
        network: the network.
        likelihood: what its outputs mean.
        prior: the distribution over all parameters, those of the likelihood included.

    Example:
        >>> import jax, jax.numpy as jnp, smilax as sx
        >>> posterior = sx.bnn(sx.models.mlp(3, 2), sx.likelihoods.Categorical(), sx.priors.Normal(), num_data=50)
        >>> posterior.outputs(posterior.init(jax.random.key(0)), jnp.ones((8, 3))).shape
        (8, 2)
    """

    network: Network
    likelihood: Likelihood
    prior: Prior

    def init(self, key: jax.Array) -> dict[str, Any]:
        """Starting parameters: the network's initialisation and the likelihood's."""
        network = self.network.init(key)
        params = {"network": network}
        own = self.likelihood.init()
        if own:
            # A float32 network in a float64 session stays float32 throughout.
            dtypes = {jnp.result_type(leaf) for leaf in jax.tree.leaves(network)}
            if len(dtypes) == 1:
                (dtype,) = dtypes
                own = jax.tree.map(lambda x: x.astype(dtype), own)
            params["likelihood"] = own
        return params

    def _prior_density(self, params):
        # A prior that is the same for every number needs no leaves: one sum over the packed buffer in place of many.
        return self.prior.log_prob(params if self.prior.elementwise else unpack(params))

    def prior_precision(self, params):
        return [jnp.asarray(tau) for tau in jax.tree.leaves(self.prior.precision(unpack(params)))]

    def outputs(self, params: dict[str, Any], x: Any) -> jax.Array:
        """The network's outputs for the examples `x`; shape `(B,)` or `(B, num_outputs)`."""
        return _outputs(self.network, unpack(params), x)

    def check_data(self, data: tuple, *, name: str = "data", whole: bool = True) -> None:
        """Checks data on the host, before anything is compiled.

        Args:
            data: `(x, y)` or `(x, y, weight)`; `x` an array or a pytree of arrays, rows on the leading axis.
            name: what to call the data in errors.
            whole: whether these are all `num_data` examples of the posterior (as opposed to test data).

        Raises:
            ValueError: for lengths that differ, from each other or from `num_data`; for NaN or infinite features,
                targets or weights (the first offending row and column are named); for negative weights; for targets
                that do not match the network's outputs or lie outside the likelihood's support.
            TypeError: for data that is no such tuple, or targets of the wrong type for the likelihood.
        """
        x, y, weight = _split_batch(data, name)
        if isinstance(y, (dict, tuple)):
            raise TypeError(
                f"y must be one array of targets, got a {type(y).__name__}: put several targets side by side on its "
                "last axis, for a likelihood that takes them so (docs/network.md)"
            )
        y = np.asarray(y)
        lengths = {path: _length(path, leaf) for path, leaf in (*_named_leaves("x", x), ("y", y))}
        if weight is not None:
            weight = np.asarray(weight)
            lengths["weight"] = _length("weight", weight)
        if len(set(lengths.values())) > 1:
            found = ", ".join(f"{path} has {length}" for path, length in lengths.items())
            raise ValueError(f"{name}: all arrays need the same number of rows, but {found}")
        num_rows = lengths["y"]
        if num_rows == 0:
            raise ValueError(f"{name} has no rows")
        if whole and num_rows != self.num_data:
            raise ValueError(f"num_data is {self.num_data}, but {name} has {num_rows} rows")
        for path, leaf in _named_leaves("x", x):
            check_finite(path, leaf)
        self.likelihood.check(y, self._output_shape(x))
        if weight is not None:
            if weight.ndim != 1 or weight.dtype.kind not in "biuf":
                raise ValueError(
                    f"weight must be one number per row, shape ({num_rows},), "
                    f"got shape {weight.shape} and dtype {weight.dtype}"
                )
            check_finite("weight", weight)
            if (weight < 0).any():
                raise ValueError(f"weight must not be negative, but {at_first('weight', weight < 0)} is")

    def check_targets(self, y: np.ndarray, x: Any) -> None:
        """Checks targets, a host array, against the network's outputs for inputs like `x` of any number of rows."""
        self.likelihood.check(y, (len(y), *self._output_shape(x)[1:]))

    def _output_shape(self, x: Any) -> tuple[int, ...]:
        def struct(leaf):
            leaf = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
            return jax.ShapeDtypeStruct(leaf.shape, jax.dtypes.canonicalize_dtype(leaf.dtype))

        outputs = jax.eval_shape(
            lambda key, x: self.outputs(self.init(key), x), jax.random.key(0), jax.tree.map(struct, x)
        )
        return outputs.shape


def bnn(network: Network, likelihood: Likelihood, prior: Any, num_data: int) -> NetworkPosterior:
    """The posterior of a Bayesian neural network.

    The log likelihood of a batch `(x, y, weight)` is `weight * likelihood.log_prob(params, network(x), y)`, with
    weights of one in a batch `(x, y)`: an example of weight two counts as two (`num_data` is the number of rows all
    the same). `x` goes to the network as it is: an array, integer tokens, or a pytree of arrays.

    Args:
        network: an `sx.Network`, or anything else with `init` and `apply`.
        likelihood: one of `sx.likelihoods`.
        prior: one of `sx.priors` or a NumPyro distribution; covers the likelihood's learned parameters as well.
        num_data: N, the number of examples in the whole training set.

    Raises:
        TypeError: for an argument of another type.
        ValueError: if `num_data` is less than one, or the prior has not all real numbers as its support.

    Example:
        >>> import jax, jax.numpy as jnp, smilax as sx
        >>> posterior = sx.bnn(sx.models.mlp(3, 1), sx.likelihoods.Gaussian(), sx.priors.Normal(0.0, 1.0), num_data=50)
        >>> params = posterior.init(jax.random.key(0))
        >>> sorted(params), params["likelihood"]["log_scale"].item()
        (['likelihood', 'network'], 0.0)
        >>> posterior.log_density(params, (jnp.ones((8, 3)), jnp.zeros(8))).shape
        ()
    """
    if not all(callable(getattr(network, name, None)) for name in ("init", "apply")):
        raise TypeError(
            f"network must have functions init and apply, got {type(network).__name__}; sx.from_equinox and "
            "sx.from_flax make one from a module"
        )
    if not isinstance(likelihood, Likelihood):
        raise TypeError(
            f"likelihood must be one of sx.likelihoods, or a class made from sx.Likelihood, got {likelihood!r}"
        )
    try:
        hash(likelihood)
    except TypeError as error:
        raise TypeError(
            f"likelihood must have a hash, by which compiled programs are found, and {type(likelihood).__name__} has "
            f"none ({error}): make it a @dataclass(frozen=True, eq=False)"
        ) from error
    prior, learned = as_prior(prior), likelihood.learned

    def log_likelihood(params, batch):
        x, y, weight = _split_batch(batch, "batch")
        if learned and "likelihood" not in params:
            raise ValueError(
                f"{likelihood} has parameters of its own, but params has only {sorted(params)}; "
                "posterior.init(key) gives all"
            )
        value = likelihood.log_prob(params.get("likelihood", {}), _outputs(network, params, x), y)
        if weight is None:
            return value
        weight = jnp.asarray(weight)
        if weight.shape != value.shape:
            raise ValueError(f"weight must have shape {value.shape}, one number per example, got {weight.shape}")
        return weight.astype(value.dtype) * value

    return NetworkPosterior(prior.log_prob, log_likelihood, num_data, network, likelihood, prior)


def _outputs(network: Network, params: Any, x: Any) -> jax.Array:
    """The network's outputs, in float32 at least.

    A network may compute in bfloat16; a likelihood of so few digits, with targets rounded to them, is another one.
    """
    outputs = network.apply(params["network"], x)
    if not hasattr(outputs, "dtype"):
        raise TypeError(f"the network must return one array, got a {type(outputs).__name__}")
    narrow = jnp.issubdtype(outputs.dtype, jnp.floating) and jnp.finfo(outputs.dtype).bits < 32
    return outputs.astype(jnp.float32) if narrow else outputs


def _split_batch(batch: Any, name: str) -> tuple[Any, Any, Any]:
    """`(x, y, weight)`, the weight `None` where there is none."""
    if not isinstance(batch, tuple | list) or len(batch) not in (2, 3):
        given = f"a {type(batch).__name__}" + (f" of {len(batch)}" if hasattr(batch, "__len__") else "")
        raise TypeError(
            f"{name} must be a tuple (x, y) or (x, y, weight), got {given}; of a loader sx.sample takes an sx.Stream, "
            "and sx.train_ensemble the arrays"
        )
    return (*batch, None) if len(batch) == 2 else tuple(batch)


def _named_leaves(name: str, tree: Any) -> list[tuple[str, np.ndarray]]:
    named = []
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        named.append((name + jax.tree_util.keystr(path), np.asarray(leaf)))
    if not named:
        raise ValueError(f"{name} has no arrays")
    return named


def _length(name: str, array: np.ndarray) -> int:
    if array.ndim == 0:
        raise ValueError(f"{name} must have rows on a leading axis, got a single number")
    return array.shape[0]
