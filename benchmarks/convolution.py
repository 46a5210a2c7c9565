"""What a LeNet gradient costs inside a compiled loop, over what it costs alone. The bar is 1.2.

Three programs take turns: the gradient alone, called again and again; the same gradient within `lax.scan`; and the
gradient alone with XLA's own convolution, for comparison.
"""

import time
from statistics import median

import jax
import jax.numpy as jnp
import numpy as np

import smilax as sx
from smilax.models import convolution

BATCH, STEPS, REPEATS, BAR = 512, 5, 9, 1.2


def make_gradient():
    network = sx.models.lenet()
    posterior = sx.bnn(network, sx.likelihoods.Categorical(), sx.priors.Normal(0.0, 1.0), num_data=60_000)
    gradient = jax.grad(posterior.log_density)
    return posterior, gradient


def timed(function, *args):
    start = time.perf_counter()
    jax.block_until_ready(function(*args))
    return (time.perf_counter() - start) / STEPS


def main():
    rng = np.random.default_rng(0)
    batch = (
        jnp.asarray(rng.integers(0, 256, (BATCH, 28, 28)), jnp.uint8),
        jnp.asarray(rng.integers(0, 10, BATCH), jnp.int32),
    )
    posterior, gradient = make_gradient()
    params = posterior.init(jax.random.key(0))

    # Each step moves the parameters a little, so that no gradient is that of the step before.
    def step(params, batch):
        return jax.tree.map(lambda p, g: p + 1e-9 * g, params, gradient(params, batch))

    def compiled(function):
        return jax.jit(function).lower(params, batch).compile()

    alone = compiled(step)
    scanned = compiled(lambda params, batch: jax.lax.scan(lambda p, _: (step(p, batch), None), params, length=STEPS)[0])
    ours, convolution.convolve = convolution.convolve, convolution.by_library
    library = compiled(step)
    library_scanned = compiled(
        lambda params, batch: jax.lax.scan(lambda p, _: (step(p, batch), None), params, length=STEPS)[0]
    )
    convolution.convolve = ours

    def repeat(program):
        def run(params, batch):
            for _ in range(STEPS):
                params = jax.block_until_ready(program(params, batch))
            return params

        return run

    programs = {
        "alone": repeat(alone),
        "in scan": scanned,
        "alone, XLA's convolution": repeat(library),
        "in scan, XLA's convolution": library_scanned,
    }
    for program in programs.values():
        timed(program, params, batch)
    seconds = {name: [] for name in programs}
    for _ in range(REPEATS):
        for name, program in programs.items():
            seconds[name].append(timed(program, params, batch))
    print(f"LeNet gradient, batch {BATCH}, {jax.default_backend()}, medians of {REPEATS} interleaved repeats")
    for name, values in seconds.items():
        print(f"  {name:<27} {1e3 * median(values):7.1f} ms")
    ratio = median(seconds["in scan"]) / median(seconds["alone"])
    best = median(seconds["in scan"]) / min(median(values) for name, values in seconds.items() if "alone" in name)
    print(f"in scan / alone = {ratio:.2f} (bar: {BAR}); in scan / the faster of both alone = {best:.2f}")
    return ratio


if __name__ == "__main__":
    raise SystemExit(main() > BAR)
