"""A network of one's own from Equinox, whose noise depends on the input: from the module to calibrated intervals."""

import equinox as eqx
import jax
import numpy as np

import smilax as sx

rng = np.random.default_rng(0)
x = rng.uniform(-2, 2, size=(500, 1)).astype(np.float32)
y = (np.sin(2 * x[:, 0]) + rng.normal(size=500) * (0.1 + 0.2 * (x[:, 0] > 0))).astype(np.float32)
train, valid, test = ((x[rows], y[rows]) for rows in (slice(0, 300), slice(300, 350), slice(350, None)))

# Two outputs: the mean, and the logarithm of the noise's standard deviation.
network = sx.from_equinox(lambda key: eqx.nn.MLP(1, 2, width_size=12, depth=2, activation=jax.numpy.tanh, key=key))
posterior = sx.bnn(network, sx.likelihoods.Gaussian("input"), sx.priors.Normal(0.0, 1.0), num_data=len(train[1]))
members = sx.train_ensemble(jax.random.key(0), posterior, train, valid, num_members=4, batch_size=32)
result = sx.sample(
    jax.random.key(1), sx.ismile(posterior), train, members,
    num_warmup=2000, num_samples=2000, thinning=20, batch_size=64, progress_bar=False,
)  # fmt: skip
prediction = sx.predict(posterior, result, test[0])
lower, upper = prediction.quantile(np.array([0.05, 0.95]))
left = test[0][:, 0] < 0

print(f"LPPD {sx.metrics.lppd(prediction, test[1]):.2f}")
print(f"width of the intervals where there is little noise {np.mean((upper - lower)[left]):.2f}", end=", ")
print(f"where there is more {np.mean((upper - lower)[~left]):.2f}")
print(f"90 % intervals hold {np.mean((lower <= test[1]) & (test[1] <= upper)):.0%} of the test rows")
