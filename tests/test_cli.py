import functools
import json
import os
import subprocess
import sys
import warnings

import jax
import numpy as np
import pandas
import pytest
from typer.testing import CliRunner

import smilax as sx
from smilax import demo, estimators
from smilax.cli import app
from smilax.cli.app import keep_programs
from smilax.estimators.regressor import SmileRegressor

pytestmark = pytest.mark.once


@pytest.mark.truth
def test_demo_prints_a_table_and_draws_a_figure(tmp_path, monkeypatch):
    found = []
    original = demo.format_table
    monkeypatch.setattr(demo, "format_table", lambda rows: found.extend(rows) or original(rows))
    result = CliRunner().invoke(app, ["demo", "--quick", "--output", str(tmp_path / "figure.png")])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "figure.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert [(row.data, row.method) for row in found] == [
        ("digits", "deep ensemble"),
        ("digits", "ismile"),
        ("diabetes", "deep ensemble"),
        ("diabetes", "ismile"),
    ]
    for row in found:
        assert -5 < row.lppd < 0
        assert row.seconds > 0
        assert (row.auroc is None) == (row.data == "diabetes")
    for word in ("accuracy", "RMSE", "LPPD", "ECE", "90% coverage", "AUROC"):
        assert word in result.output


def test_compiled_programs_are_kept_between_runs(tmp_path, monkeypatch):
    place = jax.config.jax_compilation_cache_dir
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    try:
        keep_programs()
        assert jax.config.jax_compilation_cache_dir == place  # the tests' own
        jax.config.update("jax_compilation_cache_dir", None)
        keep_programs()
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "smilax" / "programs")
    finally:
        jax.config.update("jax_compilation_cache_dir", place)
        jax.config.update("jax_compilation_cache_max_size", -1)


