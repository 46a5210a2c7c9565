"""The main job on data that scikit-learn ships: deep ensembles against chains started from their members."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from smilax import metrics, models
from smilax.bnn import NetworkPosterior, bnn
from smilax.ensemble import train_ensemble
from smilax.likelihoods import Categorical, Gaussian
from smilax.predict import predict
from smilax.priors import Normal
from smilax.samplers import SamplingAlgorithm, ismile
from smilax.sampling import sample

# Digits that no network sees in training.
UNSEEN = (8, 9)

# Each method starts from the same members. Sizes and priors were chosen on splits of the training rows: for diabetes of
# those alone; for digits, some of the early trials also looked at rows that are now among the test rows. `ismile` has
# its defaults, and as many steps as a minute gives.
METHODS: dict[str, Callable[[Any], SamplingAlgorithm]] = {"ismile": ismile}


class Lengths(NamedTuple):
    """How much the demonstration computes."""

    num_members: int
    max_epochs: int
    num_warmup: int
    num_samples: int
    thinning: int


FULL = Lengths(8, 200, 2000, 3000, 30)
QUICK = Lengths(3, 5, 60, 60, 20)


class Row(NamedTuple):
    """One line of the table."""

    data: str
    method: str
    error: str
    lppd: float
    calibration: str
    auroc: float | None
    seconds: float


class Run(NamedTuple):
    """What a method drew, and how long it took."""

    draws: Any
    seconds: float


def run_methods(
    key: jax.Array,
    posterior: NetworkPosterior,
    train: Any,
    valid: Any,
    lengths: Lengths,
    batch_size: int,
    say: Callable,
) -> dict[str, Run]:
    """The deep ensemble, and every method started from it."""
    train_key, sample_key = jax.random.split(key)
    begin = time.perf_counter()
    members = train_ensemble(
        train_key, posterior, train, valid,
        num_members=lengths.num_members, max_epochs=lengths.max_epochs, batch_size=32,
    )  # fmt: skip
    runs = {"deep ensemble": Run(members, time.perf_counter() - begin)}
    for label, make in METHODS.items():
        say(f"  {label}: {lengths.num_members} chains, {lengths.num_warmup} + {lengths.num_samples} steps")
        result = sample(
            sample_key, make(posterior), train, members,
            num_warmup=lengths.num_warmup, num_samples=lengths.num_samples, thinning=lengths.thinning,
            batch_size=batch_size, progress_bar=False,
        )  # fmt: skip
        runs[label] = Run(result, result.seconds)
    return runs


def digits(key: jax.Array, lengths: Lengths, say: Callable) -> tuple[list[Row], dict[str, Any], dict[str, Any], Any]:
    """Handwritten digits 0–7, 8×8 pixels; digits 8 and 9 are out of distribution.

    Returns:
        Table rows, predictions on test rows and on unseen digits by method, and the test labels.
    """
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    x, y = (x / 16).astype(np.float32), y.astype(np.int32)
    known = ~np.isin(y, UNSEEN)
    rows = np.random.default_rng(0).permutation(np.flatnonzero(known))
    train, valid, test = rows[:800], rows[800:1000], rows[1000:]
    say(f"digits: {len(train)} training rows, {len(test)} test rows, {np.sum(~known)} rows of unseen digits")
    x = (x - x[train].mean(0)).astype(np.float32)
    posterior = bnn(models.mlp(64, 8, hidden=(128,)), Categorical(), Normal(0.0, 1.0), num_data=len(train))
    runs = run_methods(key, posterior, (x[train], y[train]), (x[valid], y[valid]), lengths, 100, say)
    inside = {label: predict(posterior, run.draws, x[test]) for label, run in runs.items()}
    outside = {label: predict(posterior, run.draws, x[~known]) for label, run in runs.items()}
    table = [
        Row(
            "digits",
            label,
            f"accuracy {metrics.accuracy(p, y[test]):.3f}",
            metrics.lppd(p, y[test]),
            f"ECE {metrics.ece(p, y[test]):.3f}",
            metrics.auroc(p, outside[label]),
            runs[label].seconds,
        )
        for label, p in inside.items()
    ]
    return table, inside, outside, y[test]


def diabetes(key: jax.Array, lengths: Lengths, say: Callable) -> tuple[list[Row], dict[str, Any], Any]:
    """Progression of diabetes from ten measurements, standardised.

    Returns:
        Table rows, predictions on test rows by method, and the test targets.
    """
    from sklearn.datasets import load_diabetes

    x, y = load_diabetes(return_X_y=True)
    rows = np.random.default_rng(0).permutation(len(x))
    train, valid, test = rows[:250], rows[250:300], rows[300:]
    say(f"diabetes: {len(train)} training rows, {len(test)} test rows")
    x = ((x - x[train].mean(0)) / x[train].std(0)).astype(np.float32)
    y = ((y - y[train].mean()) / y[train].std()).astype(np.float32)
    posterior = bnn(models.mlp(10, 1, hidden=(16, 16)), Gaussian(), Normal(0.0, 0.3), num_data=len(train))
    runs = run_methods(key, posterior, (x[train], y[train]), (x[valid], y[valid]), lengths, 50, say)
    predictions = {label: predict(posterior, run.draws, x[test]) for label, run in runs.items()}
    table = [
        Row(
            "diabetes",
            label,
            f"RMSE {metrics.rmse(p, y[test]):.3f}",
            metrics.lppd(p, y[test]),
            f"90% coverage {metrics.coverage(p, y[test], 0.9):.3f}",
            None,
            runs[label].seconds,
        )
        for label, p in predictions.items()
    ]
    return table, predictions, y[test]


def format_table(rows: list[Row]) -> str:
    """The rows as aligned text."""
    head = ("data", "method", "error", "LPPD", "calibration", "unseen digits, AUROC", "seconds")
    lines = [head]
    for r in rows:
        auroc = "" if r.auroc is None else f"{r.auroc:.3f}"
        lines.append((r.data, r.method, r.error, f"{r.lppd:.3f}", r.calibration, auroc, f"{r.seconds:.1f}"))
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    text = ["  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([text[0], "-" * len(text[0]), *text[1:]])


def run_demo(
    output: str | Path, seed: int = 0, lengths: Lengths = FULL, say: Callable[[str], None] = print
) -> list[Row]:
    """Runs both data sets, prints a table and writes one PNG with four panels."""
    from matplotlib.figure import Figure

    from smilax import plots

    keys = jax.random.split(jax.random.key(seed))
    digit_rows, inside, outside, labels = digits(keys[0], lengths, say)
    diabetes_rows, predictions, targets = diabetes(keys[1], lengths, say)
    rows = digit_rows + diabetes_rows
    say("\n" + format_table(rows) + "\n")
    figure = Figure(figsize=(10, 8.4), dpi=120, layout="constrained")
    panels = figure.subplots(2, 2)
    plots.reliability(inside, labels, ax=panels[0, 0]).set_title("Digits: reliability")
    plots.uncertainty(inside, outside, ax=panels[0, 1]).set_title("Digits: 0–7 (seen) against 8 and 9 (unseen)")
    plots.coverage(predictions, targets, ax=panels[1, 0]).set_title("Diabetes: coverage of central intervals")
    last = list(METHODS)[-1]
    plots.intervals(predictions[last], targets, ax=panels[1, 1]).set_title(f"Diabetes: {last}, 90% intervals")
    figure.savefig(output)
    say(f"Figure: {output}")
    return rows
