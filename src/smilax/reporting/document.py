"""`report`: a run on one page."""

from datetime import datetime
from pathlib import Path
from typing import Any

import jax
import numpy as np

from smilax.bnn import NetworkPosterior
from smilax.data import as_batches
from smilax.diagnostics import diagnose
from smilax.diagnostics.quantities import is_whole
from smilax.plots.chains import check_result
from smilax.posterior import Posterior
from smilax.predict import Prediction, predict
from smilax.reporting.figures import Plot, figure
from smilax.reporting.gallery import chain_plots, noise_plot, prediction_plots
from smilax.reporting.markup import Html, document, element
from smilax.reporting.scores import Scored, gain, score_table, scored
from smilax.reporting.words import checks, settings, verdict
from smilax.result import Result
from smilax.samplers.base import SamplingAlgorithm
from smilax.store import read
from smilax.streams import Stream
from smilax.validation import check_count

CHAINS, START = "chains", "warm start"


def report(
    path: str | Path,
    result: Result,
    posterior: Posterior | None = None,
    data: Any = None,
    members: Any = None,
    *,
    test: Any = None,
    max_rows: int = 1000,
    title: str | None = None,
) -> Path:
    """Writes one HTML file about a run, which needs nothing but itself: no network, no script, no font.

    It says in words what `sx.diagnose` finds and what to do about it, scores the predictions beside those of the warm
    start, and shows `sx.plots`, in the reader's light or dark. What cannot be shown is listed with the reason.

    Args:
        path: the file to write; one that exists is replaced.
        result: what `sx.sample` or `sx.load` returned.
        posterior: what was sampled. Predictions and metrics need one from `sx.bnn`.
        data: what the run was given, arrays or `sx.Batches`; rows about the noise need it.
        members: the deep ensemble from which the chains started, parameters with a leading member axis.
        test: `(x, y)` that the run has not seen; without, the run's own rows are scored, and the page says so.
        max_rows: so many rows are scored at most, spread evenly.
        title: the page's heading.

    Returns:
        The path.

    Raises:
        TypeError: if `result`, `posterior` or `data` is something else, or `test` is given without a network.
        ValueError: if `data` is not that of the run, or `members` or `test` do not fit the posterior.
        FileNotFoundError: if the folder does not exist.

    Example:
        >>> import jax, numpy as np, pathlib, tempfile, smilax as sx
        >>> x = np.random.default_rng(0).normal(size=(60, 2)).astype(np.float32)
        >>> y = x[:, 0]
        >>> posterior = sx.bnn(sx.models.mlp(2, 1), sx.likelihoods.Gaussian(), sx.priors.Normal(0.0, 1.0), num_data=60)
        >>> members = sx.train_ensemble(jax.random.key(0), posterior, (x, y), num_members=2, batch_size=20)
        >>> result = sx.sample(
        ...     jax.random.key(1), sx.psmile(posterior), (x, y), members, num_warmup=20, num_samples=40, batch_size=20,
        ...     progress_bar=False,
        ... )
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     written = sx.report(pathlib.Path(folder) / "report.html", result, posterior, (x, y), members)
        ...     "<svg" in written.read_text(encoding="utf-8")
        True
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"path: the folder {path.parent} does not exist")
    check_result(result)
    max_rows = check_count("max_rows", max_rows, 2)
    if posterior is not None and not isinstance(posterior, Posterior):
        raise TypeError(f"posterior must be a Posterior or None, got {type(posterior).__name__}")
    network = posterior if isinstance(posterior, NetworkPosterior) else None
    for name, value in (("members", members), ("test", test)):
        if value is not None and network is None:
            raise TypeError(f"{name} is for a posterior from sx.bnn, got {type(posterior).__name__}")
    if data is not None and posterior is None:
        raise TypeError("data is of use with the posterior only; give both, or neither")
    if network is not None and test is not None:
        network.check_data(test, name="test", whole=False)
    missing: list[Any] = []
    rows = None if network is None else _rows(result, data, test, max_rows, missing)
    algorithm = None if posterior is None else _algorithm_of(result, posterior)
    # A stream has no rows to go back to.
    known = None if isinstance(data, Stream) else data
    diagnosis = diagnose(result, algorithm, known, inputs=None if rows is None else rows[0])

    plots: dict[str, list[Plot]] = {}
    quality: list[Html] = []
    if network is not None and rows is not None:
        predictions = {CHAINS: predict(network, result, rows[0])}
        if members is not None:
            predictions[START] = predict(network, members, rows[0])
        try:
            scores = scored(predictions[CHAINS], predictions.get(START), rows[1])
            quality = _quality(predictions, scores, rows[1], test is None, rows[2])
            start = scores[0].start
            plots["Predictions"] = prediction_plots(predictions, *rows[:2], {} if start is None else {START: start})
        except (TypeError, ValueError) as error:
            # A likelihood of one's own may have no cdf, or targets that are not shaped like what it predicts.
            missing.append(f"Predictions and metrics: {error}")
    elif posterior is None:
        missing.append(
            "Predictions, metrics and the noise: they take the model and the data, which a run does not hold. From "
            "Python, sx.report(path, result, posterior, data, members, test=(x, y)) has them all. Without a model "
            "R-hat and effective draws are those of parameters; a network's need not agree for its predictions to."
        )
    elif network is None:
        missing.append("Predictions and metrics: they take the posterior of a network, from sx.bnn.")
    plots["Chains"] = chain_plots(result, posterior, None if rows is None else rows[0])
    if known is not None:
        plots["Chains"].append(noise_plot(diagnosis))
    drawn = _drawn(plots, missing)

    name = result.config["algorithm"]["name"]
    heading = title or f"A run of {name}"
    written = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z").strip()
    body = [
        element("h1", heading),
        element("p", f"{diagnosis.title}. Written {written}.", class_="soft"),
        verdict(diagnosis),
        _notes(missing),
        *quality,
        element("section", element("h2", "Checks"), checks(diagnosis)),
        *drawn,
        element("section", element("h2", "Settings"), settings(result, _stored(result))),
    ]
    path.write_text(document(heading, *body), encoding="utf-8")
    return path


def _rows(result: Result, data: Any, test: Any, most: int, missing: list[Any]) -> tuple[Any, np.ndarray, int] | None:
    """Inputs and targets to score, and of how many rows they are; None, with the reason in `missing`, without any."""
    what = "Predictions and metrics: "
    if not result.num_draws:
        missing.append(what + "there are no draws yet.")
        return None
    if not is_whole(result):
        missing.append(what + "the store keeps draws of some of the parameters only.")
        return None
    if test is None:
        batches = None if data is None else as_batches(data)
        if batches is None or isinstance(batches, Stream) or batches.transform is not None:
            why = "there are no rows to score" if batches is None else "a stream or a transform has no fixed rows"
            missing.append(what + why + "; give test=(x, y).")
            return None
        test = batches.data
    x, y = test[:2]
    number = len(y)
    chosen = np.unique(np.linspace(0, number - 1, min(number, most)).round().astype(int))
    return jax.tree.map(lambda leaf: np.asarray(leaf)[chosen], x), np.asarray(y)[chosen], number


def _algorithm_of(result: Result, posterior: Posterior) -> SamplingAlgorithm:
    """As much of the run's sampler as a diagnosis asks for: its settings and its target."""

    def never(*_: Any) -> Any:
        raise AssertionError("a report takes no steps")

    return SamplingAlgorithm(never, never, never, result.config["algorithm"], posterior)


