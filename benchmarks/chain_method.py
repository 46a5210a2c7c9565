"""Vectorised against sequential chains: steps of a chain a second, over models and samplers.

What `chain_method="auto"` takes on CPU rests on this table (`smilax.grouping.chosen_method`). The two take turns, after
a first run of each that compiles.

python benchmarks/chain_method.py [case ...]
"""

import sys
import time
from statistics import median

import jax
import jax.numpy as jnp
import numpy as np

import smilax as sx

REPEATS, SECONDS, THINNING = 3, 2.0, 20
METHODS = ("vectorized", "sequential")


def perceptron(features, hidden, rows=4096):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, features)).astype(np.float32)
    y = rng.normal(size=rows).astype(np.float32)
    network = sx.models.mlp(features, 1, hidden=hidden)
    return sx.bnn(network, sx.likelihoods.Gaussian(), sx.priors.Normal(), num_data=rows), (x, y)


def regression(features):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4096, features)).astype(np.float32)
    posterior = sx.Posterior(
        lambda w: -0.5 * jnp.sum(w**2), lambda w, batch: -jnp.logaddexp(0.0, -batch @ w), num_data=4096
    )
    return posterior, x, jnp.zeros(features)


def images(network, shape):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (2048, *shape)).astype(np.uint8)
    y = rng.integers(0, 10, 2048).astype(np.int32)
    return sx.bnn(network, sx.likelihoods.Categorical(), sx.priors.Normal(), num_data=2048), (x, y)


# Name: problem, batch size, chains.
CASES = {
    "logistic regression, d = 30": (lambda: regression(30), 64, (4,)),
    "mlp 16-16-16, d = 754": (lambda: perceptron(11, (16, 16, 16)), 256, (1, 10)),
    "mlp 64-64, d = 5,100": (lambda: perceptron(12, (64, 64)), 256, (4,)),
    "mlp 150-150, d = 26,000": (lambda: perceptron(20, (150, 150)), 256, (4,)),
    "mlp 300-300, d = 97,000": (lambda: perceptron(20, (300, 300)), 256, (4,)),
    "mlp 1000-1000, d = 1,020,000": (lambda: perceptron(20, (1000, 1000)), 256, (4,)),
    "lenet, d = 62,000": (lambda: images(sx.models.lenet(), (28, 28)), 128, (4,)),
}  # fmt: skip


class Comparison:
    """One posterior, sampler, batch size and number of chains, run by either method."""

    def __init__(self, algorithm, data, params, batch_size, chains):
        self.arguments = (jax.random.key(0), algorithm, data, params)
        self.settings = {"num_chains": chains, "batch_size": batch_size, "num_warmup": 0, "thinning": THINNING}
        self.chains = chains

    def seconds(self, method, steps):
        start = time.perf_counter()
        sx.sample(*self.arguments, num_samples=steps, chain_method=method, progress_bar=False, **self.settings)
        return time.perf_counter() - start

    def calibrated(self, method):
        """A number of steps of about `SECONDS`, whose program is compiled by then."""
        self.seconds(method, THINNING)
        steps = THINNING * max(1, int(SECONDS / self.seconds(method, THINNING)))
        self.seconds(method, steps)
        return steps

    def rates(self):
        steps = {method: self.calibrated(method) for method in METHODS}
        rates = {method: [] for method in METHODS}
        for _ in range(REPEATS):
            for method in METHODS:
                rates[method].append(steps[method] * self.chains / self.seconds(method, steps[method]))
        return [median(rates[method]) for method in METHODS]


def main():
    chosen = sys.argv[1:]
    print(f"{'case':28} {'sampler':8} {'chains':>6} {'vectorized':>11} {'sequential':>11} {'ratio':>6}", flush=True)
    for name, (make, batch_size, counts) in CASES.items():
        if chosen and not any(word in name for word in chosen):
            continue
        posterior, data, *start = make()
        params = start[0] if start else posterior.init(jax.random.key(0))
        for label, algorithm in (("psmile", sx.psmile(posterior, 1e-4)), ("ismile", sx.ismile(posterior))):
            for chains in counts:
                one, other = Comparison(algorithm, data, params, batch_size, chains).rates()
                print(f"{name:28} {label:8} {chains:6} {one:11,.0f} {other:11,.0f} {other / one:6.2f}", flush=True)


if __name__ == "__main__":
    main()
