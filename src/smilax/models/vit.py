"""The vision transformer."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from smilax.interop.equinox import from_equinox
from smilax.models.normalization import LayerNorm
from smilax.models.settings import as_images, check_dtype, check_sizes
from smilax.models.transformer import TransformerBlock, check_heads, embedding, linear, transformer
from smilax.network import Network


class ViT(eqx.Module):
    """Patches as tokens, a transformer, and a linear layer on the class token, for a whole batch at once."""

    patches: eqx.nn.Linear
    class_token: jax.Array
    positions: jax.Array
    blocks: tuple[TransformerBlock, ...]
    norm: LayerNorm
    dense: eqx.nn.Linear
    patch: int = eqx.field(static=True)
    image_shape: tuple[int, int, int] = eqx.field(static=True)
    compute_dtype: Any = eqx.field(static=True)

    def __init__(self, num_classes, image_size, channels, patch, width, depth, heads, compute_dtype, key):
        keys = jax.random.split(key, 5)
        self.patches = eqx.nn.Linear(patch**2 * channels, width, key=keys[0])
        self.class_token = embedding(keys[1], width)
        self.positions = embedding(keys[2], (image_size // patch) ** 2 + 1, width)
        self.blocks = transformer(depth, width, heads, False, keys[3])
        self.norm = LayerNorm(width)
        self.dense = eqx.nn.Linear(width, num_classes, key=keys[4])
        self.patch, self.image_shape = patch, (image_size, image_size, channels)
        self.compute_dtype = compute_dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        x = as_images(x, self.image_shape, self.compute_dtype or self.dense.weight.dtype)
        channels, side, _, size = x.shape
        count, patch = side // self.patch, self.patch
        # (channels, row of patches, row in it, column of patches, column in it, B) to (B, patches, numbers).
        x = x.reshape(channels, count, patch, count, patch, size).transpose(5, 1, 3, 2, 4, 0)
        x = linear(self.patches, x.reshape(size, count**2, patch**2 * channels))
        token = jnp.broadcast_to(self.class_token.astype(x.dtype), (size, 1, x.shape[2]))
        x = jnp.concatenate([token, x], axis=1) + self.positions.astype(x.dtype)[None]
        for block in self.blocks:
            x = block(x)
        return linear(self.dense, self.norm(x[:, 0]).astype(self.dense.weight.dtype))


def vit(
    num_classes: int = 10,
    image_size: int = 160,
    channels: int = 3,
    patch: int = 16,
    width: int = 384,
    depth: int = 12,
    heads: int = 8,
    compute_dtype: Any = None,
) -> Network:
    """A vision transformer: images give logits of shape `(B, num_classes)`.

    Square patches become tokens by a linear layer; a class token is put before them, learned positions are added; then
    `depth` blocks of self-attention and a perceptron four times as wide, each normalised before and with a shortcut,
    and a linear layer on the normalised class token (Dosovitskiy et al. 2021): 21,632,650 parameters at the defaults,
    the paper's sizes for Imagenette.

    Weights of linear layers have shape (out, in) and start uniformly within ±1/sqrt(in); class token and positions
    start normally with standard deviation 0.02. Paths are `patches/weight`, `blocks/0/attention/input/weight`,
    `blocks/0/expand/weight`, `dense/weight` and so on. For `x` see `resnet7`.

    Args:
        num_classes: number of outputs.
        image_size: height and width in pixels, a multiple of `patch`.
        channels: colour channels of an image.
        patch: height and width of a patch.
        width: features of a token, a multiple of `heads`.
        depth: number of blocks.
        heads: attention heads of a block.
        compute_dtype: dtype of activations and products, such as `"bfloat16"`; None takes that of the parameters.
            Parameters, normalisation, softmax and logits are in the parameters' dtype or float32 in any case.

    Raises:
        ValueError: for sizes that are not positive integers or no such multiples, or another compute_dtype.

    Example:
        >>> import jax, jax.numpy as jnp, smilax as sx
        >>> network = sx.models.vit(image_size=64, patch=8, width=96, depth=4, heads=3)
        >>> params = jax.eval_shape(network.init, jax.random.key(0))
        >>> jax.eval_shape(network.apply, params, jnp.zeros((2, 64, 64, 3), jnp.uint8)).shape
        (2, 10)
    """
    check_sizes(
        "vit",
        num_classes=(num_classes, 1), image_size=(image_size, 1), channels=(channels, 1), patch=(patch, 1),
        width=(width, 1), depth=(depth, 1), heads=(heads, 1),
    )  # fmt: skip
    if image_size % patch:
        raise ValueError(f"vit: image_size must be a multiple of patch, got {image_size} and {patch}")
    check_heads("vit", width, heads)
    dtype = check_dtype("vit", compute_dtype)
    return from_equinox(
        lambda key: ViT(num_classes, image_size, channels, patch, width, depth, heads, dtype, key), batched=True
    )
