"""What `ismile` makes of a wide network, by geometry and shrinkage.

    python benchmarks/wide_network.py
    python benchmarks/wide_network.py --data-dir FOLDER --seeds 1 2

Bikesharing (17,379 rows; from OpenML without `--data-dir`), two hidden layers of 200, six chains from a deep ensemble,
3,000 steps of warm-up and 3,000 of sampling with batches of 256. "Noise" is the level of the batch noise at the draws
over that which the geometry has learnt, of the chain where it is highest: where it is far above one, units that were
dead in warm-up have come to life, and meet steps far too long for them. Prints one row a run.
"""

import argparse
import time

import jax

import smilax as sx

WIDTH, CHAINS, STEPS, BATCH = 200, 6, 3000, 256
RUNS = [
    {"geometry": "kronecker"},
    {"geometry": "kronecker", "shrinkage": 0.0},
    {"geometry": "kronecker", "max_side": 1024},
    {"geometry": "kronecker", "max_side": 1024, "shrinkage": 0.0},
    {"geometry": "diagonal"},
    {"geometry": "diagonal", "shrinkage": 0.0},
]
COLUMNS = f"{'lppd':>8}{'rmse':>8}{'noise':>10}{'rejects':>9}{'R-hat':>7}{'lost':>5}{'seconds':>9}"


def scores(posterior, options, members, data, test, seed):
    algorithm = sx.ismile(posterior, **options)
    begin = time.perf_counter()
    result = sx.sample(
        jax.random.key(seed), algorithm, data, members, num_warmup=STEPS, num_samples=STEPS, thinning=10,
        batch_size=BATCH, progress_bar=False,
    )  # fmt: skip
    seconds = time.perf_counter() - begin
    prediction = sx.predict(posterior, result, test[0])
    diagnosis = sx.diagnose(result, algorithm, data, inputs=test[0])
    return (
        f"{sx.metrics.lppd(prediction, test[1]):8.3f}{sx.metrics.rmse(prediction, test[1]):8.3f}"
        f"{max(diagnosis['noise level'].details['chains']):10.2g}{diagnosis['rejects'].value:9.2%}"
        f"{diagnosis['split R-hat'].value:7.2f}{int(diagnosis['lost chains'].value):5}{seconds:9.0f}"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", help="folder with uci_tabular.npz; OpenML without it")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--outputs", type=int, choices=(1, 2), default=1, help="2: the network gives the sd as well")
    options = parser.parse_args()
    print(f"{'seed':<6}{'geometry':<11}{'max_side':>9}{'shrinkage':>11}{COLUMNS}", flush=True)
    for seed in options.seeds:
        split = sx.datasets.uci("bikesharing", options.data_dir, seed=seed)
        network = sx.models.mlp(split.train[0].shape[1], options.outputs, hidden=(WIDTH, WIDTH))
        likelihood = sx.likelihoods.Gaussian("input" if options.outputs == 2 else None)
        posterior = sx.bnn(network, likelihood, sx.priors.Normal(0.0, 1.0), num_data=len(split.train[0]))
        members = sx.train_ensemble(
            jax.random.key(100 + seed), posterior, split.train, split.valid, num_members=CHAINS, batch_size=64
        )
        start = sx.predict(posterior, members, split.test[0])
        scored = f"{sx.metrics.lppd(start, split.test[1]):8.3f}{sx.metrics.rmse(start, split.test[1]):8.3f}"
        print(f"{seed:<6}{'the deep ensemble':<31}{scored}", flush=True)
        for run in RUNS:
            config = sx.ismile(posterior, **run).config
            named = f"{seed:<6}{config['geometry']:<11}{config['max_side']:9}{config['shrinkage']:11}"
            print(named + scores(posterior, run, members, split.train, split.test, seed), flush=True)


if __name__ == "__main__":
    main()
