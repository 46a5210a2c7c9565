import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from smilax.shuffling import SORT_LIMIT, permuted


@pytest.mark.parametrize("num_rows", [2, 7, SORT_LIMIT, SORT_LIMIT + 1, 150, 569, 1052, 65_536, 99_991])
def test_all_positions_give_a_permutation(num_rows):
    rows = permuted(jax.random.key(3), jnp.arange(num_rows), num_rows)
    np.testing.assert_array_equal(np.sort(rows), np.arange(num_rows))


@pytest.mark.once
def test_pairs_are_uniform():
    # First and second order inclusion decide the mean and variance of batch sums.
    num_rows, size, repeats = SORT_LIMIT + 3, 8, 300_000
    draw = jax.jit(jax.vmap(lambda i: permuted(jax.random.fold_in(jax.random.key(5), i), jnp.arange(size), num_rows)))
    rows = np.asarray(draw(jnp.arange(repeats)))
    single = np.bincount(rows.ravel(), minlength=num_rows)
    assert stats.chisquare(single).pvalue > 1e-4
    for i, j in [(0, 1), (2, 5), (6, 7)]:
        pairs = np.zeros((num_rows, num_rows))
        np.add.at(pairs, (rows[:, i], rows[:, j]), 1)
        assert stats.chisquare(pairs[~np.eye(num_rows, dtype=bool)]).pvalue > 1e-4
    feature = np.random.default_rng(0).normal(size=num_rows)
    expected = size * feature.var() * (num_rows - size) / (num_rows - 1)
    np.testing.assert_allclose(feature[rows].sum(1).var(), expected, rtol=0.02)


def test_keys_give_different_permutations():
    first, second = (permuted(jax.random.key(k), jnp.arange(1000), 1000) for k in (0, 1))
    assert np.mean(np.asarray(first) == np.asarray(second)) < 0.02
