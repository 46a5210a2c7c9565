"""Ready-made networks, as `Network`s."""

from smilax.models.lenet import lenet as lenet
from smilax.models.mlp import mlp as mlp
