"""Normal numbers and random words: `smilax.threefry` against `jax.random`, microseconds per array in a compiled loop.

python benchmarks/normal_numbers.py
"""

import time
from statistics import median

import jax
import jax.numpy as jnp

from smilax import threefry

REPEATS, TOTAL = 9, 10**7
SHAPES = ((16, 16), (754,), (305, 305), (100_000,), (3, 3, 100, 111))
FLOAT = jnp.dtype("float32")
FUNCTIONS = {
    "normal, smilax": lambda key, shape: threefry.normal(key, shape, FLOAT),
    "normal, jax": lambda key, shape: jax.random.normal(key, shape, FLOAT),
    "words, smilax": lambda key, shape: threefry.bits(key, shape).astype(FLOAT),
    "words, jax": lambda key, shape: jax.random.bits(key, shape, jnp.uint32).astype(FLOAT),
}


def loop(function, shape, steps):
    """The program that adds `steps` such arrays up."""

    def run(key, start):
        return jax.lax.fori_loop(0, steps, lambda t, x: 0.9 * x + function(jax.random.fold_in(key, t), shape), start)

    arguments = jax.random.key(0), jnp.zeros(shape, FLOAT)
    program = jax.jit(run).lower(*arguments).compile()
    jax.block_until_ready(program(*arguments))
    return lambda: jax.block_until_ready(program(*arguments))


def main():
    print(f"{'shape':20}" + "".join(f"{name:>16}" for name in FUNCTIONS))
    for shape in SHAPES:
        steps = max(TOTAL // 5 // max(jnp.zeros(shape).size, 1000), 10)
        programs = {name: loop(function, shape, steps) for name, function in FUNCTIONS.items()}
        times = {name: [] for name in programs}
        for _ in range(REPEATS):
            for name, program in programs.items():
                begin = time.perf_counter()
                program()
                times[name].append((time.perf_counter() - begin) / steps * 1e6)
        print(f"{shape!s:20}" + "".join(f"{median(found):16.1f}" for found in times.values()), flush=True)


if __name__ == "__main__":
    main()
