"""Rows as CSV, as text for the terminal, and as Markdown for the documentation."""

import csv
from collections.abc import Sequence
from pathlib import Path

from smilax.experiments.steps.timing import Row
from smilax.experiments.steps.verdicts import verdicts

HEADER = ["program", "µs a step", "from", "to", "of two gradients", "sizes", "compile s"]


def write_rows(rows: Sequence[Row], path: Path) -> None:
    """All fields of all rows as CSV."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(Row._fields)
        writer.writerows([f"{value:.5g}" if isinstance(value, float) else value for value in row] for row in rows)


def read_rows(path: Path) -> list[Row]:
    """The inverse of `write_rows`."""

    def number(text: str) -> float | None:
        return float(text) if text else None

    with path.open(newline="", encoding="utf-8") as file:
        return [
            Row(
                row["model"],
                int(row["num_params"]),
                int(row["batch_size"]),
                int(row["chains"]),
                row["program"],
                float(row["seconds"]),
                float(row["low"]),
                float(row["high"]),
                float(row["ratio"]),
                number(row["sizes"]),
                number(row["compile_seconds"]),
            )
            for row in csv.DictReader(file)
        ]


def tables(rows: Sequence[Row]) -> dict[str, list[list[str]]]:
    """For each case, its name and the lines of its table, a header first."""
    found: dict[str, list[list[str]]] = {}
    for row in rows:
        chains = f", {row.chains} chains" if row.chains > 1 else ""
        name = f"{row.model}, {row.num_params:,} parameters, B = {row.batch_size}{chains}"
        optional = ["" if x is None else f"{x:.1f}" for x in (row.sizes, row.compile_seconds)]
        times = [f"{1e6 * x:,.1f}" for x in (row.seconds, row.low, row.high)]
        found.setdefault(name, [HEADER]).append([row.program, *times, f"{row.ratio:.2f}", *optional])
    return found


def write_page(rows: Sequence[Row], path: Path, note: str) -> None:
    """The tables and what they show, as Markdown to be included in a page; `note` says where it was measured."""
    lines = [note, ""]
    for name, table in tables(rows).items():
        lines += [f"### {name}", "", "| " + " | ".join(table[0]) + " |", "|---" + "|---:" * (len(HEADER) - 1) + "|"]
        lines += ["| " + " | ".join(line) + " |" for line in table[1:]] + [""]
    lines += ["### What it shows", ""]
    lines += [f"- {'holds' if holds else '**does not hold**'}: {claim}" for holds, claim in verdicts(rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
