"""smilax: Bayesian posteriors over neural networks, or any other large model, from mini-batches."""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING

from smilax import distributed as distributed
from smilax import geometry as geometry
from smilax import likelihoods as likelihoods
from smilax import priors as priors
from smilax.bnn import NetworkPosterior as NetworkPosterior
from smilax.bnn import bnn as bnn
from smilax.data import Batches as Batches
from smilax.exporting import save_draws as save_draws
from smilax.loading import load as load
from smilax.network import Network as Network
from smilax.posterior import Posterior as Posterior
from smilax.predict import Prediction as Prediction
from smilax.predict import predict as predict
from smilax.recording import Store as Store
from smilax.result import Result as Result
from smilax.resuming import resume as resume
from smilax.samplers import Info as Info
from smilax.samplers import SamplingAlgorithm as SamplingAlgorithm
from smilax.samplers import adaptive_sghmc as adaptive_sghmc
from smilax.samplers import csgld as csgld
from smilax.samplers import ismile as ismile
from smilax.samplers import mclmc as mclmc
from smilax.samplers import nuts as nuts
from smilax.samplers import psgld as psgld
from smilax.samplers import psmile as psmile
from smilax.samplers import psmile_naive as psmile_naive
from smilax.samplers import sghmc as sghmc
from smilax.samplers import sgld as sgld
from smilax.samplers import sgnht as sgnht
from smilax.samplers import smile as smile
from smilax.samplers import smile_naive as smile_naive
from smilax.sampling import sample as sample
from smilax.sizing import Estimate as Estimate
from smilax.sizing import estimate as estimate
from smilax.streams import Stream as Stream

if _TYPE_CHECKING:
    from smilax import augment as augment
    from smilax import datasets as datasets
    from smilax import experiments as experiments
    from smilax import metrics as metrics
    from smilax import models as models
    from smilax import plots as plots
    from smilax.diagnostics import Diagnosis as Diagnosis
    from smilax.diagnostics import diagnose as diagnose
    from smilax.ensemble import train_ensemble as train_ensemble
    from smilax.estimators import SmileClassifier as SmileClassifier
    from smilax.estimators import SmileRegressor as SmileRegressor
    from smilax.interop.arviz import to_arviz as to_arviz
    from smilax.interop.blackjax import from_blackjax as from_blackjax
    from smilax.interop.blackjax import to_blackjax as to_blackjax
    from smilax.interop.equinox import from_equinox as from_equinox
    from smilax.interop.flax import from_flax as from_flax
    from smilax.interop.numpyro import NumpyroPosterior as NumpyroPosterior
    from smilax.interop.numpyro import from_numpyro as from_numpyro
    from smilax.reporting import report as report

__version__ = "0.1.0"

# Loaded on first use: what they stand on takes longer to import than everything above.
_LAZY = {
    "Diagnosis": "smilax.diagnostics",
    "SmileClassifier": "smilax.estimators",
    "SmileRegressor": "smilax.estimators",
    "NumpyroPosterior": "smilax.interop.numpyro",
    "augment": "smilax.augment",
    "datasets": "smilax.datasets",
    "diagnose": "smilax.diagnostics",
    "from_blackjax": "smilax.interop.blackjax",
    "experiments": "smilax.experiments",
    "from_equinox": "smilax.interop.equinox",
    "from_flax": "smilax.interop.flax",
    "from_numpyro": "smilax.interop.numpyro",
    "metrics": "smilax.metrics",
    "models": "smilax.models",
    "plots": "smilax.plots",
    "report": "smilax.reporting",
    "to_arviz": "smilax.interop.arviz",
    "to_blackjax": "smilax.interop.blackjax",
    "train_ensemble": "smilax.ensemble",
}

__all__ = [
    "Batches",
    "Diagnosis",
    "Estimate",
    "Info",
    "Network",
    "NetworkPosterior",
    "NumpyroPosterior",
    "Posterior",
    "Prediction",
    "Result",
    "SamplingAlgorithm",
    "SmileClassifier",
    "SmileRegressor",
    "Store",
    "Stream",
    "adaptive_sghmc",
    "augment",
    "bnn",
    "csgld",
    "datasets",
    "diagnose",
    "distributed",
    "estimate",
    "from_blackjax",
    "experiments",
    "from_equinox",
    "from_flax",
    "from_numpyro",
    "geometry",
    "ismile",
    "likelihoods",
    "load",
    "mclmc",
    "metrics",
    "models",
    "nuts",
    "plots",
    "predict",
    "priors",
    "psgld",
    "psmile",
    "psmile_naive",
    "report",
    "resume",
    "sample",
    "sghmc",
    "sgld",
    "sgnht",
    "smile",
    "smile_naive",
    "to_arviz",
    "to_blackjax",
    "train_ensemble",
]


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module 'smilax' has no attribute {name!r}")
    module = _import_module(_LAZY[name])
    value = getattr(module, name, module)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
