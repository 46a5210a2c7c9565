"""docs/truth.md and docs/truth.csv."""

import csv
import math
from pathlib import Path
from typing import Any

from benchmarks.truth.bars import Bar
from benchmarks.truth.target import Reference, Target

COLUMNS_OF = {
    "moments": (
        ("bias E[x]", "bias_mean"),
        ("max", "bias_mean_max"),
        ("bias E[x²]", "bias_square"),
        ("max", "bias_square_max"),
        ("ratio, min", "ratio_min"),
        ("median", "ratio_median"),
        ("max", "ratio_max"),
    ),
    "function": (
        ("correlation of means", "correlation"),
        ("sd ratio, mean", "sd_ratio"),
        ("|sd ratio − 1|, mean", "sd_off"),
        ("R-hat, max", "rhat"),
        ("bias E[f²]", "bias_square"),
    ),
    "modes": (
        ("modes, one chain", "modes_one"),
        ("modes, ten chains", "modes_all"),
        ("draws near a mode / truth", "near"),
        ("bias of shares", "bias_square"),
    ),
}
COLUMNS = (
    "target", "sampler", "bias_mean", "bias_mean_max", "bias_square", "bias_square_max", "ratio_min", "ratio_median",
    "ratio_max", "correlation", "sd_ratio", "sd_off", "rhat", "modes_one", "modes_all", "near", "bias_square_error",
    "gradients", "chains", "seeds", "step", "earlier",
)  # fmt: skip
INTRODUCTION = """# Against reference posteriors

Every sampler against posteriors known in closed form or from long NUTS runs, at equal numbers of gradients. Written by
`python -m benchmarks.truth` (`make truth`), the same numbers are in [truth.csv](truth.csv); no number here is a time.

- **Bias** is the square of (estimate − truth) in units of the posterior's variance of the quantity, x or x²: mean and
  maximum over the parameters. **Ratios** are of a parameter's variance in the run to that of the posterior. Biases are
  means over the seeds, smallest and largest ratio are over all seeds.
- A seed is a run of the number of chains given, whose draws are taken together. Warm-up, the first of the two lengths
  given, is discarded; of the rest every tenth step of two gradients is looked at. Chains start at zero unless the
  target says otherwise.
- Steps are given as of two gradients: samplers that take one make twice as many. `ismile` takes one, and at times in
  warm-up two.
- **Gradients** counts new mini-batch gradients of a run, warm-up included. Those of `mclmc` are of all rows.
- `ismile` runs at its defaults, but for what its row says. The published samplers run at 13 step sizes (`smile`
  and `psmile`: 13 starting values), and their row is that of the step with the least bias of E[x²], the number by which
  they are judged: a choice that needs the truth, in their favour. `mclmc` is BlackJAX's, tuned by itself, full batch.
- A sampler without a row was not run on that target.
- † Measured with an earlier version of the package and not run again since.
- Rows of `smile` and `psmile` are of before their tuner compared energies between batches by default: what
  `energy="one_batch"` gives now.
- What `ismile` allows rows that stand alone was settled on `breast_cancer` and `digits`, and batch size and length of
  `softmax_256` after seeing runs of `softmax`.
- That networks take batches in halves and other posteriors do not was settled after runs of `softmax_256` with halves.
- The damping under flat priors was settled on `gaussian_fisher` and `hierarchy`.
- The row of `ismile` on `tanh` is of before `shrinkage`; its three bars hold with it as well.
- Held-out targets were chosen before any sampler had run on them; nothing was changed because of them.
"""


def line(row: dict[str, Any]) -> str:
    """A row for the terminal."""
    shown = {k: _number(row[k]) for k in COLUMNS[2:16] if k in row}
    return f"{row['target']:22s} {row['sampler']:18s} step {row['step']:.3g} " + " ".join(
        f"{k} {v}" for k, v in shown.items()
    ) + f" ({row['seconds']:.0f} s)"  # fmt: skip


def earlier_rows(folder: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """The rows of the table that is in the folder, by target and sampler, each marked as of an earlier version."""
    path = folder / "truth.csv"
    if not path.exists():
        return {}
    rows = {}
    with path.open(newline="") as file:
        for record in csv.DictReader(file):
            row: dict[str, Any] = {"target": record["target"], "sampler": record["sampler"], "earlier": 1}
            row |= {name: int(record[name]) for name in ("gradients", "chains", "seeds")}
            row |= {name: float(record[name]) for name in (*COLUMNS[2:17], "step") if record.get(name)}
            rows[row["target"], row["sampler"]] = row
    return rows


def bars_table(bars: list[Bar]) -> str:
    """The bars as a Markdown table."""
    lines = ["| target | bar | found | |", "|---|---|---|---|"]
    lines += [f"| {b.target} | {b.claim} | {b.found} | {'pass' if b.holds else '**fail**'} |" for b in bars]
    return "\n".join(lines)


def write(
    folder: Path, described: list[tuple[Target, Reference]], results: list[dict[str, Any]], bars: list[Bar]
) -> None:
    """Writes truth.md and truth.csv into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = [INTRODUCTION]
    for target, reference in described:
        rows = [row for row in results if row["target"] == target.name]
        parts.append(_section(target, reference, rows))
    passed = sum(bar.holds for bar in bars)
    parts.append(f"## Bars\n\n{passed} of {len(bars)} are met.\n\n{bars_table(bars)}\n")
    (folder / "truth.md").write_text("\n".join(parts))
    with (folder / "truth.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row in results:
            writer.writerow([row["target"], row["sampler"], *(_plain(row.get(name)) for name in COLUMNS[2:])])


def _section(target: Target, reference: Reference, rows: list[dict[str, Any]]) -> str:
    shown = COLUMNS_OF[target.kind]
    heads = ["sampler", *(name for name, _ in shown), "gradients", "chains", "seeds", "step"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in rows:
        cells = [row["sampler"] + " †" * ("earlier" in row), *(_number(row[key]) for _, key in shown)]
        cells += [f"{row['gradients']:,}", str(row["chains"]), str(row["seeds"]), f"{row['step']:.2g}"]
        lines.append(f"| {' | '.join(cells)} |")
    if not rows:
        lines = ["Not run yet."]
    run = f"{target.num_warmup:,} + {target.num_samples:,} steps of two gradients. Reference: {reference.note}."
    return f"## {target.title}\n\n{target.about} {run}\n\n" + "\n".join(lines) + "\n"


def _number(value: float) -> str:
    if not math.isfinite(value):
        return "lost"
    if value and abs(value) < 0.001:
        return f"{value:.0e}".replace("e-0", "e-")
    return f"{value:.4f}" if abs(value) < 0.1 else f"{value:.3g}"


def _plain(value: Any) -> Any:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else value
