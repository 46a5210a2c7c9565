"""Figures of runs and predictions; every function draws into the axes it is given, or makes some, and returns them.

Text and frames take Matplotlib's own style, so `plt.style.use("dark_background")` is all that a dark figure needs: the
colours of the data follow the background. They are Okabe and Ito's, and lines differ in style or marker too. Legends
stand below the axes; figures of your own need `layout="constrained"` to make room for them.
"""

from smilax.plots.calibration import coverage as coverage
from smilax.plots.calibration import reliability as reliability
from smilax.plots.calibration import risk_coverage as risk_coverage
from smilax.plots.chains import lppd_by_draws as lppd_by_draws
from smilax.plots.chains import rhat as rhat
from smilax.plots.chains import trace as trace
from smilax.plots.noise import noise_isotropy as noise_isotropy
from smilax.plots.predictive import bands as bands
from smilax.plots.predictive import epistemic_aleatoric as epistemic_aleatoric
from smilax.plots.predictive import intervals as intervals
from smilax.plots.predictive import uncertainty as uncertainty
from smilax.plots.style import COLORS as COLORS
from smilax.plots.style import DARK_COLORS as DARK_COLORS
