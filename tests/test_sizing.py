"""`sx.estimate` says what a run takes, and the run takes it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import smilax as sx

pytestmark = pytest.mark.once

POSTERIOR = sx.Posterior(
    lambda p: -0.5 * jnp.sum(p["mean"] ** 2), lambda p, x: -0.5 * jnp.sum((x - p["mean"][None]) ** 2, axis=-1), 30
)
ROWS = np.random.default_rng(0).normal(size=(30, 7)).astype(np.float32)
PARAMS = {"mean": jnp.zeros(7, jnp.float32)}
LENGTHS = {"num_chains": 3, "num_warmup": 20, "num_samples": 60}


def test_what_is_said_of_a_stored_run_is_what_it_takes(tmp_path, key):
    algorithm = sx.psmile_naive(POSTERIOR, 1e-2)
    said = sx.estimate(algorithm, PARAMS, thinning=4, store=tmp_path / "run", **LENGTHS)
    result = sx.sample(
        key, algorithm, ROWS, PARAMS, thinning=4, batch_size=10, store=tmp_path / "run", progress_bar=False, **LENGTHS
    )
    assert (said.num_params, said.num_chains, said.num_draws) == (7, 3, 15)
    assert np.asarray(result.draws["mean"]).nbytes == said.disk_bytes == 3 * 15 * 7 * 4
    assert said.gradients == 3 * 80 * 2


def test_a_descent_takes_one_gradient_a_step_and_the_search_for_a_step_size_two():
    posterior = sx.bnn(sx.models.mlp(7, 1, hidden=(3,)), sx.likelihoods.Gaussian(), sx.priors.Normal(), num_data=30)
    params = posterior.init(jax.random.key(0))
    for descent, gradients in ((0.2, 300 - 3 * 4), (0.21, 300 - 3 * 5), (0.0, 300)):
        algorithm = sx.ismile(posterior, descent=descent)
        assert sx.estimate(algorithm, params, **LENGTHS).gradients == gradients
        assert sx.estimate(algorithm, params, **LENGTHS, batch_size=10).gradients == gradients
        # Too much of the data for halves: two gradients a step.
        assert sx.estimate(algorithm, params, **LENGTHS, batch_size=25).gradients == gradients + 3 * 60
    # After 200 steps one in four takes two.
    long = sx.estimate(sx.ismile(posterior), params, num_chains=1, num_warmup=1000, num_samples=500)
    assert long.gradients == 200 + 200 * 2 + 600 + 150 + 500


@pytest.mark.parametrize(
    ("make", "gradients", "text"),
    [
        (lambda: sx.sgld(POSTERIOR, 1e-3), 240, "240 gradients"),
        (lambda: sx.ismile(POSTERIOR), 480, "480 gradients"),
        (lambda: sx.ismile(POSTERIOR, split=True), 300, "300 gradients"),
        (lambda: sx.psmile(POSTERIOR), 480, "480 gradients"),
        (lambda: sx.nuts(POSTERIOR), 240, "at least 240 gradients"),
    ],
)
def test_gradients_are_those_of_the_sampler(make, gradients, text):
    said = sx.estimate(make(), PARAMS, **LENGTHS)
    assert said.gradients == gradients
    assert str(said).endswith(f", {text}")
