import pytest
from typer.testing import CliRunner

import smilax as sx
from smilax import demo
from smilax.cli import app

pytestmark = pytest.mark.once


def test_demo_prints_a_table_and_draws_a_figure(tmp_path, monkeypatch):
    found = []
    original = demo.format_table
    monkeypatch.setattr(demo, "format_table", lambda rows: found.extend(rows) or original(rows))
    result = CliRunner().invoke(app, ["demo", "--quick", "--output", str(tmp_path / "figure.png")])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "figure.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert [(row.data, row.method) for row in found] == [
        ("digits", "deep ensemble"),
        ("digits", "pSMILE"),
        ("diabetes", "deep ensemble"),
        ("diabetes", "pSMILE"),
    ]
    for row in found:
        assert -5 < row.lppd < 0
        assert row.seconds > 0
        assert (row.auroc is None) == (row.data == "diabetes")
    for word in ("accuracy", "RMSE", "LPPD", "ECE", "90% coverage", "AUROC"):
        assert word in result.output


def test_help_names_the_commands_and_a_place_to_start():
    result = CliRunner().invoke(app, ["--help"])
    assert result.exit_code == 0
    assert "smilax demo" in " ".join(result.output.split())
    assert "info" in result.output


def test_version_and_info():
    assert CliRunner().invoke(app, ["--version"]).output.strip() == sx.__version__
    assert "devices:" in CliRunner().invoke(app, ["info"]).output


@pytest.mark.parametrize("arguments", [["demo", "--seed", "-1"], ["demo", "--sed", "1"], ["dmeo"]])
def test_bad_options_exit_with_2(arguments):
    assert CliRunner().invoke(app, arguments).exit_code == 2


def test_a_folder_that_does_not_exist_is_named(tmp_path):
    result = CliRunner().invoke(app, ["demo", "--output", str(tmp_path / "nowhere" / "x.png")])
    assert result.exit_code == 2
    assert "does not exist" in result.output
