"""Mass matrices: how the sampler measures lengths in parameter space."""

from smilax.geometry.base import Geometry as Geometry
from smilax.geometry.base import Scaling as Scaling
from smilax.geometry.diagonal import Diagonal as Diagonal
from smilax.geometry.identity import Identity as Identity
