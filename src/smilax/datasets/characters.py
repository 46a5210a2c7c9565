"""Text by characters, for language models."""

import gzip
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from smilax.checks import check_count
from smilax.datasets.splits import Rows, check_share


class Text(NamedTuple):
    """A text as numbers of its characters, in windows.

    Attributes:
        train: `(x, y)`, each (N, context), `y` the characters that follow those of `x`; or `(x, y, weight)`.
        valid, test: each `(x, y)`.
        vocabulary: the characters in order of their numbers.
    """

    train: tuple[np.ndarray, ...]
    valid: Rows
    test: Rows
    vocabulary: str

    def encode(self, text: str) -> np.ndarray:
        """The numbers of the characters of a text, shape (characters,).

        Raises:
            ValueError: for a character that is not in the vocabulary.
        """
        return _encode(text, self.vocabulary, self.train[0].dtype)

    def decode(self, tokens: Any) -> str:
        """The text of such numbers, an array of one axis."""
        return "".join(self.vocabulary[int(token)] for token in np.asarray(tokens))


def text(
    path: str | Path,
    *,
    context: int = 256,
    stride: int | None = None,
    fractions: tuple[float, float] = (0.9, 0.05),
) -> Text:
    """A text file by characters, cut in three parts one after the other, as the paper does with its Shakespeare.

    Each part is cut into windows of `context` characters that do not overlap, so that every character (but the first,
    and fewer than `context` at the end) is predicted once. With `stride`, training windows begin every so many
    characters instead and overlap, so that training sees characters at other places of a window, too; they then have
    a weight of stride / context each, so that the likelihood counts every character once all the same.
    The vocabulary is that of the whole text.

    Args:
        path: the file, in UTF-8, and packed by gzip if its name ends in `.gz`.
        context: characters of a window.
        stride: characters from the start of one training window to the next, up to `context`; None takes `context`.
        fractions: shares of training and validation text; the rest is for testing.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no text, a part is shorter than a window, or an argument is out of its range.

    Example:
        >>> import pathlib, tempfile, smilax as sx
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = pathlib.Path(folder, "mine.txt").write_text("to be or not to be " * 20)
        ...     text = sx.datasets.text(f"{folder}/mine.txt", context=8)
        >>> text.train[0].shape, len(text.vocabulary), text.decode(text.train[0][0]), text.decode(text.train[1][0])
        ((42, 8), 7, 'to be or', 'o be or ')
    """
    context = check_count("context", context, 1)
    stride = context if stride is None else check_count("stride", stride, 1)
    if stride > context:
        raise ValueError(f"stride must be from 1 to context = {context}, or characters are left out, got {stride}")
    if not isinstance(fractions, tuple | list) or len(fractions) != 2:
        raise ValueError(f"fractions must be two shares, of training and validation text, got {fractions!r}")
    first, second = (check_share("fractions", share) for share in fractions)
    if first + second >= 1:
        raise ValueError(f"fractions = {fractions} leave no text for testing")
    content = _read(Path(path))
    vocabulary = "".join(sorted(set(content)))
    # The smallest dtype that holds them: the device has as much less to keep.
    tokens = _encode(content, vocabulary, np.min_scalar_type(max(len(vocabulary) - 1, 0)))
    cuts = [0, int(len(tokens) * first), int(len(tokens) * (first + second)), len(tokens)]
    parts = [tokens[begin:end] for begin, end in zip(cuts[:-1], cuts[1:], strict=True)]
    for name, part in zip(Text._fields, parts, strict=False):
        if len(part) <= context:
            raise ValueError(
                f"context = {context} is too long: the {name} part of {path} has {len(part)} characters, and needs "
                f"{context + 1}"
            )
    train: tuple[np.ndarray, ...] = _windows(parts[0], context, stride)
    if stride < context:
        train += (np.full(len(train[0]), stride / context, np.float32),)
    return Text(train, _windows(parts[1], context, context), _windows(parts[2], context, context), vocabulary)


def _read(path: Path) -> str:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        # No translation of line ends: characters are what the file has.
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            return file.read().decode("utf-8")
    except (UnicodeDecodeError, gzip.BadGzipFile, EOFError) as error:
        raise ValueError(f"{path} is no text in UTF-8 ({error})") from error


def _encode(content: str, vocabulary: str, dtype: Any) -> np.ndarray:
    codes = np.frombuffer(content.encode("utf-32-le"), np.uint32)
    known = np.frombuffer(vocabulary.encode("utf-32-le"), np.uint32)
    if not len(known):
        return np.zeros(0, dtype)
    places = np.searchsorted(known, codes).clip(max=len(known) - 1)
    unknown = codes[known[places] != codes]
    if len(unknown):
        raise ValueError(f"text has the character {chr(unknown[0])!r}, which is not in the vocabulary")
    return places.astype(dtype)


def _windows(tokens: np.ndarray, context: int, stride: int) -> Rows:
    views = np.lib.stride_tricks.sliding_window_view(tokens, context + 1)[::stride]
    return np.ascontiguousarray(views[:, :-1]), np.ascontiguousarray(views[:, 1:])
