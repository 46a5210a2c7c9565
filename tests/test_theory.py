"""What docs/theory.md derives, each formula against the code or a simulation of it."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import smilax as sx
from smilax import microcanonical
from smilax.friction import matched_friction
from smilax.geometry import Identity
from smilax.geometry.choice import noise_estimate
from smilax.geometry.dense import Dense
from smilax.microcanonical import LAMBDA, draw_velocity, drift, drift_first, kick, refresh
from smilax.noise import half_batch_gradients
from smilax.posterior import LogDensity
from smilax.samplers.ismile_kernel import INFLATION, halves_correction
from smilax.samplers.ismile_warmup import CURVATURE, RESIDUAL

pytestmark = [pytest.mark.once, pytest.mark.optimised]
F32 = jnp.float32
# Large enough for the limit d → ∞ of the formulae: what they neglect is of relative order 1/d.
DIM, CHAINS, GROUPS = 400, 128, 4
OMEGA = np.array([0.25, 0.75, 1.25, 1.75])


def test_velocity_form_is_the_sphere_seen_through_the_mass_matrix():
    rng = np.random.default_rng(0)
    root = rng.normal(size=(6, 6)) + 2 * np.eye(6)
    covariance = jnp.asarray(root @ root.T, F32)
    dense = noise_estimate("dense", jnp.zeros(6))
    geometry = dense.factor(covariance, [jnp.zeros((), F32)]).geometry
    assert isinstance(geometry, Dense)
    gradient, velocity = jnp.asarray(rng.normal(size=6), F32), draw_velocity(jax.random.key(0), jnp.zeros(6), geometry)
    turned, _ = microcanonical.kick(velocity, gradient, geometry, jnp.asarray(3.0, F32))
    # u = A⁻¹v is on the unit sphere; there the gradient is Aᵀg, and the mass matrix the identity.
    on_sphere, _ = microcanonical.kick(
        geometry.inverse @ velocity, geometry.factor.T @ gradient, Identity(), jnp.asarray(3.0, F32)
    )
    np.testing.assert_allclose(geometry.inverse @ turned, on_sphere, atol=1e-4)


def noise_variance(ratio, stretch=1.0):
    """Variance in every direction of a unit normal at ε/L_eff = `ratio`, for d → ∞ and ε/R → 0."""
    delta = stretch * np.sqrt(2 * ratio)
    one, both = delta / 2, delta  # rapidities after the first kick and after both
    between = 1 / np.cosh(both - one) if one == 0 else (1 + np.sinh(one) * np.sinh(both)) / np.cosh(one) / np.cosh(both)
    squares = 2 * LAMBDA**2 * (1 + 1 / np.cosh(both)) + (1 - 2 * LAMBDA) ** 2
    squares += 2 * LAMBDA * (1 - 2 * LAMBDA) * (1 / np.cosh(one) + between)
    pull_one, pull_both = stretch * np.tanh(one) / delta, stretch * np.tanh(both) / delta
    equations = [
        [pull_both, 1 - 1 / np.cosh(both)],
        [
            -2 * ((1 - 2 * LAMBDA) * pull_one + LAMBDA * pull_both),
            2 * (LAMBDA + (1 - 2 * LAMBDA) / np.cosh(one) + LAMBDA / np.cosh(both)),
        ],
    ]
    return np.linalg.solve(equations, [LAMBDA / np.cosh(both) + (1 - 2 * LAMBDA) * between + LAMBDA, -squares])[0]


CURVATURE_BIAS = 1 / 12 - LAMBDA / 2  # of the variance of a unit normal, times h² = ε²/d


def normal(x):
    return 0.5 * x**2


# Minus the log densities of other coordinates.
TARGETS = {
    "quartic": lambda x: 0.25 * x**4,
    "stiffening": lambda x: 0.5 * x**2 + x**4,
    "logistic": lambda x: 2 * jnp.logaddexp(x, -x),
}


def evaluation(target):
    """Of independent coordinates, each with minus this log density."""
    slope = jax.grad(lambda x: -jnp.sum(target(x)))

    def evaluate(x):
        value = -jnp.sum(target(x))
        return LogDensity(value, value, jnp.zeros(1, x.dtype), jnp.zeros((), x.dtype)), slope(x)

    return evaluate


def second_moment(target):
    x = np.linspace(-12, 12, 20_001)
    weights = np.exp(-np.asarray(target(jnp.asarray(x, F32)), np.float64))
    return weights @ x**2 / weights.sum()


@partial(jax.jit, static_argnums=0)
def _simulate(target, keys, omega, sway, eps, friction, stretch, length, spread, burn, steps):
    evaluate = evaluation(target)

    def chain(key):
        def body(k, carry):
            x, v, squares, energy, cosine = carry
            noise_key, refresh_key = jax.random.split(jax.random.fold_in(key, k))
            here = omega * (1 + sway * jnp.sign(x[0]))
            force = jnp.sqrt(here) * jax.random.normal(noise_key, x.shape, x.dtype) - friction * 0.5 * eps * here * v
            step = drift_first(evaluate, x, v, Identity(), eps, noise=force, stretch=stretch)
            new = refresh(refresh_key, step.velocity, Identity(), eps, length)
            share = jnp.where(k < burn, 0, 1 / (steps - burn))
            energy = energy + share * jnp.stack([step.energy_error, step.energy_error**2])
            return step.params, new, squares + share * step.params**2, energy, cosine + share * (v @ new)

        x = spread * jax.random.normal(jax.random.fold_in(key, 2**31), omega.shape, omega.dtype)
        v = draw_velocity(jax.random.fold_in(key, 2**31 + 1), x, Identity())
        start = x, v, jnp.zeros_like(x), jnp.zeros(2, x.dtype), jnp.zeros((), x.dtype)
        return jax.lax.fori_loop(0, steps, body, start)[2:]

    return jax.vmap(chain)(keys)


def simulate(
    omega, ratio, radii, time, *, sway=0.0, friction=False, stretch=1.0, length=np.inf, eps=None, target=normal
):
    """Chains under noise of covariance proportional to diag(omega), on a unit normal or another target.

    Args:
        omega: one number for each of equal groups of directions.
        ratio: ε/L_eff.
        radii: L_eff/R, R = √d times the target's standard deviation.
        time: length of a chain over R, after as much as a third of that is thrown away.
        sway: one number per group; the noise is omega · (1 + sway · sign(x₀)).
        friction: add −½ ε C v.
        stretch: of the kicks.
        length: of explicit refreshment, over R.
        eps: step size over R; default ratio · radii.

    Returns:
        E[x²] of each group over the target's, and its standard error; the energy error's mean and variance, over d;
        the mean of v·v'.
    """
    h = ratio * radii if eps is None else eps
    omega = np.repeat(omega, DIM // len(omega)) / np.mean(omega)
    level = 2 * (DIM - 1) * ratio / (h**2 * DIM)
    steps, burn = round(4 / 3 * time / h), round(time / h / 3)
    moment = second_moment(target)
    radius = (DIM * moment) ** 0.5
    numbers = [float(x) for x in (h * radius, friction, stretch, length * radius, moment**0.5)]
    sway = np.repeat(sway, DIM // np.size(sway))
    squares, energy, cosine = _simulate(
        target, jax.random.split(jax.random.key(0), CHAINS), jnp.asarray(level * omega, F32), jnp.asarray(sway, F32),
        *(jnp.asarray(x, F32) for x in numbers), burn, steps,
    )  # fmt: skip
    groups = np.asarray(squares, np.float64).reshape(CHAINS, GROUPS, -1).mean(2) / moment
    mean, square = np.asarray(energy, np.float64).mean(0)
    return groups.mean(0), groups.std(0, ddof=1) / CHAINS**0.5, mean / DIM, (square - mean**2) / DIM, cosine.mean()


def pooled(values, errors):
    return values.mean(), np.sqrt((errors**2).sum()) / len(values)


@pytest.mark.truth
def test_inflation_before_and_after_the_kick_correction():
    assert np.isclose((noise_variance(1e-4) - 1) / 1e-4, 5 / 12 - LAMBDA / 2, atol=1e-3)
    assert np.isclose(5 / 12 - LAMBDA / 2, INFLATION, atol=1e-3)
    for ratio in (0.1, 0.3):
        for stretch in (1.0, 1 + INFLATION * ratio):
            values, errors, *_ = simulate([1.0], ratio, 1.0, 60, stretch=stretch)
            value, error = pooled(values, errors)
            predicted = noise_variance(ratio, stretch) + CURVATURE_BIAS * ratio**2
            print(f"ε/L_eff {ratio} stretch {stretch:.3f}: {value:.4f} ± {error:.4f}, predicted {predicted:.4f}")
            assert error < 0.0015
            assert abs(value - predicted) < 4 * error + 0.001
    # What is left at the largest step that ismile takes for its default accuracy, against its estimate of that.
    left = noise_variance(0.285, 1 + INFLATION * 0.285) - 1
    assert 1 < left / (RESIDUAL * (INFLATION * 0.285) ** 2) < 1.2


@pytest.mark.parametrize("radii", [0.5, pytest.param(1.0, marks=pytest.mark.truth)])
def test_variances_follow_anisotropic_noise_and_friction_prevents_it(radii):
    ratio = 0.02
    # What discretisation adds goes with the noise in a direction, the correction is the same for all.
    left = 1 + INFLATION * ratio * (OMEGA - 1)
    stretch = 1 + INFLATION * ratio
    values, errors, *_ = simulate(OMEGA, ratio, radii, 20, stretch=stretch)
    print(f"L {radii} R: {values} ± {errors}")
    assert (errors < 0.01).all()
    assert (np.abs(values - OMEGA * left) < 4 * errors + 0.01 * OMEGA).all()
    values, errors, *_ = simulate(OMEGA, ratio, radii, 20, friction=True, stretch=stretch - ratio / 2)
    print(f"with friction: {values} ± {errors}")
    assert (errors < 0.01).all()
    assert (np.abs(values - left) < 4 * errors + 0.003).all()


def halves_variance(ratio, factor, stretch=1.0, friction=False):
    """Of a step in halves: variance of a unit normal at ε/L_eff = `ratio` and f = `factor`, d → ∞ and ε/R → 0."""
    h = 1e-4
    level = 2 * ratio / factor / h**2  # of noise at f = 1
    pull = -0.5 * h * factor * level if friction else 0.0

    def turned(along):
        """Factors of q and of n − x in what a kick makes of q; `along` is the mean of nᵀq/d."""
        gamma = np.sqrt((1 + factor) * level + pull**2 + 2 * pull * along)
        delta, cosine = stretch * h / 2 * gamma, (pull + along) / gamma
        up, norm = np.sinh(delta) + cosine * (np.cosh(delta) - 1), np.cosh(delta) + cosine * np.sinh(delta)
        return (1 + up * pull / gamma) / norm, up / (gamma * norm)

    between = -(1 - factor) * level  # covariance of the noise of the halves
    keep_one, turn_one = turned(0.0)
    keep_two, turn_two = turned(turn_one * between)
    keep, lose = keep_two * keep_one, keep_two * turn_one + turn_two
    inner = keep_two + turn_one * turn_two * between  # of the second velocity and the third
    squares = 2 * LAMBDA**2 * (1 + keep) + (1 - 2 * LAMBDA) ** 2 + 2 * LAMBDA * (1 - 2 * LAMBDA) * (keep_one + inner)
    equations = [
        [lose / h, 1 - keep],
        [
            -2 * ((1 - 2 * LAMBDA) * turn_one + LAMBDA * lose) / h,
            2 * (LAMBDA + (1 - 2 * LAMBDA) * keep_one + LAMBDA * keep),
        ],
    ]
    return np.linalg.solve(equations, [LAMBDA * keep + (1 - 2 * LAMBDA) * inner + LAMBDA, -squares])[0]


@partial(jax.jit, static_argnames="friction")
def _simulate_halves(keys, omega, factor, eps, correction, quarter, burn, steps, friction):
    def chain(key):
        def body(k, carry):
            x, v, squares = carry
            shared, opposed = jax.random.normal(jax.random.fold_in(key, k), (2, *x.shape), x.dtype)
            for length, sign in ((LAMBDA, 1), (1 - 2 * LAMBDA, -1)):
                x = drift(x, v, length * eps)
                force = jnp.sqrt(omega) * (jnp.sqrt(factor) * shared + sign * opposed) - x
                turn = 0.0
                if friction:
                    force = force - 0.5 * eps * factor * omega * v
                    turn = 0.5 * eps**2 * factor * (v @ (omega * v)) / (DIM - 1)
                v, _ = kick(v, force, Identity(), eps / 2 / (1 - correction + quarter * turn))
            x = drift(x, v, LAMBDA * eps)
            return x, v, squares + jnp.where(k < burn, 0, 1 / (steps - burn)) * x**2

        x = jax.random.normal(jax.random.fold_in(key, 2**31), omega.shape, omega.dtype)
        v = draw_velocity(jax.random.fold_in(key, 2**31 + 1), x, Identity())
        return jax.lax.fori_loop(0, steps, body, (x, v, jnp.zeros_like(x)))[2]

    return jax.vmap(chain)(keys)


def simulate_halves(omega, ratio, factor, time, corrected, friction=False):
    """As `simulate`, of steps in halves on a unit normal with L_eff = R: E[x²] of each group and its standard error."""
    steps, burn = round(4 / 3 * time / ratio), round(time / ratio / 3)
    eps = ratio * DIM**0.5
    omega = np.repeat(omega, DIM // len(omega)) / np.mean(omega)
    level = 2 * (DIM - 1) * ratio / (eps**2 * factor)
    correction = halves_correction(factor) * ratio if corrected else 0.0
    squares = _simulate_halves(
        jax.random.split(jax.random.key(0), CHAINS), jnp.asarray(level * omega, F32),
        *(jnp.asarray(x, F32) for x in (factor, eps, correction, 0.25 * corrected)), burn, steps, friction,
    )  # fmt: skip
    groups = np.asarray(squares, np.float64).reshape(CHAINS, GROUPS, -1).mean(2)
    return groups.mean(0), groups.std(0, ddof=1) / CHAINS**0.5


@pytest.mark.parametrize("factor", [pytest.param(1.0, marks=pytest.mark.truth), 0.5])
def test_inflation_of_steps_in_halves_before_and_after_the_correction(factor):
    correction = halves_correction(factor)
    assert np.isclose((halves_variance(1e-4, factor) - 1) / 1e-4, correction, atol=1e-3)
    # Friction takes a quarter of ε/L_eff off, and is made up for by each kick's own turn.
    assert np.isclose((halves_variance(1e-4, factor, friction=True) - 1) / 1e-4, correction - 1 / 4, atol=1e-3)
    ratio = 0.2
    for corrected, friction in ((False, False), (True, False), (True, True)):
        stretch = 1 / (1 - (correction - 0.25 * friction) * ratio) if corrected else 1.0
        values, errors = simulate_halves([1.0], ratio, factor, 40, corrected, friction)
        value, error = pooled(values, errors)
        predicted = halves_variance(ratio, factor, stretch, friction) + CURVATURE_BIAS * ratio**2
        print(f"f {factor}, corrected {corrected}, friction {friction}: {value:.4f} ± {error:.4f}, {predicted:.4f}")
        assert error < 0.002
        assert abs(value - predicted) < 4 * error + 0.002
        if corrected:
            assert abs(predicted - 1) < 0.02


def test_friction_in_halves_prevents_what_anisotropic_noise_does():
    ratio = 0.02
    values, errors = simulate_halves(OMEGA, ratio, 0.5, 20, True)
    print(f"without {values} ± {errors}")
    assert (np.abs(values - OMEGA) < 4 * errors + 0.02 * OMEGA).all()
    values, errors = simulate_halves(OMEGA, ratio, 0.5, 20, True, friction=True)
    print(f"with friction {values} ± {errors}")
    assert (errors < 0.01).all()
    assert (np.abs(values - 1) < 4 * errors + 0.005).all()


@pytest.mark.truth
def test_a_smaller_step_does_not_help_against_anisotropic_noise():
    values, errors, *_ = simulate(OMEGA, 0.005, 1.0, 10)
    print(f"{values} ± {errors}")
    assert (np.abs(values - OMEGA) < 4 * errors + 0.01 * OMEGA).all()


def flat(rows):
    """A target whose gradient is noise alone, of the rows' covariance."""
    return sx.Posterior(lambda x: jnp.zeros((), x.dtype), lambda x, batch: batch @ x, len(rows))


