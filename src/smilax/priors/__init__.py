"""Distributions over parameters.

Normal, Laplace and Student-t are written out here: their log density is one fused sum a leaf, and NumPyro, half a
second of import, is needed only by those who pass one of its distributions.
"""

from smilax.priors.base import Prior as Prior
from smilax.priors.by_path import by_path as by_path
from smilax.priors.conversion import as_prior as as_prior
from smilax.priors.families import Flat as Flat
from smilax.priors.families import Laplace as Laplace
from smilax.priors.families import Normal as Normal
from smilax.priors.families import StudentT as StudentT
