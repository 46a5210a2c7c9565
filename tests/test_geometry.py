"""Geometries against the matrices they stand for, and estimates against the covariance they are fed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smilax import trees
from smilax.geometry import Diagonal
from smilax.geometry.choice import NAMES, noise_estimate
from smilax.packing import flatten, pack, unflatten

# Several seconds of compilation a case, and nothing here depends on the precision.
pytestmark = pytest.mark.once

ESTIMATES = [name for name in NAMES if name != "auto"]
PARAMS = {"weight": jnp.zeros((4, 3)), "kernel": jnp.zeros((2, 2, 2, 3)), "bias": jnp.zeros(5), "scale": jnp.zeros(())}
SIZE = trees.size(PARAMS)


def draws_from(covariance, number, seed=0):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(size=(number, len(covariance))) @ np.linalg.cholesky(covariance).T)


def estimate_from(name, params, draws, rotations=(100, 300, 1000), max_side=128):
    """Statistics after a stream of draws with uniform weights, rotated on the way."""
    estimate = noise_estimate(name, params, rank=6, max_side=max_side)
    stats = estimate.init(params)

    @jax.jit
    def run(stats, piece, start):
        def one(stats, item):
            draw, number = item
            return estimate.update(stats, unflatten(draw, params), 1 / (number + 1)), None

        return jax.lax.scan(one, stats, (piece, start + jnp.arange(len(piece)).astype(piece.dtype)))[0]

    edges = [0, *[r for r in rotations if r < len(draws)], len(draws)]
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        stats = run(stats, draws[low:high], jnp.asarray(float(low)))
        if high < len(draws):
            stats = estimate.rotate(stats)
    return estimate, stats


def matrix(function, like):
    """The matrix of a linear function of pytrees."""
    column = jax.jit(lambda e: flatten(function(unflatten(e, like))))
    return np.stack([np.asarray(column(e)) for e in jnp.eye(trees.size(like))], axis=1)


def random_covariance(seed, size=SIZE):
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(size, size)) / np.sqrt(size)
    scales = np.exp(rng.normal(size=size))
    return (root @ root.T + 0.1 * np.eye(size)) * scales[:, None] * scales[None, :]


@pytest.mark.parametrize(("name", "max_side"), [*((name, 128) for name in ESTIMATES), ("kronecker", 3)])
@pytest.mark.parametrize("packed", ["not", "all", "the small leaves"])
def test_the_parts_of_a_geometry_belong_to_one_matrix(name, max_side, packed, monkeypatch):
    if packed == "the small leaves":
        monkeypatch.setattr("smilax.packing.PACKING_LIMIT", SIZE - 1)
        monkeypatch.setattr("smilax.packing.LARGEST_PACKED", 5)
    params = PARAMS if packed == "not" else pack(PARAMS)
    assert len(jax.tree.leaves(params)) == {"not": 4, "all": 1, "the small leaves": 3}[packed]
    draws = draws_from(random_covariance(0), 400)
    estimate, stats = estimate_from(name, params, draws, (50, 150), max_side)
    damping = [jnp.asarray(0.1 * (i + 1)) for i in range(4)]
    geometry, scale, _ = estimate.factor(stats, damping)
    inverse = matrix(geometry.precondition, params)
    np.testing.assert_allclose(inverse, inverse.T, atol=1e-4 * np.abs(inverse).max())
    np.testing.assert_allclose(np.trace(inverse) / SIZE, 1, rtol=1e-4)
    mass = np.linalg.inv(inverse)
    vector = jnp.asarray(np.random.default_rng(1).normal(size=SIZE))
    quadratic = float(geometry.quadratic(unflatten(vector, params)))
    np.testing.assert_allclose(quadratic, float(vector @ mass @ vector), rtol=2e-3)
    samples = jax.jit(jax.vmap(lambda k: flatten(geometry.sample(k, params))))(
        jax.random.split(jax.random.key(0), 20_000)
    )
    spread = np.sqrt(np.diag(inverse))
    error = (np.cov(np.asarray(samples, np.float64).T) - inverse) / spread[:, None] / spread[None, :]
    assert np.abs(error).max() < 0.06
    assert float(scale) > 0


def test_dense_is_the_inverse_of_covariance_plus_damping():
    covariance = random_covariance(2)
    draws = draws_from(covariance, 5000)
    estimate, stats = estimate_from("dense", PARAMS, draws)
    damping = [jnp.asarray(x) for x in (0.1, 0.2, 0.3, 0.4)]
    added = np.asarray(
        flatten(
            jax.tree.map(lambda p, x: jnp.full(p.shape, x), PARAMS, dict(zip(sorted(PARAMS), damping, strict=True)))
        )
    )
    exact = np.linalg.inv(np.asarray(draws, np.float64).T @ np.asarray(draws, np.float64) / len(draws) + np.diag(added))
    geometry, scale, _ = estimate.factor(stats, damping)
    np.testing.assert_allclose(float(scale), np.trace(exact) / SIZE, rtol=1e-3)
    got = matrix(geometry.precondition, PARAMS) * float(scale)
    np.testing.assert_allclose(got, exact, atol=2e-3 * np.abs(exact).max())


def test_diagonal_is_elementwise():
    covariance = random_covariance(3)
    draws = draws_from(covariance, 3000)
    estimate, stats = estimate_from("diagonal", PARAMS, draws)
    geometry, scale, _ = estimate.factor(stats, [jnp.asarray(0.5)] * 4)
    exact = 1 / (np.mean(np.asarray(draws) ** 2, axis=0) + 0.5)
    np.testing.assert_allclose(np.diag(matrix(geometry.precondition, PARAMS)), exact / exact.mean(), rtol=1e-3)
    np.testing.assert_allclose(float(scale), exact.mean(), rtol=1e-3)


def test_kronecker_is_exact_for_a_kronecker_product_and_for_a_vector():
    rng = np.random.default_rng(4)
    left, right = (np.cov(rng.normal(size=(n, 4 * n)) * np.exp(rng.normal(size=(n, 1)))) for n in (5, 4))
    params = {"a": jnp.zeros((5, 4)), "b": jnp.zeros(6)}
    vector = np.cov(rng.normal(size=(6, 20)))
    covariance = np.zeros((26, 26))
    covariance[:20, :20], covariance[20:, 20:] = np.kron(left, right), vector
    estimate, stats = estimate_from("kronecker", params, draws_from(covariance, 20_000), rotations=(2000,))
    geometry, scale, _ = estimate.factor(stats, [jnp.asarray(0.05)] * 2)
    exact = np.linalg.inv(covariance + 0.05 * np.eye(26))
    error = matrix(geometry.precondition, params) * float(scale) @ (covariance + 0.05 * np.eye(26))
    np.testing.assert_allclose(np.linalg.eigvals(error).real, 1, atol=0.25)
    np.testing.assert_allclose(float(scale), np.trace(exact) / 26, rtol=0.05)


def test_low_rank_finds_a_few_strong_directions():
    rng, size, params = np.random.default_rng(5), 200, {"w": jnp.zeros((20, 10))}
    directions, _ = np.linalg.qr(rng.normal(size=(size, 3)))
    covariance = np.eye(size) + directions @ np.diag([60.0, 40.0, 30.0]) @ directions.T
    draws = draws_from(covariance, 20_000)
    damping = [jnp.asarray(1e-3)]
    spread = {}
    for name in ("low_rank", "diagonal"):
        estimate, stats = estimate_from(name, params, draws, rotations=(500, 1500, 4000, 8000))
        geometry, scale, _ = estimate.factor(stats, damping)
        whitened = matrix(geometry.precondition, params) * float(scale) @ covariance
        values = np.sort(np.linalg.eigvals(whitened).real)
        spread[name] = values[-1] / values[0]
    # The diagonal part takes a little of the spikes; the three directions themselves are found and whitened.
    assert spread["low_rank"] < 4 < 40 < spread["diagonal"]


def test_identity_averages_the_damping_too():
    draws = draws_from(np.eye(SIZE) * 4, 3000)
    estimate, stats = estimate_from("identity", PARAMS, draws)
    _, scale, damping = estimate.factor(stats, [jnp.asarray(x) for x in (0.0, 1.0, 2.0, 3.0)])
    sizes = np.array([leaf.size for leaf in jax.tree.leaves(PARAMS)])
    level = np.sum(sizes * np.arange(4)) / SIZE
    np.testing.assert_allclose([float(x) for x in damping], level, rtol=1e-5)
    np.testing.assert_allclose(float(scale), 1 / (4 + level), rtol=0.05)


@pytest.mark.parametrize("name", ["dense", "kronecker"])
def test_a_badly_conditioned_covariance_stays_finite_and_positive(name):
    # Condition number 10¹², far beyond float32; one direction has no noise at all.
    rng = np.random.default_rng(6)
    params = {"w": jnp.zeros(30)}
    basis, _ = np.linalg.qr(rng.normal(size=(30, 30)))
    draws = jnp.asarray(rng.normal(size=(500, 30)) * np.r_[0.0, np.logspace(-6, 0, 29)] @ basis.T * 1e3)
    estimate, stats = estimate_from(name, params, draws, rotations=(100, 250))
    geometry, scale, _ = estimate.factor(stats, [jnp.asarray(1e-4)])
    inverse = matrix(geometry.precondition, params)
    assert np.isfinite(inverse).all()
    assert np.isfinite(float(scale))
    for seed in range(20):
        gradient = {"w": jnp.asarray(np.random.default_rng(seed).normal(size=30))}
        assert float(trees.dot(gradient, geometry.precondition(gradient))) > 0
        assert float(geometry.quadratic(gradient)) > 0


def test_auto_is_dense_for_few_and_kronecker_for_many():
    assert type(noise_estimate("auto", {"w": jnp.zeros((10, 10))})).__name__ == "DenseEstimate"
    assert type(noise_estimate("auto", {"w": jnp.zeros((100, 10))})).__name__ == "KroneckerEstimate"
    with pytest.raises(ValueError, match="geometry must be one of 'auto', .* got 'full'"):
        noise_estimate("full", PARAMS)


@pytest.mark.parametrize(
    ("shape", "rows", "columns"),
    [
        ((16, 8), [(1, 16, 16)], [(1, 8, 8)]),
        ((50, 8), [(2, 12, 12), (2, 13, 13)], [(1, 8, 8)]),
        ((8, 32), [(1, 8, 8)], [(2, 16, 16)]),
        # Both are long: the shorter, or the inputs'.
        ((48, 32), None, [(2, 16, 16)]),
        ((32, 32), [(2, 16, 16)], None),
        # Of nine blocks.
        ((129, 8), None, [(1, 8, 8)]),
        ((129, 40), None, [(2, 13, 13), (1, 14, 14)]),
        ((40,), [(2, 13, 13), (1, 14, 14)], None),
    ],
)
def test_long_sides_are_cut_in_blocks(shape, rows, columns):
    params = {"w": jnp.zeros(shape)}
    leaf = noise_estimate("kronecker", params, max_side=16).init(params).leaves[0]
    got = [None if side is None else [stack.shape for stack in side] for side in (leaf.left, leaf.right)]
    assert got == [rows, columns]


def test_kronecker_in_blocks_is_exact_for_blocks_of_kronecker_products():
    rng = np.random.default_rng(8)
    scale = 1.0 + np.arange(7)
    parts = [np.cov(rng.normal(size=(n, 4 * n))) for n in (3, 4)]
    left = np.zeros((7, 7))
    left[:3, :3], left[3:, 3:] = parts
    params = {"w": jnp.zeros((7, 4))}
    covariance = np.kron(left * np.sqrt(scale[:, None] * scale[None, :]), np.diag(0.5 + np.arange(4)))
    estimate, stats = estimate_from("kronecker", params, draws_from(covariance, 20_000), rotations=(2000,), max_side=4)
    geometry, scale, _ = estimate.factor(stats, [jnp.asarray(0.05)])
    error = matrix(geometry.precondition, params) * float(scale) @ (covariance + 0.05 * np.eye(28))
    np.testing.assert_allclose(np.linalg.eigvals(error).real, 1, atol=0.25)


def test_diagonal_geometry_of_a_pytree():
    geometry = Diagonal({"a": jnp.array([1.0, 2.0]), "b": jnp.array(4.0)})
    value = {"a": jnp.array([4.0, 4.0]), "b": jnp.array(16.0)}
    assert jax.tree.map(lambda x: x.tolist(), geometry.precondition(value)) == {"a": [4.0, 1.0], "b": 1.0}
    assert float(geometry.quadratic({"a": jnp.ones(2), "b": jnp.ones(())})) == 21


@pytest.mark.parametrize("name", NAMES)
def test_a_draw_of_no_weight_changes_nothing(name):
    params = {"w": jnp.zeros((5, 4)), "b": jnp.zeros(4)}
    estimate = noise_estimate(name, params)
    stats = estimate.init(params)
    rng = np.random.default_rng(0)
    for step in range(30):
        draw = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), params)
        stats = estimate.update(stats, draw, jnp.asarray(3 / (step + 3), params["b"].dtype))
    stats = estimate.rotate(stats)
    ignored = estimate.update(stats, jax.tree.map(jnp.zeros_like, params), jnp.zeros((), params["b"].dtype))
    jax.tree.map(np.testing.assert_array_equal, ignored, stats)


def test_directions_that_are_turned_describe_the_same_covariance():
    stats = estimate_from("low_rank", jnp.zeros(12), draws_from(np.diag(np.arange(1.0, 13.0)), 300), rotations=(100,))[
        1
    ]
    # As if the image of the directions were themselves, mixed: the new ones have the same span.
    mixed = stats.directions @ jax.random.normal(jax.random.key(0), (6, 6))
    turned = noise_estimate("low_rank", jnp.zeros(12), rank=6).rotate(stats._replace(image=mixed))
    before, after = (s.directions @ s.along @ s.directions.T for s in (stats, turned))
    np.testing.assert_allclose(after, before, atol=1e-4 * np.abs(before).max())
