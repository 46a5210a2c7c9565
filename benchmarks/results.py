"""docs/results.md and docs/results.csv: the runs of `smilax run`, beside the paper's numbers.

python -m benchmarks.results runs/uci-energy runs/uci-airfoil ...

Runs of one experiment, of different seeds say, share a table; a later run replaces what an earlier one says of a case
and seed. With `--keep`, so do the rows that the table in docs has already, whose heading stays; an experiment of which
no run is given stays as it is there.
"""

import argparse
import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from smilax.experiments import read_rows
from smilax.experiments.cases import Experiment, restored
from smilax.experiments.scoring import COLUMNS
from smilax.experiments.table import spread

DOCS = Path(__file__).resolve().parent.parent / "docs"
# What public listings of the paper's results give (arXiv 2602.06500), without the method.
PAPER = {
    "uci-airfoil": "LPPD 0.28",
    "uci-energy": "LPPD 2.018",
    "uci-bikesharing": "LPPD 0.132",
    "resnet18-cifar10": "LPPD -0.2763",
    "gpt-shakespeare": "accuracy 0.5562",
}
METRICS = {
    "lppd": "LPPD", "rmse": "RMSE", "coverage90": "coverage of 90 %", "accuracy": "accuracy", "ece": "ECE",
    "ece_by_chance": "ECE by chance", "auroc": "AUROC", "perplexity": "perplexity",
    "worst_chain_lppd": "LPPD, worst chain", "rhat": "R-hat", "step_size": "last step size",
}  # fmt: skip
INTRODUCTION = """# The paper's experiments

Runs of [`smilax run`](experiments.md) on {machines}. Written by `python -m benchmarks.results` from the tables of the
runs; the same rows, one for each seed, are in [results.csv](results.csv).

- All methods of an experiment start from the same members of a deep ensemble (but `mile` on bikesharing, seeds 2 and
  3, and `psmile` on ResNet-7, from members trained anew, of LPPD -2.165 for -2.155 on the latter); a seed has its own
  split, members and chains. Cells are means over the seeds, ± standard deviations.
- **LPPD** is the log predictive density of a test row (of text: of a character) under the mixture of all draws and
  chains, in nats. **Lost** counts chains that are no longer finite. **Gradients** are those of one chain, of
  mini-batches but for `mile`, whose batch is all rows. **Seconds** are of all chains, without warm start; many
  runs shared the cores with others, so that they say little.
- **ECE by chance** is what a calibrated prediction would have of as many test rows (`sx.metrics.ece_by_chance`, by the
  method's own confidences): an ECE of that size is no sign of miscalibration.
- **epochs** are shuffled epochs, as published; **independent** batches are drawn afresh at each step, as the theory
  asks.
- Of the published samplers and SGHMC all step sizes were run on seed 1 of the three tables, and the middle one (of
  SGHMC the best, and on energy all) on seeds 2 and 3. The tuner of `smile` and `psmile` compares energies between
  batches.
- `adaptive_sghmc` at 0.01 on energy has a few draws that ran off, in two seeds of three: their RMSE is what these few
  make of it, and the other scores hardly notice.
- That `ismile` is given independent batches, and how long its warm-up descends on a network, was settled on seed 1 of
  the three tables; seeds 2 and 3 were run afterwards, once.
- Its `shrinkage` of 0.01 was settled on a wide network of bikesharing (`benchmarks/wide_network.py`, seed 1), and kept
  after its rows of airfoil and energy, all seeds, had been seen, and 0.1 on seed 1 of airfoil, which was worse.
- LeNet's deep ensemble is as calibrated as 10,000 rows can tell (ECE by chance); every sampler's ECE is higher.
- ViT at the size *small* starts from members that were trained for three epochs. From members of thirty (`--set
  warm_start.max_epochs=30`) both `ismile` and `psmile`, at a step of 0.01, predicted worse after as many steps than
  those members did: 600 steps were not enough to gain by.
- Runs of the size *small* have fewer rows, chains or steps, or a smaller network, as said: their numbers are no
  reproduction.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="directories of `smilax run`")
    parser.add_argument("--output", type=Path, default=DOCS, help="folder of results.md and results.csv")
    parser.add_argument("--keep", action="store_true", help="keep rows that no run replaces")
    options = parser.parse_args(arguments)
    runs = [read(run) for run in options.runs]
    machines = [record["machine"] for record, _ in runs]
    earlier, sections = [], {}
    if options.keep:
        earlier = read_rows(options.output / "results.csv")
        known, sections = page(options.output / "results.md")
        machines = [*known, *machines]
    # In the order of the table.
    tables = {kind: [row for row in earlier if kind_of(row) == kind] for kind in map(kind_of, earlier)}
    for record, rows in merged(runs, earlier):
        tables[kind_of(rows[0])] = rows
        # What a table was made of, if some of its rows stay.
        known_as = sections.get(kind_of(rows[0]), "").split("\n\n")[1:2]
        sections[kind_of(rows[0])] = section(record, rows, *known_as)
    text = [INTRODUCTION.format(machines=" and ".join(dict.fromkeys(machines))), *(sections[kind] for kind in tables)]
    (options.output / "results.md").write_text("\n".join(text), encoding="utf-8")
    with (options.output / "results.csv").open("w", newline="", encoding="utf-8") as file:
        every = [row for rows in tables.values() for row in rows]
        # Rows of before a column was added have nothing in it.
        writer = csv.DictWriter(file, COLUMNS, restval="")
        writer.writeheader()
        writer.writerows(every)


def kind_of(row: Mapping[str, str]) -> tuple[str, str]:
    """Experiment and size."""
    return row["experiment"], row["size"]


def page(path: Path) -> tuple[list[str], dict[tuple[str, str], str]]:
    """The machines of a page that was written before, and its sections by experiment and size."""
    head, *parts = path.read_text(encoding="utf-8").split("\n## ")
    machines = head.partition("(experiments.md) on ")[2].partition(". Written by")[0].replace("\n", " ")
    sections = {}
    for part in parts:
        name, size = part.partition("\n")[0], part.partition("; size ")[2]
        sections[name, "small" if size.startswith("small") else "full"] = f"## {part.rstrip()}\n"
    return machines.split(" and "), sections


def read(run: Path) -> tuple[dict[str, Any], list[dict[str, str]]]:
    record = json.loads((run / "experiment.json").read_text(encoding="utf-8"))
    rows = read_rows(run / "results.csv")
    if not rows:
        raise SystemExit(f"{run} has no results yet")
    return record, rows


def merged(
    runs: Sequence[tuple[dict[str, Any], list[dict[str, str]]]], earlier: Sequence[dict[str, str]]
) -> list[tuple[dict[str, Any], list[dict[str, str]]]]:
    """One record and its rows for each experiment and size, those from the table first."""
    records: dict[tuple[str, str], dict[str, Any]] = {}
    tables: dict[tuple[str, str], dict[tuple[str, str], dict[str, str]]] = {}
    for record, rows in runs:
        key = kind_of(rows[0])
        kept = [row for row in earlier if kind_of(row) == key]
        table = tables.setdefault(key, {(row["case"], row["seed"]): row for row in kept})
        table |= {(row["case"], row["seed"]): row for row in rows}
        records[key] = record
    return [(records[key], list(table.values())) for key, table in tables.items()]


def section(record: Mapping[str, Any], rows: Sequence[Mapping[str, str]], about: str | None = None) -> str:
    """One experiment: what was run, or what is known `about` it, and its table."""
    experiment = restored(record)
    about = description(experiment) if about is None else about
    return f"## {experiment.name}\n\n{about}\n\n{table(rows)}\n"


def description(experiment: Experiment) -> str:
    base = experiment.base
    run = base.run
    what = [f"{experiment.about} {base.model.name}, {run.num_chains} chains, {run.num_warmup:,} + {run.num_samples:,}"]
    what.append(f"steps, every {run.thinning}th kept, B = {run.batch_size}; size {experiment.size}")
    what += [f"; at most {base.data.max_rows:,} training rows"] if base.data.max_rows else []
    # The last column says how many seeds a row has.
    changes = {key: value for key, value in experiment.changes.items() if key != "run.seeds"}
    what += [f"; with {', '.join(f'{key}={value}' for key, value in changes.items())}"] * bool(changes)
    known = f" The paper's listings: {PAPER[experiment.name]}." if experiment.name in PAPER else ""
    return f"{''.join([what[0], ' ', *what[1:]])}.{known}"


def table(rows: Sequence[Mapping[str, str]]) -> str:
    columns = [name for name in METRICS if any(row.get(name) for row in rows)]
    head = ["method", "settings", "batches", "steps", *(METRICS[name] for name in columns), "lost", "gradients"]
    head += ["seconds", "seeds"]
    lines = [head, ["---"] * len(head)]
    for group in groups(rows):
        first = group[0]
        steps = f"{int(first['warmup']):,} + {int(first['steps']):,}" if first["steps"] else ""
        cells = [first["method"], first["settings"].replace("sampler.", ""), first["order"], steps]
        cells += [cell(group, name) for name in columns]
        lost = sum(int(float(row["nonfinite_chains"] or 0)) for row in group)
        gradients = f"{int(first['gradients']):,}" if first["gradients"] else ""
        lines.append([*cells, str(lost) if first["steps"] else "", gradients, cell(group, "seconds"), str(len(group))])
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def groups(rows: Iterable[Mapping[str, str]]) -> list[list[Mapping[str, str]]]:
    found: dict[str, list[Mapping[str, str]]] = {}
    for row in rows:
        found.setdefault(row["case"], []).append(row)
    return list(found.values())


def cell(rows: Sequence[Mapping[str, str]], name: str) -> str:
    return spread([float(row[name]) for row in rows if row.get(name)])


if __name__ == "__main__":
    main()
