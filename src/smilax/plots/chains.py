"""Chains: what they report along the way, whether they agree, and what more of them would bring."""

import warnings
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from smilax.bnn import NetworkPosterior
from smilax.diagnostics.chain_rows import RHAT
from smilax.diagnostics.convergence import LEAST_DRAWS, split_rhat
from smilax.diagnostics.quantities import watched
from smilax.plots.style import MUTED, below, grouped, ink, make_axes, palette
from smilax.predict import Prediction
from smilax.predict.pointwise import pointwise_log_prob
from smilax.result import Result
from smilax.running import Lengths
from smilax.validation import check_count

Traced = Literal["log_density", "step_size", "energy_error"]
LABELS = {
    "log_density": ("Log density", "mini-batch log density, nats"),
    "step_size": ("Step size", "step size, parameter units"),
    "energy_error": ("Energy error", "energy error, rms, nats"),
}
# More chains than this are not told apart by a legend.
MOST_NAMED = 6
BINS = 30
# Log densities of this many rows times draws are held at once.
HELD = 2**24


def trace(result: Result, quantity: Traced = "log_density", *, points: int = 120, ax: Any = None) -> Any:
    """What the steps of each chain reported along the run, warm-up (grey ground) included.

    Each chain is shown by means over stretches of equally many steps. The energy error is a root mean square, and where
    the sampler steers to an energy error, that is the dashed line; where it is measured in warm-up only, as by `ismile`
    in halves of batches, nothing else is shown. The log density is the mini-batch estimate at the chain's own batches,
    averaged over equally many of them in warm-up and after it; its axis is chosen for the second half of warm-up and
    what follows, and what is before may be below it.

    Args:
        result: what `sx.sample` returned.
        quantity: `"log_density"`, `"step_size"` or `"energy_error"`.
        points: the most stretches per chain.
        ax: matplotlib axes.

    Raises:
        TypeError: if `result` is something else.
        ValueError: if the quantity is unknown, or the sampler reports none, or there are no records.

    Example:
        >>> import jax, jax.numpy as jnp, numpy as np, smilax as sx
        >>> posterior = sx.Posterior(
        ...     lambda m: -0.5 * jnp.sum(m**2), lambda m, x: -0.5 * jnp.sum((x - m) ** 2, axis=-1), num_data=100
        ... )
        >>> result = sx.sample(
        ...     jax.random.key(0), sx.psmile_naive(posterior, 0.01), np.ones((100, 2), np.float32), jnp.zeros(2),
        ...     num_chains=2, num_warmup=10, num_samples=20, batch_size=10, progress_bar=False,
        ... )
        >>> sx.plots.trace(result, "energy_error").get_ylabel()
        'energy error, rms, nats'
    """
    check_result(result)
    if quantity not in LABELS:
        raise ValueError(f"quantity must be one of {', '.join(map(repr, LABELS))}, got {quantity!r}")
    points = check_count("points", points, 2)
    num_warmup, thinning = result.config["num_warmup"], result.config["thinning"]
    every = Lengths(num_warmup, result.config["num_samples"], thinning).every("warmup")
    parts = []
    for info, first, step in ((result.warmup_info, 0, every), (result.info, num_warmup, thinning)):
        values = np.zeros((result.num_chains, 0)) if info is None else np.asarray(getattr(info, quantity), np.float64)
        parts.append((first + step * np.arange(1, values.shape[1] + 1), values))
    last = max((int(steps[-1]) for steps, _ in parts if len(steps)), default=0)
    if last == 0:
        raise ValueError("result has no records yet")
    if not any(np.isfinite(values).any() for _, values in parts):
        raise ValueError(f"{result.config['algorithm']['name']} reports no finite {quantity}")
    if quantity == "energy_error":
        # A sampler may measure it in warm-up only; and at a step that did not it is zero.
        parts = [(steps, np.where(values != 0, values, np.nan)) for steps, values in parts]
    while len(parts) > 1 and not np.isfinite(parts[-1][1]).any():
        parts.pop()
    last = max((int(steps[-1]) for steps, _ in parts if len(steps)), default=0)
    spans = (min(num_warmup, last), last - min(num_warmup, last))
    counts = [max(1, round(points * span / last)) for span in spans]
    # As many records in a stretch of warm-up as in one after it: means of more would scatter less.
    most = max(1, round(last / points / max(every, thinning)))
    shown = [_stretches(*part, count, quantity, most) for part, count in zip(parts, counts, strict=False)]
    steps = np.concatenate([where for where, _ in shown])
    values = np.concatenate([means for _, means in shown], axis=1)

    ax = make_axes(ax, (4.5, 3.4))
    if len(parts[0][0]):
        ax.axvspan(0, num_warmup, color=MUTED, alpha=0.18, linewidth=0)
    for chain, line in enumerate(values):
        color = palette(ax)[chain % MOST_NAMED]
        label = f"chain {chain}" if len(values) <= MOST_NAMED else None
        ax.plot(steps, line, color=color, linewidth=1, alpha=0.85, label=label)
    target = result.config["algorithm"].get("target_eevpd")
    aims = []
    if quantity == "energy_error" and target is not None:
        wanted = float(np.sqrt(target * result.config["num_params"]))
        aims.append(wanted)
        ax.axhline(wanted, color=ink(), linewidth=1.5, linestyle="--", label="aimed at")
    title, label = LABELS[quantity]
    if len(parts) == 1:
        title += " in warm-up"
    ax.set(xlabel="step", ylabel=label, title=title)
    ax.set_xlim(0, float(steps[-1]))
    ax.xaxis.set_major_locator(_few_ticks())
    ax.xaxis.set_major_formatter(grouped)
    if quantity == "log_density":
        ax.set_ylim(*_limits(values[:, steps > num_warmup / 2]))
        ax.ticklabel_format(axis="y", useOffset=False)
    elif np.nanmin(values) > 0:
        ax.set_yscale("log")
        # So that a constant is a line in the middle.
        levels = [*values[np.isfinite(values)], *aims]
        ax.set_ylim(min(levels) / 1.5, 1.5 * max(levels))
    if ax.get_legend_handles_labels()[0]:
        below(ax, ncols=3)
    return ax


