"""Ready-made networks, as `Network`s."""

from smilax.models.gpt import gpt as gpt
from smilax.models.lenet import lenet as lenet
from smilax.models.mlp import mlp as mlp
from smilax.models.resnet import resnet7 as resnet7
from smilax.models.resnet import resnet18 as resnet18
from smilax.models.vit import vit as vit
