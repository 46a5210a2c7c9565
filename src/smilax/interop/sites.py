"""A NumPyro model run on some rows of its data: its sites, and what each adds to the log density."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
from numpyro.distributions import ImproperUniform, biject_to
from numpyro.distributions.util import sum_rightmost
from numpyro.handlers import seed, substitute, trace
from numpyro.infer import init_to_uniform
from numpyro.primitives import Messenger

Sites = dict[str, dict[str, Any]]


class Refusal(ValueError):
    """A model that cannot be sampled from mini-batches, and why."""


class OnRows(Messenger):
    """Makes a model see exactly the rows that it is given, at the latents that it is given.

    The plate of the rows has the index 0, …, `rows` - 1, whatever its size and its subsample size. Latents take the
    values of `params`, mapped onto their supports; the log determinants become sites of their own, as NumPyro has it.
    """

    def __init__(self, plate: str | None, rows: int, params: dict[str, Any] | None = None, predicting: bool = False):
        super().__init__()
        self.plate = plate
        self.rows = rows
        self.params = params
        self.predicting = predicting

    def process_message(self, msg: dict[str, Any]) -> None:
        kind, name = msg["type"], msg.get("name")
        if kind == "plate":
            self._index(msg)
        elif kind == "subsample":
            # The rows are there already; by another name the plate leaves them alone.
            msg["type"] = "subsampled"
        elif kind == "sample" and self.params is not None and not msg["is_observed"]:
            if name not in self.params:
                raise Refusal(f"latent {name!r} was not there when the model was first run: its sites must not vary")
            msg["value"] = self._constrained(name, msg["fn"], self.params[name])
        elif not self.predicting:
            if kind in REFUSED:
                raise Refusal(f"{REFUSED[kind].format(name=repr(name))}")

    def _index(self, msg: dict[str, Any]) -> None:
        name, (size, subsample) = msg["name"], msg["args"]
        subsampled = subsample is not None and subsample != size
        if name == self.plate or (self.plate is None and subsampled and size == self.rows):
            msg["args"], msg["value"] = (size, self.rows), jnp.arange(self.rows)
        elif subsampled:
            raise Refusal(
                f"plate {name!r} takes {subsample} of {size}, but it is not the plate of the data's {self.rows} rows"
                f"{'' if self.plate is None else f', {self.plate!r}'}: only that one may be subsampled"
            )

    def _constrained(self, name: str, distribution: Any, value: Any) -> Any:
        transform = biject_to(distribution.support)
        constrained = transform(value)
        log_det = transform.log_abs_det_jacobian(value, constrained)
        extra = jnp.ndim(log_det) - jnp.ndim(constrained) + len(distribution.event_shape)
        numpyro.factor(f"_{name}_log_det", sum_rightmost(log_det, extra))
        return constrained


REFUSED = {
    "param": "{name} is a numpyro.param, which is fitted and not sampled: make it a numpyro.sample or a constant",
    "mutable": "{name} is state that changes from call to call (numpyro.mutable): a posterior needs fixed functions",
    "control_flow": "numpyro.contrib.control_flow (scan, cond) is not supported: write the sites out, or in a plate",
    "prng_key": "the model asks for a random key: given its latents it must be deterministic (no dropout)",
}


def call(model: Callable, batch: Any) -> Any:
    """`model(*batch)` for a tuple, `model(**batch)` for a dictionary, `model(batch)` for anything else."""
    if isinstance(batch, (tuple, list)):
        return model(*batch)
    return model(**batch) if isinstance(batch, dict) else model(batch)


def num_rows(batch: Any) -> int:
    """The number of rows of a batch."""
    return jnp.shape(jax.tree.leaves(batch)[0])[0]


@contextmanager
def promoting() -> Iterator[None]:
    """NumPyro counts on NumPy's promotion; this holds while tracing, and only in this thread."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def run(model: Callable, batch: Any, plate: str | None, params: dict[str, Any] | None = None, key: Any = None) -> Sites:
    """The sites of the model on a batch, with the latents at `params`, or drawn with the key."""
    with promoting(), trace() as sites:
        on_rows = OnRows(plate, num_rows(batch), params)
        if key is None:
            with on_rows:
                call(model, batch)
        else:
            with substitute(substitute_fn=_start_of_improper), seed(rng_seed=key), on_rows:
                call(model, batch)
    return sites


def _start_of_improper(site: dict[str, Any]) -> Any:
    """A value of a latent that has a support but no distribution to draw from; None leaves it to its distribution."""
    base = site.get("fn")
    while base is not None and not isinstance(base, ImproperUniform):
        base = getattr(base, "base_dist", None)
    return None if base is None else init_to_uniform(site)


def in_plate(site: dict[str, Any], plate: str) -> bool:
    """Whether a site is in the plate."""
    return any(frame.name == plate for frame in site.get("cond_indep_stack", ()))