def test_friction_from_a_batch_has_noise_of_its_own():
    ratio, size = 0.05, 64
    posterior = flat(np.zeros(size))
    eps = np.sqrt(2 * (DIM - 1) * ratio / size)  # rows of unit variance at N = B: Σ = B I

    def one(key):
        rows_key, velocity_key = jax.random.split(key)
        batch = jax.random.normal(rows_key, (size, DIM), F32)
        velocity = draw_velocity(velocity_key, jnp.zeros(DIM, F32), Identity())
        match = matched_friction(posterior, jnp.zeros(DIM, F32), velocity, batch, jnp.asarray(eps, F32), 1.0)
        return match.turn, jnp.mean((match.weights - 1) ** 2)

    turn, variance = (float(jnp.mean(x)) for x in jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), 500)))
    own = ratio * (DIM - 1) / 2 / size
    strength = 2 / (1 + np.sqrt(1 - 4 * own))
    print(
        f"turn {turn:.4f}, predicted {ratio}; variance of the weights {variance:.4f}, predicted {strength**2 * own:.4f}"
    )
    np.testing.assert_allclose(strength, 1 + strength**2 * own)
    np.testing.assert_allclose(turn, ratio, rtol=0.05)
    np.testing.assert_allclose(variance, strength**2 * own, rtol=0.15)