def rhat(result: Result, posterior: Any = None, inputs: Any = None, *, ax: Any = None) -> Any:
    """How far chains agree, quantity by quantity: a histogram of rank-normalised split R-hat.

    Of a network's predictions at the inputs (log probabilities for classes), which is what has to agree; without a
    network's posterior or inputs, of the parameters, or of 32 fixed random projections of more than 64. Dashed lines
    are where `sx.diagnose` begins to warn, 1.01, and to call it bad, 1.1.

    Args:
        result: what `sx.sample` returned, at least four draws a chain.
        posterior: the posterior that was sampled.
        inputs: rows of the network's input, of which up to 64 are taken.
        ax: matplotlib axes.

    Raises:
        TypeError: if `result` is something else.
        ValueError: if there are fewer draws, or none of the quantities varies.

    Example:
        >>> import jax, jax.numpy as jnp, numpy as np, smilax as sx
        >>> posterior = sx.Posterior(
        ...     lambda m: -0.5 * jnp.sum(m**2), lambda m, x: -0.5 * jnp.sum((x - m) ** 2, axis=-1), num_data=100
        ... )
        >>> result = sx.sample(
        ...     jax.random.key(0), sx.psmile_naive(posterior, 0.01), np.ones((100, 2), np.float32), jnp.zeros(2),
        ...     num_chains=2, num_warmup=10, num_samples=20, batch_size=10, progress_bar=False,
        ... )
        >>> sx.plots.rhat(result).get_ylabel()
        'number of parameters'
    """
    check_result(result)
    if result.num_draws < LEAST_DRAWS:
        raise ValueError(f"R-hat needs {LEAST_DRAWS} draws a chain, got {result.num_draws}")
    kind, values = watched(result, posterior if isinstance(posterior, NetworkPosterior) else None, None, 0, inputs)
    values = split_rhat(values)
    values = values[np.isfinite(values)]
    if not len(values):
        raise ValueError(f"no R-hat is finite: the {kind} do not vary, or are not finite")
    ax = make_axes(ax, (4.5, 3.4))
    # From 1, and as far as the first bound, so that a good run looks like one.
    edges = np.linspace(min(1.0, values.min()), max(values.max(), 1.02 * RHAT[0]), BINS + 1)
    ax.hist(values, edges, color=palette(ax)[0], alpha=0.85, label=f"{kind}, worst {values.max():.3f}")
    for bound, style in zip(RHAT, ("--", ":"), strict=True):
        if bound <= edges[-1]:
            ax.axvline(bound, color=ink(), linewidth=1.5, linestyle=style, label=f"{bound}")
    ax.set(xlabel="split R-hat", ylabel=f"number of {kind}", title=f"Agreement of chains: {kind}")
    ax.set_xlim(edges[0], edges[-1])
    ax.yaxis.get_major_locator().set_params(integer=True)
    below(ax, ncols=3)
    return ax


