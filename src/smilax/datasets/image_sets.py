"""The paper's image data."""

import os
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from smilax.checks import check_count
from smilax.datasets.arrays import names, read_part
from smilax.datasets.folders import class_files, image_folder
from smilax.datasets.openml import fetch
from smilax.datasets.splits import Rows, Split, check_seed, take_out


class _Source(NamedTuple):
    """Number on OpenML, shape of an image there, rows for training and testing, and of the former for validation."""

    data_id: int | None
    shape: tuple[int, ...]
    num_train: int
    num_test: int
    num_valid: int
    grey: bool = False


# OpenML lists the training images first. An image in colour is there one channel after the other.
_SOURCES = {
    "mnist": _Source(554, (28, 28), 60_000, 10_000, 11_000, True),
    "fashion_mnist": _Source(40996, (28, 28), 60_000, 10_000, 11_000, True),
    "cifar10": _Source(40927, (3, 32, 32), 50_000, 10_000, 5_000),
    "imagenette": _Source(None, (), 9_469, 3_925, 763),
}
_TEST_FOLDERS = ("test", "val")


def images(
    name: str,
    data_dir: str | Path | None = None,
    *,
    seed: int = 1,
    num_valid: int | None = None,
    image_size: int | None = None,
) -> Split:
    """Images and their classes: MNIST, Fashion-MNIST, CIFAR-10 or Imagenette, split in the paper's sizes.

    These are 49,000, 11,000 and 10,000 images for the first two, 45,000, 5,000 and 10,000, and 8,706, 763 and 3,925.
    The test images are those of the data set. Which of the others the paper validated on is not known, so they are
    drawn at random. `x` is uint8, (N, height, width), with (…, 3) for colour, which the networks of `sx.models` scale
    to 0..1; `y` holds integers from 0 on.

    Args:
        name: `"mnist"`, `"fashion_mnist"`, `"cifar10"` or `"imagenette"`.
        data_dir: a folder with `{name}.npz`, or one other file that begins like that, such as `imagenette64.npz` (for
            the arrays see `sx.datasets.npz`), or with a folder that does, with `train` and `test` or `val` in it (see
            `sx.datasets.image_folder`). None fetches the data from OpenML, once: scikit-learn keeps what it downloads,
            and the arrays are kept beside it. Imagenette is not there.
        seed: which images are for validation, by NumPy's generator.
        num_valid: how many are; by default as many as above, or the same share of a smaller file.
        image_size: height and width of images from a folder of files, which are resized; None keeps what an `.npz` has.

    Raises:
        ValueError: for an unknown name, a `num_valid` that leaves no training images, files that are ambiguous or lack
            a part, or an `image_size` that does not go with them.
        FileNotFoundError: if `data_dir` lacks the file, or is None for Imagenette.
        ImportError, OSError: if `data_dir` is None and pandas is missing, or OpenML cannot be reached.

    Example:
        >>> import numpy as np, tempfile, smilax as sx
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     x, y = np.zeros((60, 28, 28), np.uint8), np.zeros(60, np.uint8)
        ...     np.savez(f"{folder}/mnist.npz", x_train=x, y_train=y, x_test=x, y_test=y)
        ...     split = sx.datasets.images("mnist", folder)
        >>> split.train[0].shape, split.valid[0].shape, split.test[1].shape
        ((49, 28, 28), (11, 28, 28), (60,))
    """
    source, seed = _source(name), check_seed(seed)
    path = _find(name, data_dir)
    train, test = (_read(path, source, part, image_size) for part in ("train", "test"))
    rows = len(train[1])
    if num_valid is None:
        num_valid = max(1, round(rows * source.num_valid / source.num_train))
    if check_count("num_valid", num_valid, 1) >= rows:
        raise ValueError(f"num_valid = {num_valid} leaves none of the {rows} training images of {path}")
    return Split(*take_out(train, num_valid, seed), test)