def _quality(
    predictions: dict[str, Prediction], scores: list[Scored], y: np.ndarray, trained_on: bool, number: int
) -> list[Html]:
    parts = [element("h2", "Predictions beside the warm start" if START in predictions else "Predictions")]
    rows = f"all {number:,} rows" if len(y) == number else f"{len(y):,} of {number:,} rows, spread evenly"
    if trained_on:
        text = f"Scored on {rows} that the run was trained on, where predictions look better than they are: give "
        parts.append(element("p", element("b", text, element("code", "test=(x, y)"), "."), class_="note"))
    else:
        parts.append(element("p", f"Scored on {rows} that the run has not seen.", class_="soft"))
    if START in predictions:
        value, error = gain(predictions[CHAINS], predictions[START], y)
        sure = abs(value) > 2 * error
        text = f"Sampling changed the log predictive density by {value:+.3f} ± {error:.3f} nats per row"
        text += ", more than chance." if sure else ", which chance could do."
        parts.append(element("p", text))
    parts.append(element("div", score_table(scores), class_="card"))
    return [element("section", *parts)]


def _drawn(plots: dict[str, list[Plot]], missing: list[Any]) -> list[Html]:
    sections, number = [], 0
    for name, some in plots.items():
        figures = []
        for plot in some:
            number += 1
            try:
                figures.append(figure(plot, number))
            except (TypeError, ValueError) as error:
                # What a plot refuses it refuses with the reason.
                missing.append(f"{plot.title}: {error}.")
        if figures:
            heading = element("h2", f"{name} in pictures")
            sections.append(element("section", heading, element("div", *figures, class_="figures")))
    return sections


def _notes(missing: list[Any]) -> Html:
    if not missing:
        return Html("")
    items = element("ul", *(element("li", text) for text in missing))
    return element("aside", element("b", "Not on this page"), items, class_="note")


def _stored(result: Result) -> dict[str, Any]:
    """What a run's store says about it."""
    if result.path is None:
        return {}
    manifest = read(result.path).manifest
    versions = ", ".join(f"{name} {version}" for name, version in manifest.versions.items())
    return {"store": result.path, "store's state": manifest.status, "written by": versions}
