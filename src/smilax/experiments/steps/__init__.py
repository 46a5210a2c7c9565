"""What a sampler's step costs, in gradients of the same batch, and what others take for the same work.

See `smilax bench step --help` and docs/speed.md.
"""

from smilax.experiments.steps.cases import CASES as CASES
from smilax.experiments.steps.cases import Case as Case
from smilax.experiments.steps.peers import PEERS as PEERS
from smilax.experiments.steps.programs import NAMES as NAMES
from smilax.experiments.steps.timing import Row as Row
from smilax.experiments.steps.timing import measure as measure
from smilax.experiments.steps.verdicts import verdicts as verdicts