@pytest.mark.truth
def test_explicit_noise_dilutes_the_anisotropy():
    values, errors, *_ = simulate(OMEGA, 0.01, 2.0, 40, length=2.0)
    print(f"{values} ± {errors}")
    assert (np.abs(values - (1 + OMEGA) / 2) < 4 * errors + 0.01).all()


@pytest.mark.truth
def test_only_the_mean_of_the_noise_over_the_posterior_matters():
    sway = np.array([0, 0.8, -0.8, 0])  # x₀ itself, on which it depends, sees none
    values, errors, *_ = simulate([1.0], 0.02, 1.0, 40, sway=sway)
    print(f"{values} ± {errors}")
    assert (np.abs(values - 1) < 4 * errors + 0.01).all()
    # The same noise with its sign always positive.
    values, errors, *_ = simulate(1 + sway, 0.02, 1.0, 20)
    assert (np.abs(values - 1 - sway) < 4 * errors + 0.01).all()


def test_velocity_forgets_itself_over_the_decoherence_length():
    for ratio in (0.02, 0.2):
        *_, cosine = simulate([1.0], ratio, 0.02, 0.05)
        print(f"ε/L_eff {ratio}: cosine {float(cosine):.4f}, 1/cosh {1 / np.cosh(np.sqrt(2 * ratio)):.4f}")
        assert np.isclose(-np.log(cosine), np.log(np.cosh(np.sqrt(2 * ratio))), rtol=0.02)
        assert np.isclose(-np.log(cosine), ratio, rtol=0.02 + ratio / 3)


