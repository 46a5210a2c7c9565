"""What the vision transformer and the language model are made of; features are (B, tokens, width)."""

import equinox as eqx
import jax

from smilax.models.normalization import LayerNorm

# Standard deviation of embeddings at the start, as in GPT-2 and the vision transformer.
EMBEDDING_SCALE = 0.02


def linear(layer: eqx.nn.Linear, x: jax.Array) -> jax.Array:
    """A linear layer on the last axis, in the dtype of `x`."""
    x = x @ layer.weight.astype(x.dtype).T
    if layer.bias is None:
        return x
    return x + layer.bias.astype(x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))


def embedding(key: jax.Array, *shape: int) -> jax.Array:
    """Normal numbers of standard deviation 0.02."""
    return EMBEDDING_SCALE * jax.random.normal(key, shape)


class Attention(eqx.Module):
    """Multi-head self-attention: softmax(Q Kᵀ / sqrt(width / heads)) V in each head (Vaswani et al. 2017).

    `input` holds queries, keys and values of all heads in this order, weight (3 width, width); `output` (width, width).
    The softmax is computed in float32 at least.
    """

    input: eqx.nn.Linear
    output: eqx.nn.Linear
    heads: int = eqx.field(static=True)
    causal: bool = eqx.field(static=True)

    def __init__(self, width, heads, causal, key):
        input_key, output_key = jax.random.split(key)
        self.input = eqx.nn.Linear(width, 3 * width, key=input_key)
        self.output = eqx.nn.Linear(width, width, key=output_key)
        self.heads, self.causal = heads, causal

    def __call__(self, x: jax.Array) -> jax.Array:
        size, tokens, width = x.shape
        parts = linear(self.input, x).reshape(size, tokens, 3, self.heads, width // self.heads)
        query, key, value = (parts[:, :, i] for i in range(3))
        # JAX counts on NumPy's promotion there, for the softmax in float32; this holds while tracing.
        with jax.numpy_dtype_promotion("standard"):
            x = jax.nn.dot_product_attention(query, key, value, is_causal=self.causal)
        return linear(self.output, x.reshape(size, tokens, width))


class TransformerBlock(eqx.Module):
    """x + attention(norm(x)), then x + W₂ gelu(W₁ norm(x)), four times as wide within."""

    attention_norm: LayerNorm
    attention: Attention
    mlp_norm: LayerNorm
    expand: eqx.nn.Linear
    contract: eqx.nn.Linear

    def __init__(self, width, heads, causal, key):
        keys = jax.random.split(key, 3)
        self.attention_norm, self.mlp_norm = LayerNorm(width), LayerNorm(width)
        self.attention = Attention(width, heads, causal, keys[0])
        self.expand = eqx.nn.Linear(width, 4 * width, key=keys[1])
        self.contract = eqx.nn.Linear(4 * width, width, key=keys[2])

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x + self.attention(self.attention_norm(x))
        return x + linear(self.contract, jax.nn.gelu(linear(self.expand, self.mlp_norm(x))))


def transformer(depth: int, width: int, heads: int, causal: bool, key: jax.Array) -> tuple[TransformerBlock, ...]:
    """So many blocks."""
    return tuple(TransformerBlock(width, heads, causal, k) for k in jax.random.split(key, depth))


def check_heads(name: str, width: int, heads: int) -> None:
    """Raises ValueError if the width cannot be shared out among the heads."""
    if width % heads:
        raise ValueError(f"{name}: width must be a multiple of heads, got width = {width} and heads = {heads}")
