"""Full-batch MCLMC against NUTS, and both against quadrature, on a regression whose features are nearly collinear."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.diagnostics import summary
from numpyro.infer import MCMC, NUTS
from sklearn.datasets import load_diabetes

import smilax as sx

pytestmark = [pytest.mark.truth, pytest.mark.once]

# Posterior standard deviations run from 0.033 to 0.24 (features s1 and s2). The step is small against the least of them
# times √d = 3.5; the decoherence length is of the order of √d times the largest.
STEP_SIZE, LENGTH = 0.06, 1.0


def standardised(a):
    return ((a - a.mean(axis=0)) / a.std(axis=0)).astype(np.float32)


def by_quadrature(x, y):
    """Exact means and variances of weights, bias and log scale, prior N(0, 1): given the scale all is Gaussian."""
    x, y = np.column_stack([x, np.ones(len(x))]).astype(np.float64), y.astype(np.float64)
    values, vectors = np.linalg.eigh(x.T @ x)
    projected, rest = vectors.T @ (x.T @ y), y @ y
    log_scale = np.linspace(-1, 0.5, 3001)
    noise = np.exp(2 * log_scale)[:, None]
    precision = 1 + values / noise
    centre = projected / noise / precision
    log_evidence = (
        -len(y) * log_scale - 0.5 * rest / noise[:, 0] - 0.5 * np.log(precision).sum(axis=1)
        + 0.5 * (projected / noise * centre).sum(axis=1) - 0.5 * log_scale**2
    )  # fmt: skip
    weight = np.exp(log_evidence - log_evidence.max())
    weight /= weight.sum()
    means, variances = centre @ vectors.T, (1 / precision) @ (vectors.T**2)
    mean = weight @ means
    variance = weight @ (variances + (means - mean) ** 2)
    scale_mean = weight @ log_scale
    return np.append(mean, scale_mean), np.append(variance, weight @ (log_scale - scale_mean) ** 2)


def to_vectors(network, likelihood):
    """Draws as `(chain, draw, 12)`: ten weights, the bias, the log scale."""
    (layer,) = network.layers
    parts = (layer.weight[..., 0, :], layer.bias, likelihood["log_scale"][..., None])
    return np.concatenate([np.asarray(part, np.float64) for part in parts], axis=-1)


def moments(name, draws):
    """Means and variances over all chains; prints and checks how well the chains agree."""
    table = summary({"x": draws})["x"]
    # Variances are compared too, so that the squares have to be well mixed as well.
    squares = summary({"x": (draws - draws.mean(axis=(0, 1))) ** 2})["x"]
    ess = min(table["n_eff"].min(), squares["n_eff"].min())
    rhat = max(table["r_hat"].max(), squares["r_hat"].max())
    print(f"{name}: least ESS {ess:.0f}, largest R-hat {rhat:.4f}")
    assert ess > 2000
    assert rhat < 1.01
    return draws.mean(axis=(0, 1)), draws.var(axis=(0, 1))


def compare(name, found, reference):
    offset = np.abs(found[0] - reference[0]) / np.sqrt(reference[1])
    ratio = found[1] / reference[1]
    print(f"{name}: means within {offset.max():.3f} sd, variance ratios {ratio.min():.3f} to {ratio.max():.3f}")
    return offset.max(), np.abs(ratio - 1).max()


def test_mclmc_agrees_with_nuts():
    x, y = (standardised(a) for a in load_diabetes(return_X_y=True))
    network = sx.models.mlp(10, 1, hidden=())
    posterior = sx.bnn(network, sx.likelihoods.Gaussian(), sx.priors.Normal(0.0, 1.0), num_data=len(y))
    start = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), posterior.init(jax.random.key(0)))

    result = sx.sample(
        jax.random.key(1), sx.mclmc(posterior, STEP_SIZE, length=LENGTH), (x, y), start, num_chains=8,
        num_warmup=2000, num_samples=40_000, thinning=10, progress_bar=False,
    )  # fmt: skip
    ours = moments("mclmc", to_vectors(result.draws["network"], result.draws["likelihood"]))

    data = (jnp.asarray(x), jnp.asarray(y))
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):  # NumPyro is not written to them
        nuts = MCMC(
            NUTS(potential_fn=lambda params: -posterior.log_density(params, data), dense_mass=True),
            num_warmup=1000, num_samples=5000, num_chains=4, chain_method="vectorized", progress_bar=False,
        )  # fmt: skip
        nuts.run(jax.random.key(2), init_params=jax.tree.map(lambda leaf: jnp.stack([leaf] * 4), start))
        draws = nuts.get_samples(group_by_chain=True)
    theirs = moments("nuts", to_vectors(draws["network"], draws["likelihood"]))

    exact = by_quadrature(x, y)
    offset, change = compare("nuts against quadrature", theirs, exact)
    assert offset < 0.05
    assert change < 0.07
    for name, reference in (("mclmc against quadrature", exact), ("mclmc against nuts", theirs)):
        offset, change = compare(name, ours, reference)
        assert offset < 0.1
        assert change < 0.1
