"""`diagnose`: one look at a run."""

import math
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from smilax.data import Batches, on_device
from smilax.diagnostics.chain_rows import convergence_rows, lost_row
from smilax.diagnostics.energy import energy_errors
from smilax.diagnostics.isotropy import NoiseLaw, kernel_metric, noise_law
from smilax.diagnostics.kernel_rows import (
    energy_row,
    isotropy_row,
    leaves_row,
    level_row,
    radius_row,
    rejects_row,
    step_row,
    warmup_energy_row,
)
from smilax.diagnostics.quantities import is_whole, watched
from smilax.diagnostics.table import Diagnosis, Row, missing
from smilax.diagnostics.temperature import temperature_row, temperatures
from smilax.result import Result, sampling_draws
from smilax.samplers.base import SamplingAlgorithm
from smilax.samplers.cost import step_gradients
from smilax.samplers.ismile_state import IsmileState
from smilax.validation import check_count

# Steps on whole batches that measure the energy error, for so many noise draws one, but so many a chain at least.
PER_ENERGY, LEAST_ENERGIES = 2, 64
# Gradients at draws for so many noise draws.
PER_TEMPERATURE = 2


def diagnose(
    result: Result,
    algorithm: SamplingAlgorithm | None = None,
    data: Any = None,
    *,
    inputs: Any = None,
    key: jax.Array | None = None,
    num_noise: int = 1024,
) -> Diagnosis:
    """Whether a run did what the sampler's theory asks, and whether its chains agree.

    What each row means, where its bound comes from and what to do is in docs/diagnostics.md. Rows on the noise take
    `num_noise` fresh gradients on batches, at places spread over the chains' draws, and are left out if `algorithm` or
    `data` is not given; so is the temperature, which takes half as many and is there for every sampler. Where `ismile`
    took batches in halves, which leaves the energy error unknown, half as many steps on whole batches measure it. R-hat
    and effective sample size are those of a network's predictions, of the parameters of any other posterior of up to
    64, or of 32 fixed random projections of more.

    Args:
        result: what `sx.sample` returned.
        algorithm: the sampler it was given.
        data: the data it was given, arrays or `sx.Batches`.
        inputs: where a network's predictions are looked at, rows on the leading axis, of which up to 64 are taken; None
            takes rows of `data`.
        key: JAX random key of the noise draws; None takes a fixed one.
        num_noise: noise draws over all chains.

    Raises:
        TypeError: if `result` or `algorithm` is something else, or `num_noise` is no integer.
        ValueError: if `algorithm` or `data` is not that of the run, or `num_noise` is less than 16.

    Example:
        >>> import jax, jax.numpy as jnp, numpy as np, smilax as sx
        >>> posterior = sx.Posterior(
        ...     log_prior=lambda mean: -0.5 * jnp.sum(mean**2),
        ...     log_likelihood=lambda mean, x: -0.5 * jnp.sum((x - mean) ** 2, axis=-1),
        ...     num_data=100,
        ... )
        >>> x = np.random.default_rng(0).normal(size=(100, 3)).astype(np.float32)
        >>> algorithm = sx.ismile(posterior)
        >>> result = sx.sample(
        ...     jax.random.key(0), algorithm, x, jnp.zeros(3), num_chains=4, num_warmup=1000, num_samples=2000,
        ...     batch_size=20, progress_bar=False,
        ... )
        >>> diagnosis = sx.diagnose(result, algorithm, x)
        >>> diagnosis["rejects"].verdict
        'ok'
    """
    if not isinstance(result, Result):
        raise TypeError(f"result must be what sx.sample returned, got {type(result).__name__}")
    num_noise = check_count("num_noise", num_noise, 16)
    config = result.config["algorithm"]
    posterior = None
    if algorithm is not None:
        if not isinstance(algorithm, SamplingAlgorithm):
            raise TypeError(f"algorithm must be the SamplingAlgorithm of the run, got {type(algorithm).__name__}")
        if algorithm.config["name"] != config["name"]:
            raise ValueError(f"algorithm is {algorithm.config['name']}, but the run's was {config['name']}")
        posterior = algorithm.posterior
    batches = None if data is None else _batches_of_the_run(data, result.config)
    batch_size = result.config["batch_size"]

    rows: list[Row] = []
    law, energy = None, None
    key = jax.random.key(0) if key is None else key
    if result.config["batches"]["order"] == "epochs":
        advice = "Draw independent batches, the default of sx.Batches: over an epoch the noise sums to zero."
        rows.append(Row("batches", math.nan, "shuffled epochs", "independent", "bad", advice))
    share = _noise_factor(result.config)
    states = None if result.state is None else result.state.chains
    metric = kernel_metric(states)
    if share == 0:
        rows.append(_noise_free(config))
    elif posterior is None or batches is None:
        rows.append(missing("noise isotropy", "needs algorithm and data", "Give diagnose both."))
    elif states is None:
        advice = "A loaded result has draws only: sx.resume a finished run, and it comes back with its state."
        rows.append(missing("noise isotropy", "needs the run's state", advice))
    elif metric is None:
        rows.append(missing("noise isotropy", "the metric is not known", "This sampler's state has no geometry."))
    elif batch_size < 2:
        rows.append(missing("noise isotropy", "needs batches of two", "Take larger batches."))
    else:
        # Epochs too are looked at draw by draw: each batch's noise is the same, only their sum is not.
        each = replace(batches, order="independent")
        # Where a store keeps only some leaves, the places where the chains stand are all that is known.
        draws = result.draws if is_whole(result) else jax.tree.map(lambda x: x[:, :0], result.draws)
        law = noise_law(key, posterior, states, draws, each, batch_size, num_noise)
        if result.num_draws and isinstance(states, IsmileState) and not np.isfinite(result.info.energy_error).any():
            number = max(num_noise // PER_ENERGY // result.num_chains, LEAST_ENERGIES)
            energy_key = jax.random.fold_in(key, 1)
            energy = energy_errors(energy_key, posterior, config, states, draws, each, batch_size, number)
    rows += _kernel_rows(result, config, states, law, share)
    if posterior is not None and batches is not None and result.num_draws and is_whole(result):
        each = replace(batches, order="independent")
        temperature_key = jax.random.fold_in(key, 2)
        number = num_noise // PER_TEMPERATURE
        kept = sampling_draws(result).draws
        found = temperatures(temperature_key, posterior, kept, each, batch_size, number)
        rows.append(temperature_row(found))
    if result.num_draws:
        rows += _draw_rows(result, config, posterior, batches, batch_size, inputs, energy)
    else:
        rows.append(missing("lost chains", "there are no draws", "Run on from the result."))
    return Diagnosis(_title(result, config), tuple(rows))


def _batches_of_the_run(data: Any, config: Any) -> Batches:
    batches = on_device("data", data)
    if batches.num_rows != config["num_rows"]:
        raise ValueError(f"data has {batches.num_rows} rows, but the run's had {config['num_rows']}")
    wanted = config["batches"]
    if batches.config() != wanted:
        if isinstance(data, Batches) or wanted["transform"]:
            raise ValueError(f"data draws batches by {batches.config()}, but the run's did by {wanted}")
        batches = replace(batches, order=wanted["order"], replacement=wanted["replacement"])
    return batches


def _noise_factor(config: Any) -> float:
    """f: 1 with replacement, 1 − B/N without."""
    return 1.0 if config["batches"]["replacement"] else max(1 - config["batch_size"] / config["num_rows"], 0.0)


def _noise_free(config: Any) -> Row:
    name = "noise isotropy"
    if config["name"] in ("ismile", "mclmc"):
        return Row(name, 1.0, "full batch: explicit noise only", "isotropic", "ok", "Nothing to do.")
    advice = f"Take smaller batches, or sx.ismile or sx.mclmc: {config['name']} has no randomness but batch noise."
    return Row(name, math.nan, "full batch: no noise at all", "some noise", "bad", advice)


def _kernel_rows(result: Result, config: Any, states: Any, law: NoiseLaw | None, factor: float) -> list[Row]:
    info, size = result.info, result.config["num_params"]
    ismile = isinstance(states, IsmileState)
    share, straight, steps = 1.0, None, None
    if ismile and info is not None and result.num_draws:
        with np.errstate(all="ignore"):
            lengths = np.asarray(info.decoherence, np.float64)
            steps = np.mean(np.asarray(info.step_size, np.float64) / lengths, axis=1)
            straight = np.mean(lengths / np.asarray(info.radius, np.float64), axis=1)
        # 1/L = max(1/L_eff, 1/R): the part of the noise that batches make.
        middle = float(np.median(straight))
        share = min(1.0, 1 / middle) if middle > 0 else 1.0
    rows = []
    if law is not None:
        friction = config.get("friction", False)
        rows += [isotropy_row(law, share, friction), leaves_row(law, share, friction)]
        if ismile:
            rows.append(level_row(law, states.scale))
        elif info is not None and result.num_draws and not law.broken:
            # 1/L_eff = ε f tr(Ω)/d / (2 (d − 1)), docs/theory.md.
            step = np.mean(np.asarray(info.step_size, np.float64), axis=1)
            rows.append(step_row(step**2 * factor * law.level / (2 * (size - 1)), config, measured=True))
    if steps is not None and straight is not None:
        dilution = 0.0 if config.get("endless") else result.config["num_rows"] / result.config["batch_size"]
        rows += [step_row(steps, config, measured=False, dilution=dilution), radius_row(straight)]
    return rows


def _draw_rows(
    result: Result,
    config: Any,
    posterior: Any,
    batches: Batches | None,
    batch_size: int,
    inputs: Any,
    energy: tuple[np.ndarray, np.ndarray] | None,
) -> list[Row]:
    info, size = result.info, result.config["num_params"]
    quantities = watched(result, posterior, batches, batch_size, inputs)
    steps = result.num_chains * result.num_draws * result.config["thinning"]
    if energy is None and not np.isfinite(info.energy_error).any() and hasattr(info, "eevpd"):
        judged = warmup_energy_row(np.asarray(info.eevpd)[:, -1], config)
    else:
        errors, stood = energy or (info.energy_error, info.accepted)
        judged = energy_row(errors, stood, size, config)
    return [
        judged,
        rejects_row(info.accepted, config),
        *convergence_rows(quantities, steps * step_gradients(config, batch_size, result.config["num_rows"])),
        lost_row(info.log_density, quantities),
    ]


def _title(result: Result, config: Any) -> str:
    run = result.config
    what = f"{config['name']}, {run['num_params']:,} parameters, {result.num_chains} x {result.num_draws:,} draws"
    what += f", batches of {run['batch_size']:,} from {run['num_rows']:,}"
    return what + (", interrupted" if result.interrupted else "")