@pytest.mark.truth
def test_decoherence_length_that_ismile_reports():
    eps = 0.2
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(500, 32)) * np.exp(rng.normal(size=32)) / 10
    data = jnp.asarray(rows - rows.mean(0), F32)
    algorithm = sx.ismile(flat(data), step_size=eps)
    result = sx.sample(
        jax.random.key(0), algorithm, data, jnp.zeros(32, F32), num_chains=2, num_warmup=2000, num_samples=1,
        batch_size=10, progress_bar=False,
    )  # fmt: skip
    batches = sx.Batches(data)

    def chain(key, state):
        def body(state, t):
            data_key, step_key = jax.random.split(jax.random.fold_in(key, t))
            new, info = algorithm.step(step_key, state, batches.draw(data, data_key, t, 10))
            total = jax.tree.map(jnp.add, new.velocity, state.velocity)
            return new, (state.geometry.quadratic(total) / 2 - 1, info.decoherence, info.radius)

        return jax.lax.scan(body, state, jnp.arange(2000))[1]

    cosine, length, radius = jax.jit(jax.vmap(chain))(jax.random.split(jax.random.key(1), 2), result.state.chains)
    measured = -eps / np.log(np.mean(cosine, axis=1))
    # What batch noise lacks to a decoherence length of R is added.
    predicted = np.minimum(length[:, 0], radius[:, 0])
    print(f"ε {eps}: measured {measured}, predicted {predicted}, R {radius[:, 0]}, L_eff {length[:, 0]}")
    np.testing.assert_allclose(measured, predicted, rtol=0.08)


