"""Images in folders, one folder for each class."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from smilax.checks import check_count

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


class Images(NamedTuple):
    """Images of a folder.

    Attributes:
        x: uint8, shape (N, size, size, 3), or (N, size, size) if grey.
        y: numbers of the classes, int32, shape (N,).
        classes: their names.
    """

    x: np.ndarray
    y: np.ndarray
    classes: tuple[str, ...]


def image_folder(path: str | Path, size: int, *, grey: bool = False) -> Images:
    """Images from a folder that holds one folder for each class, such as `cat/1.png` and `dog/2.jpg`.

    Classes are numbered by their names in sorted order, and images come in that of their paths. Each is resized, so
    that its shorter side has `size` pixels, by a triangular filter, and cut to the square in the middle.

    Args:
        path: the folder.
        size: height and width of the arrays in pixels.
        grey: whether images become grey, without an axis of channels.

    Raises:
        FileNotFoundError: if there is no such folder, or no image in it.
        ValueError: if an image cannot be read; names the file.

    Example:
        >>> import numpy as np, pathlib, tempfile, smilax as sx
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("cat", "dog"):
        ...         pathlib.Path(folder, name).mkdir()
        ...         Image.new("RGB", (20, 10), "red").save(f"{folder}/{name}/1.png")
        ...     images = sx.datasets.image_folder(folder, size=8)
        >>> images.x.shape, images.y.tolist(), images.classes
        ((2, 8, 8, 3), [0, 1], ('cat', 'dog'))
    """
    size, path = check_count("size", size, 1), Path(path)
    found = class_files(path)
    classes = tuple(found)
    files = [(file, number) for number, name in enumerate(classes) for file in found[name]]
    x = np.empty((len(files), size, size) if grey else (len(files), size, size, 3), np.uint8)
    for row, (file, _) in zip(x, files, strict=True):
        row[:] = _square(file, size, grey)
    return Images(x, np.array([number for _, number in files], np.int32), classes)


def class_files(path: Path) -> dict[str, list[Path]]:
    """The image files of each class, sorted.

    Raises:
        FileNotFoundError: if there is no such folder, or no image in it.
    """
    if not path.is_dir():
        raise FileNotFoundError(f"there is no folder {path}")
    found = {
        folder.name: sorted(file for file in folder.rglob("*") if _is_image(file))
        for folder in sorted(path.iterdir())
        if folder.is_dir()
    }
    found = {name: files for name, files in found.items() if files}
    if not found:
        raise FileNotFoundError(f"{path} holds no folders with images; one folder for each class is wanted")
    return found


def _is_image(file: Path) -> bool:
    # Some systems leave files of their own beside each, whose names begin with a dot.
    return file.suffix.lower() in SUFFIXES and not file.name.startswith(".")


def _square(file: Path, size: int, grey: bool) -> np.ndarray:
    from PIL import Image, ImageOps

    try:
        with Image.open(file) as opened:
            mode = opened.mode
            # Cameras store how they were held beside the pixels.
            image = ImageOps.exif_transpose(opened).convert("L" if grey else "RGB")
    except Exception as error:  # whatever the reader of a format runs into
        raise ValueError(f"{file} cannot be read as an image ({error})") from error
    if mode.startswith(("I", "F")):
        raise ValueError(f"{file} has more than 8 bits a pixel (mode {mode}): convert it to 8")
    side = min(image.size)
    if side != size:
        width, height = (max(size, round(length * size / side)) for length in image.size)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = ((length - size) // 2 for length in image.size)
    return np.asarray(image.crop((left, top, left + size, top + size)))
