"""`SmileRegressor()` with its defaults against scikit-learn: ten MLPRegressors, and a Gaussian process.

    python benchmarks/estimators.py
    python benchmarks/estimators.py --data-dir FOLDER --seeds 1 2 3

Sets: diabetes and Friedman's three functions (500 rows, noise of a tenth to a half of the signal), which scikit-learn
ships or computes; with `--data-dir` also airfoil, energy and 6,250 rows of bikesharing from its `uci_tabular.npz`, in
their own units. Each is split 80/20 at random, once per seed. The rival is ten MLPRegressors of the same two hidden
layers of 32, early stopping on a tenth of the rows, on standardised data. Its sigma comes from the residuals of another
tenth that no network sees, in two ways: one normal law around the mean of the networks, and a mixture of ten, each with
its own sigma. LPPD is in nats per test row and units of the target's standard deviation on the training rows. The
Gaussian process has an RBF kernel with one length per feature and learned noise, fitted once by L-BFGS, to 5,000 rows.
Prints one row per run, as CSV, then means.
"""

import argparse
import os
import sys
import time
import warnings
from pathlib import Path

import numpy as np
from scipy.special import logsumexp
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import load_diabetes, make_friedman1, make_friedman2, make_friedman3
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import smilax as sx

ROWS_5000 = 5000
Z_90 = 1.6448536269514722


def load(name, data_dir):
    """Features and target of a set, in their own units."""
    if name == "diabetes":
        return load_diabetes(return_X_y=True)
    if name == "friedman1":
        return make_friedman1(500, noise=1.0, random_state=0)
    if name == "friedman2":
        return make_friedman2(500, noise=100.0, random_state=0)
    if name == "friedman3":
        return make_friedman3(500, noise=0.15, random_state=0)
    with np.load(Path(data_dir) / "uci_tabular.npz") as arrays:
        table = arrays[name]
    if len(table) > 1.25 * ROWS_5000:
        table = table[np.random.default_rng(0).permutation(len(table))[: ROWS_5000 * 5 // 4]]
    return table[:, :-1].astype(np.float64), table[:, -1].astype(np.float64)


def smile(x, y, x_test, y_test, seed):
    """LPPD (of standardised targets), RMSE, share of targets in 90 % intervals."""
    model = sx.SmileRegressor(random_state=seed).fit(x, y)
    lower, upper = model.predict_interval(x_test, 0.9)
    mean = model.predict(x_test)
    return model.log_prob(x_test, y_test).mean(), mean, np.mean((lower <= y_test) & (y_test <= upper))


def networks(x, y, x_test, y_test, seed):
    """The same of ten MLPRegressors: of one normal law, and of the mixture of ten."""
    x, held_x, y, held_y = train_test_split(x, y, test_size=0.1, random_state=seed)
    members = [
        TransformedTargetRegressor(
            make_pipeline(
                StandardScaler(),
                MLPRegressor(
                    hidden_layer_sizes=(32, 32), early_stopping=True, max_iter=1000, random_state=100 * seed + k
                ),
            ),
            transformer=StandardScaler(),
        ).fit(x, y)
        for k in range(10)
    ]
    held = np.stack([member.predict(held_x) for member in members])
    means = np.stack([member.predict(x_test) for member in members])
    mean = means.mean(0)
    sigma = np.sqrt(np.mean((held.mean(0) - held_y) ** 2))
    sigmas = np.sqrt(np.mean((held - held_y) ** 2, axis=1))[:, None]
    one = log_normal(y_test, mean, sigma).mean()
    mixture = (logsumexp(log_normal(y_test, means, sigmas), axis=0) - np.log(10)).mean()
    return one, mixture, mean, np.mean(np.abs(y_test - mean) <= Z_90 * sigma)


def log_normal(y, mean, sigma):
    return -0.5 * ((y - mean) / sigma) ** 2 - np.log(sigma) - 0.5 * np.log(2 * np.pi)


def gaussian_process(seed):
    """Seconds that scikit-learn's Gaussian process and `SmileRegressor()` take for 5,000 rows of ten features."""
    x, y = make_friedman1(ROWS_5000 + 1000, noise=1.0, random_state=seed)
    (x, x_test), (y, y_test) = np.split(x, [ROWS_5000]), np.split(y, [ROWS_5000])
    unit = np.std(y)
    begin = time.perf_counter()
    kernel = ConstantKernel() * RBF(np.ones(x.shape[1])) + WhiteKernel()
    process = GaussianProcessRegressor(kernel, normalize_y=True).fit((x - x.mean(0)) / x.std(0), y)
    mean, std = process.predict((x_test - x.mean(0)) / x.std(0), return_std=True)
    seconds = time.perf_counter() - begin
    score = log_normal(y_test, mean, std).mean() + np.log(unit)
    print(f"# {ROWS_5000} rows: GaussianProcessRegressor {seconds:.0f} s, LPPD {score:.3f}", flush=True)
    begin = time.perf_counter()
    score = smile(x, y, x_test, y_test, seed)[0] + np.log(unit)
    seconds = time.perf_counter() - begin
    print(f"# {ROWS_5000} rows: SmileRegressor {seconds:.0f} s, LPPD {score:.3f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", help="folder with uci_tabular.npz; without it sets that scikit-learn has")
    parser.add_argument("--sets", nargs="+", help="some of them only")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--no-gaussian-process", action="store_true")
    args = parser.parse_args()
    sets = ["diabetes", "friedman1", "friedman2", "friedman3"]
    sets += ["airfoil", "energy", "bikesharing"] if args.data_dir else []
    # Early stopping may not come within the epochs; a constant feature of a small split is no concern here.
    warnings.simplefilter("ignore", ConvergenceWarning)
    print(f"# {os.cpu_count()} cores")
    print("set,seed,rows,method,lppd,lppd_mixture,rmse,coverage90,seconds")
    found = []
    for name in args.sets or sets:
        x, y = load(name, args.data_dir)
        for seed in args.seeds:
            x_train, x_test, y_train, y_test = train_test_split(x, y, test_size=0.2, random_state=seed)
            unit = y_train.std()
            scores = []
            for method, fit in (("SmileRegressor", smile), ("10 MLPRegressors", networks)):
                begin = time.perf_counter()
                *lppds, mean, coverage = fit(x_train, y_train, x_test, y_test, seed)
                seconds = time.perf_counter() - begin
                lppds = [value + np.log(unit) for value in lppds]
                rmse = np.sqrt(np.mean((mean - y_test) ** 2)) / unit
                columns = [f"{lppds[0]:.4f}", f"{lppds[1]:.4f}" if len(lppds) > 1 else ""]
                numbers = ",".join([*columns, f"{rmse:.4f}", f"{coverage:.4f}", f"{seconds:.1f}"])
                print(f"{name},{seed},{len(y_train)},{method},{numbers}", flush=True)
                scores.append((max(lppds), coverage))
            found.append((name, *scores[0], *scores[1]))
    print("\nset               LPPD smile   best of two MLP   90 % covers: smile   MLP")
    for name in [*dict.fromkeys(row[0] for row in found), "mean"]:
        rows = np.array([row[1:] for row in found if name in (row[0], "mean")]).mean(0)
        print(f"{name:<18}{rows[0]:10.3f}{rows[2]:18.3f}{rows[1]:21.3f}{rows[3]:6.3f}")
    if not args.no_gaussian_process:
        gaussian_process(args.seeds[0])


if __name__ == "__main__":
    sys.exit(main())