def test_half_batch_draws_have_exactly_the_covariance_of_batch_noise():
    rng = np.random.default_rng(1)
    size, num, dim = 4, 6, 3
    rows = rng.normal(size=(num, dim))
    posterior = flat(jnp.asarray(rows, F32))

    def over(batches):
        """Mean outer products of gradients and draws over all batches there are."""
        batches = jnp.asarray(rows[np.array(list(batches))], F32)

        def one(batch):
            _, gradient, draw = half_batch_gradients(posterior, jnp.zeros(dim, F32), batch)
            return gradient, draw

        gradient, draw = (np.asarray(x, np.float64) for x in jax.vmap(one)(batches))
        gradient = gradient - gradient.mean(0)
        return [a.T @ b / len(batches) for a, b in ((gradient, gradient), (draw, draw), (gradient, draw))]

    noise, drawn, both = over(itertools.product(range(num), repeat=size))
    np.testing.assert_allclose(drawn, noise, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(both, 0, atol=1e-4)
    noise, drawn, both = over(itertools.permutations(range(num), size))
    np.testing.assert_allclose((1 - size / num) * drawn, noise, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(both, 0, atol=1e-4)


@pytest.mark.parametrize("name", ["identity", "diagonal", "kronecker", "dense"])
@pytest.mark.parametrize("level", [1e-2, 1.0, 100.0])
def test_matched_noise_is_isotropic_for_any_damping(name, level):
    rng = np.random.default_rng(2)
    shape, f = (3, 4), 0.7
    left, right = (np.linalg.qr(rng.normal(size=(n, n)))[0] for n in shape)
    matrix = {"identity": np.eye(12), "diagonal": np.diag(np.exp(rng.normal(size=12)))}.get(name)
    if matrix is None:
        basis, spread = np.kron(left, right), np.exp(rng.normal(size=12))
        if name == "kronecker":  # distinct on each side, so that the bases are found
            spread = np.outer([1.0, 3.0, 9.0], [1.0, 1.5, 4.0, 8.0]).ravel() * np.exp(0.1 * rng.normal(size=12))
        matrix = (basis * spread) @ basis.T
    factor = np.linalg.cholesky(matrix)
    estimate = noise_estimate(name, jnp.zeros(shape))
    # The twelve columns are draws whose mean outer product, weighted evenly, is the covariance.
    draws = jnp.asarray(np.sqrt(12) * factor.T.reshape(12, *shape), F32)

    @partial(jax.jit, static_argnums=1)
    def fed(stats, rounds):
        def body(i, stats):
            return estimate.update(stats, draws[i % 12], 1 / (i % 12 + 1).astype(F32))

        return jax.lax.fori_loop(0, 12 * rounds, body, stats)

    stats = fed(estimate.init(jnp.zeros(shape)), 1)
    if name == "kronecker":
        stats = fed(estimate.rotate(stats), 400)  # until the guess after a rotation fades
    factored = estimate.factor(stats, [jnp.asarray(level, F32)])
    eye = jnp.eye(12, dtype=F32).reshape(12, *shape)
    inverse = np.asarray(jax.vmap(factored.geometry.precondition)(eye), np.float64).reshape(12, 12)
    added = float(factored.damping[0])
    total = f * (matrix + added * np.eye(12))
    # P = A Aᵀ, and Aᵀ C A has the eigenvalues of P C: all are f/s.
    tolerance = 0.02 if name == "kronecker" else 1e-4
    np.testing.assert_allclose(np.trace(inverse) / 12, 1, rtol=1e-5)
    np.testing.assert_allclose(
        inverse @ total * float(factored.scale) / f, np.eye(12), atol=tolerance * max(1, np.linalg.cond(total) ** 0.5)
    )
    if name == "dense":
        noise = np.sqrt(f) * (factor @ rng.normal(size=(12, 20_000)) + np.sqrt(added) * rng.normal(size=(12, 20_000)))
        root = np.linalg.cholesky(inverse)
        values = np.linalg.eigvalsh(np.cov(root.T @ noise) * float(factored.scale) / f)
        assert np.abs(values - 1).max() < 3 * np.sqrt(12 / 20_000)


def test_radius_of_the_laplace_posterior():
    rng = np.random.default_rng(3)
    num, size, dim, tau = 1000, 50, 8, 2.0
    root = rng.normal(size=(dim, dim))
    fisher = num * root @ root.T
    estimate = noise_estimate("dense", jnp.zeros(dim))
    noise, damping = jnp.asarray(num / size * fisher, F32), [jnp.asarray(num / size * tau, F32)]
    factored = estimate.factor(noise, damping)
    assert isinstance(factored.geometry, Dense)
    mass = np.asarray(factored.geometry.inverse, np.float64)
    mass = mass.T @ mass
    laplace = np.linalg.inv(fisher + tau * np.eye(dim))
    radius = np.sqrt(dim * float(factored.scale) * num / size)
    whitened = mass @ laplace
    np.testing.assert_allclose(whitened, np.eye(dim) * radius**2 / dim, atol=1e-3 * radius**2 / dim)


def limit_variance(h, ratio, epoch):
    """Variance of a unit normal for d → ∞, when the noise sums to zero over epochs of so many steps.

    Covariances of position, velocity, noise and the sum of what remains of the epoch's noise follow a closed recursion.
    """
    sigma = np.sqrt(2 * ratio) / h
    level = sigma * np.sqrt(epoch / (epoch - 1))  # of noise that, less its mean, has variance σ²
    position, velocity, noise, rest = np.eye(4)
    moments, force = np.diag([1.0, 1.0, 0.0, 0.0]), noise - position
    history = []

    def kick(moments):
        size = np.sqrt(force @ moments @ force)
        cosine, delta = velocity @ moments @ force / size, h / 2 * size
        norm = np.cosh(delta) + cosine * np.sinh(delta)
        row = (velocity + (np.sinh(delta) + cosine * (np.cosh(delta) - 1)) / size * force) / norm
        return np.stack([position, row, noise, rest])

    def drift(length):
        return np.stack([position + length * velocity, velocity, noise, rest])

    for step in range(round(200 / h)):
        left = epoch - step % epoch
        draw = np.stack([position, velocity, rest / left, rest - rest / left])
        fresh = level**2 * (1 - 1 / left) * np.outer(noise - rest, noise - rest)
        moments = draw @ moments @ draw.T + fresh
        for move in (drift(LAMBDA * h), None, drift((1 - 2 * LAMBDA) * h), None, drift(LAMBDA * h)):
            move = kick(moments) if move is None else move
            moments = move @ moments @ move.T
        history.append(moments[0, 0])
    return np.mean(history[len(history) // 2 :])


@partial(jax.jit, static_argnames=("epochs", "length"))
def _in_epochs(keys, eps, sigma, epochs, length):
    def chain(key):
        def epoch(carry, k):
            noise = jax.random.normal(jax.random.fold_in(key, k), (length, DIM), F32)
            noise = (noise - jnp.mean(noise, axis=0)[None]) * (length / (length - 1)) ** 0.5

            def body(carry, n):
                step = drift_first(evaluation(normal), carry[0], carry[1], Identity(), eps, noise=sigma * n)
                return (step.params, step.velocity), step.params @ step.params

            carry, squares = jax.lax.scan(body, carry, noise)
            return carry, jnp.mean(squares) / DIM

        x = jax.random.normal(jax.random.fold_in(key, 2**31), (DIM,), F32)
        v = draw_velocity(jax.random.fold_in(key, 2**31 + 1), x, Identity())
        return jax.lax.scan(epoch, (x, v), jnp.arange(epochs))[1]

    return jax.vmap(chain)(keys)


@pytest.mark.parametrize("length", [50, pytest.param(100, marks=pytest.mark.truth)])
def test_epochs_collapse_the_posterior(length):
    ratio, radii = 0.02, 0.5
    h = ratio * radii
    sigma = np.sqrt(2 * (DIM - 1) * ratio / (h**2 * DIM))
    keys = jax.random.split(jax.random.key(0), 16)
    squares = _in_epochs(keys, jnp.asarray(h * DIM**0.5, F32), jnp.asarray(sigma, F32), 10_000 // length, length)
    late = np.asarray(squares, np.float64)[:, squares.shape[1] // 2 :]
    predicted = limit_variance(h, ratio, length)
    print(f"epochs of {length} steps: {late.mean():.3f}, predicted {predicted:.3f}")
    assert late.mean() < 0.75
    np.testing.assert_allclose(late.mean(), predicted, atol=0.02)


def test_energy_error_and_bias_of_curvature():
    for h in (0.4, 0.8):
        values, errors, _, eevpd, _ = simulate([1.0], 1e-9, 1.0, 60, length=1.0, eps=h)
        value, error = pooled(values, errors)
        predicted = (1 - 2 * LAMBDA) ** 6 / 144 * h**6
        print(f"h {h}: EEVPD {eevpd:.2e}, predicted {predicted:.2e}; bias {value - 1:.4f} ± {error:.4f}", end=", ")
        print(f"predicted {CURVATURE_BIAS * h**2:.4f}; over EEVPD^(1/3) {(value - 1) / np.cbrt(eevpd):.3f}")
        np.testing.assert_allclose(eevpd, predicted, rtol=0.1)
        assert abs(value - 1 - CURVATURE_BIAS * h**2) < 4 * error + 0.0005
        assert abs(value - 1) < CURVATURE * np.cbrt(eevpd)


@pytest.mark.parametrize("name", TARGETS)
def test_bias_against_energy_error_of_other_targets(name):
    values, errors, _, eevpd, _ = simulate([1.0], 1e-9, 1.0, 40, length=1.0, eps=0.6, target=TARGETS[name])
    value, error = pooled(values, errors)
    print(
        f"{name}: EEVPD {eevpd:.2e}, bias {value - 1:.4f} ± {error:.4f}, {(value - 1) / np.cbrt(eevpd):.3f} EEVPD^(1/3)"
    )
    assert abs(value - 1) < CURVATURE / 3 * np.cbrt(eevpd) + 2 * error


def test_energy_error_of_batch_noise():
    def formula(delta, c):
        """Energy error over d of a step whose force is noise alone."""
        one, two, middle = LAMBDA * delta, (1 - LAMBDA) * delta, delta / 2
        gained = np.log((np.cosh(two) + c * np.sinh(two)) / (np.cosh(one) + c * np.sinh(one)))
        along = (np.sinh(middle) + c * np.cosh(middle)) / (np.cosh(middle) + c * np.sinh(middle))
        return gained - (1 - 2 * LAMBDA) * delta * along

    inner = 1 - 2 * LAMBDA
    for ratio, tolerance in ((0.1, 0.1), (0.3, 0.15)):
        delta, step = np.sqrt(2 * ratio), 1e-4
        by_cosine = (formula(delta, step) - formula(delta, -step)) / 2 / step
        by_size = (formula(delta * (1 + step), 0) - formula(delta * (1 - step), 0)) / 2 / step
        predicted = by_cosine**2 + by_size**2 / 2
        _, _, mean, eevpd, _ = simulate([1.0], ratio, 0.1, 5)
        print(f"ε/L_eff {ratio}: mean {mean:.3e}, predicted {formula(delta, 0):.3e}", end=", ")
        print(
            f"{-(inner**3) / 6 * ratio**2:.3e} to leading order; EEVPD {eevpd:.2e}, predicted {predicted:.2e}", end=", "
        )
        print(f"{inner**6 * (ratio**3 / 18 + 2 * ratio**4 / 9):.2e} to leading orders")
        np.testing.assert_allclose(mean, formula(delta, 0), rtol=tolerance)
        np.testing.assert_allclose(eevpd, predicted, rtol=0.25)


@pytest.mark.truth
def test_published_sampler_under_fisher_noise_loses_the_shape_of_the_posterior():
    # Noise in proportion to the posterior's precision: every variance becomes one over the mean precision.
    dim, chains, ratio, radii = 200, 64, 0.02, 0.5
    precision = jnp.asarray(np.repeat(OMEGA, dim // GROUPS), F32)
    eps = ratio * radii * dim**0.5
    sigma = jnp.sqrt(precision * (2 * (dim - 1) * ratio / eps**2))
    posterior = sx.Posterior(lambda x: -0.5 * jnp.sum(precision * x * x), lambda x, batch: batch @ x, 1)
    algorithm = sx.smile_naive(posterior, eps)

    @jax.jit
    def run(key):
        def body(carry, k):
            state, squares = carry
            batch = sigma * jax.random.normal(jax.random.fold_in(key, k), (dim,), F32)
            state, _ = algorithm.step(key, state, batch[None])
            return (state, squares + jnp.where(k < 3000, 0, 1 / 9000) * state.params**2), None

        x = jax.random.normal(jax.random.fold_in(key, 2**31), (dim,), F32) / jnp.sqrt(precision)
        carry = algorithm.init(jax.random.fold_in(key, 2**31 + 1), x), jnp.zeros(dim, F32)
        return jax.lax.scan(body, carry, jnp.arange(12_000))[0][1]

    squares = np.asarray(jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(0), chains)), np.float64)
    groups = squares.reshape(chains, GROUPS, -1).mean(2)
    values, errors = groups.mean(0), groups.std(0, ddof=1) / chains**0.5
    print(f"variances {values} ± {errors}; the posterior's {1 / OMEGA}")
    assert (np.abs(values - 1) < 4 * errors + 0.03).all()


@pytest.mark.parametrize(
    ("friction", "low", "high"), [pytest.param(False, 0.95, 1.2, marks=pytest.mark.truth), (True, 0.65, 0.85)]
)
def test_a_chain_relaxes_at_the_pace_of_newton_steps_of_two_batches_in_the_data(friction, low, high):
    rng = np.random.default_rng(0)
    n, d, batch_size = 8000, 40, 8
    x = rng.normal(size=(n, d)) @ (np.eye(d) + 0.5 * rng.normal(size=(d, d)) / d**0.5)
    y = x @ rng.normal(size=d) + rng.normal(size=n)
    posterior = sx.Posterior(
        lambda w: -0.5 * jnp.sum(w**2), lambda w, batch: -0.5 * (batch[1] - batch[0] @ w) ** 2, num_data=n
    )
    mode = np.linalg.solve(x.T @ x + np.eye(d), x.T @ y)
    # As from an endless source: the limit for rows that stand alone would keep L_eff near R.
    data = sx.Batches((x.astype(np.float32), y.astype(np.float32)), replacement=True)
    draws = sx.sample(
        jax.random.key(0), sx.ismile(posterior, endless=True, friction=friction), data, jnp.asarray(mode, F32),
        num_chains=4, num_warmup=4000, num_samples=30_000, thinning=50, batch_size=batch_size, progress_bar=False,
    ).draws.astype(float)  # fmt: skip
    draws -= draws.mean((0, 1))
    for lag in (3, 6):
        correlation = np.mean(np.mean(draws[:, lag:] * draws[:, :-lag], (0, 1)) / np.mean(draws**2, (0, 1)))
        assert low < -np.log(correlation) / (50 * lag) / (2 * batch_size / n) < high
