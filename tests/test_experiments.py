import csv
import json

import jax
import numpy as np
import pytest

import smilax as sx
from smilax.experiments import ConfigError, Interrupted, load_experiment, running, shipped
from smilax.experiments.building import algorithm_of, batches_of, problem_of
from smilax.experiments.cases import restored
from smilax.experiments.files import merged, parse_changes
from smilax.experiments.schema import task_of
from smilax.experiments.scoring import scores
from smilax.experiments.sources import SOURCES, Data, Source, load_data, npz
from smilax.experiments.table import SHOWN, summary

pytestmark = pytest.mark.once

TOML = """
[data]
name = "diabetes"
[model]
name = "mlp"
hidden = [3]
[likelihood]
name = "gaussian"
[warm_start]
kind = "random"
[run]
num_chains = 2
num_warmup = 10
num_samples = 20
thinning = 2
batch_size = 32
"""
METHODS = """
[[method]]
sampler = { name = "sgld" }
sweep = { "sampler.step_size" = [1e-6, 1e-5] }
[[method]]
label = "slow"
sampler = { name = "sghmc", step_size = 1e-4 }
small = { run = { num_samples = 10 } }
"""


@pytest.fixture
def write(tmp_path):
    def write(text, name="config.toml"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


@pytest.mark.parametrize("name", shipped())
@pytest.mark.parametrize("size", ["full", "small"])
def test_shipped_experiments_are_valid(name, size):
    experiment = load_experiment(name, size=size)
    assert experiment.name == name
    assert experiment.about
    assert experiment.cases


def test_the_papers_protocol():
    experiment = load_experiment("uci-energy")
    run, start = experiment.base.run, experiment.base.warm_start
    assert (run.num_chains, run.num_warmup, run.num_samples, run.thinning, run.batch_size) == (
        10,
        50_000,
        10_000,
        10,
        256,
    )
    assert (run.seeds, start.learning_rate, start.weight_decay, start.batch_size) == ([1, 2, 3], 0.01, 0.005, 64)
    orders = {case.method: case.config.data.order for case in experiment.cases}
    assert orders["psmile"] == "epochs"
    assert orders["ismile"] == orders["psmile_independent"] == "independent"
    mile = next(case.config for case in experiment.cases if case.method == "mile")
    assert mile.run.batch_size == "full"
    assert mile.sampler.energy_variance == [0.5, 0.1]


PROBLEMS = {
    'nme = "x"': "nme: unknown key; did you mean 'name'?",
    "[modl]": "modl: unknown key; did you mean 'model'?",
    '[data]\nname = "diabetis"': "data.name: there is no 'diabetis'; did you mean 'diabetes'?",
    "[data]": "data.name: required, but missing. Allowed: airfoil",
    '[data]\nname = "npz"\nfile = "a.npz"\ntask = "x"\nvalid_rows = 3': "must be 'regression', 'classes' or 'tokens'",
    '[data]\nname = "npz"\ntask = "regression"\nvalid_rows = 3': "data.file: required, but missing",
    '[data]\nname = "diabetes"\norder = "epoch"': "data.order: must be 'independent' or 'epochs', got 'epoch'",
    '[data]\nname = "diabetes"\norder = "epochs"\nreplacement = true': "data.replacement: true has no meaning",
    '[model]\nname = "mlp"\nhiden = [3]': "model.hiden: unknown key; did you mean 'hidden'?",
    '[model]\nname = "mlp"\nhidden = 3': "model.hidden: input should be a valid list, got 3",
    '[model]\nname = "mlp"\nactivation = "rely"': "model.activation: must be 'relu'",
    '[likelihood]\nname = "categorical"': "'categorical' does not suit 'diabetes', whose targets are numbers",
    '[likelihood]\nname = "gaussian"\nscale = -1.0': "likelihood: ",
    '[prior]\nname = "normal"\nscale = 0.0': "prior: Normal: scale must be positive",
    '[warm_start]\nlearning_rate = "fast"': "warm_start.learning_rate: input should be a valid number, got 'fast'",
    '[sampler]\nname = "psmle"': "sampler.name: there is no 'psmle'; did you mean 'psmile'?",
    '[sampler]\nname = "psmile"\nstepsize = 0.1': "sampler.stepsize: unknown key; did you mean 'step_size'?",
    '[sampler]\nname = "sgld"': "sampler.step_size: required, but missing",
    '[sampler]\nname = "sgld"\nstep_size = -1.0': "sampler: step_size must be positive and finite, got -1.0",
    '[sampler]\nname = "ismile"\ngeometry = "dens"': "sampler.geometry: must be 'auto', 'identity'",
    '[sampler]\nname = "nuts"': 'run.batch_size: nuts is a full-batch sampler and needs "full", got 32',
    '[sampler]\nname = "ismile"\n[data]\nname = "diabetes"\norder = "epochs"': 'set data.order = "independent"',
    '[data]\nname = "diabetes"\naugment = [{ name = "turn" }]': "data.augment: input tag 'turn'",
    '[data]\nname = "cifar10"\noutside = "svhn"': "data.outside: must be 'mnist', 'fashion_mnist', 'cifar10'",
    '[data]\nname = "text"': "data.file: required, but missing",
    '[data]\nname = "text"\nfile = "a.txt"': "model.name: 'mlp' reads numbers, which the rows of 'text' are not",
    '[model]\nname = "gpt"': "model.name: 'gpt' reads tokens, which the rows of 'diabetes' are not",
    "[run]\nnum_samples = 10.5": "run.num_samples: input should be a valid integer, got 10.5",
    "[run]\nnum_samples = 5\nthinning = 10": "run.thinning: 10 keeps no draw of run.num_samples = 5 steps",
    "[run]\nseeds = []": "run.seeds: list should have at least 1 item",
    '[run]\nbatch_size = "all"': "run.batch_size: input should be a valid integer, got 'all'; or must be 'full'",
    '[sampler]\nname = "sgld"\nstep_size = 1.0\n[sweep]\nmodel.hidden = [[3], [4]]': "model.hidden: all methods",
    '[sampler]\nname = "sgld"\nstep_size = 1.0\n[sweep]\nsampler.step_size = 1.0': "must be a list of values",
    '[sampler]\nname = "sgld"\nstep_size = 1.0\n[sweep]\nsample.step_size = [1.0]': "did you mean 'sampler'?",
    '[[method]]\nlabel = "a"\nsteps = 3': "method.steps: unknown key",
    "run = 3": "sections are tables",
    "[run": "this is no TOML",
}


@pytest.mark.parametrize("text, message", PROBLEMS.items())
def test_problems_are_named_with_their_path(text, message, write):
    head = text.split("\n")[0]
    sections = [part for part in TOML.split("\n[") if f"[{part.split(']')[0].strip('[')}]" not in text]
    rest = "\n".join(part if part.startswith("\n") or not part else f"[{part}" for part in sections)
    whole = f"{text}\n{rest}" if not head.startswith("[[") else f"{rest}\n{text}"
    with pytest.raises(ConfigError) as error:
        load_experiment(write(whole if text != "run = 3" else text))
    assert message in str(error.value)


def test_all_problems_are_said_at_once(write):
    text = TOML.replace("hidden", "hiden").replace("[run]", '[run]\nthining = 3\n[sampler]\nname = "x"\n[run2]')
    with pytest.raises(ConfigError) as error:
        load_experiment(write(text))
    assert len(error.value.problems) == 4


@pytest.mark.parametrize(
    "source, message", [("nowhere.toml", "no such file"), ("uci-enrgy", "did you mean 'uci-energy'?")]
)
def test_a_source_that_does_not_exist(source, message):
    with pytest.raises(ConfigError, match="no such file" if "such" in message else "did you mean 'uci-energy'"):
        load_experiment(source)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"size": "tiny"}, "Allowed: full, small"),
        ({"samplers": ["psmle"]}, "did you mean 'psmile'?"),
        ({"changes": ["num_samples=3"]}, "write SECTION.KEY=VALUE"),
        ({"changes": ["rn.num_samples=3"]}, "did you mean 'run'?"),
        ({"changes": ["run.num_sample=3"]}, "did you mean 'num_samples'?"),
    ],
)
def test_options_that_make_no_sense(options, message, write):
    with pytest.raises(ConfigError) as error:
        load_experiment(write(TOML + METHODS), **options)
    assert message in str(error.value)


