"""What a network's outputs mean: the distribution of a target given the outputs.

Shapes, with B examples. A target is one number, `y` of shape `(B,)` or `(B, 1)`, or several, `(B, K)`. Outputs are
matched to it by rule, never by broadcasting: `(B,)` and `(B, 1)` stand for each other, everything else has to agree.
Where no target is given (predictions), outputs `(B, 1)` stand for a target `(B,)`.
"""

from smilax.likelihoods.base import Likelihood as Likelihood
from smilax.likelihoods.continuous import Gaussian as Gaussian
from smilax.likelihoods.continuous import StudentT as StudentT
from smilax.likelihoods.discrete import Bernoulli as Bernoulli
from smilax.likelihoods.discrete import Categorical as Categorical
from smilax.likelihoods.discrete import Poisson as Poisson