def lppd_by_draws(
    prediction: Prediction, y: Any, *, references: Mapping[str, float] | None = None, ax: Any = None
) -> Any:
    """What more draws and more chains bring: the LPPD of the first draws of some of the chains.

    A point is the log predictive density, in nats per row, of the mixture over the first n draws of c chains; for c
    less than all, the mean over as many disjoint groups of c chains as there are. Lines that still rise at their right
    end say: run longer; lines far apart: take more chains.

    Args:
        prediction: a `Prediction` of any kind.
        y: targets.
        references: other LPPDs by name, drawn as level lines, such as that of the deep ensemble.
        ax: matplotlib axes.

    Raises:
        TypeError, ValueError: if `prediction` is none, or `y` does not fit it.

    Example:
        >>> import jax, numpy as np, smilax as sx
        >>> posterior = sx.bnn(sx.models.mlp(2, 1), sx.likelihoods.Gaussian(), sx.priors.Normal(0.0, 1.0), num_data=9)
        >>> members = jax.vmap(posterior.init)(jax.random.split(jax.random.key(0), 4))
        >>> prediction = sx.predict(posterior, members, np.zeros((9, 2), np.float32))
        >>> [line.get_label() for line in sx.plots.lppd_by_draws(prediction, np.zeros(9, np.float32)).lines]
        ['1 chain', '2 chains', '4 chains']
    """
    if not isinstance(prediction, Prediction):
        raise TypeError(f"lppd_by_draws needs a Prediction, got {type(prediction).__name__}")
    draws, chains = _doublings(prediction.num_draws), _doublings(prediction.num_chains)
    values = _partial_lppd(prediction, y, draws, chains)
    ax = make_axes(ax, (4.5, 3.8))
    for n, (count, line) in enumerate(zip(chains, values, strict=True)):
        # More chains, more ink: the order is seen without the legend.
        weight = (n + 1) / len(chains)
        ax.plot(
            draws,
            line,
            color=palette(ax)[0],
            alpha=0.35 + 0.65 * weight,
            linewidth=0.8 + 1.7 * weight,
            marker="o",
            markersize=4,
            label=f"{count} chain{'s' * (count > 1)}",
        )
    for n, (name, level) in enumerate((references or {}).items()):
        style = ("--", ":", "-.")[n % 3]
        ax.axhline(level, color=palette(ax)[1], linewidth=1.5, linestyle=style, label=name)
    ax.set(xlabel="draws per chain", ylabel="LPPD, nats per row", title="LPPD by draws and chains")
    if len(draws) > 1:
        ax.set_xscale("log")
    ax.set_xticks(draws[:: max(1, -(-len(draws) // 6))])
    ax.set_xticks([], minor=True)
    ax.xaxis.set_major_formatter(grouped)
    below(ax, ncols=3)
    return ax


def check_result(result: Any) -> None:
    """Raises unless it is a run's result."""
    if not isinstance(result, Result):
        raise TypeError(f"result must be what sx.sample returned, got {type(result).__name__}")


def _stretches(
    steps: np.ndarray, values: np.ndarray, count: int, quantity: str, most: int
) -> tuple[np.ndarray, np.ndarray]:
    """Where `count` stretches of the records end, and each chain's mean of up to `most` in them, of what is finite."""
    if not len(steps):
        return steps, values
    groups = np.array_split(np.arange(len(steps)), min(count, len(steps)))
    if quantity == "log_density":
        groups = [group[np.linspace(0, len(group) - 1, min(most, len(group))).round().astype(int)] for group in groups]
    values = np.where(np.isfinite(values), values, np.nan)
    with warnings.catch_warnings():
        # A stretch may hold nothing finite, and is a gap then.
        warnings.filterwarnings("ignore", "Mean of empty slice", RuntimeWarning)
        if quantity == "energy_error":
            means = [np.sqrt(np.nanmean(values[:, group] ** 2, axis=1)) for group in groups]
        else:
            means = [np.nanmean(values[:, group], axis=1) for group in groups]
    return steps[[group[-1] for group in groups]], np.stack(means, axis=1)


def _limits(values: np.ndarray) -> tuple[float | None, float | None]:
    values = values[np.isfinite(values)]
    if not len(values):
        return None, None
    low, high = float(values.min()), float(values.max())
    margin = 0.05 * (high - low) or 1.0
    return low - margin, high + margin


def _few_ticks() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(5)


def _doublings(most: int) -> list[int]:
    """1, 2, 4, … and `most` itself."""
    counts = [2**n for n in range(most.bit_length()) if 2**n < most]
    return [*counts, most]


def _partial_lppd(prediction: Prediction, y: Any, draws: list[int], chains: list[int]) -> np.ndarray:
    """The LPPD by number of chains and of draws, shape `(len(chains), len(draws))`."""
    y, rows = np.asarray(y), prediction.num_rows
    if y.shape[:1] != (rows,):
        raise ValueError(f"y must have {rows} rows, as many as x, got shape {y.shape}")
    held = max(1, HELD // (prediction.num_chains * prediction.num_draws))
    total = np.zeros((len(chains), len(draws)))
    for start in range(0, rows, held):
        stop = min(start + held, rows)
        part = prediction if stop - start == rows else prediction.rows(start, stop)
        values = np.asarray(pointwise_log_prob(part, y[start:stop]), np.float64)
        along = np.logaddexp.accumulate(values, axis=1)[:, np.array(draws) - 1]
        for i, count in enumerate(chains):
            number = prediction.num_chains // count
            groups = along[: number * count].reshape(number, count, len(draws), -1)
            mixed = np.logaddexp.reduce(groups, axis=1) - np.log(count * np.array(draws))[:, None]
            total[i] += mixed.mean(0).sum(-1)
    return total / rows
