"""Experiments: configurations in TOML, the paper's among them, checked, run, and taken up again.

What the keys mean is in docs/experiments.md, and `smilax run --help` shows how to start.
"""

from smilax.experiments.cases import Case as Case
from smilax.experiments.cases import Experiment as Experiment
from smilax.experiments.cases import load_experiment as load_experiment
from smilax.experiments.files import shipped as shipped
from smilax.experiments.problems import ConfigError as ConfigError
from smilax.experiments.running import Interrupted as Interrupted
from smilax.experiments.running import resume_experiment as resume_experiment
from smilax.experiments.running import run_experiment as run_experiment
from smilax.experiments.table import read_rows as read_rows

__all__ = ["ConfigError", "load_experiment", "read_rows", "resume_experiment", "run_experiment"]
