"""What one sampler step costs inside the compiled loop, in gradients, and what a second core adds.

Network 11-16-16-16-1 with a learned noise scale (754 parameters, packed), batches of 256, float32, CPU.

1. One chain on a fixed batch, each program a loop of 2,000 steps; the programs take turns. The unit is a value and
   gradient, within such a loop or in a call of its own, whichever is faster. The published integrator evaluates two
   gradients a step, so the floor is 2.00. The bar: `psmile_naive` at most 2.3. Drawing a batch (independent, without
   replacement, of 8,000 rows) is reported apart: in a loop of its own, and as part of the step, where it was seen
   to cost more when other work kept the second core busy.
2. `sx.sample`, batches included: chain-steps per second of one chain (`"sequential"`) and of ten (`"vectorized"`, which
   threads spread over the cores). Time is that of a long run less that of a short one, so compilation drops out. The
   bar: ten give at least 1.7 times the chain-steps per second of one. Other work on the machine spoils this one.

Prints tables, then PASS or FAIL, which is also the exit code.
"""

import os
import sys
import tempfile
import time
from statistics import median

import jax
import jax.numpy as jnp
import numpy as np

import smilax as sx
from smilax.packing import pack

NUM_DATA, BATCH_SIZE, FEATURES = 8000, 256, 11
STEPS, REPEATS, COST_BAR = 2000, 21, 2.3
SHORT, LONG, ROUNDS, CHAINS, RATIO_BAR = 2_000, 32_000, 3, 10, 1.7
STEP_SIZE = 1e-3


def make_problem():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(NUM_DATA, FEATURES)).astype(np.float32)
    y = (np.sin(x[:, :1]) + 0.1 * rng.normal(size=(NUM_DATA, 1))).astype(np.float32)
    network = sx.models.mlp(FEATURES, 1, hidden=(16, 16, 16))
    posterior = sx.bnn(network, sx.likelihoods.Gaussian(), sx.priors.Normal(0.0, 1.0), num_data=NUM_DATA)
    return posterior, (x, y), posterior.init(jax.random.key(0))


def loop_programs(posterior, data, params):
    """`{name: function without arguments, worth STEPS steps}`, compiled."""
    packed = pack(params)
    assert packed.buffer.size == 754
    batch = jax.tree.map(lambda a: jnp.asarray(a[:BATCH_SIZE]), data)
    key = jax.random.key(1)

    def compiled(function, *arguments):
        program = jax.jit(function).lower(*arguments).compile()
        return lambda: jax.block_until_ready(program(*arguments))

    def one_gradient(params, batch):
        value, gradient = posterior.value_and_grad(params, batch)
        # The result feeds the next gradient, so that the compiler cannot take it out of the loop.
        return jax.tree.map(lambda p, g: p + 1e-9 * g, params, gradient), value.total

    def gradients(params, batch):
        def body(_, carry):
            params, sum_of_values = carry
            params, value = one_gradient(params, batch)
            return params, sum_of_values + value

        return jax.lax.fori_loop(0, STEPS, body, (params, jnp.zeros(())))

    alone = jax.jit(one_gradient).lower(packed, batch).compile()

    def gradients_alone():
        params = packed
        for _ in range(STEPS):
            params, _ = jax.block_until_ready(alone(params, batch))

    def steps(algorithm, data=batch, draw=lambda batch, t: batch):
        def run(key, state, data):
            def body(t, carry):
                state, _ = carry
                return algorithm.step(jax.random.fold_in(key, t), state, draw(data, t))

            _, info = jax.eval_shape(algorithm.step, key, state, batch)
            blank = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), info)
            return jax.lax.fori_loop(0, STEPS, body, (state, blank))

        return compiled(run, key, algorithm.init(key, packed), data)

    batches = sx.Batches(data)
    rows = jax.tree.map(jnp.asarray, data)

    def draws(key, rows):
        def body(t, total):
            x, y = batches.draw(rows, key, t, BATCH_SIZE)
            # All of it is read, as a sampler would.
            return total + jnp.sum(x) + jnp.sum(y)

        return jax.lax.fori_loop(0, STEPS, body, jnp.zeros(()))

    programs = {"gradient, in the loop": compiled(gradients, packed, batch), "gradient, alone": gradients_alone}
    for make in (sx.smile_naive, sx.psmile_naive, sx.psmile, sx.mclmc):
        programs[make.__name__] = steps(make(posterior, STEP_SIZE))
    programs["batch drawn, alone"] = compiled(draws, key, rows)
    programs["psmile_naive with it"] = steps(
        sx.psmile_naive(posterior, STEP_SIZE), rows, lambda rows, t: batches.draw(rows, key, t, BATCH_SIZE)
    )
    return programs


