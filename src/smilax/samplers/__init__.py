"""One file per family of samplers, each in the form of `SamplingAlgorithm`."""

from smilax.samplers.adaptive_sghmc import adaptive_sghmc as adaptive_sghmc
from smilax.samplers.base import Info as Info
from smilax.samplers.base import SamplingAlgorithm as SamplingAlgorithm
from smilax.samplers.csgld import csgld as csgld
from smilax.samplers.ismile import ismile as ismile
from smilax.samplers.mclmc import mclmc as mclmc
from smilax.samplers.nuts import nuts as nuts
from smilax.samplers.psgld import psgld as psgld
from smilax.samplers.sghmc import sghmc as sghmc
from smilax.samplers.sgld import sgld as sgld
from smilax.samplers.sgnht import sgnht as sgnht
from smilax.samplers.smile import psmile as psmile
from smilax.samplers.smile import psmile_naive as psmile_naive
from smilax.samplers.smile import smile as smile
from smilax.samplers.smile import smile_naive as smile_naive
