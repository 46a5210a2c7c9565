"""What a run says about itself: whether the sampler's theory holds for it, and whether the chains agree."""

from smilax.diagnostics.diagnosis import diagnose as diagnose
from smilax.diagnostics.table import Diagnosis as Diagnosis
from smilax.diagnostics.table import Row as Row
