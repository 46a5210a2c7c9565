"""Speed of the draw store against np.save and fsync of the same bytes, memory of a run and of predict, cost of a store.

    python benchmarks/storage.py [--draws 200] [--repeats 4] [--steps 400]

1. A million parameters, eight chains: shards of 64 MB, np.save in files of the same size. Both are deleted, then
   written again, and which goes first changes from repeat to repeat: on a disk that hands out freed blocks again, the
   first to write was seen to be up to twice as fast as the second. Medians are shown, and geometric means of ratios.
   The bar: written and read at half the speed of np.save and fsync, or more.
2. Runs in child processes, with predictions from the store: their peak memory must not depend on the number of draws.
   The bar: what eight times the draws add to it is less than a twentieth of what they add to the disk.
3. Steps of `sgld`, which are the cheapest, at B = 256 on a network of a million parameters, one draw in 50 kept, with a
   store and without, in turns. The bar: a store costs less than 5 %. Other work on the machine spoils this one.

Prints PASS or FAIL, which is also the exit code.
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
MEMORY_DRAWS = (100, 200, 400, 800)
FAILURES = []


def check(passed, text):
    if not passed:
        FAILURES.append(text)


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
    for repeat in range(repeats):
        for folder in (plain, store):
            shutil.rmtree(folder, ignore_errors=True)
        plain.mkdir()
        writes = [
            ("np.save + fsync", lambda: write_plain(plain, flat, count)),
            ("store, written", lambda: write_store(store, blocks, count)),
        ]
        reads = [("np.load", lambda: read_plain(plain, count)), ("store, read", lambda: read_store(store, count))]
        for name, work in writes[:: 1 - 2 * (repeat % 2)] + reads:
            begin = time.perf_counter()
            work()
            found.setdefault(name, []).append(megabytes / (time.perf_counter() - begin))
    for name, values in found.items():
        print(f"{name:18s} {statistics.median(values):7.0f} MB/s  ({min(values):.0f} to {max(values):.0f})")
    for name in ("store, written", "store, read"):
        pairs = zip(found[name], found["np.save + fsync"], strict=True)
        ratio = statistics.geometric_mean(ours / theirs for ours, theirs in pairs)
        print(f"{name} over np.save + fsync: {ratio:.2f} (bar 0.5)", flush=True)
        check(ratio >= 0.5, f"{name} at {ratio:.2f} of the speed of np.save and fsync")


def make_problem(rows):
    import jax

    import smilax as sx

    network = sx.models.mlp(784, 10, hidden=(1000, 200))
    posterior = sx.bnn(network, sx.likelihoods.Categorical(), sx.priors.Normal(), num_data=rows)
    x = np.random.default_rng(0).normal(size=(rows, 784)).astype(np.float32)
    y = (np.arange(rows) % 10).astype(np.int32)
    return posterior, (x, y), posterior.init(jax.random.key(0))


def peak_of_run(folder, draws):
    """In a child: a run of a million parameters with a store; its peak in MB."""
    import jax

    import smilax as sx

    posterior, data, start = make_problem(64)
    sx.sample(
        jax.random.key(0), sx.sgld(posterior, 1e-7), data, start, num_chains=2, num_warmup=1, num_samples=draws,
        batch_size=8, store=folder, progress_bar=False,
    )  # fmt: skip
    print(peak())


def peak_of_predict(folder):
    """In a child: predictions from the store; its peak in MB."""
    import smilax as sx

    posterior, (x, _), _ = make_problem(64)
    assert np.isfinite(sx.predict(posterior, sx.load(folder), x).probs).all()
    print(peak())


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def memory(where):
    size = 2 * sum(int(np.prod(s)) for s in SHAPES.values()) * 4 / 1e6
    found = {}
    for draws in MEMORY_DRAWS:
        folder = Path(where) / f"run-{draws}"
        found[draws] = []
        for arguments in (["--peak", str(folder), str(draws)], ["--peak", str(folder)]):
            command = [sys.executable, __file__, *arguments]
            found[draws].append(float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout))
        run, predict = found[draws]
        print(
            f"{draws} draws, {draws * size:.0f} MB on disk: peak of the run {run:.0f} MB, of predict {predict:.0f} MB"
        )
        shutil.rmtree(folder)
    few, many = min(MEMORY_DRAWS), max(MEMORY_DRAWS)
    for name, less, more in zip(("run", "predict"), found[few], found[many], strict=True):
        check(more - less < 0.05 * (many - few) * size, f"memory of {name} grows from {less:.0f} to {more:.0f} MB")


def overhead(steps, repeats, where):
    import jax

    import smilax as sx

    posterior, data, start = make_problem(1000)
    found, folder = {"without": [], "with": []}, Path(where) / "cost"
    # The program is the same in all runs: it is compiled once, in a first one that does not count.
    jax.config.update("jax_compilation_cache_dir", str(Path(where) / "cache"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    for number in range(repeats + 1):
        for name, times in found.items():
            begin = time.perf_counter()
            sx.sample(
                jax.random.key(0), sx.sgld(posterior, 1e-7), data, start, num_chains=2, num_warmup=0,
                num_samples=steps, thinning=50, batch_size=256, store=folder if name == "with" else None,
                progress_bar=False,
            )  # fmt: skip
            if number:
                times.append(time.perf_counter() - begin)
            shutil.rmtree(folder, ignore_errors=True)
    cost = statistics.median(b / a for a, b in zip(found["without"], found["with"], strict=True)) - 1
    for name, times in found.items():
        print(
            f"{name} a store: {steps / statistics.median(times):.2f} steps/s  ({min(times):.1f} to {max(times):.1f} s)"
        )
    print(f"a store costs {cost:.1%} (bar 5 %)", flush=True)
    check(cost < 0.05, f"a store costs {cost:.1%}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--only", choices=["speed", "memory", "cost"], help="one part only")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--peak", nargs="+", metavar="WHAT", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        folder, *draws = arguments.peak
        peak_of_run(folder, int(draws[0])) if draws else peak_of_predict(folder)
        return 0
    print(f"load of the machine before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory(dir=".", prefix=".bench-") as where:
        if arguments.only in (None, "speed"):
            speeds(arguments.draws, arguments.repeats, where)
            for name in ("store", "plain"):
                shutil.rmtree(Path(where) / name)
        if arguments.only in (None, "memory"):
            memory(where)
        if arguments.only in (None, "cost"):
            overhead(arguments.steps, arguments.repeats, where)
    print("FAIL: " + "; ".join(FAILURES) if FAILURES else "PASS")
    return int(bool(FAILURES))


if __name__ == "__main__":
    sys.exit(main())