def test_methods_sweeps_sizes_and_changes(write):
    path = write(TOML + METHODS)
    cases = load_experiment(path).cases
    assert [case.label for case in cases] == ["sgld-step_size=1e-06", "sgld-step_size=1e-05", "slow"]
    assert [case.config.sampler.step_size for case in cases] == [1e-6, 1e-5, 1e-4]
    assert [case.config.run.num_samples for case in load_experiment(path, size="small").cases] == [20, 20, 10]
    changed = load_experiment(path, size="small", changes=["run.num_samples=40", "sampler.step_size=0.1"])
    # What is set by hand is not swept.
    assert [case.label for case in changed.cases] == ["sgld", "slow"]
    assert [(c.config.run.num_samples, c.config.sampler.step_size) for c in changed.cases] == [(40, 0.1)] * 2
    assert [case.method for case in load_experiment(path, samplers=["sghmc", "ismile"]).cases] == ["slow", "ismile"]
    assert load_experiment(path, samplers=["deep_ensemble"]).cases == ()
    assert restored(json.loads(json.dumps(changed.record()))) == changed


def test_changes_are_read_as_toml():
    changes = parse_changes(["run.seeds=[1, 2]", "data.order=epochs", "output.draws = false", "run.batch_size='full'"])
    assert changes == {"run.seeds": [1, 2], "data.order": "epochs", "output.draws": False, "run.batch_size": "full"}


