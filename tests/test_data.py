import jax
import jax.numpy as jnp
import numpy as np
import pytest

import smilax as sx
from smilax.data import check_batch_size


def arrays(num_rows=103):
    return np.arange(num_rows, dtype=np.float32), np.arange(num_rows, dtype=np.uint8)


@pytest.mark.parametrize("replacement", [False, True])
def test_independent_batches_have_the_moments_of_sampling(replacement):
    x = np.random.default_rng(0).normal(size=200).astype(np.float32)
    batches, size, steps = sx.Batches(x, replacement=replacement), 20, 20_000
    draw = jax.jit(jax.vmap(lambda t: batches.draw(x, jax.random.key(1), t, size)))
    sums = np.asarray(draw(jnp.arange(steps))).astype(np.float64).sum(1)
    variance = size * x.var() * (1 if replacement else (200 - size) / 199)
    assert abs(sums.mean() - size * x.mean()) < 5 * np.sqrt(variance / steps)
    np.testing.assert_allclose(sums.var(), variance, rtol=0.06)
    correlation = np.corrcoef(sums[:-1], sums[1:])[0, 1]
    assert abs(correlation) < 5 / np.sqrt(steps)


def test_batches_without_replacement_hold_no_row_twice():
    x, _ = arrays()
    batches = sx.Batches(x)
    for step in range(5):
        assert len(np.unique(batches.draw(x, jax.random.key(0), step, 50))) == 50


def test_epochs_visit_every_row():
    x, y = arrays(103)
    batches = sx.Batches((x, y), order="epochs")
    epochs = []
    for epoch in range(2):
        drawn = [batches.draw((x, y), jax.random.key(0), 11 * epoch + step, 10) for step in range(11)]
        rows = np.concatenate([np.asarray(b[0]) for b in drawn])
        np.testing.assert_array_equal(np.unique(rows), x)
        # 110 places for 103 rows: the last batch is completed from the epoch's start.
        np.testing.assert_array_equal(rows[-7:], rows[:7])
        assert drawn[0][1].dtype == jnp.uint8
        epochs.append(rows)
    assert np.mean(epochs[0] == epochs[1]) < 0.1


def test_a_full_batch_is_the_data_in_order():
    x, y = arrays()
    batch = sx.Batches((x, y)).draw((x, y), jax.random.key(0), 3, 103)
    np.testing.assert_array_equal(batch[0], x)


def test_chains_have_their_own_order_and_steps_their_own_batch():
    x, _ = arrays()
    batches = sx.Batches(x)
    first = batches.draw(x, jax.random.key(0), 0, 20)
    assert not np.array_equal(first, batches.draw(x, jax.random.key(1), 0, 20))
    assert not np.array_equal(first, batches.draw(x, jax.random.key(0), 1, 20))


def test_transform_gets_a_key_of_its_own_each_step():
    x, _ = arrays()
    batches = sx.Batches(x, transform=lambda key, batch: batch * 0 + jax.random.uniform(key, dtype=batch.dtype))
    values = [float(batches.draw(x, jax.random.key(0), step, 4)[0]) for step in range(3)]
    assert len(set(values)) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"data": ()}, "data holds no arrays"),
        ({"data": (np.zeros(3), np.zeros(4))}, r"different numbers of rows: \[3, 4\]"),
        ({"data": np.zeros((0, 2))}, "data has no rows"),
        ({"data": np.float32(1)}, "leading axis"),
        ({"data": np.zeros(3), "order": "random"}, "order must be"),
        ({"data": np.zeros(3), "order": "epochs", "replacement": True}, "no meaning"),
    ],
)
def test_bad_sources(arguments, message):
    with pytest.raises(ValueError, match=message):
        sx.Batches(**arguments)


@pytest.mark.parametrize(
    ("size", "error", "message"),
    [
        (0, ValueError, "batch_size must be at least 1, got 0"),
        (11, ValueError, "batch_size = 11 exceeds the 10 rows"),
        (2.5, TypeError, "batch_size must be an integer"),
    ],
)
def test_bad_batch_sizes(size, error, message):
    with pytest.raises(error, match=message):
        check_batch_size(size, sx.Batches(np.zeros(10)))


def test_augmentation_does_not_depend_on_which_rows_are_drawn():
    x = np.arange(20)
    batches = sx.Batches(x, transform=lambda key, rows: (rows, jax.random.bernoulli(key)))
    steps = 8000
    rows, coin = jax.jit(jax.vmap(lambda t: batches.draw(x, jax.random.key(3), t, 5)))(jnp.arange(steps))
    held = np.asarray(rows == 0).any(axis=1)
    for chosen in (held, ~held):
        assert abs(np.asarray(coin)[chosen].mean() - 0.5) < 4 * 0.5 / chosen.sum() ** 0.5


def test_a_log_likelihood_of_another_length_is_refused():
    for values in (lambda m, batch: jnp.sum(batch - m)[None], lambda m, batch: jnp.concatenate([batch, batch]) - m):
        posterior = sx.Posterior(lambda m: -0.5 * m**2, values, num_data=20)
        with pytest.raises(ValueError, match=r"one value per example, shape \(B,\), got \d+ values for 8 examples"):
            posterior.log_density(jnp.zeros(()), jnp.arange(8.0))


def test_integers_that_jax_would_wrap_are_refused():
    if jax.config.jax_enable_x64:
        assert sx.Batches(np.array([2**40, 1])).first(2)[0] == 2**40
        return
    with pytest.raises(ValueError, match=r"data\['t'\] must fit int32, .* data\['t'\]\[1\] \(row 1\) is 1099511627776"):
        sx.Batches({"t": np.array([1, 2**40, 3])})
    with pytest.raises(ValueError, match="must fit uint32"):
        sx.Batches(np.array([2**33], np.uint64))
    assert sx.Batches(np.array([2**31 - 1, 1])).num_rows == 2
