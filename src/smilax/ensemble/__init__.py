"""Deep ensembles: independently trained networks, from which chains start."""

from smilax.ensemble.training import History as History
from smilax.ensemble.training import train_ensemble as train_ensemble
