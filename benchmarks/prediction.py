"""Predictions per second from many draws, and the memory they take.

    python benchmarks/prediction.py

`sx.predict` on the network 11-16-16-16-1 and on one of 100,000 parameters, draws × rows a second: all at once as far as
`max_memory` goes, against one draw after another with a compiled forward pass. The bar: never slower than that.
Prints PASS or FAIL, which is also the exit code.
"""

import sys
import time
from statistics import median

import jax
import jax.numpy as jnp
import numpy as np

import smilax as sx

CASES = [((16, 16, 16), 1000, 2000), ((16, 16, 16), 1000, 20_000), ((300, 300), 100, 2000)]
FEATURES, ROUNDS = 11, 5


def main():
    print(f"{'hidden':<16}{'draws':>7}{'rows':>8}{'predict':>14}{'one by one':>14}   draws x rows a second")
    holds = True
    for hidden, draws, rows in CASES:
        network = sx.models.mlp(FEATURES, 1, hidden=hidden)
        posterior = sx.bnn(network, sx.likelihoods.Gaussian(), sx.priors.Normal(), num_data=1000)
        params = jax.tree.map(np.asarray, jax.vmap(posterior.init)(jax.random.split(jax.random.key(0), draws)))
        x = np.random.default_rng(0).normal(size=(rows, FEATURES)).astype(np.float32)
        forward = jax.jit(posterior.outputs)

        def one_by_one(params=params, x=x, forward=forward, draws=draws):
            device = jnp.asarray(x)
            return [np.asarray(forward(jax.tree.map(lambda p, k=k: p[k], params), device)) for k in range(draws)]

        def together(params=params, x=x, posterior=posterior):
            prediction = sx.predict(posterior, params, x)
            return prediction.mean

        times = {together: [], one_by_one: []}
        for function in times:
            function()
        for _ in range(ROUNDS):
            for function, values in times.items():
                begin = time.perf_counter()
                function()
                values.append(time.perf_counter() - begin)
        rates = [draws * rows / median(values) for values in times.values()]
        holds &= rates[0] >= rates[1]
        print(f"{'-'.join(map(str, hidden)):<16}{draws:>7}{rows:>8}{rates[0]:>14.3g}{rates[1]:>14.3g}")
    print("PASS" if holds else "FAIL")
    return int(not holds)


if __name__ == "__main__":
    sys.exit(main())
