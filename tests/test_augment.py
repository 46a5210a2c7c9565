"""Augmentations: which images they make, how often, and that a resumed run sees the same ones."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import smilax as sx
from smilax.augment import Compose, Flip, PaddedCrop, ResizedCrop, _resizing

pytestmark = pytest.mark.once


def numbered(rows, *shape):
    """Images in which no two pixels are equal."""
    return jnp.asarray(np.arange(1, 1 + rows * np.prod(shape)).reshape(rows, *shape), jnp.float32)


@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 2)])
def test_flips(shape, key):
    x = numbered(2000, *shape)
    out = np.asarray(jax.jit(Flip(0.3).images)(key, x))
    flipped = (out == np.asarray(x)[:, :, ::-1]).reshape(2000, -1).all(1)
    same = (out == np.asarray(x)).reshape(2000, -1).all(1)
    assert (flipped ^ same).all()
    assert flipped.mean() == pytest.approx(0.3, abs=5 * np.sqrt(0.21 / 2000))
    np.testing.assert_array_equal(Flip(0.0).images(key, x), x)
    np.testing.assert_array_equal(Flip(1.0).images(key, x), x[:, :, ::-1])


@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 2)])
def test_padded_crops_are_all_windows_equally_often(shape, key):
    rows, x = 4500, numbered(1, *shape)[0]
    out = jax.jit(PaddedCrop(1).images)(key, jnp.broadcast_to(x, (rows, *shape)))
    padded = np.pad(x, ((1, 1), (1, 1), *((0, 0),) * (len(shape) - 2)))
    windows = {padded[i : i + 3, j : j + 4].tobytes(): 0 for i, j in product(range(3), repeat=2)}
    for image in np.asarray(out):
        windows[image.tobytes()] += 1
    assert len(windows) == 9
    np.testing.assert_allclose(list(windows.values()), rows / 9, atol=5 * np.sqrt(rows / 9))


@pytest.mark.once
def test_resizing_is_jax_image(key):
    start, length, x = jnp.array([0.1, 0.0, 0.37]), jnp.array([0.5, 1.0, 0.2]), jax.random.normal(key, (3, 12))
    ours = jnp.einsum("bij,bj->bi", _resizing(start, length, 12), x)
    for b in range(3):
        scale, shift = 1 / length[b : b + 1], -12 * (start / length)[b : b + 1]
        theirs = jax.image.scale_and_translate(x[b], (12,), (0,), scale, shift, "linear", antialias=False)
        np.testing.assert_allclose(ours[b], theirs, atol=1e-5)


def test_resized_crops_have_the_areas_and_ratios_asked_for(key):
    # On a ramp the slope of the result tells how much of the image it shows.
    rows, crop = 3000, ResizedCrop(area=(0.2, 0.6), ratio=(0.5, 1.5))
    ramp = np.broadcast_to(np.arange(32.0), (rows, 32, 32))
    images = jnp.asarray(np.stack([ramp.swapaxes(1, 2), ramp], axis=-1), jnp.float32)
    out = np.asarray(jax.jit(crop.images)(key, images))
    assert out.shape == images.shape
    height, width = out[:, 16, 5, 0] - out[:, 15, 5, 0], out[:, 5, 16, 1] - out[:, 5, 15, 1]
    middle = out[:, 15:17, 15:17].mean((1, 2)) / 31
    area, whole = height * width, (height < 0.999) & (width < 0.999)
    assert 0.19 < area[whole].min() and area.max() < 0.61
    ratio = (width / height)[whole]
    assert 0.49 < ratio.min() < 0.55 and 1.4 < ratio.max() < 1.52
    assert area[whole].mean() == pytest.approx(0.4, abs=0.02)
    assert middle.mean(0) == pytest.approx([0.5, 0.5], abs=0.02)
    assert np.abs(np.corrcoef(middle.T)[0, 1]) < 0.1
    # Nothing to choose: the image itself.
    x = images[:2].astype(jnp.uint8)
    same = ResizedCrop(area=(1.0, 1.0), ratio=(1.0, 1.0)).images(key, x)
    np.testing.assert_array_equal(same, x)
    assert same.dtype == jnp.uint8


def test_compose_has_a_key_for_each(key):
    def add(key, batch):
        return batch[0] + jax.random.uniform(key, (1,)), *batch[1:]

    (x, y), zeros = Compose(add, add)(key, (jnp.zeros(1), jnp.ones(1))), jnp.zeros(1)
    once = add(jax.random.fold_in(key, 0), (zeros,))[0] + add(jax.random.fold_in(key, 1), (zeros,))[0]
    np.testing.assert_allclose(x, once, rtol=1e-6)
    np.testing.assert_array_equal(y, 1)
    assert Compose(add, Flip()).config() == {"Compose": [True, {"Flip": {"probability": 0.5}}]}
    assert ResizedCrop().config() == {"ResizedCrop": {"area": [0.08, 1.0], "ratio": [0.75, 4 / 3]}}


@pytest.mark.truth
@pytest.mark.once
def test_a_resumed_run_sees_the_same_images(tmp_path, key):
    """And a chain sees its own, and another augmentation is refused."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (20, 4, 4), dtype=np.uint8), rng.normal(size=20).astype(np.float32)
    network = sx.Network(
        init=lambda key: {"w": jnp.zeros((4, 4))}, apply=lambda p, x: jnp.sum(x / 255 * p["w"][None], axis=(1, 2))
    )
    posterior = sx.bnn(network, sx.likelihoods.Gaussian(scale=1.0), sx.priors.Normal(0.0, 1.0), num_data=20)
    algorithm = sx.sgld(posterior, 1e-3)
    start = posterior.init(key)

    def batches(padding=1):
        return sx.Batches((x, y), transform=Compose(PaddedCrop(padding), Flip()))

    def run(path, num_samples):
        return sx.sample(
            key, algorithm, batches(), start, num_chains=2, num_warmup=2, num_samples=num_samples, batch_size=5,
            store=path, progress_bar=False,
        )  # fmt: skip

    whole = np.asarray(run(None, 12).draws["network"]["w"])
    run(tmp_path / "run", 5)
    resumed = sx.resume(tmp_path / "run", algorithm, batches(), num_samples=12, progress_bar=False)
    np.testing.assert_array_equal(np.asarray(resumed.draws["network"]["w"]), whole)
    with pytest.raises(ValueError, match="data draws batches by .*'padding': 2"):
        sx.resume(tmp_path / "run", algorithm, batches(2), num_samples=15, progress_bar=False)

    drawn = jax.vmap(lambda k: batches().draw((x, y), k, jnp.uint32(0), 20)[0])(jax.random.split(key, 2))
    assert not np.array_equal(drawn[0], drawn[1]) and not np.array_equal(drawn[0], x)


