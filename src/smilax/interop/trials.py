"""What is checked of a NumPyro model before anything is drawn: that its rows are what mini-batches need."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.infer.util import potential_energy

from smilax.data import Batches
from smilax.interop import sites as rows_of
from smilax.interop.sites import OnRows, Refusal, call, num_rows, promoting
from smilax.streams import Stream

# Rows on which the model is tried at the door.
TRIED_ROWS = 256
# Unconstrained starts are uniform in (-RADIUS, RADIUS), as NumPyro's and Stan's; closer ones where that overflows.
RADIUS = 2.0
TRIES = (2.0, 2.0, 1.0, 0.5, 0.1, 0.01)


def some_rows(batches: Batches | Stream) -> Any:
    """Rows to try the model on, spread over the data where these are at hand."""
    if isinstance(batches, Stream):
        return jax.tree.map(jnp.asarray, batches.first(None))
    rows = min(batches.num_rows, TRIED_ROWS)
    if batches.transform is not None:
        return batches.first(rows)
    step = batches.num_rows // rows
    return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf[: rows * step : step])), batches.data)


def structure(
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


def try_out(
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
