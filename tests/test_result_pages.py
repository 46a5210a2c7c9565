"""What the pages of results are made from: rows of several runs together, and bars with their errors."""

import importlib
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def module(monkeypatch):
    """Imports a module of benchmarks/, which is no part of the package."""
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])
    return importlib.import_module


def rows(experiment, case, seed, **values):
    return [{"experiment": experiment, "size": "full", "case": case, "seed": seed, "lppd": "0", **values}]


def test_runs_of_one_experiment_share_a_table_and_replace_what_is_older(module):
    results = module("benchmarks.results")
    first, second = {"machine": "one"}, {"machine": "two"}
    runs = [(first, rows("a", "x", "1")), (first, rows("b", "x", "1")), (second, rows("a", "x", "1", lppd="1"))]
    earlier = rows("a", "x", "1", lppd="-1") + rows("a", "y", "1", lppd="-1") + rows("a", "x", "2", lppd="-1")
    (record_a, table_a), (record_b, table_b) = results.merged(runs, earlier)
    assert (record_a, record_b) == (second, first)
    assert [(row["case"], row["seed"], row["lppd"]) for row in table_a] == [
        ("x", "1", "1"), ("y", "1", "-1"), ("x", "2", "-1"),
    ]  # fmt: skip
    assert table_b == rows("b", "x", "1")


def test_the_page_is_read_back(module):
    results = module("benchmarks.results")
    page = ROOT / "docs" / "results.md"
    machines, sections = results.page(page)
    assert all("cpu" in machine and "\n" not in machine for machine in machines)
    kinds = [results.kind_of(row) for row in results.read_rows(ROOT / "docs" / "results.csv")]
    assert list(sections) == list(dict.fromkeys(kinds))
    assert page.read_text().endswith("\n".join(sections.values()))


@pytest.mark.parametrize(("ours", "holds"), [(0.05, True), (0.08, True), (0.13, False)])
def test_no_more_bias_is_judged_by_two_standard_errors(module, ours, holds):
    bars = module("benchmarks.truth.bars")
    found = bars.verdicts(
        [
            {"target": "gaussian_heavy", "sampler": name, "bias_square": bias, "bias_square_error": 0.014}
            for name, bias in (("ismile", ours), ("psmile", 0.4), ("psmile_naive", 0.07))
        ]
    )
    assert [bar.holds for bar in found] == [holds]
    assert "against 0.0700 ± 0.0140" in found[0].found
