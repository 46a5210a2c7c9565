"""The README's Python blocks, run in order as one program."""

import re
from pathlib import Path

import pytest

README = Path(__file__).resolve().parent.parent / "README.md"


def python_blocks(text):
    """The fenced Python blocks, each with the blank lines before it that keep the line numbers right."""
    for match in re.finditer(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE):
        line = text[: match.start(1)].count("\n")
        yield line + 1, "\n" * line + match.group(1)


@pytest.mark.once
def test_readme_examples_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = README.read_text()
    blocks = list(python_blocks(text))
    assert blocks, "the README shows no Python"
    assert len(blocks) == text.count("```python"), "a block is not closed, or is indented"
    scope = {"__name__": "readme"}
    for _, block in blocks:
        exec(compile(block, str(README), "exec"), scope)
