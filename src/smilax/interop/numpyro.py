"""NumPyro models as posteriors that mini-batches can evaluate."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import biject_to
from numpyro.handlers import seed, substitute, trace
from numpyro.infer import Predictive

from smilax.checks import check_finite
from smilax.data import as_batches
from smilax.interop import sites as rows_of
from smilax.interop.sites import OnRows, Refusal, call, num_rows, promoting
from smilax.interop.trials import RADIUS, some_rows, structure, try_out
from smilax.packing import unpack
from smilax.posterior import Posterior
from smilax.result import Result

# Rows that the model is given for its prior, which does not depend on them.
PRIOR_ROWS = 2
# Draws that are mapped at once.
MAPPED = 256


@dataclass(frozen=True, eq=False)
class NumpyroPosterior(Posterior):
    """The posterior of a NumPyro model on unconstrained space, made by `sx.from_numpyro`.

    Parameters are a dictionary: for each latent site its value on unconstrained space. A batch is what the model takes.

    Attributes:
        model: the model.
        plate: the name of the plate of the rows.
        latents: shape and dtype of each latent site on unconstrained space.
        deterministic: the deterministic sites that do not depend on the rows.
        template: the rows on which the model is run for its prior.

    Example:
        >>> import jax, numpy as np, numpyro, numpyro.distributions as dist, smilax as sx
        >>> def model(y):
        ...     scale = numpyro.sample("scale", dist.LogNormal(0.0, 1.0))
        ...     with numpyro.plate("data", 100):
        ...         numpyro.sample("y", dist.Normal(0.0, scale), obs=y)
        >>> posterior = sx.from_numpyro(model, (np.ones(100, np.float32),))
        >>> params = posterior.unconstrain({"scale": 2.0})
        >>> round(params["scale"].item(), 3), round(posterior.constrain(params)["scale"].item(), 3)
        (0.693, 2.0)
    """

    model: Callable
    plate: str
    latents: dict[str, jax.ShapeDtypeStruct]
    deterministic: tuple[str, ...]
    template: Any

    def init(self, key: jax.Array, radius: float = RADIUS) -> dict[str, jax.Array]:
        """Starting parameters, uniform in (-`radius`, `radius`) on unconstrained space, as NumPyro's own."""
        keys = jax.random.split(key, len(self.latents))
        return {
            name: jax.random.uniform(k, leaf.shape, leaf.dtype, -radius, radius)
            for k, (name, leaf) in zip(keys, self.latents.items(), strict=True)
        }

    def constrain(self, draws: Any) -> dict[str, np.ndarray]:
        """Draws by the names that the model gives them, in its own units.

        Args:
            draws: what `sx.sample` or `sx.load` returned; or parameters, with any leading axes.

        Returns:
            The latent sites and those deterministic ones that do not depend on the rows, `(chain, draw, …)`.

        Raises:
            ValueError: if a latent site is missing, or has another shape.
        """
        flat, lead = self._flat(draws)

        def one(params):
            found = rows_of.run(self.model, self.template, self.plate, params)
            return {name: jnp.asarray(found[name]["value"]) for name in (*self.latents, *self.deterministic)}

        count = jax.tree.leaves(flat)[0].shape[0]
        mapped = jax.jit(lambda flat: jax.lax.map(one, flat, batch_size=min(MAPPED, count)))(flat)
        return {name: np.asarray(value).reshape(lead + value.shape[1:]) for name, value in mapped.items()}

    def unconstrain(self, values: dict[str, Any]) -> dict[str, jax.Array]:
        """Parameters from values of the latent sites in the model's own units, such as a start.

        Args:
            values: for each latent site a value.

        Raises:
            ValueError: if a latent site is missing, or there is another.
        """
        if set(values) != set(self.latents):
            raise ValueError(f"values must be of the latents {sorted(self.latents)}, got {sorted(values)}")
        given = {name: jnp.asarray(values[name], leaf.dtype) for name, leaf in self.latents.items()}
        with promoting(), trace() as found, substitute(data=given), OnRows(self.plate, num_rows(self.template)):
            call(self.model, self.template)
        params = {name: biject_to(found[name]["fn"].support).inv(value) for name, value in given.items()}
        self._flat(params)
        return params

    def predict(self, key: jax.Array, draws: Any, batch: Any) -> dict[str, np.ndarray]:
        """One sample of the targets for each draw: NumPyro's `Predictive`.

        Args:
            key: JAX random key.
            draws: as for `constrain`.
            batch: new rows in the form of the data, with None for the targets.

        Returns:
            The sites that are not observed now, and all deterministic ones, `(chain, draw, …)`.

        Raises:
            ValueError: if the targets are given.
        """
        flat, lead = self._flat(draws)
        latents = {name: value for name, value in self.constrain(flat).items() if name in self.latents}
        rows = num_rows(batch)

        def on_rows(batch):
            with OnRows(self.plate, rows, predicting=True):
                return call(self.model, batch)

        with promoting():
            with seed(rng_seed=0), trace() as found:
                jax.eval_shape(on_rows, batch)
            held = [s for s in found.values() if s["type"] == "sample" and rows_of.in_plate(s, self.plate)]
            if held and all(site["is_observed"] for site in held):
                raise ValueError(f"batch must have None for the targets {[s['name'] for s in held]}, to be predicted")
            samples = Predictive(on_rows, latents, batch_ndims=1)(key, jax.tree.map(jnp.asarray, batch))
        return {name: np.asarray(value).reshape(lead + value.shape[1:]) for name, value in samples.items()}

    def _flat(self, draws: Any) -> tuple[dict[str, jax.Array], tuple[int, ...]]:
        """Draws with all leading axes made one, and these axes."""
        tree = draws.draws if isinstance(draws, Result) else unpack(draws)
        if not isinstance(tree, dict) or set(tree) != set(self.latents):
            given = sorted(tree) if isinstance(tree, dict) else type(tree).__name__
            raise ValueError(f"draws must be of the latents {sorted(self.latents)}, got {given}")
        leads = {}
        for name, leaf in self.latents.items():
            shape, own = np.shape(tree[name]), len(leaf.shape)
            leads[name] = shape[: len(shape) - own]
            if len(shape) < own or shape[len(shape) - own :] != leaf.shape:
                raise ValueError(f"draws of {name!r} must have shape (…, {leaf.shape}), got {shape}")
        if len(set(leads.values())) > 1:
            raise ValueError(f"draws must have the same leading axes for all latents, got {leads}")
        lead = next(iter(leads.values()))
        flat = {n: jnp.asarray(np.asarray(tree[n])).reshape(-1, *leaf.shape) for n, leaf in self.latents.items()}
        if not jax.tree.leaves(flat)[0].shape[0]:
            raise ValueError("draws holds no draws")
        return flat, lead


