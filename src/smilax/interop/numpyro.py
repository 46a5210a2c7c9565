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
from numpyro.infer.util import potential_energy

from smilax.checks import check_finite
from smilax.data import Batches, as_batches
from smilax.interop import sites as rows_of
from smilax.interop.sites import OnRows, Refusal, call, num_rows, promoting
from smilax.packing import unpack
from smilax.posterior import Posterior
from smilax.result import Result
from smilax.streams import Stream

# Rows on which the model is tried at the door.
TRIED_ROWS = 256
# Rows that the model is given for its prior, which does not depend on them.
PRIOR_ROWS = 2
# Unconstrained starts are uniform in (-RADIUS, RADIUS), as NumPyro's and Stan's; closer ones where that overflows.
RADIUS = 2.0
TRIES = (2.0, 2.0, 1.0, 0.5, 0.1, 0.01)
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
    batch = _some_rows(batches)
    for path, leaf in jax.tree_util.tree_leaves_with_path(batch):
        check_finite(f"data{jax.tree_util.keystr(path)}", np.asarray(leaf))
    try:
        plate, latents = _structure(model, batch, total, plate)
        template = jax.tree.map(lambda leaf: leaf[:PRIOR_ROWS], batch)
        deterministic = _try_out(model, batch, template, plate, latents, total)
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


def _some_rows(batches: Batches | Stream) -> Any:
    """Rows to try the model on, spread over the data where these are at hand."""
    if isinstance(batches, Stream):
        return jax.tree.map(jnp.asarray, batches.first(None))
    rows = min(batches.num_rows, TRIED_ROWS)
    if batches.transform is not None:
        return batches.first(rows)
    step = batches.num_rows // rows
    return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf[: rows * step : step])), batches.data)


def _structure(
    model: Callable, batch: Any, total: int, plate: str | None
) -> tuple[str, dict[str, jax.ShapeDtypeStruct]]:
    """The plate of the rows, and the latents; without computing anything."""

    def looked_at(rows, look):
        shaped = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((rows, *leaf.shape[1:]), leaf.dtype), batch)
        found: list[Any] = []

        def trial(key, batch):
            found.append(look(rows_of.run(model, batch, plate, key=key)))
            return 0

        jax.eval_shape(trial, jax.random.key(0), shaped)
        return found[0]

    def whole(sites):
        name = rows_of.find_plate(sites, total) if plate is None else plate
        rows_of.inspect(sites, name, total)
        return name, rows_of.unconstrained_shapes(sites)

    plate, latents = looked_at(total, whole)
    others = looked_at(total + 1, rows_of.unconstrained_shapes)
    for name, leaf in latents.items():
        other = others.get(name)
        if other is None or other.shape != leaf.shape:
            raise Refusal(
                f"{name!r} has shape {leaf.shape} for {total} rows and {other and other.shape} for {total + 1}: latent "
                "variables of each row have to be integrated out by hand"
            )
    return plate, latents


def _try_out(
    model: Callable, batch: Any, template: Any, plate: str, latents: dict[str, jax.ShapeDtypeStruct], total: int
) -> tuple[str, ...]:
    """Raises if rows depend on one another, or NumPyro says otherwise; returns the deterministic sites of no row."""
    rows = num_rows(batch)
    chosen = np.random.default_rng(0).permutation(rows)[: (rows + 1) // 2]
    factor = []

    def look(params, batch):
        found = rows_of.run(model, batch, plate, params)
        part = rows_of.run(model, jax.tree.map(lambda leaf: leaf[chosen], batch), plate, params)
        prior = rows_of.run(model, template, plate, params)
        factor.append(found[plate]["args"][0] / rows)

        def on_rows(batch):
            with OnRows(plate, rows):
                return call(model, batch)

        with promoting():
            energy = potential_energy(on_rows, (batch,), {}, params)
        runs = (found, part, prior)
        return (
            [rows_of.outside_terms(run, plate) for run in runs],
            [rows_of.row_terms(run, plate) for run in runs[:2]],
            [rows_of.globals_of(run, plate) for run in runs],
            energy,
        )

    compiled = jax.jit(look)
    for number, radius in enumerate(TRIES):
        keys = jax.random.split(jax.random.key(number), len(latents))
        params = {
            name: jax.random.uniform(key, leaf.shape, leaf.dtype, -radius, radius)
            for key, (name, leaf) in zip(keys, latents.items(), strict=True)
        }
        outside, inside, fixed, energy = jax.device_get(compiled(params, batch))
        if np.isfinite(inside[0]).all() and np.isfinite(sum(outside[0].values())):
            break
    else:
        raise Refusal("the log density is not finite at any of the points tried, nor near the middle of the space")
    for name, value in outside[0].items():
        if not all(_close(value, other.get(name)) for other in outside[1:]):
            raise Refusal(
                f"{name!r} stands outside plate {plate!r}, but its log density changes with the rows: move it into the "
                "plate, or compute what it takes from the data before"
            )
    if not _close(inside[0][chosen], inside[1]):
        raise Refusal(
            f"the log likelihood of a row in plate {plate!r} changes with the other rows of the batch: normalise the "
            f"data before, and give sites the shapes that the plate expects"
        )
    density = sum(outside[0].values()) + factor[0] * np.sum(inside[0])
    if not _close(-energy, density):
        raise Refusal(
            f"NumPyro's log density on {rows} rows is {-energy}, but prior and rows make {density}: the model has a "
            "site that is counted otherwise"
        )
    return tuple(name for name, value in fixed[0].items() if all(_close(value, other.get(name)) for other in fixed[1:]))


def _close(one: Any, other: Any) -> bool:
    """Whether two arrays agree but for rounding."""
    if other is None or np.shape(one) != np.shape(other):
        return False
    size = max(1.0, float(np.max(np.abs(one), initial=0.0)))
    return bool(np.allclose(one, other, rtol=1e-3, atol=1e-3 * size))
