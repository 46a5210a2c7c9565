"""Data sets by name: each gives rows for training, validation and test, and says what its targets are."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from smilax import datasets
from smilax.datasets.arrays import read_arrays

# The targets: numbers, one class a row, or one class a token.
Task = Literal["regression", "classes", "tokens"]
ImageSet = Literal["mnist", "fashion_mnist", "cifar10", "imagenette"]
DataDir = str | Path | None


class Data(NamedTuple):
    """What an experiment works on.

    Attributes:
        train, valid, test: each `(x, y)`, rows on the leading axis; `train` may be `(x, y, weight)`.
        outside: inputs that are unlike these, to be told from them by their uncertainty; or None.
    """

    train: tuple[np.ndarray, ...]
    valid: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    outside: np.ndarray | None = None


class Source(NamedTuple):
    """A data set.

    Attributes:
        load: `load(data_dir, seed, **options)`; the options are keys of `[data]`.
        task: of its targets; None if an option `task` says so.
        about: one line.
    """

    load: Callable[..., Data]
    task: Task | None
    about: str


def _uci(name: str) -> Callable[..., Data]:
    def load(data_dir: DataDir, seed: int, *, fractions: list[float] | None = None) -> Data:
        if fractions is not None and len(fractions) != 2:
            raise ValueError(f"data.fractions must be the shares of training and validation rows, got {fractions}")
        options = {} if fractions is None else {"fractions": (fractions[0], fractions[1])}
        return Data(*datasets.uci(name, data_dir, seed=seed, **options))

    return load


def _images(name: ImageSet) -> Callable[..., Data]:
    def load(
        data_dir: DataDir,
        seed: int,
        *,
        valid_rows: int | None = None,
        image_size: int | None = None,
        outside: ImageSet | None = None,
    ) -> Data:
        split = datasets.images(name, data_dir, seed=seed, num_valid=valid_rows, image_size=image_size)
        beside = None
        if outside is not None:
            beside = datasets.test_images(outside, data_dir, image_size=image_size)[0]
            if beside.shape[1:] != split.test[0].shape[1:]:
                shapes = f"{beside.shape[1:]}, not the {split.test[0].shape[1:]} of {name}"
                raise ValueError(f"data.outside: images of {outside!r} have shape {shapes}")
        train, valid, test = ((x, y.astype(np.int32)) for x, y in split)
        return Data(train, valid, test, beside)

    return load


def text(data_dir: DataDir, seed: int, *, file: str, context: int = 256, stride: int | None = None) -> Data:
    """The characters of a text file in the data directory, cut one after the other: 90 % to train, 5 % to test.

    Args:
        data_dir: the folder.
        seed: of the run; the parts do not depend on it.
        file: name of the file, in UTF-8; `.gz` if packed.
        context: characters of a window, which is a row.
        stride: characters between the starts of training windows; None: windows do not overlap.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no text, or shorter than the windows need.
    """
    found = datasets.text(_file(data_dir, file), context=context, stride=stride)
    return Data(found.train, found.valid, found.test)


def npz(
    data_dir: DataDir,
    seed: int,
    *,
    file: str,
    task: Task,
    valid_rows: int,
    split_seed: int | None = None,
    outside: str | None = None,
) -> Data:
    """Arrays `x_train`, `y_train`, `x_test` and `y_test` of an npz file in the data directory.

    Args:
        data_dir: the folder.
        seed: of the run.
        file: name of the file.
        task: what the targets are.
        valid_rows: so many of the training rows, chosen at random, are for validation.
        split_seed: of that choice; None takes the run's seed.
        outside: another file, whose `x_test` are inputs unlike these.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it lacks an array, or has too few rows.
    """
    path = _file(data_dir, file)
    x, y, x_test, y_test = read_arrays(path, ("x_train", "y_train", "x_test", "y_test"))
    y, y_test = _targets(path, "train", x, y, task), _targets(path, "test", x_test, y_test, task)
    if not 0 < valid_rows < len(y):
        raise ValueError(f"data.valid_rows must be from 1 to {len(y) - 1}, got {valid_rows}")
    rows = np.random.default_rng(seed if split_seed is None else split_seed).permutation(len(y))
    train, valid = rows[valid_rows:], rows[:valid_rows]
    beside = None if outside is None else read_arrays(_file(data_dir, outside), ("x_test",))[0]
    return Data((x[train], y[train]), (x[valid], y[valid]), (x_test, y_test), beside)


def _file(data_dir: DataDir, file: str) -> Path:
    if data_dir is None:
        raise FileNotFoundError(f"data.file = {file!r} is looked for in the data directory: give --data-dir FOLDER")
    path = Path(data_dir) / file
    if not path.is_file():
        raise FileNotFoundError(f"the data directory {str(data_dir)!r} holds no {file}")
    return path


def _targets(path: Path, part: str, x: np.ndarray, y: np.ndarray, task: Task) -> np.ndarray:
    """Targets of a part, once they have passed."""
    if x.ndim == 0 or y.ndim == 0 or len(x) != len(y):
        raise ValueError(f"{path}: x_{part} and y_{part} need the same rows, got shapes {x.shape} and {y.shape}")
    if y.dtype.kind not in "biuf":
        raise ValueError(f"{path}: y_{part} must be numbers, got an array of dtype {y.dtype}")
    if task == "regression":
        return y.astype(np.float32)
    if task == "classes" and y.shape[1:] == (1,):
        y = y[:, 0]
    if (y != np.floor(y)).any() or (y < 0).any():
        raise ValueError(f"{path}: y_{part} must be whole numbers from 0 on, the numbers of {task}")
    return y.astype(np.int32)


def _bundled(name: str, task: Task) -> Callable[..., Data]:
    def load(data_dir: DataDir, seed: int) -> Data:
        import sklearn.datasets

        x, y = getattr(sklearn.datasets, f"load_{name}")(return_X_y=True)
        rows = np.random.default_rng(seed).permutation(len(x))
        train, valid, test = np.split(rows, [int(0.7 * len(x)), int(0.8 * len(x))])
        spread = x[train].std(0)
        x = ((x - x[train].mean(0)) / np.where(spread > 0, spread, 1)).astype(np.float32)
        if task == "classes":
            y = y.astype(np.int32)
        else:
            y = ((y - y[train].mean()) / y[train].std()).astype(np.float32)
        return Data((x[train], y[train]), (x[valid], y[valid]), (x[test], y[test]))

    return load


# To add a data set: a function that loads it, and a line here.
SOURCES: dict[str, Source] = {
    "airfoil": Source(_uci("airfoil"), "regression", "UCI, 1,503 rows; OpenML or uci_tabular.npz"),
    "energy": Source(_uci("energy"), "regression", "UCI, 768 rows; OpenML or uci_tabular.npz"),
    "bikesharing": Source(_uci("bikesharing"), "regression", "UCI, 17,379 rows; OpenML or uci_tabular.npz"),
    "diabetes": Source(_bundled("diabetes", "regression"), "regression", "scikit-learn, 442 rows"),
    "breast_cancer": Source(_bundled("breast_cancer", "classes"), "classes", "scikit-learn, 569 rows, 2 classes"),
    "digits": Source(_bundled("digits", "classes"), "classes", "scikit-learn, 1,797 rows of 64 pixels, 10 classes"),
    "mnist": Source(_images("mnist"), "classes", "70,000 digits of 28 x 28; OpenML or mnist*.npz"),
    "fashion_mnist": Source(
        _images("fashion_mnist"), "classes", "70,000 clothes of 28 x 28; OpenML or fashion_mnist*.npz"
    ),
    "cifar10": Source(_images("cifar10"), "classes", "60,000 photographs of 32 x 32; OpenML or cifar10*.npz"),
    "imagenette": Source(_images("imagenette"), "classes", "13,394 photographs; imagenette*.npz or a folder of files"),
    "text": Source(text, "tokens", "your text file, by characters"),
    "npz": Source(npz, None, "your file with x_train, y_train, x_test, y_test"),
}


def load_data(source: Source, data_dir: DataDir, seed: int, options: dict[str, Any], rows: Any, test_rows: Any) -> Data:
    """The data of a run, cut to the rows that the configuration asks for."""
    data = source.load(data_dir, seed, **options)

    def cut(part: Any, most: int | None) -> Any:
        if part is None or most is None:
            return part
        arrays = part if isinstance(part, tuple) else (part,)
        rows: Any = slice(most)
        labels = arrays[1] if len(arrays) > 1 and arrays[1].ndim == 1 and arrays[1].dtype.kind in "iu" else None
        if labels is not None and len(np.unique(labels[:most])) < len(np.unique(labels)):
            # Rows that are sorted by their classes, as those of a folder are: the first ones would be of a few.
            rows = np.sort(np.random.default_rng(0).permutation(len(arrays[0]))[:most])
        arrays = tuple(array[rows] for array in arrays)
        return arrays if isinstance(part, tuple) else arrays[0]

    return Data(cut(data.train, rows), cut(data.valid, rows), cut(data.test, test_rows), cut(data.outside, test_rows))
