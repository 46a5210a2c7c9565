"""The paper's tabular protocol, full length: deep ensemble, published samplers, ismile.

    python benchmarks/tabular.py --data-dir FOLDER --sets airfoil energy --samplers smile_naive psmile_naive
    python benchmarks/tabular.py --data-dir FOLDER --sets airfoil energy bikesharing --samplers ismile

Network 16-16-16-1, Gaussian likelihood with one learned log scale, prior N(0, 1); warm start by AdamW (0.01, weight
decay 0.005, batch 64, at most 200 epochs, patience 10), 10 chains, B = 256, 50,000 + 10,000 steps, thinning 10.
Units are those of the standardised target; scores are over the whole test set. ismile takes independent batches, finds
its step size, and reports function-space R-hat too. Prints one row per run, as CSV.
"""

import argparse
import sys
import time

import jax

import smilax as sx


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", help="folder with uci_tabular.npz and smile_permutations.npz (default: OpenML)")
    parser.add_argument("--sets", nargs="+", default=["airfoil", "energy"])
    parser.add_argument("--samplers", nargs="+", default=["smile_naive", "psmile_naive"])
    parser.add_argument("--orders", nargs="+", default=["epochs"], choices=["epochs", "independent"])
    parser.add_argument("--step-sizes", nargs="+", type=float, default=[1e-3])
    parser.add_argument("--geometry", default="auto", help="of ismile")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument("--num-warmup", type=int, default=50_000)
    parser.add_argument("--num-samples", type=int, default=10_000)
    parser.add_argument("--num-chains", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=256)
    args = parser.parse_args()

    print("set,seed,method,batches,step_size,lppd,rmse,coverage90,worst_chain_rmse,accepted,seconds,chain_steps_per_s")
    for name in args.sets:
        for seed in args.seeds:
            run_set(name, seed, args)


def run_set(name, seed, args):
    train, valid, test = sx.datasets.uci(name, args.data_dir, seed=seed)
    network = sx.models.mlp(train[0].shape[1], 1, hidden=(16, 16, 16))
    posterior = sx.bnn(network, sx.likelihoods.Gaussian(), sx.priors.Normal(0.0, 1.0), num_data=len(train[1]))
    begin = time.perf_counter()
    members = sx.train_ensemble(
        jax.random.key(seed), posterior, train, valid, num_members=args.num_chains, batch_size=min(64, len(train[1]))
    )
    report(name, seed, "deep_ensemble", "", "", posterior, members, test, 1.0, time.perf_counter() - begin, "")
    for sampler in args.samplers:
        own = sampler == "ismile"  # finds its step size, from independent batches
        for order in ["independent"] if own else args.orders:
            for step_size in ["found"] if own else args.step_sizes:
                options = {"geometry": args.geometry} if own else {"step_size": step_size}
                algorithm = getattr(sx, sampler)(posterior, **options)
                result = sx.sample(
                    jax.random.key(1000 + seed),
                    algorithm,
                    sx.Batches(train, order=order),
                    members,
                    num_warmup=args.num_warmup,
                    num_samples=args.num_samples,
                    thinning=10,
                    batch_size=args.batch_size,
                    progress_bar=False,
                )
                rate = args.num_chains * (args.num_warmup + args.num_samples) / result.seconds
                accepted = result.info.accepted.mean()
                method = (name, seed, sampler, order, step_size)
                report(*method, posterior, result, test, accepted, result.seconds, f"{rate:.0f}")


def report(name, seed, method, order, step_size, posterior, draws, test, accepted, seconds, rate):
    prediction = sx.predict(posterior, draws, test[0])
    worst = max(sx.metrics.rmse(chain, test[1]) for chain in prediction.chains)
    scores = [
        sx.metrics.lppd(prediction, test[1]),
        sx.metrics.rmse(prediction, test[1]),
        sx.metrics.coverage(prediction, test[1], 0.9),
        worst,
        accepted,
    ]
    numbers = ",".join(f"{score:.4f}" for score in scores)
    print(f"{name},{seed},{method},{order},{step_size},{numbers},{seconds:.1f},{rate}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