def test_another_name_drops_the_options_of_the_old_one():
    old = {"sampler": {"name": "sgld", "step_size": 1.0}, "run": {"seeds": [1]}}
    assert merged(old, {"sampler": {"name": "ismile"}})["sampler"] == {"name": "ismile"}
    assert merged(old, {"sampler": {"step_size": 2.0}})["sampler"] == {"name": "sgld", "step_size": 2.0}
    assert old["sampler"]["step_size"] == 1.0


def test_a_schedule_ends_where_the_run_does(write):
    text = TOML + '[sampler]\nname = "smile_naive"\nstep_size = { start = 0.1, stop = 0.01, decay = "linear" }\n'
    config = load_experiment(write(text)).cases[0].config
    algorithm = algorithm_of(config, problem_of(config, 1, None).posterior)
    assert algorithm.config["step_size"].startswith("linear from 0.1 to 0.01 in 30 steps: 0.1, 0.07, 0.01")


def test_a_network_that_cannot_take_the_rows(write):
    config = load_experiment(write(TOML.replace('"mlp"', '"lenet"').replace("hidden = [3]", ""))).base
    with pytest.raises(ConfigError, match="'lenet' cannot take rows of shape"):
        problem_of(config, 1, None)


def test_npz_sets_rows_aside(tmp_path):
    arrays = {"x_train": np.arange(10)[:, None], "y_train": np.arange(10) % 3, "x_test": np.zeros((4, 1))}
    np.savez(tmp_path / "a.npz", **arrays, y_test=np.zeros(4, np.uint8))
    data = npz(tmp_path, 1, file="a.npz", task="classes", valid_rows=3, outside="a.npz")
    assert sorted(np.concatenate([data.train[0], data.valid[0]])[:, 0]) == list(range(10))
    np.testing.assert_array_equal(data.train[1], data.train[0][:, 0] % 3)
    assert data.train[1].dtype == np.int32
    assert len(data.valid[1]) == 3
    assert data.outside.shape == (4, 1)
    np.savez(tmp_path / "b.npz", x_train=arrays["x_train"])
    for options, error in (({"file": "c.npz"}, "holds no c.npz"), ({"file": "b.npz"}, "lacks y_train, x_test, y_test")):
        with pytest.raises((FileNotFoundError, ValueError), match=error):
            npz(tmp_path, 1, task="classes", valid_rows=3, **options)
    with pytest.raises(FileNotFoundError, match="give --data-dir"):
        npz(None, 1, file="a.npz", task="classes", valid_rows=3)


