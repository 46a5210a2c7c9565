"""The Python of the guides in docs/, each page as one program, and what the pages say of it."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parent.parent / "docs"
# Pages whose examples no other test runs; those of docs/tutorials/ run when the documentation is built.
PAGES = ["choosing", "gotchas", "large_data", "network", "scaling", "start"]

pytestmark = pytest.mark.once


def python_of(page):
    """The page's Python with blank lines for all others, so that an error names the page's own line."""
    text = (DOCS / f"{page}.md").read_text()
    blocks = list(re.finditer(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE))
    assert blocks and len(blocks) == text.count("```python"), "a block is not closed, or is indented"
    lines = [""] * text.count("\n")
    for block in blocks:
        first = text[: block.start(1)].count("\n")
        for i, line in enumerate(block[1].splitlines()):
            lines[first + i] = line
    return "\n".join(lines)


@pytest.fixture
def as_users_run(monkeypatch, tmp_path):
    """JAX's own promotion, which the pages are written for; and the configuration as it was, whatever a page sets."""
    import jax

    monkeypatch.chdir(tmp_path)
    before = jax.config.jax_compilation_cache_dir
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield
    jax.config.update("jax_compilation_cache_dir", before)


@pytest.fixture
def run(as_users_run):
    """Runs a page and gives back its variables."""

    def run(page):
        scope = {"__name__": page}
        exec(compile(python_of(page), str(DOCS / f"{page}.md"), "exec"), scope)
        return scope

    return run


def test_every_guide_with_an_example_is_run_by_some_test():
    elsewhere = {"devices", "diagnostics", "numpyro", "report", "storage", "tabular"}
    shown = {path.stem for path in DOCS.glob("*.md") if "```python" in path.read_text()}
    assert shown <= {*PAGES, *elsewhere}


def test_start(run):
    scope = run("start")
    assert scope["inside"] > 0.7
    assert scope["longer"].num_draws == 200
    assert scope["lower"].shape == scope["y_test"].shape


def test_network(run, capsys):
    scope = run("network")
    assert scope["plain"].apply(scope["plain"].init(scope["jax"].random.key(0)), scope["x"]).shape == (200,)
    for name in ("network", "linen", "modern"):
        params = scope[name].init(scope["jax"].random.key(0))
        assert scope[name].apply(params, scope["x"]).shape == (200, 1)
    printed = capsys.readouterr().out
    assert "batch" in printed and "likelihood/log_scale" in printed


@pytest.mark.truth
def test_large_data(run):
    scope = run("large_data")
    assert scope["result"].path == scope["folder"] / "run"
    assert (scope["lower"] < scope["upper"]).all()


def test_scaling(run, capsys):
    run("scaling")
    printed = capsys.readouterr().out
    assert "one value per example" in printed
    wide, scaled = (float(number) for number in re.findall(r"standard deviation (\d+\.\d)", printed))
    # Sixty-four units of weights N(0, 1), and of N(0, 1/64).
    assert 4 < wide < 9 and scaled < 1.6


def test_memory_of_the_samplers_is_what_the_table_says(run):
    found = {name: round(value) for name, value in run("choosing")["memory"].items()}
    page = (DOCS / "choosing.md").read_text().split("| | numbers per parameter |")[1].split("##")[0]
    table = dict(re.findall(r"^\| (.*?) \| ([\d,]+) \|$", page, flags=re.MULTILINE))
    said = {}
    for names, number in table.items():
        if names.startswith("`ismile`"):
            said["ismile, " + names.split(", ")[1].replace("low rank", "low_rank")] = int(number.replace(",", ""))
        else:
            said |= {name: int(number) for name in re.findall(r"`(\w+)`", names)}
    assert set(found) <= set(said)
    assert found == {name: said[name] for name in found}


def test_gotchas_sets_where_programs_are_kept(run):
    jax = run("gotchas")["jax"]
    assert jax.config.jax_compilation_cache_dir.endswith("jax-cache")
