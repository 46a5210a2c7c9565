"""Speed of the draw store against np.save and fsync of the same bytes, and the memory of a run and of predict.

    python benchmarks/storage.py [--draws 200] [--repeats 3]

A million parameters, eight chains: shards of 64 MB, np.save in files of the same size. Repeats are interleaved, medians
are shown. The runs whose memory is measured are child processes; their peak must not depend on the number of draws.
"""

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

SHAPES = {"a": (784, 1000), "b": (1000,), "c": (1000, 200), "d": (200,), "e": (200, 70), "f": (70,)}
CHAINS, PER_SHARD = 8, 2


def write_plain(folder, blocks, count):
    for i in range(count):
        with (folder / f"{i}.npy").open("wb") as file:
            np.save(file, blocks[i % len(blocks)])
            file.flush()
            os.fsync(file.fileno())


def write_store(folder, blocks, count):
    from smilax.store import StoreWriter

    with StoreWriter.create(folder, config={}, num_chains=CHAINS, versions={}) as writer:
        for i in range(count):
            writer.append("draws", blocks[i % len(blocks)])
            writer.commit({"state": np.zeros(3)}, {})


def read_plain(folder, count):
    for i in range(count):
        np.load(folder / f"{i}.npy")


def read_store(folder, count):
    from smilax.store import read

    leaves = read(folder).arrays("draws")
    for i in range(count):
        for leaf in leaves.values():
            leaf[:, i * PER_SHARD : (i + 1) * PER_SHARD]


def speeds(draws, repeats, where):
    rng = np.random.default_rng(0)
    blocks = [
        {name: rng.standard_normal((CHAINS, PER_SHARD, *shape), np.float32) for name, shape in SHAPES.items()}
        for _ in range(2)
    ]
    flat = [np.concatenate([x.ravel() for x in block.values()]) for block in blocks]
    count = draws // PER_SHARD
    megabytes = count * flat[0].nbytes / 1e6
    print(f"{megabytes:.0f} MB in {count} files of {flat[0].nbytes / 1e6:.0f} MB, {repeats} repeats")
    plain, store = Path(where) / "plain", Path(where) / "store"
    found = {}
    for _ in range(repeats):
        for folder in (plain, store):
            shutil.rmtree(folder, ignore_errors=True)
        plain.mkdir()
        for name, work in (
            ("np.save + fsync", lambda: write_plain(plain, flat, count)),
            ("store, written", lambda: write_store(store, blocks, count)),
            ("np.load", lambda: read_plain(plain, count)),
            ("store, read", lambda: read_store(store, count)),
        ):
            begin = time.perf_counter()
            work()
            found.setdefault(name, []).append(megabytes / (time.perf_counter() - begin))
    for name, values in found.items():
        print(f"{name:18s} {statistics.median(values):7.0f} MB/s  ({min(values):.0f} to {max(values):.0f})")
    save = statistics.median(found["np.save + fsync"])
    for name in ("store, written", "store, read"):
        print(f"{name} over np.save + fsync: {statistics.median(found[name]) / save:.2f} (bar 0.5)")


def peak_of_run(folder, draws):
    """In a child: a run of a million parameters with a store, then predictions from it; peaks in MB."""
    import jax
    import jax.numpy as jnp

    import smilax as sx

    network = sx.models.mlp(784, 10, hidden=(1000, 200))
    posterior = sx.bnn(network, sx.likelihoods.Categorical(), sx.priors.Normal(), num_data=64)
    x = np.random.default_rng(0).normal(size=(64, 784)).astype(np.float32)
    y = (np.arange(64) % 10).astype(np.int32)
    start = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), posterior.init(jax.random.key(0)))
    sx.sample(
        jax.random.key(0), sx.sgld(posterior, 1e-7), (x, y), start, num_chains=2, num_warmup=1, num_samples=draws,
        batch_size=8, store=folder, progress_bar=False,
    )  # fmt: skip
    run = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    prediction = sx.predict(posterior, sx.load(folder), x)
    assert np.isfinite(prediction.probs).all()
    print(f"{run:.0f} {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3:.0f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peak", nargs=2, metavar=("FOLDER", "DRAWS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        peak_of_run(arguments.peak[0], int(arguments.peak[1]))
        return
    with tempfile.TemporaryDirectory(dir=".") as where:
        speeds(arguments.draws, arguments.repeats, where)
        shutil.rmtree(Path(where) / "store")
        for draws in (50, 200, 400):
            folder = Path(where) / f"run-{draws}"
            command = [sys.executable, __file__, "--peak", str(folder), str(draws)]
            peaks = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
            size = 2 * draws * sum(np.prod(s) for s in SHAPES.values()) * 4 / 1e6
            print(
                f"{draws} draws, {size:.0f} MB: peak of the run {peaks[0]} MB, with predict {peaks[1]} MB", flush=True
            )
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