def test_images(
    name: str, data_dir: str | Path | None = None, *, image_size: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The test images and classes alone, as what another data set's network has not seen, for example.

    Args:
        name: as for `sx.datasets.images`.
        data_dir: as for `sx.datasets.images`; training images need not be there.
        image_size: as for `sx.datasets.images`.

    Raises:
        ValueError, FileNotFoundError, ImportError, OSError: as `sx.datasets.images`.

    Example:
        >>> import numpy as np, tempfile, smilax as sx
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.savez(f"{folder}/mnist_test.npz", x_test=np.zeros((7, 28, 28), np.uint8), y_test=np.zeros(7, int))
        ...     sx.datasets.test_images("mnist", folder)[0].shape
        (7, 28, 28)
    """
    return _read(_find(name, data_dir), _source(name), "test", image_size)


test_images.__test__ = False  # type: ignore[attr-defined]  # pytest would take it for a test


def _source(name: str) -> _Source:
    if name not in _SOURCES:
        raise ValueError(f"name must be one of {sorted(_SOURCES)}, got {name!r}")
    return _SOURCES[name]


def _find(name: str, data_dir: str | Path | None) -> Path:
    """The file or folder with the images."""
    source = _source(name)
    if data_dir is None:
        if source.data_id is None:
            raise FileNotFoundError(f"{name} is not on OpenML; give data_dir, a folder with {_wanted(name)}")
        return _fetched(name, source)
    folder = Path(data_dir)
    if (folder / f"{name}.npz").is_file():
        return folder / f"{name}.npz"
    files = [p for p in folder.glob(f"{name}*.npz") if _is_of(p.stem, name)]
    parts = ("train", *_TEST_FOLDERS)
    folders = [
        p for p in folder.glob(f"{name}*") if _is_of(p.name, name) and any((p / part).is_dir() for part in parts)
    ]
    found = sorted(files) + sorted(folders)
    if not found:
        raise FileNotFoundError(f"data_dir = {str(folder)!r} holds no {_wanted(name)}")
    if len(found) > 1:
        raise ValueError(
            f"data_dir = {str(folder)!r} holds {' and '.join(p.name for p in found)}; "
            f"call the one to be read {name}.npz"
        )
    return found[0]


def _is_of(stem: str, name: str) -> bool:
    """Whether a file's name is not that of another set, whose number is longer: cifar100 is not cifar10."""
    return not (name[-1].isdigit() and stem.removeprefix(name)[:1].isdigit())


def _wanted(name: str) -> str:
    return f"{name}*.npz, or a folder {name}* with train and test or val in it"


def _read(path: Path, source: _Source, part: str, image_size: int | None) -> Rows:
    if path.is_dir():
        if image_size is None:
            raise ValueError(f"image_size must be given for images from a folder of files, {path}")
        folders = [path / name for name in (_TEST_FOLDERS if part == "test" else (part,))]
        folder = next((f for f in folders if f.is_dir()), None)
        if folder is None:
            raise FileNotFoundError(f"{path} holds no folder {' or '.join(f.name for f in folders)}")
        # What is only tested on needs no training images; where there are some, classes have their numbers.
        training = path / "train"
        known = part == "train" or any(training.glob("*/*"))
        if known and list(class_files(folder)) != list(class_files(training)):
            raise ValueError(f"{folder} has other classes than {training}")
        loaded = image_folder(folder, image_size, grey=source.grey)
        return loaded.x, loaded.y
    rows = read_part(path, part)
    if rows is None:
        hint = "; sx.datasets.test_images reads what is there to test on" if part == "train" else ""
        raise ValueError(f"{path} holds no x_{part} and no jpeg_{part}, only {names(path)}{hint}")
    x = rows[0]
    if x.dtype != np.uint8 or x.ndim not in (3, 4):
        raise ValueError(f"{path}: x_{part} must be uint8 images, got shape {x.shape} and dtype {x.dtype}")
    if image_size not in (None, x.shape[1]):
        raise ValueError(f"image_size = {image_size}, but {path} holds images of {x.shape[1]} by {x.shape[2]} pixels")
    return rows


def _fetched(name: str, source: _Source) -> Path:
    """The data set as a file of arrays in scikit-learn's folder; parsing OpenML's text takes minutes."""
    from sklearn.datasets import get_data_home

    path = Path(get_data_home()) / "smilax" / f"{name}.npz"
    if path.is_file():
        return path
    bunch = fetch(name, source.data_id or 0, _wanted(name), as_frame=False)
    arrays = _to_arrays(name, source, bunch.data, bunch.target)
    path.parent.mkdir(exist_ok=True)
    # Under another name until it is complete: two runs may do this at once, and either may be stopped.
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
        try:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
            file.close()
            os.replace(file.name, path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise
    return path


def _to_arrays(name: str, source: _Source, data: Any, target: Any) -> dict[str, np.ndarray]:
    rows, size = source.num_train + source.num_test, int(np.prod(source.shape))
    if data.shape != (rows, size) or len(target) != rows:
        raise OSError(f"OpenML data set {source.data_id} ({name}) has changed: {data.shape}, not {(rows, size)}")
    x = np.asarray(data).astype(np.uint8).reshape(rows, *source.shape)
    x = x.transpose(0, 2, 3, 1) if x.ndim == 4 else x
    y = np.asarray(target).astype(np.uint8)
    cut = source.num_train
    return {"x_train": x[:cut], "y_train": y[:cut], "x_test": x[cut:], "y_test": y[cut:]}
