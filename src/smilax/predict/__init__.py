"""The posterior predictive: a mixture over all draws of all chains, reduced while it streams by.

Every statistic is a running reduction over the draws, so what is in memory at once is a block of draws by a block
of rows, however many draws there are. The network is by far the dearest part: where its outputs for every draw
and row fit `max_memory` they are kept on the host after the first pass, otherwise each pass computes them again.
"""

from smilax.predict.inputs import match_targets as match_targets
from smilax.predict.predicting import predict as predict
from smilax.predict.prediction import Prediction as Prediction
