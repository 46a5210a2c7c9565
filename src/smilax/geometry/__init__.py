"""Mass matrices: how the sampler measures lengths in parameter space, and how that is learned from gradient noise."""

from smilax.geometry.base import Factored as Factored
from smilax.geometry.base import Geometry as Geometry
from smilax.geometry.base import NoiseEstimate as NoiseEstimate
from smilax.geometry.choice import NAMES as NAMES
from smilax.geometry.choice import noise_estimate as noise_estimate
from smilax.geometry.dense import Dense as Dense
from smilax.geometry.dense import DenseEstimate as DenseEstimate
from smilax.geometry.diagonal import Diagonal as Diagonal
from smilax.geometry.diagonal import DiagonalEstimate as DiagonalEstimate
from smilax.geometry.identity import Identity as Identity
from smilax.geometry.identity import IdentityEstimate as IdentityEstimate
from smilax.geometry.kronecker import Kronecker as Kronecker
from smilax.geometry.kronecker import KroneckerEstimate as KroneckerEstimate
from smilax.geometry.low_rank import LowRank as LowRank
from smilax.geometry.low_rank import LowRankEstimate as LowRankEstimate
