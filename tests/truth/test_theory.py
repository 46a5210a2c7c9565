"""Long runs of ismile at its defaults, where docs/theory.md says what to expect: no cooling by guardrail or tuner."""

import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import hadamard

import smilax as sx

pytestmark = [pytest.mark.truth, pytest.mark.once]


# Few dimensions average less, so they take more chains for the same error.
@pytest.mark.parametrize(("shape", "num_samples", "num_chains"), [((10,), 1_000_000, 6), ((25, 40), 500_000, 2)])
def test_variance_of_a_unit_normal_under_isotropic_noise(shape, num_samples, num_chains):
    dim = int(np.prod(shape))
    # Columns of a Hadamard matrix: the noise covariance is exactly 256 times the identity at B = 64, with replacement.
    rows = hadamard(1024)[:, :dim].reshape(-1, *shape)
    rows = (np.concatenate([rows, -rows]) / 16).astype(np.float32)
    axes = tuple(range(1, rows.ndim))
    posterior = sx.Posterior(
        lambda x: -0.5 * jnp.sum(x**2), lambda x, batch: jnp.sum(batch * x[None], axis=axes), len(rows)
    )
    result = sx.sample(
        jax.random.key(0), sx.ismile(posterior, replacement=True), sx.Batches(rows, replacement=True),
        jax.random.normal(jax.random.key(1), (num_chains, *shape), jnp.float32), num_warmup=100_000,
        num_samples=num_samples, thinning=100, batch_size=64, progress_bar=False,
    )  # fmt: skip
    squares = (np.asarray(result.draws, np.float64).reshape(num_chains, -1, dim) ** 2).mean(-1)
    batches = squares.reshape(10 * num_chains, -1).mean(1)
    variance, error = batches.mean(), batches.std(ddof=1) / len(batches) ** 0.5
    info = result.info
    eevpd = float(info.eevpd.mean())  # at the end of warm-up
    print(f"d {dim}: variance {variance:.4f} ± {error:.4f}, ε {info.step_size.mean():.3f}, EEVPD {eevpd:.1e}", end=", ")
    print(f"rejects {1 - info.accepted.mean():.1e}, L_eff {info.decoherence.mean():.2f}")
    assert error < 0.005
    assert abs(variance - 1) < 0.03
    np.testing.assert_allclose(info.accepted, 1, atol=1e-5)  # means over 100 steps each


BENCHMARK = runpy.run_path(str(Path(__file__).resolve().parents[2] / "benchmarks" / "analytical.py"))
SIZE, PRIOR = 32, 1e-4  # B, and a prior's precision, a hundredth of the least that the target has


def biases_of_ismile(noise, num_steps=100_000, num_seeds=10):
    """The bias as `benchmarks/analytical.py` has it, of one chain for each seed.

    Noise of variance 16² times the target's precision is that of N/B = 256 for a well-specified model.
    """
    covariance, dim = BENCHMARK["target"](), BENCHMARK["DIM"]
    num_data = int(BENCHMARK["NOISE_STD"] ** 2) * SIZE
    exact = jnp.asarray(np.linalg.inv(covariance) - PRIOR * np.eye(dim), jnp.float32)
    factor = jnp.asarray(BENCHMARK["noise_factors"](covariance)[noise].T * SIZE**0.5 / num_data, jnp.float32)
    posterior = sx.Posterior(
        lambda x: -0.5 * PRIOR * jnp.sum(x**2),
        lambda x, batch: batch @ x - 0.5 / num_data * (x @ (exact @ x)),
        num_data,
    )

    def fresh(key, batch):
        return jax.random.normal(key, batch.shape, jnp.float32) @ factor

    stream = sx.Batches(np.zeros((num_data, dim), np.float32), replacement=True, transform=fresh)
    result = sx.sample(
        jax.random.key(0), sx.ismile(posterior, endless=True), stream, jnp.zeros(dim, jnp.float32),
        num_chains=num_seeds, num_warmup=num_steps, num_samples=num_steps, thinning=BENCHMARK["EVERY"], batch_size=SIZE,
        progress_bar=False,
    )  # fmt: skip
    second = np.diag(covariance)
    mean = (np.asarray(result.draws, np.float64) ** 2).mean(1)
    return ((mean - second) ** 2 / (2 * second**2)).mean(1)


def test_fisher_noise_is_the_easiest_for_ismile():
    biases = biases_of_ismile("fisher")
    print(f"fisher: bias {biases.mean():.4f}, of single seeds {biases.round(4)}")
    assert biases.mean() <= 0.004