def from_numpyro(model: Callable, data: Any, *, plate: str | None = None) -> NumpyroPosterior:
    """A NumPyro model as a posterior that every sampler takes.

    The model is called on batches: `model(*batch)` for a tuple of arrays, `model(**batch)` for a dictionary,
    `model(batch)` for a single array; what else it takes, give it beforehand (`functools.partial`). The rows have to be
    in a `numpyro.plate`, of the size of the data or of whatever rows the model is given, subsampled or not: its
    index becomes 0, …, B - 1, so `x[index]` and `numpyro.subsample` give the batch, too. What is observed there (or is
    a `numpyro.factor`) is the rows' likelihood, which `Posterior` scales by N/B; all else is the prior. Latents are
    sampled on unconstrained space, by `biject_to` with its log determinant, as NumPyro's NUTS does.

    Refused by name: latents of each row, discrete latents, a second plate that is subsampled, `numpyro.param`,
    `numpyro.mutable`, `scan` and `cond`, random keys. On up to 256 rows it is tried whether a row's likelihood depends
    on the others (as after normalising inside the model), whether the prior depends on the rows, and whether the
    log density is that of NumPyro's `potential_energy`.

    Args:
        model: a function of the data with NumPyro sites.
        data: what `sx.sample` will be given.
        plate: the name of the plate of the rows; None finds it.

    Returns:
        A posterior whose `constrain(result)` gives draws by name in the model's units, and whose
        `predict(key, result, batch)` samples targets for new rows.

    Raises:
        TypeError: if `model` is not callable.
        ValueError: if the model is one of those above, or fails on the data.

    Example:
        >>> import jax, numpy as np, numpyro, numpyro.distributions as dist, smilax as sx
        >>> def model(x, y=None):
        ...     slope = numpyro.sample("slope", dist.Normal(0.0, 1.0))
        ...     scale = numpyro.sample("scale", dist.HalfNormal(1.0))
        ...     with numpyro.plate("data", 500, subsample_size=50) as rows:
        ...         numpyro.sample("y", dist.Normal(slope * x[rows], scale), obs=None if y is None else y[rows])
        >>> x = np.linspace(-1, 1, 500, dtype=np.float32)
        >>> data = (x, 0.5 * x + 0.1 * np.sin(100 * x))
        >>> posterior = sx.from_numpyro(model, data)
        >>> result = sx.sample(
        ...     jax.random.key(0), sx.psmile(posterior), data, posterior.init(jax.random.key(1)), num_chains=2,
        ...     num_warmup=300, num_samples=200, thinning=10, batch_size=50, progress_bar=False,
        ... )
        >>> posterior.constrain(result)["scale"].shape
        (2, 20)
        >>> posterior.predict(jax.random.key(2), result, (x[:3], None))["y"].shape
        (2, 20, 3)
    """
    if not callable(model):
        raise TypeError(f"model must be a function, got {type(model).__name__}")
    if plate is not None and not isinstance(plate, str):
        raise TypeError(f"plate must be the name of a plate or None, got {plate!r}")
    batches = as_batches(data)
    total = batches.num_rows
    batch = some_rows(batches)
    for path, leaf in jax.tree_util.tree_leaves_with_path(batch):
        check_finite(f"data{jax.tree_util.keystr(path)}", np.asarray(leaf))
    try:
        plate, latents = structure(model, batch, total, plate)
        template = jax.tree.map(lambda leaf: leaf[:PRIOR_ROWS], batch)
        deterministic = try_out(model, batch, template, plate, latents, total)
    except Refusal:
        raise
    except Exception as error:
        form = jax.tree.map(lambda leaf: f"{leaf.dtype}{list(leaf.shape)}", batch)
        raise ValueError(f"model failed, called with {form}: {type(error).__name__}: {error}") from error

    def log_prior(params):
        found = rows_of.run(model, template, plate, params)
        return sum(rows_of.outside_terms(found, plate).values())

    def log_likelihood(params, batch):
        return rows_of.row_terms(rows_of.run(model, batch, plate, params), plate)

    return NumpyroPosterior(log_prior, log_likelihood, total, model, plate, latents, deterministic, template)