def test_programs_land_in_the_cache_of_a_command(tmp_path):
    code = "import jax; from smilax.cli.app import keep_programs; keep_programs(); jax.jit(lambda x: x + 1)(1.0)"
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    environment |= {"XDG_CACHE_HOME": str(tmp_path), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    # Where JAX cannot use its cache, it warns and goes on.
    subprocess.run([sys.executable, "-W", "error", "-c", code], env=environment, check=True)
    assert list((tmp_path / "smilax" / "programs").glob("jit_*-cache"))


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


def smilax(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_run_list_and_dry_run():
    listed = smilax("run", "--list")
    assert listed.exit_code == 0
    assert "uci-energy" in listed.output
    planned = smilax(
        "run", "uci-energy", "--sampler", "psmile,ismile", "--seeds", "1,2", "--size", "small", "--dry-run"
    )
    assert planned.exit_code == 0, planned.output
    for word in ("seeds: 1, 2", "psmile-step_size=0.01", "ismile", "4 cases x 2 seeds", "nothing was run"):
        assert word in planned.output


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((), "say what to run"),
        (("uci-enrgy",), "did you mean 'uci-energy'?"),
        (("uci-energy", "--sampler", "psmle"), "did you mean 'psmile'?"),
        (("uci-energy", "--set", "run.num_sample=3"), "did you mean 'num_samples'?"),
        (("uci-energy", "--seeds", "a"), "run.seeds: input should be a valid"),
        (("uci-energy", "--seeds", "1,2,1"), "run.seeds: each seed has to come once, got [1, 2, 1]"),
        (("uci-energy", "--seed", "5"), "seeds of an experiment are given by --seeds"),
        (("uci-energy", "--data-dir", "nowhere"), "holds no uci_tabular.npz"),
    ],
)
def test_run_refuses_with_exit_code_2(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = smilax("run", *arguments)
    assert result.exit_code == 2, result.output
    assert message in result.output
    assert not list(tmp_path.iterdir())


def test_run_info_resume_and_what_they_refuse(tmp_path, monkeypatch):
    from smilax.experiments import Interrupted, running

    config = tmp_path / "mine.toml"
    config.write_text(
        '[data]\nname = "diabetes"\n[model]\nname = "mlp"\nhidden = [3]\n[likelihood]\nname = "gaussian"\n'
        '[warm_start]\nkind = "random"\n'
        "[run]\nnum_chains = 2\nnum_warmup = 4\nnum_samples = 8\nthinning = 2\n"
        'batch_size = 32\n[sampler]\nname = "sgld"\nstep_size = 1e-6\n'
    )
    original = running.sample

    def stopped(*args, **options):
        original(*args, **options)
        raise Interrupted(tmp_path / "run")

    monkeypatch.setattr(running, "sample", stopped)
    cut = smilax("run", config, "--output", tmp_path / "run")
    assert cut.exit_code == 130, cut.output
    assert f"smilax resume {tmp_path / 'run'}" in cut.output
    told = smilax("info", tmp_path / "run")
    assert told.exit_code == 0
    assert "scored: 1 of 2" in told.output
    assert "seed 1 sgld" in told.output
    resumed = smilax("resume", tmp_path / "run")
    assert resumed.exit_code == 0, resumed.output
    assert "deep_ensemble" in resumed.output
    assert "sgld" in resumed.output
    assert "scored: 2 of 2" in smilax("info", tmp_path / "run").output
    draws = smilax("info", tmp_path / "run" / "seed1" / "sgld")
    assert "status: finished" in draws.output
    assert "draws of each chain so far: 4" in draws.output
    again = smilax("run", config, "--output", tmp_path / "run")
    assert again.exit_code == 2
    assert "holds a run already" in again.output
    for command in ("resume", "info"):
        nowhere = smilax(command, tmp_path / "nowhere")
        assert nowhere.exit_code == 2
        assert str(tmp_path / "nowhere") in nowhere.output


def test_bench_analytical_writes_table_and_figures(tmp_path):
    result = smilax(
        "bench", "analytical", "--output", tmp_path / "a", "--noises", "isotropic", "--samplers", "sghmc",
        "--steps", 20, "--seeds", 1, "--no-mixture",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    lines = (tmp_path / "a" / "biases.csv").read_text().splitlines()
    assert lines[0] == "target,noise,law,sampler,step_size,seed,steps,bias"
    assert len(lines) == 8
    assert (tmp_path / "a" / "biases.png").exists()
    wrong = smilax("bench", "analytical", "--noises", "isotopic")
    assert wrong.exit_code == 2
    assert "did you mean 'isotropic'?" in wrong.output


@pytest.fixture(scope="module")
def houses(tmp_path_factory):
    rng = np.random.default_rng(0)
    area, town = rng.uniform(50, 150, size=90), rng.choice(["Ulm", "Jena", "Bonn"], size=90)
    price = 3 * area + 100 * (town == "Bonn") + rng.normal(scale=10, size=90)
    path = tmp_path_factory.mktemp("tables") / "houses.csv"
    pandas.DataFrame({"area": area, "town": town, "price": price}).to_csv(path, index=False)
    return path


@pytest.mark.truth
def test_a_table_becomes_predictions_with_intervals(houses, tmp_path):
    arguments = ["run", str(houses), "--target", "price", "--max-seconds", "5", "--output", str(tmp_path / "run")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "18 rows of 90 are held out" in result.output
    found = pandas.read_csv(tmp_path / "run" / "predictions.csv")
    assert list(found.columns) == ["row", "price", "mean", "std", "lower", "upper"]
    table = pandas.read_csv(houses)
    np.testing.assert_allclose(found["price"], table["price"][found["row"]])
    # Without the town, 47 would be left, and without anything, 100.
    assert np.std(found["price"] - found["mean"]) < 30
    assert ((found["lower"] < found["mean"]) & (found["mean"] < found["upper"])).all()
    assert 10 <= ((found["lower"] <= found["price"]) & (found["price"] <= found["upper"])).sum()


@pytest.fixture
def quick_fit(monkeypatch):
    settings = {"num_chains": 2, "num_warmup": 0, "num_samples": 4, "max_epochs": 3, "hidden": (4,)}
    settings["algorithm"] = functools.partial(sx.sgld, step_size=1e-5)
    for name in ("SmileRegressor", "SmileClassifier"):
        original = getattr(estimators, name)
        monkeypatch.setattr(estimators, name, lambda original=original, **given: original(**{**given, **settings}))


def test_a_run_of_a_table_keeps_its_model_and_overwrites_nothing(houses, tmp_path, monkeypatch, quick_fit):
    monkeypatch.chdir(tmp_path)
    table = pandas.read_csv(houses).rename(columns={"price": "mean"})
    table.to_csv("houses.csv", index=False)
    for name in ("houses", "houses-2"):
        done = CliRunner().invoke(app, ["run", "houses.csv", "--target", "mean"])
        assert done.exit_code == 0, done.output
        assert f"Model: runs/{name}/model" in done.output
    found = pandas.read_csv("runs/houses/predictions.csv")
    assert list(found.columns) == ["row", "mean (known)", "mean", "std", "lower", "upper"]
    model = SmileRegressor.load("runs/houses/model")
    # One column for each of three towns, and the area.
    assert model.predict(np.zeros((1, 4))).shape == (1,)
    about = CliRunner().invoke(app, ["info", "runs/houses"])
    assert about.exit_code == 0, about.output
    assert "regression of 'mean' in houses.csv" in about.output
    again = CliRunner().invoke(app, ["run", "houses.csv", "--target", "mean", "--output", "runs/houses"])
    assert again.exit_code == 2
    assert "holds the predictions of another run" in " ".join(again.output.split())


def test_numbers_may_be_classes_and_text_may_not_be_numbers(houses, tmp_path, quick_fit):
    table = pandas.read_csv(houses)
    table["rooms"] = np.arange(len(table)) % 3
    table.to_csv(tmp_path / "rooms.csv", index=False)
    arguments = ["run", str(tmp_path / "rooms.csv"), "--target", "rooms", "--task", "classification"]
    done = CliRunner().invoke(app, [*arguments, "--output", str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    assert list(pandas.read_csv(tmp_path / "run" / "predictions.csv").columns[2:]) == [
        "predicted",
        "p(0)",
        "p(1)",
        "p(2)",
    ]
    table["rooms"] = [f"{price:,.2f} EUR" for price in table["price"]]
    table.to_csv(tmp_path / "text.csv", index=False)
    done = CliRunner().invoke(app, ["run", str(tmp_path / "text.csv"), "--target", "rooms"])
    assert done.exit_code == 2
    assert "too many for classes; if they are to be numbers, some of its cells are not" in " ".join(done.output.split())


@pytest.mark.truth
def test_classes_of_a_table_for_the_rows_of_another(houses, tmp_path):
    table = pandas.read_csv(houses)
    table["dear"] = np.where(table.pop("price") > 300, "yes", "no")
    table.to_parquet(tmp_path / "known.parquet")
    table.drop(columns="dear").head(5).to_csv(tmp_path / "asked.csv", index=False)
    arguments = ["run", str(tmp_path / "known.parquet"), "--target", "dear", "--predict", str(tmp_path / "asked.csv")]
    result = CliRunner().invoke(app, [*arguments, "--max-seconds", "5", "--output", str(tmp_path / "run")])
    assert result.exit_code == 0, result.output
    found = pandas.read_csv(tmp_path / "run" / "predictions.csv")
    assert list(found.columns) == ["row", "predicted", "p(no)", "p(yes)"]
    np.testing.assert_allclose(found["p(no)"] + found["p(yes)"], 1, rtol=1e-5)
    assert (found["predicted"] == np.where(found["p(yes)"] > 0.5, "yes", "no")).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "say which column"),
        (["--target", "prize"], "no column 'prize'; it has 'area', 'town', 'price'"),
        (["--target", "price", "--predict", "none.csv"], "there is no file none.csv"),
        (["--target", "price", "--level", "90"], "--level must lie between 0 and 1"),
        (["--target", "price", "--dry-run"], "for experiments, not for tables"),
        (["--target", "price", "--task", "ranking"], "--task must be regression or classification, got 'ranking'"),
        (["--target", "town", "--task", "regression"], "column 'town' is no number"),
        (["--target", "town", "--level", "0.5"], "column 'town' is taken as classes"),
        (["--target", "price", "--max-seconds", "0.5"], "--max-seconds must be at least 1, got 0.5"),
        (["--target", "price", "--output", "/dev/null/run"], "--output: /dev/null/run cannot be made: Not a directory"),
    ],
)
def test_tables_that_cannot_be_fitted(houses, arguments, message):
    result = CliRunner().invoke(app, ["run", str(houses), *arguments])
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())


def test_empty_cells_are_named(houses, tmp_path):
    table = pandas.read_csv(houses)
    table.loc[3, "area"] = np.nan
    table.to_csv(tmp_path / "gaps.csv", index=False)
    result = CliRunner().invoke(app, ["run", str(tmp_path / "gaps.csv"), "--target", "price"])
    assert result.exit_code == 2
    assert "column 'area' has 1 empty cells" in result.output
    table.loc[3, "area"] = np.inf
    table.to_csv(tmp_path / "gaps.csv", index=False)
    result = CliRunner().invoke(app, ["run", str(tmp_path / "gaps.csv"), "--target", "price"])
    assert result.exit_code == 2
    assert "column 'area' has 1 infinite values" in result.output


def test_truth_values_with_gaps_are_classes(houses, tmp_path, quick_fit):
    table = pandas.read_csv(houses)
    table["dear"] = (table.pop("price") > 300).astype(object)
    table.loc[:4, "dear"] = None
    table.to_csv(tmp_path / "dear.csv", index=False)
    arguments = ["run", str(tmp_path / "dear.csv"), "--target", "dear", "--output"]
    done = CliRunner().invoke(app, [*arguments, str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    found = pandas.read_csv(tmp_path / "run" / "predictions.csv")
    assert list(found.columns) == ["row", "predicted", "p(False)", "p(True)"] and len(found) == 5
    done = CliRunner().invoke(app, [*arguments, str(tmp_path / "dear.csv")])
    assert done.exit_code == 2 and "is a file" in done.output


def test_a_known_target_of_another_kind_is_no_score(houses, tmp_path, quick_fit):
    asked = pandas.read_csv(houses).head(6).assign(price="?")
    asked.to_csv(tmp_path / "asked.csv", index=False)
    arguments = ["--target", "price", "--predict", str(tmp_path / "asked.csv"), "--output", str(tmp_path / "run")]
    done = CliRunner().invoke(app, ["run", str(houses), *arguments])
    assert done.exit_code == 0, done.output
    assert "column 'price' holds other values" in " ".join(done.output.split()) and "R²" not in done.output
    assert len(pandas.read_csv(tmp_path / "run" / "predictions.csv")) == 6


DAYS = pandas.date_range("2020-01-01", periods=90)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.assign(sold=DAYS.strftime("%d.%m.%Y")),
            "column 'sold' is text with 72 different values in 72 rows",
        ),
        (lambda t: t.assign(sold=DAYS), "column 'sold' holds dates or times"),
        (lambda t: t.assign(price=DAYS), "--target: column 'price' holds dates or times"),
        (
            lambda t: t.assign(age=["?" if k == 7 else str(k % 9) for k in range(90)]),
            "column 'age' holds numbers but for 1 of its cells ('?' in row 7)",
        ),
        (
            lambda t: t.assign(price=[f"{x:.2f}" if k % 9 else "unknown" for k, x in enumerate(t["price"])]),
            "--target: column 'price' holds numbers but for",
        ),
    ],
)
def test_columns_that_are_no_categories_are_named(houses, tmp_path, change, message):
    change(pandas.read_csv(houses)).to_parquet(tmp_path / "changed.parquet")
    arguments = ["run", str(tmp_path / "changed.parquet"), "--target", "price", "--output", str(tmp_path / "run")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.output.split())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b,a,y\n1,2,3,4\n", "has several columns named 'a'"),
        ("a;b;y\n1;2;3\n", "seems to be separated by semicolons, its one column is 'a;b;y'"),
        ("Größe,y\n1,2\n".encode("latin-1"), "it has to be UTF-8"),
    ],
)
def test_files_that_are_read_otherwise_than_meant_are_refused(tmp_path, text, message):
    path = tmp_path / "t.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    result = CliRunner().invoke(app, ["run", str(path), "--target", "y"])
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())


