"""Ready-made networks, as `Network`s."""

from smilax.models.mlp import mlp as mlp