def test_images_with_their_outside_and_augmentation(tmp_path, write):
    rng = np.random.default_rng(0)
    arrays = {f"x_{part}": rng.integers(0, 256, (30, 16, 16), np.uint8) for part in ("train", "test")}
    np.savez(tmp_path / "mnist.npz", **arrays, y_train=np.arange(30) % 4, y_test=np.arange(30) % 5)
    np.savez(tmp_path / "fashion_mnist.npz", **arrays, y_train=np.arange(30), y_test=np.arange(30))
    np.savez(tmp_path / "cifar10.npz", x_test=np.zeros((3, 32, 32, 3), np.uint8), y_test=np.zeros(3))
    data = 'name = "mnist"\nvalid_rows = 10\noutside = "fashion_mnist"\n'
    augment = 'augment = [{ name = "padded_crop", padding = 2 }, { name = "resized_crop" }, { name = "flip" }]'
    text = TOML.replace('name = "diabetes"', data + augment).replace('"mlp"\nhidden = [3]', '"lenet"')
    config = load_experiment(write(text.replace("gaussian", "categorical"))).base
    problem = problem_of(config, 1, tmp_path)
    assert [len(part[1]) for part in problem.data[:3]] == [20, 10, 30]
    # As many outputs as there are classes in any part.
    assert problem.posterior.outputs(problem.posterior.init(jax.random.key(0)), problem.data.outside[:2]).shape == (
        2,
        5,
    )
    drawn = batches_of(config, problem.data)
    assert [list(change) for change in drawn.config()["transform"]["Compose"]] == [
        ["PaddedCrop"], ["ResizedCrop"], ["Flip"],
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"data.outside: images of 'cifar10' have shape \(32, 32, 3\)"):
        SOURCES["mnist"].load(tmp_path, 1, outside="cifar10")


def test_a_language_model_is_scored_by_characters(tmp_path, write):
    (tmp_path / "mine.txt").write_text("to be or not to be, that is the question. " * 30)
    data = 'name = "text"\nfile = "mine.txt"\ncontext = 8'
    model = '"gpt"\nlayers = 1\nheads = 2\nwidth = 4'
    text = (
        TOML.replace('name = "diabetes"', data).replace('"mlp"\nhidden = [3]', model).replace("gaussian", "categorical")
    )
    config = load_experiment(write(text)).base
    problem = problem_of(config, 1, tmp_path)
    members = jax.vmap(problem.posterior.init)(jax.random.split(jax.random.key(0), 2))
    found = scores(problem, members, task_of(config.data))
    x, y = problem.data.test
    outputs = jax.vmap(problem.posterior.outputs, (0, None))(members, x)
    probs = np.mean(np.asarray(jax.nn.softmax(outputs, axis=-1)), axis=0)
    expected = np.mean(np.log(np.take_along_axis(probs, y[..., None].astype(int), -1)))
    assert found["lppd"] == pytest.approx(expected, rel=1e-4)
    assert found["perplexity"] == pytest.approx(np.exp(-expected), rel=1e-4)
    assert found["accuracy"] == np.mean(probs.argmax(-1) == y)


