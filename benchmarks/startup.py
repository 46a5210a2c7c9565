"""Time to the first draw of a new process: importing, tracing and compiling, with and without programs kept on disk.

    python benchmarks/startup.py [--rounds 3]

`sx.sample` of ismile and psmile on the tabular network 11-16-16-16-1, ten chains, 20 + 20 steps of B = 256, each in a
process of its own: without JAX's persistent compilation cache, then with one that a first run has filled. Medians, in
seconds.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from statistics import median

CHILD = """
import time
begin = time.perf_counter()
import jax
jax.numpy.zeros(1).block_until_ready()
with_jax = time.perf_counter()
import numpy as np
import smilax as sx
imported = time.perf_counter()
rng = np.random.default_rng(0)
x, y = rng.normal(size=(1000, 11)).astype(np.float32), rng.normal(size=(1000, 1)).astype(np.float32)
network = sx.models.mlp(11, 1, hidden=(16, 16, 16))
posterior = sx.bnn(network, sx.likelihoods.Gaussian(), sx.priors.Normal(), num_data=1000)
sx.sample(
    jax.random.key(0), {algorithm}, (x, y), posterior.init(jax.random.key(0)), num_chains=10, num_warmup=20,
    num_samples=20, batch_size=256, progress_bar=False,
)
print(with_jax - begin, imported - with_jax, time.perf_counter() - imported)
"""
ALGORITHMS = {"psmile": "sx.psmile(posterior)", "ismile": "sx.ismile(posterior)"}


def seconds(algorithm, cache):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    if cache:
        environment["JAX_COMPILATION_CACHE_DIR"] = cache
        environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    begin = time.perf_counter()
    child = [sys.executable, "-c", CHILD.format(algorithm=ALGORITHMS[algorithm])]
    output = subprocess.run(child, env=environment, capture_output=True, text=True, check=True).stdout
    return [*map(float, output.split()), time.perf_counter() - begin]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    print(f"{'':<24}{'JAX':>8}{'import':>8}{'to draws':>10}{'process':>9}")
    with tempfile.TemporaryDirectory() as cache:
        for algorithm in ALGORITHMS:
            seconds(algorithm, cache)
            for name, place in (("no cache", None), ("cache filled", cache)):
                times = [
                    median(column) for column in zip(*(seconds(algorithm, place) for _ in range(rounds)), strict=True)
                ]
                print(f"{algorithm + ', ' + name:<24}{times[0]:>8.2f}{times[1]:>8.2f}{times[2]:>10.2f}{times[3]:>9.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
