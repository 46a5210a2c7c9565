"""The paper's regression tables."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from smilax.checks import check_finite
from smilax.datasets.openml import fetch
from smilax.datasets.splits import Split, check_seed


class _Table(NamedTuple):
    data_id: int
    target: str
    dropped: tuple[str, ...]
    num_features: int


# The bike rentals come without the year, as in the paper's table.
_OPENML = {
    "airfoil": _Table(44957, "sound_pressure", (), 5),
    "energy": _Table(44960, "heating_load", ("cooling_load",), 8),
    "bikesharing": _Table(42712, "count", ("year",), 11),
}


def uci(
    name: str,
    data_dir: str | Path | None = None,
    *,
    seed: int = 1,
    fractions: tuple[float, float] = (0.7, 0.1),
) -> Split:
    """A regression table of the paper, shuffled, standardised and split.

    Features and target are standardised with the statistics of *all* rows, test rows too, because the paper's numbers
    are. Errors and densities are therefore in units of the target's standard deviation.

    Args:
        name: `"airfoil"`, `"energy"` or `"bikesharing"`.
        data_dir: a folder with `uci_tabular.npz` (one array per name, target last) and, for the paper's own splits,
            `smile_permutations.npz` (arrays `{name}_rng{seed}`); None fetches the table from OpenML, cached by
            scikit-learn, and shuffles it with NumPy.
        seed: which shuffle.
        fractions: shares of training and validation rows; the rest is the test set.

    Raises:
        ValueError: for an unknown name, fractions that leave a part empty, or a file without that table.
        FileNotFoundError: if `data_dir` lacks the file.
        ImportError: if `data_dir` is None and pandas is missing.
        OSError: if `data_dir` is None and OpenML cannot be reached.

    Example:
        >>> import numpy as np, tempfile, smilax as sx
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.savez(f"{folder}/uci_tabular.npz", energy=np.random.default_rng(0).normal(size=(50, 9)))
        ...     split = sx.datasets.uci("energy", folder)
        >>> split.train[0].shape, split.valid[1].shape, split.test[0].shape
        ((35, 8), (5,), (10, 8))
    """
    if name not in _OPENML:
        raise ValueError(f"name must be one of {sorted(_OPENML)}, got {name!r}")
    seed = check_seed(seed)
    if len(fractions) != 2:
        raise ValueError(f"fractions must be the shares of training and validation rows, got {fractions!r}")
    table = _fetch(name) if data_dir is None else _read(name, Path(data_dir))
    table = table[_permutation(name, len(table), seed, data_dir)].astype(np.float32)
    check_finite("the table", table)
    # A column that is the same everywhere says nothing, and is zero.
    spread = table.std(0)
    table = (table - table.mean(0)) / np.where(spread > 0, spread, 1)
    i, j = int(len(table) * fractions[0]), int(len(table) * sum(fractions))
    parts = [(part[:, :-1], part[:, -1]) for part in (table[:i], table[i:j], table[j:])]
    if any(len(y) == 0 for _, y in parts):
        raise ValueError(f"fractions = {fractions} leave a part of the {len(table)} rows empty")
    return Split(*parts)


def _read(name: str, folder: Path) -> np.ndarray:
    file = folder / "uci_tabular.npz"
    if not file.is_file():
        raise FileNotFoundError(f"data_dir = {str(folder)!r} holds no uci_tabular.npz")
    with np.load(file) as arrays:
        if name not in arrays:
            raise ValueError(f"{file} holds no array {name!r}, only {sorted(arrays)}")
        return arrays[name]


def _permutation(name: str, num_rows: int, seed: int, folder: Any) -> np.ndarray:
    if folder is not None and (Path(folder) / "smile_permutations.npz").is_file():
        with np.load(Path(folder) / "smile_permutations.npz") as arrays:
            if f"{name}_rng{seed}" in arrays:
                order = arrays[f"{name}_rng{seed}"]
                if not np.array_equal(np.sort(order), np.arange(num_rows)):
                    raise ValueError(
                        f"{folder}/smile_permutations.npz: {name}_rng{seed} is no order of the {num_rows} rows"
                    )
                return order
    return np.random.default_rng(seed).permutation(num_rows)


def _fetch(name: str) -> np.ndarray:
    source = _OPENML[name]
    return _to_table(fetch(name, source.data_id, "uci_tabular.npz", as_frame=True).frame, source)


def _to_table(frame: Any, source: _Table) -> np.ndarray:
    """Numbers, target last; categories become the index of their level in sorted order."""
    features = frame.drop(columns=[source.target, *(c for c in source.dropped if c in frame)])
    if features.shape[1] != source.num_features:
        raise OSError(
            f"OpenML data set {source.data_id} has changed: {features.shape[1]} features, not {source.num_features}"
        )
    columns = [*(features[c] for c in features), frame[source.target]]
    numbers = [np.asarray(c.cat.codes if hasattr(c, "cat") else c, np.float64) for c in columns]
    return np.column_stack(numbers)
