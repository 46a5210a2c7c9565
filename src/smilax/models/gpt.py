"""The generative transformer, a language model."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from smilax.interop.equinox import from_equinox
from smilax.models.normalization import LayerNorm
from smilax.models.settings import check_dtype, check_sizes
from smilax.models.transformer import TransformerBlock, check_heads, embedding, linear, transformer
from smilax.network import Network


class GPT(eqx.Module):
    """Embedded tokens, a causal transformer, and logits of each next token, for a whole batch at once."""

    tokens: jax.Array
    positions: jax.Array
    blocks: tuple[TransformerBlock, ...]
    norm: LayerNorm
    dense: eqx.nn.Linear | None
    compute_dtype: Any = eqx.field(static=True)

    def __init__(self, vocab_size, context, layers, heads, width, tied, compute_dtype, key):
        keys = jax.random.split(key, 4)
        self.tokens = embedding(keys[0], vocab_size, width)
        self.positions = embedding(keys[1], context, width)
        self.blocks = transformer(layers, width, heads, True, keys[2])
        self.norm = LayerNorm(width)
        self.dense = None if tied else eqx.nn.Linear(width, vocab_size, key=keys[3])
        self.compute_dtype = compute_dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        context = self.positions.shape[0]
        if x.ndim != 2 or not 1 <= x.shape[1] <= context:
            raise ValueError(f"gpt: x must hold tokens of shape (B, T), T from 1 to {context}, got {x.shape}")
        if not jnp.issubdtype(x.dtype, jnp.integer):
            raise TypeError(f"gpt: x must hold tokens, integers, got {x.dtype}")
        dtype = self.compute_dtype or self.tokens.dtype
        # A token outside of the vocabulary gives NaN, which is refused where a run starts, and not another token.
        x = x.astype(jnp.int32)
        # `take` counts negative numbers from the end.
        x = jnp.where(x < 0, self.tokens.shape[0], x)
        x = jnp.take(self.tokens, x, axis=0, mode="fill").astype(dtype)
        x = x + self.positions[: x.shape[1]].astype(dtype)[None]
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        logits = x @ self.tokens.astype(dtype).T if self.dense is None else linear(self.dense, x)
        return logits.astype(self.tokens.dtype)


def gpt(
    vocab_size: int = 65,
    context: int = 256,
    layers: int = 6,
    heads: int = 6,
    width: int = 384,
    tied: bool = True,
    compute_dtype: Any = None,
) -> Network:
    """A language model: tokens `(B, T)` give logits `(B, T, vocab_size)` of the token after each.

    Embeddings of tokens and learned ones of positions are added up; then `layers` blocks of causal self-attention and a
    perceptron four times as wide, each normalised before and with a shortcut, a last normalisation, and a linear layer
    (Radford et al. 2019): 10,770,816 parameters at the defaults, the paper's sizes for characters, or 10,795,841 with
    `tied=False`. What is said of a position depends on the tokens up to it only. Use `sx.likelihoods.Categorical` with
    targets `(B, T)`, the tokens that follow: a window of T tokens is one example, whose log likelihood is the sum
    over them; `sx.metrics.perplexity` is per token.

    Weights of linear layers have shape (out, in) and start uniformly within ±1/sqrt(in); embeddings start normally with
    standard deviation 0.02. Paths are `tokens`, `positions`, `blocks/0/attention/input/weight`, `norm/scale` and so on.

    Args:
        vocab_size: number of different tokens, which are integers from 0 on.
        context: the longest window T.
        layers: number of blocks.
        heads: attention heads of a block.
        width: features of a token, a multiple of `heads`.
        tied: whether the last layer's weights are the tokens' embeddings; if not, it has its own, and a bias.
        compute_dtype: as for `vit`.

    Raises:
        ValueError: for sizes that are not positive integers, a width that the heads cannot share, or another
            compute_dtype.

    Example:
        >>> import jax, jax.numpy as jnp, smilax as sx
        >>> network = sx.models.gpt(vocab_size=11, context=8, layers=2, heads=2, width=16)
        >>> params = jax.eval_shape(network.init, jax.random.key(0))
        >>> jax.eval_shape(network.apply, params, jnp.zeros((3, 8), jnp.uint8)).shape
        (3, 8, 11)
    """
    check_sizes(
        "gpt",
        vocab_size=(vocab_size, 2), context=(context, 1), layers=(layers, 1), heads=(heads, 1), width=(width, 1),
    )  # fmt: skip
    if not isinstance(tied, bool):
        raise ValueError(f"gpt: tied must be True or False, got {tied!r}")
    check_heads("gpt", width, heads)
    dtype = check_dtype("gpt", compute_dtype)
    return from_equinox(lambda key: GPT(vocab_size, context, layers, heads, width, tied, dtype, key), batched=True)
