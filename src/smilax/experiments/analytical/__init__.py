"""The paper's analytical benchmark: how the shape of the gradient noise biases each sampler, on targets known exactly.

The gradient is exact but for noise drawn afresh at each step, of standard deviation 16 per component (that of the sum
of 256 unit draws), which is then shaped. See `smilax bench analytical --help`.
"""

from smilax.experiments.analytical.biases import BY_HAND as BY_HAND
from smilax.experiments.analytical.biases import EVERY as EVERY
from smilax.experiments.analytical.biases import Setting as Setting
from smilax.experiments.analytical.biases import biases as biases
from smilax.experiments.analytical.noises import LAWS as LAWS
from smilax.experiments.analytical.noises import NOISE_STD as NOISE_STD
from smilax.experiments.analytical.noises import NOISES as NOISES
from smilax.experiments.analytical.noises import noise_factors as noise_factors
from smilax.experiments.analytical.targets import DIM as DIM
from smilax.experiments.analytical.targets import TARGETS as TARGETS
from smilax.experiments.analytical.targets import covariance_of_gaussian as covariance_of_gaussian
