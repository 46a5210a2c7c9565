"""A network of one's own from Flax: from the module to calibrated intervals."""

import flax.linen as nn
import jax
import numpy as np
from sklearn.datasets import load_diabetes

import smilax as sx

x, y = load_diabetes(return_X_y=True)
x, y = ((v - v.mean(0)) / v.std(0) for v in (x.astype(np.float32), y.astype(np.float32)))
train, valid, test = ((x[rows], y[rows]) for rows in (slice(0, 300), slice(300, 340), slice(340, None)))

network = sx.from_flax(nn.Sequential([nn.Dense(12), nn.tanh, nn.Dense(1)]), x[:1])
posterior = sx.bnn(network, sx.likelihoods.Gaussian(), sx.priors.Normal(0.0, 1.0), num_data=len(train[1]))
members = sx.train_ensemble(jax.random.key(0), posterior, train, valid, num_members=4, batch_size=32)
result = sx.sample(
    jax.random.key(1), sx.ismile(posterior), train, members,
    num_warmup=2000, num_samples=2000, thinning=20, batch_size=64, progress_bar=False,
)  # fmt: skip
prediction = sx.predict(posterior, result, test[0])
lower, upper = prediction.quantile(np.array([0.05, 0.95]))

print(f"LPPD {sx.metrics.lppd(prediction, test[1]):.2f}, of the ensemble alone", end=" ")
print(f"{sx.metrics.lppd(sx.predict(posterior, members, test[0]), test[1]):.2f}")
print(f"90 % intervals hold {np.mean((lower <= test[1]) & (test[1] <= upper)):.0%} of the test rows")
