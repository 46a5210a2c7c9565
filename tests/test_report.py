"""The page about a run: it stands alone, says what the diagnosis says, and nothing in it is taken for markup."""

import re
from html.parser import HTMLParser
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from typer.testing import CliRunner

import smilax as sx
from smilax.cli import app
from smilax.diagnostics import Row
from smilax.reporting import words
from smilax.reporting.figures import inline
from smilax.reporting.markup import Html, element
from smilax.reporting.scores import SCORES, compared, scored

pytestmark = pytest.mark.once

ROOT = Path(__file__).resolve().parent.parent
VOID = {"meta", "link", "br"}
rng = np.random.default_rng(0)
X = rng.normal(size=(80, 2)).astype(np.float32)
Y = (X[:, 0] + 0.3 * rng.normal(size=80)).astype(np.float32)
DATA, TEST = (X[:60], Y[:60]), (X[60:], Y[60:])
POSTERIOR = sx.bnn(
    sx.models.mlp(2, 1, hidden=(3,)), sx.likelihoods.Gaussian(0.5), sx.priors.Normal(0.0, 1.0), num_data=60
)
MEMBERS = jax.vmap(POSTERIOR.init)(jax.random.split(jax.random.key(0), 3))


class Page(HTMLParser):
    """The page's elements, with a check that each is closed where it should be."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.texts = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def sampled(algorithm, **settings):
    return sx.sample(
        jax.random.key(1), algorithm, DATA, MEMBERS, num_warmup=100, num_samples=60, thinning=2, batch_size=20,
        progress_bar=False, **settings,
    )  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("runs") / "run"


@pytest.fixture(scope="module")
def result(store):
    return sampled(sx.psmile(POSTERIOR, step_size=1e-2), store=store)


@pytest.fixture(scope="module")
def written(result, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    assert sx.report(path, result, POSTERIOR, DATA, MEMBERS, test=TEST, title="<i>A & B</i>") == path
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(written):
    return Page(written)


def test_the_page_stands_alone(written, page):
    assert not re.search(r"https?:|//[a-z]|@import|@font-face", written)
    assert not page.all("script") and not page.all("img") and not page.all("iframe")
    assert [link["href"] for link in page.all("link")] == ["data:,"]
    for reference in re.findall(r"url\(([^)]*)\)", written):
        assert reference.startswith("#")
    names = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(set(names)) == len(names)
    wanted = {attributes["href"][1:] for attributes in page.all("use")} | set(re.findall(r"url\(#([^)]*)\)", written))
    assert wanted <= set(names)
    assert "prefers-color-scheme:dark" in written
    assert any("width=device-width" in meta.get("content", "") for meta in page.all("meta"))
    assert len(written) < 500_000


def test_every_figure_says_what_there_is_to_see(page):
    drawings = page.all("svg")
    assert len(drawings) == len(page.all("figure")) == len(page.all("figcaption")) == 10
    for drawing in drawings:
        assert drawing["role"] == "img" and len(drawing["aria-label"]) > 30
    # Colours that would be lost on one of the grounds are variables.
    styles = " ".join(attributes.get("style", "") for name, attributes in page.elements)
    assert set(re.findall(r"(?:fill|stroke): (#\w+)", styles)) <= {"#ffffff"}
    assert "var(--series-0)" in styles and "currentColor" in styles


def test_text_is_never_markup(written, page):
    assert "&lt;i&gt;A &amp; B&lt;/i&gt;" in written and not page.all("i")
    assert element("p", "<b>", title='"&') == '<p title="&quot;&amp;">&lt;b&gt;</p>'
    assert element("p", Html("<br>")) == "<p><br></p>"


def test_the_page_says_what_the_diagnosis_says(result, page):
    diagnosis = sx.diagnose(result, sx.psmile(POSTERIOR, step_size=1e-2), DATA, inputs=TEST[0])
    for row in diagnosis.rows:
        assert words.QUESTIONS[row.name] in page.text
        assert " ".join(row.text.split()) in page.text
        if row.verdict in ("warning", "bad"):
            assert row.advice in page.text
    worst = "Do not trust" if any(row.verdict == "bad" for row in diagnosis.rows) else "Usable"
    assert worst in page.text


def test_every_row_of_a_diagnosis_has_its_question():
    explained = re.findall(r"^\*\*(.*?)\.\*\*", (ROOT / "docs" / "diagnostics.md").read_text(), flags=re.MULTILINE)
    assert set(explained) == set(words.QUESTIONS)


@pytest.mark.parametrize(
    ("verdicts", "says"),
    [
        (["ok", "ok", "n/a"], "Nothing amiss: of 2 checks all are good. 1 more came without a verdict."),
        (["ok", "warning"], "Usable with care: of 2 checks 1 to look at."),
        (["ok", "bad", "bad", "warning"], "Do not trust this run yet: of 4 checks 2 bad and 1 to look at."),
        (["n/a"], "None of the checks could be made."),
    ],
)
def test_the_verdict_in_one_sentence(verdicts, says):
    rows = tuple(Row(str(n), 0.0, "", "", verdict, "") for n, verdict in enumerate(verdicts))
    assert says in words.verdict(sx.Diagnosis("a run", rows))


def test_metrics_are_those_of_the_test_rows(result, page):
    prediction, start = sx.predict(POSTERIOR, result, TEST[0]), sx.predict(POSTERIOR, MEMBERS, TEST[0])
    for metric in (sx.metrics.lppd, sx.metrics.rmse, sx.metrics.crps, sx.metrics.coverage):
        assert f"{metric(prediction, TEST[1]):.3f}" in page.text
        assert f"{metric(start, TEST[1]):.3f}" in page.text
    assert "all 20 rows that the run has not seen" in page.text
    gains = np.asarray(prediction.log_prob(TEST[1]), float) - start.log_prob(TEST[1])
    assert f"{gains.mean():+.3f} ± {gains.std(ddof=1) / 20**0.5:.3f} nats per row" in page.text


def test_better_and_worse():
    lppd, rmse, _, coverage, _, width = SCORES["regression"]
    assert compared(lppd, -1.0, -2.0) == "better" and compared(rmse, 1.0, 0.5) == "worse"
    assert compared(coverage, 0.88, 0.95) == "better" and compared(coverage, 0.85, 0.95) == "same"
    assert compared(width, 1.0, 2.0) == ""


def test_classes_have_their_own_scores():
    posterior = sx.bnn(sx.models.mlp(2, 3), sx.likelihoods.Categorical(), sx.priors.Normal(), num_data=9)
    members = jax.vmap(posterior.init)(jax.random.split(jax.random.key(0), 2))
    prediction, labels = sx.predict(posterior, members, X[:9]), np.arange(9) % 3
    found = {line.score.name: line.chains for line in scored(prediction, None, labels)}
    assert found["accuracy"] == sx.metrics.accuracy(prediction, labels)
    assert found["Brier score"] == sx.metrics.brier(prediction, labels)
    assert list(found) == ["LPPD", "accuracy", "Brier score", "ECE", "AURC"]


def test_without_test_rows_the_page_says_so(result, tmp_path):
    page = Page(sx.report(tmp_path / "a.html", result, POSTERIOR, DATA, max_rows=10).read_text(encoding="utf-8"))
    assert "10 of 60 rows, spread evenly that the run was trained on" in page.text
    assert "warm start" not in page.text


def test_what_cannot_be_shown_is_named(tmp_path):
    plain = sx.Posterior(
        lambda w: -0.5 * jnp.sum(w**2), lambda w, batch: -0.5 * (batch[1] - batch[0] @ w) ** 2, num_data=60
    )
    result = sx.sample(
        jax.random.key(0), sx.sgld(plain, 1e-3), DATA, jnp.zeros(2, jnp.float32), num_chains=2, num_warmup=10,
        num_samples=20, batch_size=20, progress_bar=False,
    )  # fmt: skip
    page = Page(sx.report(tmp_path / "a.html", result, plain, DATA).read_text(encoding="utf-8"))
    assert "Energy error: sgld reports no finite energy_error." in page.text
    assert "Predictions and metrics: they take the posterior of a network" in page.text
    assert len(page.all("figure")) == 3


def test_command_line(store, result, tmp_path):
    output = tmp_path / "out.html"
    done = CliRunner().invoke(app, ["report", str(store), "--output", str(output)])
    assert done.exit_code == 0, done.output
    page = Page(output.read_text(encoding="utf-8"))
    assert "they take the model and the data, which a run does not hold" in page.text
    assert "finished" in page.text and str(store) in page.text
    assert len(page.all("figure")) == 4
    assert words.QUESTIONS["split R-hat"] in page.text


def test_command_line_errors(store, result, tmp_path):
    for arguments, says in (
        (["report", str(tmp_path / "nothing")], "nothing"),
        (["report", str(store), "--output", str(tmp_path / "no" / "a.html")], "does not exist"),
    ):
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 2
        assert says in " ".join(done.output.split())


def test_bad_input_is_named(result, tmp_path):
    path = tmp_path / "a.html"
    with pytest.raises(FileNotFoundError, match="path: the folder .*no does not exist"):
        sx.report(tmp_path / "no" / "a.html", result)
    with pytest.raises(TypeError, match="result must be what sx.sample returned, got str"):
        sx.report(path, "run")
    with pytest.raises(TypeError, match="test is for a posterior from sx.bnn, got NoneType"):
        sx.report(path, result, test=TEST)
    with pytest.raises(TypeError, match="data is of use with the posterior only"):
        sx.report(path, result, data=DATA)
    with pytest.raises(ValueError, match="test: all arrays need the same number of rows"):
        sx.report(path, result, POSTERIOR, DATA, test=(X, Y[:3]))
    with pytest.raises(ValueError, match="data has 20 rows, but the run's had 60"):
        sx.report(path, result, POSTERIOR, TEST)
    assert not path.exists()


def test_numbers_in_a_drawings_text_are_kept():
    drawing = '<svg viewBox="0 0 1 1"><path id="a" d="M 0.12345 1"/><use xlink:href="#a" x="1.0009"/>'
    drawing += "<text>0.12345</text></svg>"
    wanted = '<path id="f-a" d="M 0.12 1"/><use href="#f-a" x="1.00"/><text>0.12345</text></svg>'
    assert inline(drawing, "alt", "f-").endswith(wanted)


@pytest.mark.truth
def test_the_example_of_the_documentation_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "report.md").read_text()
    (block,) = re.findall(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    exec(block, {"__name__": "report"})
    assert len(Page(Path("report.html").read_text(encoding="utf-8")).all("figure")) == 10
    assert Path("coverage.png").read_bytes()[:4] == b"\x89PNG"
    # Every plot is in the table.
    named = {name for name in vars(sx.plots) if callable(getattr(sx.plots, name)) and not name.startswith("_")}
    assert named <= set(re.findall(r"`(\w+)`", text))


class Doubled(sx.likelihoods.Gaussian):
    """A likelihood of one's own without a cdf."""

    def cdf(self, params, outputs, value):
        raise TypeError("Doubled has no cumulative distribution")


def test_what_a_likelihood_of_ones_own_cannot_show_is_said(tmp_path):
    posterior = sx.bnn(sx.models.mlp(2, 1, hidden=(3,)), Doubled(0.5), sx.priors.Normal(0.0, 1.0), num_data=60)
    result = sx.sample(
        jax.random.key(0), sx.psmile(posterior), DATA, MEMBERS, num_warmup=20, num_samples=40, batch_size=20,
        progress_bar=False,
    )  # fmt: skip
    text = sx.report(tmp_path / "report.html", result, posterior, DATA, test=TEST).read_text(encoding="utf-8")
    assert "Doubled has no cumulative distribution" in text
    assert "R-hat" in text


def test_a_stream_as_data(tmp_path):
    stream = sx.Stream(lambda epoch: iter([DATA]), num_rows=60)
    result = sx.sample(
        jax.random.key(0), sx.psmile(POSTERIOR), stream, MEMBERS, num_warmup=20, num_samples=40, batch_size=20,
        progress_bar=False,
    )  # fmt: skip
    text = sx.report(tmp_path / "report.html", result, POSTERIOR, stream, test=TEST).read_text(encoding="utf-8")
    assert "Log predictive density" in text or "LPPD" in text
