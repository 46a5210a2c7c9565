"""NumPy files, with images as arrays or as the bytes of image files."""

import contextlib
import io
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from smilax.datasets.splits import Rows, Split, check_seed, check_share, take_out


def npz(path: str | Path, *, seed: int = 1, valid: float = 0.1, test: float = 0.2) -> Split:
    """Data from a NumPy file, split where the file does not do so itself.

    The file holds arrays `x` and `y`, or `x_train` and `y_train`, and perhaps `x_valid`, `y_valid`, `x_test` and
    `y_test`. In place of `x…` there may be images in a common file format such as PNG or JPEG: all their bytes one
    after the other in `jpeg…` (uint8), the byte where each one begins, and the end, in `offsets…`; they are decoded to
    uint8 arrays (N, height, width, 3). A format with loss changes results: say so beside them. Parts that the file
    lacks are taken at random from its training rows. Dtypes are kept.

    Args:
        path: the file.
        seed: which rows are taken, by NumPy's generator.
        valid: share of the rows for validation, if the file has no such part.
        test: share of the rows for testing, if the file has no such part. Both are shares of all rows without a part.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds no such arrays, or their lengths differ, or a part would be empty.

    Example:
        >>> import numpy as np, tempfile, smilax as sx
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.savez(f"{folder}/mine.npz", x=np.zeros((50, 3), np.float32), y=np.arange(50))
        ...     split = sx.datasets.npz(f"{folder}/mine.npz")
        >>> split.train[0].shape, split.valid[0].shape, split.test[0].shape
        ((35, 3), (5, 3), (10, 3))
    """
    seed, valid, test = check_seed(seed), check_share("valid", valid), check_share("test", test)
    path = Path(path)
    train = read_part(path, "train") or read_part(path, "")
    if train is None:
        raise ValueError(f"{path} holds neither x and y nor x_train and y_train, only {names(path)}")
    total = len(train[1])
    for name, share in (("test", test), ("valid", valid)):
        if not 0 < round(total * share) < total:
            raise ValueError(f"{name} = {share} leaves a part of the {total} rows of {path} empty")
    test_part = read_part(path, "test")
    if test_part is None:
        train, test_part = take_out(train, round(total * test), seed)
    valid_part = read_part(path, "valid")
    if valid_part is None:
        if round(total * valid) >= len(train[1]):
            raise ValueError(f"valid = {valid} and test = {test} leave none of the {total} rows of {path} for training")
        train, valid_part = take_out(train, round(total * valid), seed)
    return Split(train, valid_part, test_part)


def names(path: Path) -> list[str]:
    """Names of the arrays in a file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no archive of arrays.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    with _opened(path) as arrays:
        return sorted(arrays)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The file, whose damage of any kind is a ValueError that names it."""
    try:
        with path.open("rb") as file, np.load(file) as arrays:
            yield arrays
    except (ValueError, OSError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} is no .npz file of NumPy arrays, or damaged ({error})") from error


def read_arrays(path: Path, wanted: Sequence[str]) -> list[np.ndarray]:
    """Arrays of a file by name.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, or lacks one of them.
    """
    found = names(path)
    missing = [name for name in wanted if name not in found]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}; it holds {', '.join(found)}")
    with _opened(path) as arrays:
        return [arrays[name] for name in wanted]


def read_part(path: Path, part: str) -> Rows | None:
    """`(x, y)` of a part, `""` where there are none, or None if the file does not have it.

    Raises:
        ValueError: if the file has only half of it, or lengths differ.
    """
    x_name, y_name, jpeg_name, offsets_name = (
        f"{array}_{part}" if part else array for array in ("x", "y", "jpeg", "offsets")
    )
    found = names(path)
    if x_name not in found and jpeg_name not in found:
        return None
    needed = [y_name] if x_name in found else [y_name, offsets_name]
    missing = [name for name in needed if name not in found]
    if missing:
        raise ValueError(f"{path} holds no {' and no '.join(missing)}, only {found}")
    if x_name in found:
        x, y = read_arrays(path, (x_name, y_name))
    else:
        y, images, offsets = read_arrays(path, (y_name, jpeg_name, offsets_name))
        x = _decoded(path, part, images, offsets)
    if x.ndim == 0 or y.ndim == 0 or len(x) != len(y):
        raise ValueError(f"{path}: x and y of the part {part!r} need the same rows, got shapes {x.shape} and {y.shape}")
    return x, y


def _decoded(path: Path, part: str, data: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    if data.dtype != np.uint8 or data.ndim != 1 or len(offsets) < 2 or offsets[-1] > len(data):
        raise ValueError(f"{path}: offsets of the part {part!r} do not fit its images of {data.nbytes} bytes")
    first = _pixels(path, part, data, offsets, 0)
    images = np.empty((len(offsets) - 1, *first.shape), np.uint8)
    for i, image in enumerate(images):
        pixels = _pixels(path, part, data, offsets, i)
        if pixels.shape != first.shape:
            raise ValueError(
                f"{path}: image {i} of the part {part!r} has shape {pixels.shape}, the first one {first.shape}"
            )
        image[:] = pixels
    return images


def _pixels(path: Path, part: str, data: np.ndarray, offsets: np.ndarray, i: int) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data[offsets[i] : offsets[i + 1]].tobytes())) as image:
            return np.asarray(image.convert("RGB"))
    except OSError as error:
        raise ValueError(f"{path}: image {i} of the part {part!r} cannot be read ({error})") from error