def timed(program):
    begin = time.perf_counter()
    program()
    return 1e6 * (time.perf_counter() - begin) / STEPS


def step_costs(posterior, data, params):
    """Prints the table; returns the cost of `psmile_naive` in gradients."""
    programs = loop_programs(posterior, data, params)
    for program in programs.values():
        program()
    times = {name: [] for name in programs}
    for _ in range(REPEATS):
        for name, program in programs.items():
            times[name].append(timed(program))
    middle = {name: median(values) for name, values in times.items()}
    least = {name: min(values) for name, values in times.items()}
    unit, least_unit = (min(t["gradient, in the loop"], t["gradient, alone"]) for t in (middle, least))
    print(f"one chain, d = 754, B = {BATCH_SIZE}, fixed batch: {REPEATS} interleaved repeats of {STEPS} steps")
    print(f"{'':<24}{'median µs':>10}{'gradients':>11}{'min µs':>10}{'gradients':>11}")
    for name in programs:
        print(
            f"{name:<24}{middle[name]:>10.2f}{middle[name] / unit:>11.2f}"
            f"{least[name]:>10.2f}{least[name] / least_unit:>11.2f}"
        )
    return middle["psmile_naive"] / unit


def chain_steps_per_second(posterior, data, params):
    """Prints the table; returns the ratio of ten chains to one."""

    def seconds(num_chains, num_samples):
        return sx.sample(
            jax.random.key(0), sx.psmile_naive(posterior, STEP_SIZE), data, params, num_chains=num_chains,
            num_warmup=0, num_samples=num_samples, thinning=100, batch_size=BATCH_SIZE,
            chain_method="sequential" if num_chains == 1 else "vectorized", progress_bar=False,
        ).seconds  # fmt: skip

    rates = {1: [], CHAINS: []}
    for _ in range(ROUNDS):
        for num_chains, values in rates.items():
            used = seconds(num_chains, LONG) - seconds(num_chains, SHORT)
            values.append(num_chains * (LONG - SHORT) / used)
    print(f"\nsx.sample, psmile_naive, batches drawn: chain-steps per second, {ROUNDS} interleaved rounds")
    for num_chains, values in rates.items():
        name = f"{num_chains} chain{'s' * (num_chains > 1)}"
        print(f"{name:<24}{median(values):>10.0f} (from {min(values):.0f} to {max(values):.0f})")
    return median(rates[CHAINS]) / median(rates[1])


def main():
    begin = time.perf_counter()
    load = f", load {os.getloadavg()[0]:.1f} before" if hasattr(os, "getloadavg") else ""
    print(f"{jax.default_backend()}, {os.cpu_count()} cores{load}")
    posterior, data, params = make_problem()
    cost = step_costs(posterior, data, params)
    with tempfile.TemporaryDirectory() as cache:
        # Long and short runs share a program but for its number of slots: what can be read back need not be timed.
        jax.config.update("jax_compilation_cache_dir", cache)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        ratio = chain_steps_per_second(posterior, data, params)
        jax.config.update("jax_compilation_cache_dir", None)
    claims = [
        (f"psmile_naive costs {cost:.2f} gradients a step, at most {COST_BAR}", cost <= COST_BAR),
        (f"ten chains give {ratio:.2f} times the chain-steps of one, at least {RATIO_BAR}", ratio >= RATIO_BAR),
    ]
    print()
    for claim, holds in claims:
        print(f"{'PASS' if holds else 'FAIL':<6}{claim}")
    print(f"{time.perf_counter() - begin:.0f} s")
    return 0 if all(holds for _, holds in claims) else 1


if __name__ == "__main__":
    sys.exit(main())