def test_an_interrupted_fit_of_a_table_leaves_nothing_half_done(houses, tmp_path, quick_fit, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(SmileRegressor, "fit", interrupted)
    arguments = ["run", str(houses), "--target", "price", "--output", str(tmp_path / "run")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 130 and "nothing is written" in done.output
    assert not (tmp_path / "run").exists()


@pytest.mark.filterwarnings("default:interrupted")
def test_draws_of_an_interrupted_fit_of_a_table_are_used_and_said_so(houses, tmp_path, quick_fit, monkeypatch):
    fit = SmileRegressor.fit

    def warned(self, *data):
        warnings.warn("interrupted: 3 draws a chain were kept", stacklevel=1)
        return fit(self, *data)

    monkeypatch.setattr(SmileRegressor, "fit", warned)
    arguments = ["run", str(houses), "--target", "price", "--output", str(tmp_path / "run")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "interrupted: 3 draws a chain were kept: predictions and model are of these" in " ".join(done.output.split())
    assert "taken as categories (values): 'town' (3)" in done.output
    assert (tmp_path / "run" / "predictions.csv").exists()


def test_report_and_resume_say_what_a_directory_is(tmp_path):
    (tmp_path / "table").mkdir()
    record = {
        "table": "t.csv", "target": "y", "task": "regression", "rows": 9, "predicted": 1, "features": ["x"],
        "lengths": {"num_chains": 1}, "seed": 0, "level": 0.9, "score": None, "seconds": 1.0,
    }  # fmt: skip
    (tmp_path / "table" / "table.json").write_text(json.dumps(record))
    for command in ("report", "resume"):
        done = CliRunner().invoke(app, [command, str(tmp_path / "table")])
        assert done.exit_code == 2 and "is the run of a table" in " ".join(done.output.replace("│", "").split())
    (tmp_path / "many" / "seed1" / "ismile").mkdir(parents=True)
    (tmp_path / "many" / "experiment.json").write_text("{}")
    (tmp_path / "many" / "seed1" / "ismile" / "manifest.json").write_text("{}")
    done = CliRunner().invoke(app, ["report", str(tmp_path / "many")])
    assert done.exit_code == 2 and "many/seed1/ismile" in "".join(done.output.split())
