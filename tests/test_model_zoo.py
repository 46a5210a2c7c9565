"""The paper's larger networks: sizes, forward passes against independent references, precision, chains."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import smilax as sx
from smilax.models import gpt, lenet, resnet7, resnet18, vit
from smilax.models.convolution import max_pool
from smilax.models.normalization import FilterResponseNorm, LayerNorm
from smilax.models.resnet import Block
from smilax.models.transformer import TransformerBlock, embedding
from smilax.structure import leaf_paths

pytestmark = pytest.mark.once

FLOAT = jnp.result_type(float)
TINY = {
    "lenet": (lenet, {"num_classes": 3, "image_size": 12}, (12, 12)),
    "resnet7": (resnet7, {"num_classes": 3, "image_size": 16}, (16, 16, 3)),
    "resnet18": (resnet18, {"num_classes": 3, "image_size": 16, "width": 2}, (16, 16, 3)),
    "vit": (vit, {"num_classes": 3, "image_size": 8, "patch": 4, "width": 8, "depth": 2, "heads": 2}, (8, 8, 3)),
    "gpt": (gpt, {"vocab_size": 5, "context": 6, "layers": 2, "heads": 2, "width": 8}, (6,)),
}
each_model = pytest.mark.parametrize("name", TINY)


def tiny(name, **arguments):
    """The network, and parameters for it of which none is where it starts."""
    make, small, _ = TINY[name]
    network = make(**{**small, **arguments})
    network = network._replace(apply=jax.jit(network.apply))
    return network, filled(jax.eval_shape(network.init, jax.random.key(0)))


def filled(shapes, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda s: jnp.asarray(0.4 * rng.normal(size=s.shape), s.dtype), shapes)


def inputs(name, rows=2, seed=1):
    rng, shape = np.random.default_rng(seed), (rows, *TINY[name][2])
    return jnp.asarray(rng.integers(0, 5, shape) if name == "gpt" else rng.uniform(size=shape).astype(FLOAT))


def close(ours, theirs, tolerance=1e-4):
    np.testing.assert_allclose(np.asarray(ours), np.asarray(theirs), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    "network, size, about",
    [
        (lenet(), 61_706, 62e3),
        (resnet7(), 428_266, 428e3),
        (resnet18(), 11_178_762, 11.2e6),
        (vit(), 21_632_650, 22e6),
        (gpt(), 10_770_816, 10.8e6),
        (gpt(tied=False), 10_795_841, 10.8e6),
    ],
)
def test_default_sizes_are_the_papers(network, size, about):
    shapes = jax.eval_shape(network.init, jax.random.key(0))
    found = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
    assert found == size
    assert found == pytest.approx(about, rel=0.02)


def test_filter_response_norm_by_formula():
    rng = np.random.default_rng(0)
    x, (scale, shift, threshold) = rng.normal(size=(3, 4, 5, 2)), rng.normal(size=(3, 3))
    expected = np.empty_like(x)
    for b in range(2):
        for c in range(3):
            square = np.mean(x[c, :, :, b] ** 2)
            expected[c, :, :, b] = np.maximum(
                scale[c] * x[c, :, :, b] / np.sqrt(square + 1e-6) + shift[c], threshold[c]
            )
    layer = FilterResponseNorm(3)
    assert [p.tolist() for p in (layer.scale, layer.shift, layer.threshold)] == [[1] * 3, [0] * 3, [0] * 3]
    arrays = jax.tree.map(lambda a: jnp.asarray(a, FLOAT), [scale, shift, threshold])
    layer = jax.tree.unflatten(jax.tree.structure(layer), arrays)
    close(layer(jnp.asarray(x, FLOAT)), expected, 1e-5)


def test_layer_norm_by_formula():
    ours, x = filled(LayerNorm(7)), 3 + np.random.default_rng(0).normal(size=(2, 5, 7))
    close(ours(jnp.asarray(x, FLOAT)), norm(ours, x), 1e-5)


@pytest.mark.parametrize("size, stride, padding", [(2, None, 0), (3, 2, 1), (2, 1, 0)])
def test_max_pool_is_flax_max_pool(size, stride, padding, key):
    x = jax.random.normal(key, (3, 9, 8, 2)) - 5  # a padding of zeros would win
    strides, sides = (stride or size,) * 2, [(padding, padding)] * 2
    expected = nn.max_pool(x.transpose(3, 1, 2, 0), (size, size), strides, sides).transpose(3, 1, 2, 0)
    np.testing.assert_array_equal(max_pool(x, size, stride, padding), expected)


def conv_norm(layer, x, stride=1):
    return frn(layer.norm, conv(layer.convolution, x, stride))


def conv(layer, x, stride=1):
    padding = [(layer.weight.shape[0] // 2,) * 2] * 2
    x = jax.lax.conv_general_dilated(
        x, layer.weight, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return x if layer.bias is None else x + layer.bias[None, None, None]


def frn(norm, x):
    scale, shift, threshold = (p[None, None, None] for p in (norm.scale, norm.shift, norm.threshold))
    return jnp.maximum(scale * x / jnp.sqrt(jnp.mean(x**2, axis=(1, 2), keepdims=True) + 1e-6) + shift, threshold)


def classify(layer, x):
    return x.mean(axis=(1, 2)) @ layer.weight.T + layer.bias[None]


def test_resnet7_is_as_described():
    network, params = tiny("resnet7")

    @jax.jit
    def reference(params, x):
        for i in range(5):
            x = conv_norm(params.layers[i], x)
            if i in (1, 3, 4):
                x = nn.max_pool(x, (2, 2), (2, 2))
        return classify(params.dense, x + conv_norm(params.layers[5], x))

    x = inputs("resnet7")
    close(network.apply(params, x), reference(params, x), 1e-3)
    paths = leaf_paths(params)
    assert paths[:3] == ["layers/0/convolution/weight", "layers/0/convolution/bias", "layers/0/norm/scale"]


@pytest.mark.parametrize("stem_pool", [False, pytest.param(True, marks=pytest.mark.once)])
def test_resnet18_is_as_described(stem_pool):
    network, params = tiny("resnet18", stem_pool=stem_pool)

    @jax.jit
    def reference(params, x):
        x = conv_norm(params.stem, x)
        if stem_pool:
            x = nn.max_pool(x, (3, 3), (2, 2), [(1, 1), (1, 1)])
        for i, block in enumerate(params.blocks):
            stride = 2 if i in (2, 4, 6) else 1
            shortcut = x if stride == 1 else conv_norm(block.shortcut, x, stride)
            x = frn(block.norm, conv(block.second, conv_norm(block.first, x, stride)) + shortcut)
        return classify(params.dense, x)

    x = inputs("resnet18")
    close(network.apply(params, x), reference(params, x), 1e-3)
    assert params.blocks[0].shortcut is None and params.stem.convolution.bias is None


def linear(layer, x):
    return np.asarray(x, np.float64) @ np.asarray(layer.weight, np.float64).T + np.asarray(layer.bias, np.float64)


def norm(layer, x):
    scale, shift = np.asarray(layer.scale, np.float64), np.asarray(layer.shift, np.float64)
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * scale + shift


def transformer_by_hand(blocks, x, heads, causal):
    """One example (tokens, width), in NumPy, head by head and query by query."""
    tokens, width = x.shape
    size = width // heads
    for block in blocks:
        parts = linear(block.attention.input, norm(block.attention_norm, x))
        query, key, value = parts[:, :width], parts[:, width : 2 * width], parts[:, 2 * width :]
        mixed = np.zeros((tokens, width))
        for h in range(heads):
            own = slice(h * size, (h + 1) * size)
            for t in range(tokens):
                seen = slice(0, t + 1) if causal else slice(None)
                weight = np.exp(key[seen, own] @ query[t, own] / np.sqrt(size))
                mixed[t, own] = weight / weight.sum() @ value[seen, own]
        x = x + linear(block.attention.output, mixed)
        y = linear(block.expand, norm(block.mlp_norm, x))
        y = 0.5 * y * (1 + np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3)))
        x = x + linear(block.contract, y)
    return x


def test_vit_is_as_described():
    (network, params), images = tiny("vit"), inputs("vit")
    outputs = []
    for image in np.asarray(images, np.float64):
        patches = [image[i : i + 4, j : j + 4].ravel() for i in (0, 4) for j in (0, 4)]
        tokens = np.concatenate([np.asarray(params.class_token)[None], linear(params.patches, np.stack(patches))])
        x = transformer_by_hand(params.blocks, tokens + np.asarray(params.positions), 2, causal=False)
        outputs.append(linear(params.dense, norm(params.norm, x[0])))
    close(network.apply(params, images), outputs)
    assert params.positions.shape == (5, 8)


@pytest.mark.parametrize("tied", [True, False])
def test_gpt_is_as_described(tied):
    (network, params), tokens = tiny("gpt", tied=tied), inputs("gpt")
    table = np.asarray(params.tokens, np.float64)
    outputs = []
    for row in np.asarray(tokens):
        x = transformer_by_hand(params.blocks, table[row] + np.asarray(params.positions), 2, causal=True)
        x = norm(params.norm, x)
        outputs.append(x @ table.T if tied else linear(params.dense, x))
    close(network.apply(params, tokens), outputs)


def test_gpt_does_not_look_ahead():
    (network, params), x = tiny("gpt"), inputs("gpt")
    before = network.apply(params, x)
    for t in range(6):
        changed = network.apply(params, x.at[:, t].set((x[:, t] + 1) % 5))
        close(changed[:, :t], before[:, :t], 1e-6)
        assert np.abs(changed[:, t:] - before[:, t:]).max(axis=(0, 2)).min() > 1e-3
    # And a shorter window is the beginning of a longer one.
    close(network.apply(params, x[:, :4]), before[:, :4], 1e-5)


def test_gpt_makes_no_token_of_what_is_none():
    network, params = tiny("gpt")
    out = network.apply(params, jnp.array([[0, 1, 4, 2], [0, 1, 5, 2]], jnp.uint8))
    assert np.isfinite(out[0]).all() and np.isnan(out[1, 2]).all()
    padded = network.apply(params, jnp.array([[0, -1, 4, 2]]))
    assert np.isnan(padded[0, 1]).all()


def test_starts(key):
    made = jax.jit(lambda key: TransformerBlock(48, 2, False, key))(key)
    for layer in (made.attention.input, made.contract):
        bound = layer.weight.shape[1] ** -0.5
        assert np.abs(layer.weight).max() <= bound
        assert np.std(layer.weight) == pytest.approx(bound / 3**0.5, rel=0.1)
    assert np.std(embedding(key, 50, 48)) == pytest.approx(0.02, rel=0.1)
    assert made.mlp_norm.scale.tolist() == [1.0] * 48 and made.mlp_norm.shift.tolist() == [0.0] * 48


@pytest.mark.once
@each_model
def test_half_precision_is_for_the_computation_only(name):
    (network, params), x = tiny(name, compute_dtype="bfloat16"), inputs(name)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    assert jax.eval_shape(network.apply, params, x).dtype == jnp.float32
    gradient = jax.eval_shape(jax.grad(lambda params: jnp.sum(network.apply(params, x))), params)
    assert {leaf.dtype for leaf in jax.tree.leaves(gradient)} == {jnp.dtype("float32")}
    # Only the layer that makes the logits may have factors in full precision.
    factors = list(products(jax.make_jaxpr(network.apply)(params, x).jaxpr))
    assert len(factors) >= 3
    assert sum(dtypes != {jnp.dtype("bfloat16")} for dtypes in factors) <= 1


def products(jaxpr):
    """The dtypes of the factors of every matrix product and convolution, also within functions and branches."""
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("dot_general", "conv_general_dilated"):
            yield {variable.aval.dtype for variable in equation.invars}
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda p: hasattr(p, "eqns")):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from products(inner)


def block(kind):
    """What the deep networks repeat, with parameters of which none is where it starts, and features for it."""
    residual = kind == "residual"
    make = (lambda key: Block(3, 4, 2, key)) if residual else (lambda key: TransformerBlock(8, 2, True, key))
    x = np.random.default_rng(1).normal(size=(3, 6, 6, 2) if residual else (2, 5, 8))
    return filled(jax.eval_shape(make, jax.random.key(0))), jnp.asarray(x, FLOAT)


each_block = pytest.mark.parametrize("kind", [pytest.param("residual", marks=pytest.mark.once), "transformer"])


@each_block
def test_chains_together_and_one_by_one(kind):
    """Gradients of several parameters at once, as vectorised chains take them, and of one after another in a loop."""
    params, x = block(kind)
    both = jax.tree.map(lambda a: jnp.asarray(np.stack([a, 1.1 * np.asarray(a)]), a.dtype), params)

    def gradient(params):
        return jax.value_and_grad(lambda params: jnp.sum(jnp.sin(params(x))))(params)

    quickly = {"xla_backend_optimization_level": 0}  # it is compilation that takes the time here
    together = jax.jit(jax.vmap(gradient), compiler_options=quickly)(both)
    one_by_one = jax.jit(lambda both: jax.lax.map(gradient, both), compiler_options=quickly)(both)
    jax.tree.map(lambda a, b: close(a, b, 1e-3), together, one_by_one)
    assert min(np.abs(leaf).max() for leaf in jax.tree.leaves(together)) > 1e-6


@pytest.mark.once
@each_block
def test_half_precision_loses_little(kind):
    params, x = block(kind)
    full, half = jax.jit(lambda x: params(x))(x), jax.jit(lambda x: params(x))(x.astype(jnp.bfloat16))
    assert half.dtype == jnp.bfloat16
    error = float(jnp.max(jnp.abs(full - half.astype(full.dtype))) / jnp.max(jnp.abs(full)))
    assert 1e-6 < error < 0.05


@pytest.mark.truth
@pytest.mark.once
def test_sampled_chains_together_and_one_by_one(key):
    (network, _), x = tiny("gpt", layers=1), np.asarray(inputs("gpt", rows=12))
    y = np.random.default_rng(0).integers(0, 5, x.shape)
    posterior = sx.bnn(network, sx.likelihoods.Categorical(), sx.priors.Normal(), num_data=12)
    shapes = jax.eval_shape(posterior.init, key)
    params = filled(jax.tree.map(lambda s: jax.ShapeDtypeStruct((2, *s.shape), s.dtype), shapes))
    runs = [
        sx.sample(
            key, sx.sgld(posterior, 1e-5), (x, y), params, num_warmup=0, num_samples=3, batch_size=4,
            chain_method=method, progress_bar=False,
        ).draws
        for method in ("vectorized", "sequential")
    ]  # fmt: skip
    jax.tree.map(lambda a, b: close(a, b, 1e-4), *runs)
    moved = [np.abs(np.asarray(d[:, -1]) - np.asarray(d[:, 0])).max() for d in jax.tree.leaves(runs[0])]
    assert min(moved) > 1e-3


def test_a_language_model_is_scored_per_token():
    network, _ = tiny("gpt", layers=1)
    x, y = inputs("gpt", rows=4), np.asarray(inputs("gpt", rows=4, seed=2))
    posterior = sx.bnn(network, sx.likelihoods.Categorical(), sx.priors.Normal(), num_data=4)
    params = filled(jax.eval_shape(posterior.init, jax.random.key(0)))
    log_probs = np.asarray(jax.nn.log_softmax(network.apply(params["network"], x)), np.float64)
    chosen = np.take_along_axis(log_probs, y[..., None], axis=-1)[..., 0]
    close(posterior.log_likelihood(params, (x, y)), chosen.sum(1), 1e-5)
    prediction = sx.predict(posterior, jax.tree.map(lambda a: jnp.stack([a, a]), params), np.asarray(x))
    assert prediction.probs.shape == (4, 6, 5)
    close(prediction.log_prob(y), chosen.sum(1), 1e-5)
    assert sx.metrics.perplexity(prediction, y) == pytest.approx(np.exp(-chosen.mean()), rel=1e-5)
    assert sx.metrics.accuracy(prediction, y) == np.mean(log_probs.argmax(-1) == y)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: resnet7(0), "resnet7: num_classes must be an integer of at least 1, got 0"),
        (lambda: resnet7(image_size=8), "resnet7: image_size must be an integer of at least 16, got 8"),
        (lambda: resnet18(width=1.5), "resnet18: width must be"),
        (lambda: resnet18(stem_pool=1), "resnet18: stem_pool must be True or False, got 1"),
        (lambda: vit(image_size=30), "vit: image_size must be a multiple of patch, got 30 and 16"),
        (lambda: vit(heads=7), "vit: width must be a multiple of heads, got width = 384 and heads = 7"),
        (lambda: gpt(context=0), "gpt: context must be an integer of at least 1"),
        (lambda: gpt(tied="yes"), "gpt: tied must be True or False"),
        (lambda: gpt(compute_dtype="int8"), "gpt: compute_dtype must be a floating-point type"),
        (lambda: lenet(compute_dtype="half a float"), "lenet: compute_dtype must be a floating-point type"),
    ],
)
def test_bad_settings(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_bad_inputs():
    for name, x in (("resnet7", jnp.zeros((2, 16, 16))), ("vit", jnp.zeros((2, 8, 9, 3)))):
        network, params = tiny(name)
        with pytest.raises(ValueError, match="x must hold images"):
            network.apply(params, x)
    network, params = tiny("gpt")
    with pytest.raises(ValueError, match=r"tokens of shape \(B, T\), T from 1 to 6, got \(2, 7\)"):
        network.apply(params, jnp.zeros((2, 7), jnp.int32))
    with pytest.raises(TypeError, match="integers"):
        network.apply(params, jnp.zeros((2, 6)))
