"""Augmentations of images, on the device: transforms for `sx.Batches` and `sx.Stream`.

Their random numbers follow from the key of a step's batch, so that a resumed run sees the images that an unbroken one
would. An augmented likelihood counts each row once: N stays the number of rows.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import jax
import jax.numpy as jnp

from smilax.checks import check_count


class _ImageTransform(ABC):
    """`transform(key, batch) -> batch` that changes the images of a batch `(x, …)`; the rest stays as it is."""

    def __call__(self, key: jax.Array, batch: Any) -> Any:
        """The batch `(x, …)` with other images; x is (B, height, width) or (B, height, width, channels)."""
        name = type(self).__name__
        if not isinstance(batch, tuple | list) or not batch:
            raise TypeError(f"{name}: a batch must be a tuple (x, …), got {type(batch).__name__}")
        x, *rest = batch
        if not hasattr(x, "ndim") or x.ndim not in (3, 4):
            shape = getattr(x, "shape", type(x).__name__)
            raise ValueError(f"{name}: x must hold images (B, height, width) or (B, height, width, channels): {shape}")
        return (self.images(key, x), *rest)

    @abstractmethod
    def images(self, key: jax.Array, x: jax.Array) -> jax.Array:
        """Other images of the same shape and dtype."""

    def config(self) -> dict[str, Any]:
        """A JSON-able description, by which a resumed run is known to be the same."""
        fields = asdict(self)  # type: ignore[call-overload]
        return {type(self).__name__: {k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}}


@dataclass(frozen=True)
class Flip(_ImageTransform):
    """Left and right exchanged.

    Attributes:
        probability: of each image's being flipped.

    Raises:
        ValueError: for a probability outside of 0..1.

    Example:
        >>> import jax, jax.numpy as jnp, smilax as sx
        >>> flip = sx.augment.Flip(probability=1.0)
        >>> x, y = flip(jax.random.key(0), (jnp.array([[[1, 2, 3]]]), jnp.array([0])))
        >>> x.tolist()
        [[[3, 2, 1]]]
    """

    probability: float = 0.5

    def __post_init__(self):
        if not _is_number(self.probability) or not 0 <= self.probability <= 1:
            raise ValueError(f"Flip: probability must be from 0 to 1, got {self.probability!r}")

    def images(self, key: jax.Array, x: jax.Array) -> jax.Array:
        """Some of the images flipped."""
        chosen = jax.random.uniform(key, (x.shape[0],), jnp.float32) < self.probability
        return jnp.where(chosen.reshape(-1, *(1,) * (x.ndim - 1)), x[:, :, ::-1], x)


@dataclass(frozen=True)
class PaddedCrop(_ImageTransform):
    """A window of the image's own size at a random place of the image with a margin.

    Attributes:
        padding: pixels of the margin, on all four sides; black.

    Raises:
        TypeError, ValueError: unless it is a positive integer.

    Example:
        >>> import jax, jax.numpy as jnp, smilax as sx
        >>> crop = sx.augment.PaddedCrop(4)
        >>> x, y = crop(jax.random.key(0), (jnp.ones((2, 32, 32, 3), jnp.uint8), jnp.zeros(2, jnp.int32)))
        >>> x.shape, x.dtype
        ((2, 32, 32, 3), dtype('uint8'))
    """

    padding: int = 4

    def __post_init__(self):
        check_count("PaddedCrop: padding", self.padding, 1)

    def images(self, key: jax.Array, x: jax.Array) -> jax.Array:
        """Windows of the images."""
        margin = (self.padding, self.padding)
        padded = jnp.pad(x, ((0, 0), margin, margin, *((0, 0),) * (x.ndim - 3)))
        corners = jax.random.randint(key, (x.shape[0], 2), 0, 2 * self.padding + 1, jnp.int32)

        def window(image, corner):
            zero = jnp.zeros((), jnp.int32)
            return jax.lax.dynamic_slice(image, (corner[0], corner[1], *(zero,) * (x.ndim - 3)), x.shape[1:])

        return jax.vmap(window)(padded, corners)


@dataclass(frozen=True)
class ResizedCrop(_ImageTransform):
    """A random rectangle of the image, resized to the image's own size.

    Area and logarithm of the aspect ratio are uniform, then each side is cut to the image's; the place is uniform
    (Szegedy et al. 2015, but without new tries for a rectangle that does not fit). Pixels are interpolated linearly,
    and rounded in integer images.

    Attributes:
        area: least and largest share of the image's area.
        ratio: least and largest width over height, relative to the image's.

    Raises:
        ValueError: for shares that are not 0 < least ≤ largest ≤ 1, or ratios that are not 0 < least ≤ largest.

    Example:
        >>> import jax, jax.numpy as jnp, smilax as sx
        >>> crop = sx.augment.ResizedCrop(area=(0.25, 1.0))
        >>> x, y = crop(jax.random.key(0), (jnp.full((2, 16, 16), 7, jnp.uint8), jnp.zeros(2, jnp.int32)))
        >>> x.shape, int(x.min()), int(x.max())
        ((2, 16, 16), 7, 7)
    """

    area: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def __post_init__(self):
        for name, pair, most in (("area", self.area, 1.0), ("ratio", self.ratio, float("inf"))):
            if not isinstance(pair, tuple | list) or len(pair) != 2 or not all(map(_is_number, pair)):
                raise ValueError(f"ResizedCrop: {name} must be two numbers, got {pair!r}")
            if not 0 < pair[0] <= pair[1] <= most or pair[1] == float("inf"):
                raise ValueError(f"ResizedCrop: {name} must be 0 < least <= largest <= {most}, got {pair}")
            object.__setattr__(self, name, tuple(map(float, pair)))

    def images(self, key: jax.Array, x: jax.Array) -> jax.Array:
        """Rectangles of the images, resized."""
        draws = jax.random.uniform(key, (4, x.shape[0]), jnp.float32)
        area = self.area[0] + (self.area[1] - self.area[0]) * draws[0]
        low, high = (jnp.log(jnp.float32(r)) for r in self.ratio)
        root = jnp.exp(0.5 * (low + (high - low) * draws[1]))
        height = jnp.minimum(jnp.sqrt(area) / root, 1.0)
        width = jnp.minimum(jnp.sqrt(area) * root, 1.0)
        rows = _resizing((1 - height) * draws[2], height, x.shape[1])
        columns = _resizing((1 - width) * draws[3], width, x.shape[2])
        # Exact products: TensorFloat-32 keeps three digits, and pixels have nearly as many.
        out = jnp.einsum("bij,bj...->bi...", rows, x.astype(jnp.float32), precision="highest")
        out = jnp.einsum("bij,bkj...->bki...", columns, out, precision="highest")
        return (jnp.round(out) if jnp.issubdtype(x.dtype, jnp.integer) else out).astype(x.dtype)


@dataclass(frozen=True, init=False)
class Compose:
    """Transforms one after the other, each with a key of its own.

    Attributes:
        transforms: functions `(key, batch) -> batch`.

    Raises:
        TypeError: if one is no function.

    Example:
        >>> import numpy as np, smilax as sx
        >>> crop_and_flip = sx.augment.Compose(sx.augment.PaddedCrop(4), sx.augment.Flip())
        >>> x, y = np.zeros((10, 32, 32, 3), np.uint8), np.zeros(10, np.int32)
        >>> sx.Batches((x, y), transform=crop_and_flip).config()["transform"]
        {'Compose': [{'PaddedCrop': {'padding': 4}}, {'Flip': {'probability': 0.5}}]}
    """

    transforms: tuple[Callable[[jax.Array, Any], Any], ...]

    def __init__(self, *transforms: Callable[[jax.Array, Any], Any]):
        for transform in transforms:
            if not callable(transform):
                raise TypeError(f"Compose: transforms must be functions (key, batch) -> batch, got {transform!r}")
        object.__setattr__(self, "transforms", transforms)

    def __call__(self, key: jax.Array, batch: Any) -> Any:
        """The batch after all transforms."""
        for i, transform in enumerate(self.transforms):
            batch = transform(jax.random.fold_in(key, i), batch)
        return batch

    def config(self) -> dict[str, Any]:
        """A JSON-able description; a function without one of its own is `true`."""
        return {"Compose": [t.config() if hasattr(t, "config") else True for t in self.transforms]}


def _resizing(start: jax.Array, length: jax.Array, size: int) -> jax.Array:
    """Weights of the pixels of a line for those of a part of it, enlarged to the line's length.

    Args:
        start: where the part begins, from 0 to 1, shape (B,).
        length: its length, from 0 to 1, shape (B,).
        size: pixels of the line, before and after.

    Returns:
        float32, shape (B, size, size); each row adds up to one.
    """
    centers = jnp.arange(size, dtype=jnp.float32) + 0.5
    places = start[:, None] * size + length[:, None] * centers[None]
    # Linear between the centres of pixels, constant beyond the last ones.
    places = jnp.clip(places, 0.5, size - 0.5)
    return jnp.maximum(1.0 - jnp.abs(places[:, :, None] - centers[None, None]), 0.0)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
