"""Every file in examples/, as a user runs it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent.parent / "examples"

pytestmark = pytest.mark.once


# The README and the guides, which are run, have networks enough; the others take minutes and are left to `make truth`.
QUICK = ("numpyro_model",)


def marked(file):
    return pytest.param(file, id=file.stem, marks=[] if file.stem in QUICK else pytest.mark.truth)


@pytest.mark.parametrize("file", [marked(file) for file in sorted(FOLDER.glob("*.py"))])
def test_example_gives_calibrated_intervals(file, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "JAX_ENABLE_X64"}
    run = [sys.executable, "-W", "error::UserWarning:smilax", str(file)]
    done = subprocess.run(run, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    found = re.search(r"90 % intervals hold (\d+)%", done.stdout)
    assert found, done.stdout
    # Of some hundred test rows: three standard deviations around 90 %.
    assert 81 <= int(found[1]) <= 99, done.stdout
