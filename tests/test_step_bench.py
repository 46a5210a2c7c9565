"""`smilax bench step`: cases, files, verdicts, and what the programs do."""

import re
import sys

import jax
import pytest
from typer.testing import CliRunner

from smilax.cli import app
from smilax.experiments import steps
from smilax.experiments.steps import timing
from smilax.experiments.steps.cases import build
from smilax.experiments.steps.files import read_rows, write_rows
from smilax.experiments.steps.programs import GRADIENTS, programs

pytestmark = pytest.mark.once

# One of each kind: to compile all of them takes minutes.
PROGRAMS = ("sghmc", "psmile", "BlackJAX SGHMC", "PyTorch gradient")


@pytest.mark.parametrize("size", [10**3, 10**5])
def test_perceptrons_have_the_size_that_is_asked_for(size):
    assert abs(build(steps.Case("mlp", size, 2)).num_params / size - 1) < 0.02


def test_the_other_models_are_what_they_say():
    counts = {model: build(steps.Case(model, 0, 2)).num_params for model in ("table", "lenet")}
    assert counts == {"table": 754, "lenet": 61_706}


@pytest.mark.truth
def test_the_command_writes_tables_and_finds_peers_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(steps.CASES, "small", [steps.Case("mlp", 300, 8), steps.Case("mlp", 300, 8, chains=2)])
    monkeypatch.setattr(timing, "SECONDS", 0.001)
    # The peers' own code is not as strict as these tests.
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        arguments = ["bench", "step", "--repeats", "2", "--output", str(tmp_path), "--programs", "; ".join(PROGRAMS)]
        result = CliRunner().invoke(app, arguments)
    # Which library is faster at this size may differ; that alone is no error.
    assert result.exit_code in (0, 1) and "Written" in result.output, result.output
    rows = read_rows(tmp_path / "steps.csv")
    names = {row.program for row in rows if row.chains == 1}
    assert {"gradient", "gradient, alone", *PROGRAMS} - set(steps.PEERS) == names - set(steps.PEERS)
    assert all(0 < row.low <= row.seconds <= row.high for row in rows)
    unit = min(row.seconds for row in rows if row.program.startswith("gradient") and row.chains == 1)
    for row in rows:
        if row.chains == 1:
            assert row.ratio == pytest.approx(row.seconds / (2 * unit), rel=1e-3)
    text = (tmp_path / "steps.md").read_text()
    assert "### mlp, " in text and "2 chains" in text
    assert (tmp_path / "steps.png").read_bytes()[:4] == b"\x89PNG"
    # Whichever of the peers are not here are named.
    for peer in set(PROGRAMS) & set(steps.PEERS):
        assert peer in names or re.search(f"without {peer}: ", result.output)
    write_rows(rows, tmp_path / "again.csv")
    assert read_rows(tmp_path / "again.csv") == rows


def test_verdicts_compare_with_the_bars():
    def row(program, seconds, ratio, sizes, d=1_000_000):
        return steps.Row("mlp", d, 512, 1, program, seconds, seconds, seconds, ratio, sizes, 1.0)

    rows = [
        row("gradient", 1.0, 0.5, 2.0), row("psmile", 2.1, 1.05, 8.9), row("ismile diagonal", 2.6, 1.3, 9.0),
        row("sghmc", 1.1, 0.55, 4.0), row("BlackJAX SGHMC", 1.0, 0.5, 4.0), row("psmile", 0.02, 1.0, 8.0, d=10_000),
    ]  # fmt: skip
    found = {claim: holds for holds, claim in steps.verdicts(rows)}
    assert [holds for claim, holds in found.items() if "of two gradients" in claim] == [True, False]
    assert [holds for claim, holds in found.items() if "parameter-sizes" in claim] == [True, True]
    assert [holds for claim, holds in found.items() if "BlackJAX" in claim] == [False]
    assert [holds for claim, holds in found.items() if "grows as" in claim] == [True]


def test_a_size_that_does_not_exist_is_named():
    result = CliRunner().invoke(app, ["bench", "step", "--size", "ful"])
    assert result.exit_code == 2
    assert "full" in result.output + str(sys.stderr)


def test_a_program_that_does_not_exist_is_named():
    result = CliRunner().invoke(app, ["bench", "step", "--programs", "psmile; ismile dens"])
    assert result.exit_code == 2
    assert "did you mean 'ismile dense'" in result.output + result.stderr


def test_all_programs_of_a_case_have_a_name_that_can_be_asked_for():
    case = steps.Case("mlp", 300, 8)
    assert set(programs(case, build(case))) == {*GRADIENTS, *steps.NAMES}
