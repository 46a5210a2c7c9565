"""How good a prediction is: scores of the predictive distribution against targets.

Every metric takes a `Prediction` and the targets and returns one float, computed in float64 on the host. Those that
need class probabilities only also take an array of them, shape `(rows, K)`. Log densities are in nats.
"""

from smilax.metrics.classes import ReliabilityCurve as ReliabilityCurve
from smilax.metrics.classes import accuracy as accuracy
from smilax.metrics.classes import brier as brier
from smilax.metrics.classes import ece as ece
from smilax.metrics.classes import ece_by_chance as ece_by_chance
from smilax.metrics.classes import reliability_curve as reliability_curve
from smilax.metrics.density import lppd as lppd
from smilax.metrics.density import perplexity as perplexity
from smilax.metrics.numeric import coverage as coverage
from smilax.metrics.numeric import crps as crps
from smilax.metrics.numeric import rmse as rmse
from smilax.metrics.ranking import RiskCoverageCurve as RiskCoverageCurve
from smilax.metrics.ranking import aurc as aurc
from smilax.metrics.ranking import auroc as auroc
from smilax.metrics.ranking import risk_coverage_curve as risk_coverage_curve
