"""A NumPyro model: draws of its own variables from mini-batches, and intervals that hold what they promise."""

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist

import smilax as sx

rng = np.random.default_rng(0)
group, x = rng.integers(0, 8, 3000), rng.normal(size=3000).astype(np.float32)
y = (rng.normal(size=8)[group] + 0.5 * x + 0.7 * rng.normal(size=3000)).astype(np.float32)


def model(group, x, y=None):
    spread = numpyro.sample("spread", dist.HalfNormal(2.0))
    with numpyro.plate("groups", 8):
        level = numpyro.sample("level", dist.Normal(0.0, spread))
    slope = numpyro.sample("slope", dist.Normal(0.0, 1.0))
    noise = numpyro.sample("noise", dist.HalfNormal(1.0))
    with numpyro.plate("data", len(x)):
        numpyro.sample("y", dist.Normal(level[group] + slope * x, noise), obs=y)


train, test = (group[:2000], x[:2000], y[:2000]), (group[2000:], x[2000:], None)
posterior = sx.from_numpyro(model, train)
start = sx.train_ensemble(jax.random.key(0), posterior, train, num_members=4, max_epochs=20, objective="posterior")
result = sx.sample(
    jax.random.key(1),
    sx.ismile(posterior),
    train,
    start,
    num_warmup=1000,
    num_samples=4000,
    thinning=20,
    batch_size=100,
)
draws = posterior.constrain(result)
predicted = posterior.predict(jax.random.key(2), result, test)["y"]
lower, upper = np.quantile(predicted, [0.05, 0.95], axis=(0, 1))

print(f"slope {draws['slope'].mean():.2f} ± {draws['slope'].std():.2f}, noise {draws['noise'].mean():.2f}")
print(f"90 % intervals hold {((lower <= y[2000:]) & (y[2000:] <= upper)).mean():.0%} of the test rows")