@pytest.mark.truth
def test_an_interrupted_run_goes_on_to_the_table_of_an_unbroken_one(tmp_path, write, monkeypatch):
    experiment = load_experiment(write(TOML + METHODS), changes=["sampler.step_size=1e-6"])
    whole = sx.experiments.run_experiment(experiment, output=tmp_path / "whole", say=lambda line: None)
    original, calls = running.sample, []

    def stopped(*args, **options):
        calls.append(options["store"])
        result = original(*args, **options)
        if len(calls) == 2:
            raise Interrupted("here")
        return result

    monkeypatch.setattr(running, "sample", stopped)
    with pytest.raises(Interrupted):
        sx.experiments.run_experiment(experiment, output=tmp_path / "cut", say=lambda line: None)
    assert [label for _, label in running.pending(experiment, tmp_path / "cut")] == ["slow"]
    cut = sx.experiments.resume_experiment(tmp_path / "cut", say=lambda line: None)
    assert len(calls) == 2  # the one that was stored already was not drawn again
    tables = [sx.experiments.read_rows(directory / "results.csv") for directory in (whole, cut)]
    for a, b in zip(*tables, strict=True):
        assert {k: v for k, v in a.items() if k != "seconds"} == {k: v for k, v in b.items() if k != "seconds"}
    assert [row["method"] for row in tables[0]] == ["deep_ensemble", "sgld", "slow"]
    assert tables[0][1]["gradients"] == "30"
    assert tables[0][1]["draws"] == "10"
    # At a step this short the chains are where they began.
    assert float(tables[0][1]["lppd"]) == pytest.approx(float(tables[0][0]["lppd"]), abs=0.05)
    assert "deep_ensemble" in summary(tables[0])
    with pytest.raises(ConfigError, match="holds a run already"):
        sx.experiments.run_experiment(experiment, output=whole)
    result = sx.load(whole / "seed1" / "slow")
    assert running.report_case(tmp_path / "report.html", whole / "seed1" / "slow", result)
    assert "RMSE" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_rows_are_tidy(tmp_path):
    from smilax.experiments.table import append_row, read_rows

    for seed, lppd in ((1, 1.0), (2, 3.0)):
        append_row(tmp_path / "t.csv", {"seed": seed, "method": "a, b", "case": "a", "settings": "", "lppd": lppd})
    with (tmp_path / "t.csv").open(newline="") as file:
        assert [row["lppd"] for row in csv.DictReader(file)] == ["1", "3"]
    assert "2 ± 1.4" in summary(read_rows(tmp_path / "t.csv"))


def test_a_table_of_an_earlier_version_keeps_its_columns(tmp_path):
    from smilax.experiments.table import append_row, read_rows

    (tmp_path / "t.csv").write_text("seed,case,lppd\n1,a,0.5\n")
    append_row(tmp_path / "t.csv", {"seed": 2, "case": "a", "ece_by_chance": 0.1, "lppd": 0.25})
    rows = [{"seed": "1", "case": "a", "lppd": "0.5"}, {"seed": "2", "case": "a", "lppd": "0.25"}]
    assert read_rows(tmp_path / "t.csv") == rows


@pytest.mark.parametrize("kept", [3, 30, 200])
def test_a_row_that_was_being_written_is_none(tmp_path, kept):
    from smilax.experiments.table import append_row, read_rows

    row = {"seed": 1, "method": "sgld", "case": "a", "settings": "", "lppd": 1.0}
    append_row(tmp_path / "t.csv", row)
    append_row(tmp_path / "t.csv", row | {"seed": 2})
    whole = (tmp_path / "t.csv").read_bytes()
    header = whole.index(b"\n") + 1
    # Within the header, within the first row, within the second.
    (tmp_path / "t.csv").write_bytes(whole[: {3: 3, 30: header + 3, 200: len(whole) - 20}[kept]])
    append_row(tmp_path / "t.csv", row | {"seed": 3})
    seeds = [found["seed"] for found in read_rows(tmp_path / "t.csv")]
    assert seeds == {3: ["3"], 30: ["3"], 200: ["1", "3"]}[kept]
    summary(read_rows(tmp_path / "t.csv"))


@pytest.mark.parametrize("values", [("nan", "1"), ("-inf", "1"), ("inf", "inf")])
def test_scores_that_are_not_finite_are_shown_as_they_are(values):
    rows = [{"method": "a", "settings": "", "lppd": value} for value in values]
    rows = [dict.fromkeys(SHOWN, "") | row for row in rows]
    assert "nan" in summary(rows)


def test_a_lost_chain_is_scored_as_such(write):
    text = TOML.replace("diabetes", "breast_cancer").replace("gaussian", "categorical")
    config = load_experiment(write(text)).base
    problem = problem_of(config, 1, None)
    members = jax.vmap(problem.posterior.init)(jax.random.split(jax.random.key(0), 2))
    assert np.isfinite(scores(problem, members, "classes")["accuracy"])
    lost = jax.tree.map(lambda leaf: leaf.at[1].set(np.nan), members)
    found = scores(problem, lost, "classes")
    assert set(found) == set(scores(problem, members, "classes"))
    assert all(np.isnan(value) for value in found.values())


