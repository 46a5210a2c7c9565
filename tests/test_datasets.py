import numpy as np
import pandas as pd
import pytest

import smilax as sx
from smilax import datasets

pytestmark = pytest.mark.once


@pytest.fixture
def folder(tmp_path):
    table = np.random.default_rng(0).normal(3.0, 5.0, size=(40, 6))
    table[:, 0] = np.arange(40)
    np.savez(tmp_path / "uci_tabular.npz", airfoil=table)
    return tmp_path, table


def test_splits_are_disjoint_complete_and_standardised(folder):
    parts = sx.datasets.uci("airfoil", folder[0], seed=2)
    # 0.7 + 0.1 is a little below 0.8 in binary, and the paper's splits are cut that way.
    assert [len(y) for _, y in parts] == [28, 3, 9]
    together = np.concatenate([np.column_stack([x, y]) for x, y in parts])
    np.testing.assert_allclose(together.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(together.std(0), 1, rtol=1e-5)
    table = folder[1]
    np.testing.assert_allclose(
        np.sort(together[:, 5]), np.sort((table[:, 5] - table[:, 5].mean()) / table[:, 5].std()), atol=1e-5
    )
    assert together.dtype == np.float32


def test_the_papers_permutations_are_used_where_they_are(folder):
    permutation = np.arange(40)[::-1]
    np.savez(folder[0] / "smile_permutations.npz", airfoil_rng1=permutation)
    first = sx.datasets.uci("airfoil", folder[0], seed=1).train[0][:, 0]
    assert (np.diff(first) < 0).all()


def test_an_openml_table_becomes_numbers(monkeypatch):
    frame = pd.DataFrame({f"x{i}": [1.0, 2.0, 3.0] for i in range(10)})
    frame["season"] = pd.Categorical(["spring", "fall", "spring"])
    frame["year"], frame["count"] = [0, 0, 1], [5, 6, 7]
    table = datasets._to_table(frame, datasets._OPENML["bikesharing"])
    assert table.shape == (3, 12)
    np.testing.assert_array_equal(table[:, 10], [1, 0, 1])
    np.testing.assert_array_equal(table[:, -1], [5, 6, 7])
    with pytest.raises(OSError, match="10 features, not 11"):
        datasets._to_table(frame.drop(columns="season"), datasets._OPENML["bikesharing"])


def test_without_network_and_files_the_error_says_what_to_do(monkeypatch, tmp_path):
    def refuse(**kwargs):
        raise ConnectionError("no route")

    monkeypatch.setattr("sklearn.datasets.fetch_openml", refuse)
    with pytest.raises(OSError, match="could not be fetched from OpenML .*give data_dir"):
        sx.datasets.uci("energy")
    with pytest.raises(FileNotFoundError, match="holds no uci_tabular.npz"):
        sx.datasets.uci("energy", tmp_path)
    with pytest.raises(ValueError, match="name must be one of .* got 'boston'"):
        sx.datasets.uci("boston")
