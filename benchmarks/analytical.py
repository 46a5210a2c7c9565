"""What the analytical benchmark has to show of the published samplers; `smilax bench analytical` measures all of it.

On the rotated Gaussian, over 300,000 steps: with isotropic noise both naive samplers reach a bias of 0.03; with fisher
noise none does better than 0.3 at any step of the grid, however small. (Beyond the grid, near a step of 3, the
discretisation inflates the directions that the noise leaves frozen, and this error cancels part of the other: the bias
there is 0.16-0.23, for no good reason.)

Prints CSV, then PASS or FAIL, which is also the exit code.
"""

import argparse
import sys
import time

import numpy as np

from smilax.experiments import analytical
from smilax.experiments.analytical import DIM as DIM
from smilax.experiments.analytical import EVERY as EVERY
from smilax.experiments.analytical import NOISE_STD as NOISE_STD
from smilax.experiments.analytical import Setting, covariance_of_gaussian
from smilax.experiments.analytical import noise_factors as noise_factors

target = covariance_of_gaussian
GRID = np.logspace(-2, 0, 15)
SAMPLERS = ("smile_naive", "psmile_naive")
NOISES = ("isotropic", "anisotropic", "correlated", "fisher")
ISOTROPIC_BEST, FISHER_FLOOR = 0.03, 0.3


def biases(noises, samplers, grid, num_seeds, num_steps):
    """`{(noise, sampler): biases (step, seed)}` on the Gaussian."""
    settings = [Setting("gaussian", noise, "gaussian", sampler) for noise in noises for sampler in samplers]
    found = analytical.biases(settings, num_seeds, num_steps, grids=dict.fromkeys(samplers, grid))
    return {(s.noise, s.sampler): values for s, values in found.items()}


def verdicts(results):
    """`(claim, holds)` for what the module's docstring expects, of mean biases over seeds."""
    for (noise, sampler), values in results.items():
        best = float(values.mean(axis=1).min())
        if noise == "isotropic":
            yield f"{sampler}: isotropic, best bias {best:.4f} <= {ISOTROPIC_BEST}", best <= ISOTROPIC_BEST
        if noise == "fisher":
            yield f"{sampler}: fisher, least bias {best:.3f} > {FISHER_FLOOR}", best > FISHER_FLOOR


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=300_000)
    parser.add_argument("--seeds", type=int, default=4)
    arguments = parser.parse_args()
    begin = time.perf_counter()
    results = biases(NOISES, SAMPLERS, GRID, arguments.seeds, arguments.steps)
    print("noise,sampler,step,bias")
    for (noise, sampler), values in results.items():
        for step, value in zip(GRID, values.mean(axis=1), strict=True):
            print(f"{noise},{sampler},{step:.4g},{value:.4g}")
    print(f"\n{arguments.steps} steps, {arguments.seeds} seeds, {time.perf_counter() - begin:.0f} s")
    claims = list(verdicts(results))
    for claim, holds in claims:
        print(f"{'ok' if holds else 'NOT MET':<8}{claim}")
    passed = all(holds for _, holds in claims)
    print("PASS" if passed else "FAIL")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
