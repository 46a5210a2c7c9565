"""The command line."""

from smilax.cli import bench as bench
from smilax.cli import looking as looking
from smilax.cli import running as running
from smilax.cli.app import app as app
from smilax.cli.app import main as main