@pytest.mark.once
def test_members_are_trained_on_augmented_images(key):
    """Of an image and its mirror image, of which the data have one, the network learns to say the same."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 1, 2)).astype(np.float32)
    y = x[:, 0, 0]
    network = sx.Network(init=lambda key: jnp.zeros(2), apply=lambda w, x: x.reshape(-1, 2) @ w)
    posterior = sx.bnn(network, sx.likelihoods.Gaussian(scale=1.0), sx.priors.Normal(0.0, 1.0), num_data=64)
    members = [
        np.asarray(
            sx.train_ensemble(
                key, posterior, sx.Batches((x, y), transform=transform), num_members=1, max_epochs=60, batch_size=16,
                progress_bar=False,
            )["network"][0]
        )
        for transform in (None, Flip())
    ]  # fmt: skip
    np.testing.assert_allclose(members[0], [1, 0], atol=0.1)
    np.testing.assert_allclose(members[1], [0.5, 0.5], atol=0.15)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Flip(1.5), "Flip: probability must be from 0 to 1, got 1.5"),
        (lambda: PaddedCrop(0), "PaddedCrop: padding must be at least 1, got 0"),
        (lambda: ResizedCrop(area=(0.5, 2.0)), "ResizedCrop: area must be 0 < least <= largest <= 1.0"),
        (lambda: ResizedCrop(ratio=(2.0, 1.0)), "ResizedCrop: ratio must be 0 < least <= largest"),
        (lambda: ResizedCrop(area=0.5), "ResizedCrop: area must be two numbers, got 0.5"),
        (lambda: Flip()(jax.random.key(0), (jnp.zeros((3, 4)),)), r"Flip: x must hold images .*\(3, 4\)"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_bad_types(key):
    with pytest.raises(TypeError, match="Compose: transforms must be functions"):
        Compose(Flip(), 3)
    with pytest.raises(TypeError, match=r"Flip: a batch must be a tuple \(x, …\), got dict"):
        Flip()(key, {"x": jnp.zeros((2, 3, 4))})
