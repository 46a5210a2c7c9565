"""Whether the paper's largest experiments fit: one warm-up step and one step of every chain, at full size.

    python benchmarks/full_size.py [--experiments vit-imagenette] [--samplers ismile,psmile] [--chains 1]

What `smilax run NAME` would run, on random rows in place of the data: the network, prior, augmentation, batch size and
(without --chains) number of chains of the shipped file, from random starts, with every chain's state in memory. Each
case has a process of its own, whose peak memory is told; seconds are mostly of compiling. The bar: every case ends with
finite parameters within 24 GiB.

Prints PASS or FAIL, which is also the exit code.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

import smilax as sx
from smilax.experiments.building import algorithm_of, batch_size_of, batches_of, members_of, pose
from smilax.experiments.sources import Data

EXPERIMENTS = ("resnet7-cifar10", "resnet18-cifar10", "vit-imagenette", "gpt-shakespeare")
SAMPLERS = ("ismile", "psmile", "adaptive_sghmc")
GIBIBYTES, SYMBOLS, CLASSES = 24, 65, 10
ROWS = {"cifar10": 45_000, "imagenette": 8706, "text": 4000}


def rows_for(config):
    """Random rows of the shape of the data set's, as many of them as it has (text: as 4,000 windows)."""
    rng, count = np.random.default_rng(0), ROWS[config.data.name]
    if config.data.name == "text":
        length = config.data.context
        x, y = (rng.integers(0, SYMBOLS, (count, length), np.int32) for _ in range(2))
    else:
        side = getattr(config.data, "image_size", None) or 32
        x = rng.integers(0, 256, (count, side, side, 3), np.uint8)
        y = rng.integers(0, CLASSES, count, np.int32)
    return Data((x, y), (x[:64], y[:64]), (x[:64], y[:64]))


def measure(name, sampler, chains):
    """One case, in this process."""
    changes = ["warm_start.kind=random", "run.num_warmup=1", "run.num_samples=1", "run.thinning=1"]
    changes += [f"run.num_chains={chains}"] if chains else []
    experiment = sx.experiments.load_experiment(name, samplers=[sampler], changes=changes)
    config = experiment.cases[0].config
    data = rows_for(config)
    problem = pose(config, data)
    members = members_of(experiment.base, problem, 1)
    num_params = sum(leaf.size for leaf in jax.tree.leaves(members)) // config.run.num_chains
    begin = time.perf_counter()
    result = sx.sample(
        jax.random.key(0), algorithm_of(config, problem.posterior), batches_of(config, data), members,
        num_warmup=1, num_samples=1, batch_size=batch_size_of(config, data), chain_method=config.run.chain_method,
        progress_bar=False,
    )  # fmt: skip
    finite = all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(result.draws))
    moved = any(bool((draw[:, 0] != start).any()) for draw, start in zip(
        jax.tree.leaves(result.draws), jax.tree.leaves(members), strict=True
    ))  # fmt: skip
    return {
        "parameters": num_params,
        "chains": config.run.num_chains,
        "batch": config.run.batch_size,
        "seconds": time.perf_counter() - begin,
        # Kilobytes, but bytes on a Mac.
        "gibibytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        / (2**30 if sys.platform == "darwin" else 2**20),
        "finite": finite,
        "moved": moved,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiments", default=",".join(EXPERIMENTS))
    parser.add_argument("--samplers", default=",".join(SAMPLERS))
    parser.add_argument("--chains", type=int, help="in place of the experiment's")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(measure(*options.case.split(":"), options.chains)))
        return
    print(f"{os.cpu_count()} cores, {jax.devices()[0].device_kind}, JAX {jax.__version__}, smilax {sx.__version__}")
    print(f"{'experiment':18} {'sampler':15} {'parameters':>11} {'chains':>6} {'batch':>5} {'GiB':>6} {'seconds':>8}")
    failures = []
    for name in options.experiments.split(","):
        for sampler in options.samplers.split(","):
            command = [sys.executable, __file__, "--case", f"{name}:{sampler}"]
            command += ["--chains", str(options.chains)] if options.chains else []
            child = subprocess.run(command, stdout=subprocess.PIPE, text=True)
            if child.returncode:
                print(f"{name:18} {sampler:15} ended with exit code {child.returncode}", flush=True)
                failures.append(f"{name} {sampler}")
                continue
            row = json.loads(child.stdout.splitlines()[-1])
            print(
                f"{name:18} {sampler:15} {row['parameters']:11,} {row['chains']:6} {row['batch']:5} "
                f"{row['gibibytes']:6.2f} {row['seconds']:8.1f}",
                flush=True,
            )
            if not (row["finite"] and row["moved"] and row["gibibytes"] <= GIBIBYTES):
                failures.append(f"{name} {sampler}")
    print("FAIL: " + ", ".join(failures) if failures else "PASS")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
