"""The paper's analytical benchmark, at three step sizes of the grid: see `benchmarks/analytical.py`."""

import importlib.util
from pathlib import Path

import pytest

import smilax as sx

pytestmark = [pytest.mark.truth, pytest.mark.once]


def load_benchmark():
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "analytical.py"
    spec = importlib.util.spec_from_file_location("analytical", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def mean_biases():
    benchmark = load_benchmark()
    grid = benchmark.GRID[[0, 7, 14]]  # 0.01, 0.1, 1
    results = benchmark.biases(("isotropic", "fisher"), ("smile_naive", "psmile_naive"), grid, 4, 300_000)
    return {case: values.mean(axis=1) for case, values in results.items()}


@pytest.mark.parametrize("sampler", [sx.smile_naive, sx.psmile_naive], ids=lambda make: make.__name__)
def test_isotropic_noise_is_all_a_sampler_needs(mean_biases, sampler):
    assert mean_biases["isotropic", sampler.__name__].min() <= 0.03


@pytest.mark.parametrize("sampler", [sx.smile_naive, sx.psmile_naive], ids=lambda make: make.__name__)
def test_fisher_noise_is_not_helped_by_a_smaller_step(mean_biases, sampler):
    assert mean_biases["fisher", sampler.__name__].min() > 0.3
