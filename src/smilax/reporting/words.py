"""What a diagnosis and a run's settings say, in words."""

from typing import Any

from smilax.diagnostics import Diagnosis, Row
from smilax.reporting.markup import Html, element, join, table
from smilax.result import Result

# The question that each row of a diagnosis answers.
QUESTIONS = {
    "batches": "Are batches independent from step to step?",
    "noise isotropy": "Is the noise equally strong in every direction?",
    "noise per leaf": "Is the noise equally strong in every layer?",
    "noise level": "Is the noise as strong as warm-up has learnt it?",
    "step / L_eff": "Is a step short against the length on which batch noise turns a chain?",
    "L_eff / radius": "Do chains cross the posterior, or do they walk about in it?",
    "temperature": "Do draws spread as far as the gradients of the posterior say?",
    "EEVPD": "Is the step short enough for the curvature (energy error variance per parameter)?",
    "rejects": "How often did the guardrail undo a step?",
    "split R-hat": "Do the chains agree?",
    "bulk ESS": "How many independent draws are the draws worth?",
    "gradients per draw": "What does an independent draw cost?",
    "lost chains": "Is any chain somewhere else, stuck or broken?",
}
VERDICTS = {"bad": "Bad", "warning": "Warning", "ok": "Good", "n/a": "No verdict"}
TONES = {"bad": "bad", "warning": "warning", "ok": "ok", "n/a": "none"}


def verdict(diagnosis: Diagnosis) -> Html:
    """The diagnosis in one sentence."""
    counts = {name: sum(row.verdict == name for row in diagnosis.rows) for name in VERDICTS}
    judged = counts["bad"] + counts["warning"] + counts["ok"]
    if not judged:
        return element("p", "None of the checks could be made.", class_="verdict none")
    if counts["bad"]:
        tone, text = "bad", "Do not trust this run yet: "
    elif counts["warning"]:
        tone, text = "warning", "Usable with care: "
    else:
        tone, text = "ok", "Nothing amiss: "
    parts = [f"{counts[name]} {word}" for name, word in (("bad", "bad"), ("warning", "to look at")) if counts[name]]
    text += f"of {judged} checks " + (" and ".join(parts) if parts else "all are good") + "."
    if counts["n/a"]:
        text += f" {counts['n/a']} more came without a verdict."
    return element("p", text, class_=f"verdict {tone}")


def checks(diagnosis: Diagnosis) -> Html:
    """A card for each row of the diagnosis, those that ask for something first."""
    order = list(VERDICTS)
    rows = sorted(diagnosis.rows, key=lambda row: order.index(row.verdict))
    return element("div", *(_card(row) for row in rows), class_="grid")


def _card(row: Row) -> Html:
    badge = element("span", VERDICTS[row.verdict], class_="badge")
    parts = [element("header", element("h3", row.name), badge)]
    if row.name in QUESTIONS:
        parts.append(element("p", QUESTIONS[row.name], class_="soft"))
    parts.append(element("p", row.text + (f" (good: {row.good})" if row.good else "")))
    if row.verdict in ("warning", "bad"):
        parts.append(element("p", element("b", "What to do: "), row.advice))
    elif row.verdict == "n/a":
        parts.append(element("p", row.advice))
    return element("article", *parts, class_=f"card check {TONES[row.verdict]}")


def settings(result: Result, stored: dict[str, Any]) -> Html:
    """What was run; `stored` is what only a store knows of it."""
    run = result.config
    algorithm = dict(run["algorithm"])
    batches = run["batches"]
    rows: list[tuple[Any, ...]] = [
        ("sampler", algorithm["name"]),
        ("parameters", f"{run['num_params']:,}"),
        ("chains", f"{result.num_chains:,}, {run['chain_method']}"),
        ("warm-up", f"{run['num_warmup']:,} steps"),
        ("sampling", f"{run['num_samples']:,} steps, every {_ordinal(run['thinning'])} kept"),
        ("draws", f"{result.num_draws:,} per chain, {result.num_chains * result.num_draws:,} in all"),
        ("batches", f"{run['batch_size']:,} of {run['num_rows']:,} rows, {batches['order']}"),
    ]
    if batches["order"] == "independent":
        rows.append(("rows within a batch", "with replacement" if batches["replacement"] else "without replacement"))
    if result.seconds == result.seconds:
        steps = result.num_chains * (run["num_warmup"] + result.num_draws * run["thinning"])
        pace = f", {steps / result.seconds:,.0f} steps a second over all chains" if result.seconds > 0 else ""
        rows.append(("time", f"{result.seconds:,.1f} s{pace}"))
    if result.interrupted:
        rows.append(("state", "interrupted before its end"))
    rows += [(name, str(value)) for name, value in stored.items()]
    options = [(name, _shown(value)) for name, value in sorted(algorithm.items()) if name != "name"]
    return join(
        element("div", table((), rows), class_="card"),
        element(
            "details",
            element("summary", f"All {len(options)} settings of {algorithm['name']}"),
            table((), options),
            class_="card",
        )
        if options
        else "",
    )


def _ordinal(number: int) -> str:
    return "step" if number == 1 else f"{number:,}th"


def _shown(value: Any) -> str:
    if value is None:
        return "found by itself"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
