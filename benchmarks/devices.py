"""What a second device, or a second process, adds on two cores.

    python benchmarks/devices.py [--rounds 3]

The tabular network 5-16-16-16-1 with a learned noise scale, 10 chains of `psmile_naive`, B = 256 of 1,000 rows,
`chain_method="parallel"`: on one CPU device; on two simulated ones (axis "chain"); and in two processes that find
each other on loopback, each on a core of its own, as a cluster's launcher would place them (on systems that let a
process choose; two that share the cores get in each other's way). Each case runs in processes of its own, in turns; its
time is that of a long run less that of a short one, so that compilation drops out, and the median of the rounds' ratios
is shown. The bar: two give at least 1.5 times the chain-steps per second of one. Other work on the machine spoils this.

Prints PASS or FAIL, which is also the exit code.
"""

import argparse
import os
import socket
import subprocess
import sys
import time
from statistics import median

ROWS, FEATURES, BATCH_SIZE, CHAINS = 1000, 5, 256, 10
SHORT, LONG, BAR = 2_000, 22_000, 1.5
CASES = {"one device": (1, 1), "two devices": (2, 1), "two processes": (1, 2)}  # devices of a process, processes


def rate(address, processes, number):
    """In a child: chain-steps per second."""
    if processes > 1 and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[number % processes :: processes])
    # Only now, because the compiler's threads are counted when it is loaded.
    import jax
    import numpy as np

    import smilax as sx

    if processes > 1:
        sx.distributed.initialize(address, processes, number)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, FEATURES)).astype(np.float32)
    y = (np.sin(x[:, :1]) + 0.1 * rng.normal(size=(ROWS, 1))).astype(np.float32)
    network = sx.models.mlp(FEATURES, 1, hidden=(16, 16, 16))
    posterior = sx.bnn(network, sx.likelihoods.Gaussian(), sx.priors.Normal(), num_data=ROWS)
    start = jax.tree.map(np.asarray, posterior.init(jax.random.key(0)))
    mesh = jax.make_mesh((jax.device_count(),), ("chain",))

    def seconds(steps):
        begin = time.perf_counter()
        sx.sample(
            jax.random.key(0), sx.psmile_naive(posterior, 1e-3), (x, y), start, num_chains=CHAINS, num_warmup=0,
            num_samples=steps, thinning=100, batch_size=BATCH_SIZE, chain_method="parallel", mesh=mesh,
            progress_bar=False,
        )  # fmt: skip
        return time.perf_counter() - begin

    seconds(SHORT)
    short = seconds(SHORT)
    print(CHAINS * (LONG - SHORT) / (seconds(LONG) - short))


def measure(devices, processes):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    children = [
        subprocess.Popen(
            [sys.executable, __file__, "--child", address, str(processes), str(number)],
            env=os.environ | {"XLA_FLAGS": flags.strip()}, stdout=subprocess.PIPE, text=True,
        )
        for number in range(processes)
    ]  # fmt: skip
    try:
        outputs = [child.communicate()[0] for child in children]
    finally:
        for child in children:
            child.kill()
    if any(child.returncode for child in children):
        raise SystemExit("a child failed")
    return float(outputs[0].split()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", nargs=3, metavar=("ADDRESS", "PROCESSES", "NUMBER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        address, processes, number = arguments.child
        rate(address, int(processes), int(number))
        return 0
    print(f"load of the machine before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    found = {name: [] for name in CASES}
    for _ in range(arguments.rounds):
        for name, case in CASES.items():
            found[name].append(measure(*case))
    ratios = {}
    for name, values in found.items():
        ratios[name] = median(a / b for a, b in zip(values, found["one device"], strict=True))
        print(f"{name:14s} {median(values):8.0f} chain-steps/s  ({min(values):.0f} to {max(values):.0f})", end="")
        print(f"  {ratios[name]:.2f} times one device")
    best = min(ratios["two devices"], ratios["two processes"])
    print("PASS" if best >= BAR else f"FAIL: {best:.2f} is below {BAR}")
    return int(best < BAR)


if __name__ == "__main__":
    sys.exit(main())