def test_few_rows_of_many_are_of_all_classes():
    x = np.arange(400, dtype=np.float32)[:, None]
    labels = np.repeat(np.arange(4), 100).astype(np.int32)
    data = Data((x, labels), (x, labels), (x, labels))

    def load(data_dir, seed):
        return data

    cut = load_data(Source(load, "classes", ""), None, 1, {}, 60, 20)
    assert [len(part[1]) for part in cut[:3]] == [60, 60, 20]
    assert all(set(part[1]) == {0, 1, 2, 3} for part in cut[:3])
    np.testing.assert_array_equal(labels[cut.train[0][:, 0].astype(int)], cut.train[1])
    # Shuffled rows are the first ones.
    order = np.random.default_rng(0).permutation(400)
    data = Data(*((x[order], labels[order]) for _ in range(3)))
    np.testing.assert_array_equal(load_data(Source(load, "classes", ""), None, 1, {}, 60, 20).train[0], x[order][:60])


def test_a_sweep_over_names_keeps_what_else_is_swept(write):
    sweep = '[sweep]\nsampler.step_size = [1e-2, 1e-3]\nsampler.name = ["psmile", "smile"]\n'
    experiment = load_experiment(write(TOML + '[sampler]\nname = "psmile"\n' + sweep))
    found = [(case.config.sampler.name, case.config.sampler.model_dump()["step_size"]) for case in experiment.cases]
    assert found == [("psmile", 1e-2), ("smile", 1e-2), ("psmile", 1e-3), ("smile", 1e-3)]


def test_a_folder_without_a_manifest_is_begun_anew(tmp_path, write):
    experiment = load_experiment(write(TOML + '[sampler]\nname = "sgld"\nstep_size = 1e-6\n'))
    run = sx.experiments.run_experiment(experiment, output=tmp_path / "run", say=lambda line: None)
    table = run / "results.csv"
    lines = table.read_text().splitlines(keepends=True)
    table.write_text("".join(lines[:-1]))
    case = running.case_directory(run, 1, experiment.cases[0].label)
    (case / "manifest.json").unlink()
    sx.experiments.resume_experiment(run, say=lambda line: None)
    again = table.read_text().splitlines(keepends=True)
    assert [row["lppd"] for row in sx.experiments.read_rows(table)] == [line["lppd"] for line in csv.DictReader(lines)]
    assert len(again) == len(lines)


@pytest.mark.parametrize(
    "changes, match",
    [
        ({"y_train": np.linspace(0, 1, 20)}, "y_train must be whole numbers from 0 on"),
        ({"y_train": np.zeros(19, int)}, r"x_train and y_train need the same rows, got shapes \(20, 3\) and \(19,\)"),
        ({"y_test": np.array(["a"] * 10)}, "y_test must be numbers, got an array of dtype <U1"),
    ],
)
def test_arrays_of_a_file_are_looked_at(tmp_path, changes, match):
    arrays = {"x_train": np.zeros((20, 3)), "y_train": np.arange(20) % 3, "x_test": np.zeros((10, 3))}
    arrays |= {"y_test": np.arange(10)[:, None] % 3}
    np.savez(tmp_path / "a.npz", **arrays)
    assert npz(tmp_path, 1, file="a.npz", task="classes", valid_rows=3).test[1].shape == (10,)
    np.savez(tmp_path / "a.npz", **(arrays | changes))
    with pytest.raises(ValueError, match=match):
        npz(tmp_path, 1, file="a.npz", task="classes", valid_rows=3)


def test_parts_of_a_run_are_not_gone_on_with(tmp_path, write):
    experiment = load_experiment(write(TOML + '[sampler]\nname = "sgld"\nstep_size = 1e-6\n'))
    (tmp_path / "run" / "seed1").mkdir(parents=True)
    with pytest.raises(ConfigError, match="holds parts of a run but no experiment.json"):
        sx.experiments.run_experiment(experiment, output=tmp_path / "run", say=lambda line: None)