def log_prob(site: dict[str, Any], sites: Sites, plate: str) -> jax.Array:
    """The log density of a sample site, with all scales but that of the plate of the rows."""
    args = (site["value"], site["intermediates"]) if site["intermediates"] else (site["value"],)
    value = site["fn"].log_prob(*args)
    batch_shape = tuple(site["fn"].batch_shape)
    if len(jnp.shape(value)) > len(batch_shape):
        raise Refusal(
            f"{site['name']!r} observes values of shape {jnp.shape(site['value'])}, but its distribution has shape "
            f"{tuple(site['fn'].shape())}: the two would broadcast to {jnp.shape(value)}"
        )
    value = jnp.broadcast_to(value, jnp.broadcast_shapes(jnp.shape(value), batch_shape))
    scale = site["scale"]
    if scale is not None and in_plate(site, plate):
        size, rows = sites[plate]["args"]
        scale = scale / (size / rows)
    if scale is None or (isinstance(scale, (int, float)) and math.isclose(scale, 1.0)):
        return value
    return scale * value


def outside_terms(sites: Sites, plate: str) -> dict[str, jax.Array]:
    """What each sample site outside the plate of the rows adds to the log density, scalars."""
    with promoting():
        return {
            name: jnp.sum(log_prob(site, sites, plate))
            for name, site in sites.items()
            if site["type"] == "sample" and not in_plate(site, plate)
        }


def row_terms(sites: Sites, plate: str) -> jax.Array:
    """The log likelihood of each row, shape `(B,)`."""
    rows = sites[plate]["args"][1]
    terms = []
    with promoting():
        for site in sites.values():
            if site["type"] == "sample" and in_plate(site, plate):
                (dim,) = (frame.dim for frame in site["cond_indep_stack"] if frame.name == plate)
                value = jnp.moveaxis(log_prob(site, sites, plate), dim, 0)
                terms.append(jnp.sum(value.reshape(rows, -1), axis=1))
        dtype = jnp.result_type(*terms)
        return sum((term.astype(dtype) for term in terms), start=jnp.zeros(rows, dtype))


def globals_of(sites: Sites, plate: str) -> dict[str, jax.Array]:
    """The values of the deterministic sites outside the plate of the rows."""
    return {
        name: jnp.asarray(site["value"])
        for name, site in sites.items()
        if site["type"] == "deterministic" and not in_plate(site, plate)
    }


def find_plate(sites: Sites, rows: int) -> str:
    """The plate of the rows: the one that is as long as the data and holds observed sites."""
    plates = {name: site["args"] for name, site in sites.items() if site["type"] == "plate"}
    observed = [site for site in sites.values() if site["type"] == "sample" and site["is_observed"]]
    if not observed:
        raise Refusal("the model observes nothing: pass the targets to it with the data, and to numpyro.sample as obs=")
    found = [n for n, (size, _) in plates.items() if size == rows and any(in_plate(site, n) for site in observed)]
    if len(found) > 1:
        raise Refusal(f"plates {sorted(found)} all have the data's {rows} rows: say with plate= which one is theirs")
    if not found:
        has = "no plates" if not plates else "plates " + ", ".join(f"{n!r} of size {s}" for n, (s, _) in plates.items())
        raise Refusal(
            f"{observed[0]['name']!r} must be observed in a plate of the data's {rows} rows, as in `with "
            f"numpyro.plate('data', {rows}):`, so that it is known what belongs to which row; the model has {has}"
        )
    return found[0]


def inspect(sites: Sites, plate: str, rows: int) -> None:
    """Raises if the model has sites that no mini-batch sampler can take."""
    if plate not in sites or sites[plate]["type"] != "plate":
        names = sorted(name for name, site in sites.items() if site["type"] == "plate")
        raise Refusal(f"the model has no plate {plate!r}, only {names}")
    size = sites[plate]["args"][0]
    if size != rows:
        raise Refusal(f"plate {plate!r} has size {size}, but data has {rows} rows")
    latents = [site for site in sites.values() if site["type"] == "sample" and not site["is_observed"]]
    for site in latents:
        if in_plate(site, plate):
            raise Refusal(
                f"{site['name']!r} is a latent variable of each row (in plate {plate!r}): a mini-batch holds those of "
                "its own rows only, so they have to be integrated out by hand"
            )
        if site["fn"].support.is_discrete:
            raise Refusal(f"{site['name']!r} is discrete: gradients need it summed out, as in dist.MixtureSameFamily")
    if not latents:
        raise Refusal("the model has no latent variables to sample")
    if not any(s["type"] == "sample" and s["is_observed"] and in_plate(s, plate) for s in sites.values()):
        raise Refusal(f"nothing is observed in plate {plate!r}: pass the targets to the model with the data")


def unconstrained_shapes(sites: Sites) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes of the latents on unconstrained space."""
    found = {}
    for name, site in sites.items():
        if site["type"] == "sample" and not site["is_observed"]:
            try:
                transform = biject_to(site["fn"].support)
            except NotImplementedError as error:
                raise Refusal(f"{name!r} has support {site['fn'].support}, which has no smooth map to ℝⁿ") from error
            found[name] = jax.ShapeDtypeStruct(
                transform.inverse_shape(jnp.shape(site["value"])), jnp.result_type(site["value"])
            )
    return found
