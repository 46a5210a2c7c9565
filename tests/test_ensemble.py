import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from smilax.bnn import bnn
from smilax.data import Batches
from smilax.ensemble import train_ensemble
from smilax.likelihoods import Categorical, Gaussian, StudentT
from smilax.models import lenet, mlp
from smilax.network import Network
from smilax.posterior import Posterior
from smilax.priors import Flat, Normal

N = 90
DTYPE = np.float64 if jax.config.jax_enable_x64 else np.float32
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N + 40, 3)).astype(DTYPE)
Y = (X @ np.array([1.0, -2.0, 0.5]) + 0.3 + 0.4 * RNG.normal(size=N + 40)).astype(DTYPE)
TRAIN, VALID = (X[:N], Y[:N]), (X[N:], Y[N:])
DESIGN = np.column_stack([X, np.ones(N + 40)]).astype(float)


def linear(likelihood=Gaussian(scale=0.4), prior=Flat()):
    return bnn(mlp(3, 1, hidden=()), likelihood, prior, N)


def coefficients(members):
    layer = members["network"].layers[0]
    return np.concatenate([layer.weight[:, 0], layer.bias], axis=1)


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def test_likelihood_objective_finds_least_squares(key):
    optimizer = optax.adam(optax.cosine_decay_schedule(0.05, 600))
    members, history = train_ensemble(
        key,
        linear(Gaussian()),
        TRAIN,
        num_members=2,
        optimizer=optimizer,
        max_epochs=100,
        batch_size=15,
        return_history=True,
    )
    solution, *_ = np.linalg.lstsq(DESIGN[:N], Y[:N].astype(float), rcond=None)
    found = coefficients(members)
    np.testing.assert_allclose(found, np.stack([solution] * 2), atol=2e-3)
    residual = Y[None, :N] - found @ DESIGN[:N].T
    np.testing.assert_allclose(
        np.exp(members["likelihood"]["log_scale"]), np.sqrt(np.mean(residual**2, axis=1)), rtol=1e-5
    )
    assert history.train_loss.shape == (2, 100)
    assert np.isnan(history.valid_loss).all()
    assert history.best_epoch.tolist() == [99, 99]
    assert not history.stopped.any()


def test_posterior_objective_finds_the_ridge_solution(key):
    scale, prior_scale = 0.4, 0.1
    members = train_ensemble(
        key,
        linear(Gaussian(scale=scale), Normal(0.0, prior_scale)),
        TRAIN,
        num_members=2,
        optimizer=optax.adam(optax.cosine_decay_schedule(0.05, 600)),
        max_epochs=100,
        batch_size=15,
        objective="posterior",
    )
    precision = DESIGN[:N].T @ DESIGN[:N] / scale**2 + np.eye(4) / prior_scale**2
    solution = np.linalg.solve(precision, DESIGN[:N].T @ Y[:N] / scale**2)
    np.testing.assert_allclose(coefficients(members), np.stack([solution] * 2), atol=3e-3)


@pytest.mark.once
def test_statistics_of_a_batch_are_refused(key):
    def apply(params, x):
        return (x - x.mean(0)[None]) @ params["weight"]

    network = Network(lambda key: {"weight": jax.random.normal(key, (3, 1), DTYPE)}, apply)
    posterior = bnn(network, Gaussian(), Normal(0.0, 1.0), N)
    with pytest.raises(ValueError, match="it must depend on its own row only"):
        train_ensemble(key, posterior, TRAIN, num_members=2, max_epochs=2)


@pytest.mark.once
def test_members_differ_and_do_not_depend_on_their_number(key):
    def train(number):
        return train_ensemble(
            key, linear(Gaussian()), TRAIN, VALID, num_members=number, max_epochs=4, return_history=True
        )

    five, history = train(5)
    assert len(np.unique(coefficients(five)[:, 0])) == 5
    for number in (1, 2):
        members, other = train(number)
        assert same(members, jax.tree.map(lambda leaf, n=number: leaf[:n], five))
        np.testing.assert_array_equal(other.valid_loss, history.valid_loss[:number])


@pytest.mark.optimised
@pytest.mark.once
def test_members_with_convolutions_train_as_they_would_alone(key):
    # One after another on CPU; each gets what a member alone gets.
    rng = np.random.default_rng(0)
    data = rng.integers(0, 256, (40, 12, 12)).astype(np.uint8), rng.integers(0, 3, 40).astype(np.int32)
    posterior = bnn(lenet(3, image_size=12), Categorical(), Normal(), 40)

    def train(number):
        return train_ensemble(key, posterior, data, data, num_members=number, max_epochs=2, batch_size=16)

    three = train(3)
    assert same(train(1), jax.tree.map(lambda leaf: leaf[:1], three))
    kernels = three["network"].convolutions[0].weight
    assert len(np.unique(kernels[:, 0, 0, 0, 0])) == 3


@pytest.mark.once
def test_early_stopping_keeps_the_best_parameters(key):
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(60, 4)).astype(DTYPE), rng.normal(size=60).astype(DTYPE)
    posterior = bnn(mlp(4, 1, hidden=(32,)), Gaussian(scale=1.0), Normal(), 20)
    valid = (x[20:], y[20:])
    members, history = train_ensemble(
        key,
        posterior,
        (x[:20], y[:20]),
        valid,
        num_members=5,
        patience=3,
        max_epochs=60,
        batch_size=8,
        return_history=True,
    )
    # Pure noise: every member overfits at once.
    assert history.stopped.all()
    assert len(set(history.best_epoch.tolist())) > 1
    for k in range(5):
        ran = ~np.isnan(history.train_loss[k])
        assert ran.sum() == history.best_epoch[k] + 3 + 1
        assert ran[: ran.sum()].all()
        assert np.nanargmin(history.valid_loss[k]) == history.best_epoch[k]
        one = jax.tree.map(lambda leaf, k=k: leaf[k], members)
        loss = -jnp.mean(posterior.log_likelihood(one, tuple(map(jnp.asarray, valid))))
        np.testing.assert_allclose(loss, history.valid_loss[k, history.best_epoch[k]], rtol=1e-5)


@pytest.mark.once
def test_validation_in_blocks_counts_every_row_once(key, monkeypatch):
    monkeypatch.setattr("smilax.ensemble.evaluation.EVALUATION_ROWS", 16)
    posterior = linear(StudentT(df=4.0))
    members, history = train_ensemble(
        key, posterior, TRAIN, VALID, num_members=2, max_epochs=1, optimizer=optax.sgd(0.0), return_history=True
    )
    for k in range(2):
        one = jax.tree.map(lambda leaf, k=k: leaf[k], members)
        outputs = posterior.outputs(one, jnp.asarray(TRAIN[0]))
        fitted = posterior.likelihood.fit_residual(posterior.likelihood.init(), outputs, jnp.asarray(TRAIN[1]))
        np.testing.assert_allclose(one["likelihood"]["log_scale"], fitted["log_scale"], rtol=1e-4)
        start = one | {"likelihood": posterior.likelihood.init()}
        loss = -jnp.mean(posterior.log_likelihood(start, tuple(map(jnp.asarray, VALID))))
        np.testing.assert_allclose(history.valid_loss[k, 0], loss, rtol=1e-5)


@pytest.mark.parametrize("num_rows", [10, 200])
def test_every_row_is_visited_in_every_epoch(key, num_rows):
    # The gradient counts visits: each step adds 1 / B to the entries of its rows.
    posterior = Posterior(lambda p: jnp.zeros(()), lambda p, batch: p[batch[0]], num_rows)
    rows, batch_size = np.arange(num_rows), 4 if num_rows == 10 else 32
    visits = train_ensemble(
        key,
        posterior,
        (rows,),
        init_params=jnp.zeros((3, num_rows)),
        optimizer=optax.sgd(float(batch_size)),
        max_epochs=2,
        batch_size=batch_size,
    )
    visits = np.asarray(visits).round().astype(int)
    extra = -num_rows % batch_size
    assert visits.shape == (3, num_rows)
    assert visits.min() == 2
    assert (visits.sum(axis=1) == 2 * (num_rows + extra)).all()
    assert visits.max() <= 4
    assert len({tuple(v) for v in visits.tolist()}) == 3


@pytest.mark.once
def test_default_optimizer_is_adamw_of_the_paper(key):
    def train(optimizer):
        return train_ensemble(key, linear(Gaussian()), TRAIN, num_members=2, max_epochs=3, optimizer=optimizer)

    default, explicit = train(None), train(optax.adamw(1e-2, weight_decay=5e-3))
    np.testing.assert_allclose(coefficients(default), coefficients(explicit), rtol=1e-4, atol=1e-5)
    assert jax.tree.structure(default) == jax.tree.structure(explicit)


@pytest.mark.once
def test_a_member_that_is_lost_keeps_its_best_parameters(key):
    steps = -(-N // 30)

    def rate(count):
        return jnp.where(count < 4 * steps, 0.01, jnp.nan)

    with pytest.warns(RuntimeWarning, match=r"members \[0, 1\] .* epochs \[4, 4\]; .* epochs \[3, 3\]"):
        members, history = train_ensemble(
            key,
            linear(),
            TRAIN,
            VALID,
            num_members=2,
            optimizer=optax.sgd(rate),
            max_epochs=9,
            batch_size=30,
            return_history=True,
        )
    assert np.isfinite(coefficients(members)).all()
    assert history.best_epoch.tolist() == [3, 3]
    assert history.stopped.all()
    with pytest.raises(FloatingPointError, match=r"members \[0, 1\]"):
        train_ensemble(key, linear(), TRAIN, num_members=2, optimizer=optax.sgd(float("nan")), max_epochs=2)


@pytest.mark.once
def test_classification_with_weights_and_a_transform(key):
    labels, weight = (Y > 0).astype(np.uint8), np.ones(N + 40, DTYPE)
    labels[:30], weight[:30] = 1 - labels[:30], 0.0

    def transform(key, batch):
        x, *rest = batch
        return (x + 0.01 * jax.random.normal(key, x.shape, x.dtype), *rest)

    train = Batches((X[:N], labels[:N], weight[:N]), transform=transform)
    members = train_ensemble(
        key,
        bnn(mlp(3, 2, hidden=()), Categorical(), Normal(), N),
        train,
        (X[N:], labels[N:]),
        num_members=2,
        max_epochs=100,
    )
    outputs = jax.vmap(mlp(3, 2, hidden=()).apply, in_axes=(0, None))(members["network"], jnp.asarray(X[N:]))
    assert np.mean(np.argmax(np.asarray(outputs), -1) == labels[None, N:]) > 0.9


def test_starting_parameters_may_be_given(key):
    posterior = linear()
    start = jax.vmap(posterior.init)(jax.random.split(key, 3))
    members = train_ensemble(key, posterior, TRAIN, init_params=start, optimizer=optax.sgd(0.0), max_epochs=1)
    assert same(members, start)
    with pytest.raises(ValueError, match="init_params has 3 members, but num_members is 2"):
        train_ensemble(key, posterior, TRAIN, init_params=start, num_members=2)
    with pytest.raises(ValueError, match="leading member axis"):
        train_ensemble(key, posterior, TRAIN, init_params={"a": jnp.zeros(3), "b": jnp.zeros(())})
    with pytest.raises(TypeError, match="give init_params"):
        train_ensemble(key, Posterior(jnp.sum, lambda p, b: b[1], N), TRAIN)


def test_bad_data_are_refused(key):
    x = X.copy()
    x[4, 1] = np.nan
    with pytest.raises(ValueError, match="row 4, column 1"):
        train_ensemble(key, linear(), (x[:N], Y[:N]))
    with pytest.raises(ValueError, match="row 4, column 1"):
        train_ensemble(key, linear(), TRAIN, (x[:20], Y[:20]))
    with pytest.raises(ValueError, match="x has 90, y has 89"):
        train_ensemble(key, linear(), (X[:N], Y[: N - 1]))
    with pytest.raises(ValueError, match="num_data is 90"):
        train_ensemble(key, linear(), (X[:50], Y[:50]))
    with pytest.raises(ValueError, match="batch_size = 91 exceeds"):
        train_ensemble(key, linear(), TRAIN, batch_size=91)


@pytest.mark.parametrize(
    "argument, error",
    [
        ({"num_members": 0}, ValueError),
        ({"max_epochs": 0}, ValueError),
        ({"patience": 0}, ValueError),
        ({"batch_size": 0}, ValueError),
        ({"objective": "mse"}, ValueError),
        ({"optimizer": "adam"}, TypeError),
        ({"num_members": 2.0}, TypeError),
    ],
    ids=repr,
)
def test_arguments_out_of_range_are_named(key, argument, error):
    with pytest.raises(error, match=next(iter(argument))):
        train_ensemble(key, linear(), TRAIN, **argument)


def test_the_default_batch_is_all_of_few_rows():
    posterior = bnn(mlp(2, 1, hidden=(3,)), Gaussian(), Normal(), 20)
    x = np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32)
    settings = {"num_members": 2, "max_epochs": 2, "progress_bar": False}
    default = train_ensemble(jax.random.key(0), posterior, (x, x[:, 0]), **settings)
    whole = train_ensemble(jax.random.key(0), posterior, (x, x[:, 0]), batch_size=20, **settings)
    jax.tree.map(np.testing.assert_array_equal, default, whole)


@pytest.mark.once
def test_scales_and_shapes_are_of_transformed_rows(key):
    # Raw rows are whole numbers that the network cannot take.
    def transform(key, batch):
        return jax.nn.one_hot(batch[0], 3, dtype=DTYPE), *batch[1:]

    rng = np.random.default_rng(0)
    kinds = rng.integers(3, size=N)
    y = (100.0 * kinds + 0.5 * rng.normal(size=N)).astype(DTYPE)
    posterior = bnn(mlp(3, 1, hidden=()), Gaussian(), Normal(), N)
    batches = Batches((kinds.astype(np.uint8), y), transform=transform)
    members = train_ensemble(key, posterior, batches, num_members=2, max_epochs=60, optimizer=optax.adam(1.0))
    outputs = jax.vmap(lambda p: posterior.outputs(p, jax.nn.one_hot(kinds, 3, dtype=DTYPE)))(members)
    wanted = np.log(np.sqrt(np.mean((np.asarray(outputs)[..., 0] - y) ** 2, axis=1)))
    np.testing.assert_allclose(members["likelihood"]["log_scale"], wanted, rtol=1e-4, atol=1e-4)
    # They are looked at after the transform, targets all of them.
    with pytest.raises(ValueError, match=r"x must have shape \(B, 4\), got \(32, 3\)"):
        train_ensemble(key, bnn(mlp(4, 1), Gaussian(), Normal(), N), batches)
    labels = np.where(np.arange(N) == N - 1, 7, kinds)
    wrong = Batches((kinds.astype(np.uint8), labels), transform=transform)
    with pytest.raises(ValueError, match=r"labels must be 0 to 2 for 3 outputs, but y\[89\] .* is 7"):
        train_ensemble(key, bnn(mlp(3, 3), Categorical(), Normal(), N), wrong)


def test_lists_and_networks_of_several_outputs_are_named(key):
    with pytest.raises(ValueError, match="numbers of a list count as such"):
        train_ensemble(key, linear(), TRAIN, (X[:3], [0.0, 1.0, 2.0]))
    network = Network(lambda key: {"w": jnp.zeros(3, DTYPE)}, lambda p, x: (x @ p["w"], x))
    with pytest.raises(TypeError, match="the network must return one array, got a tuple"):
        train_ensemble(key, bnn(network, Gaussian(), Normal(), N), TRAIN)


@pytest.mark.once
def test_a_transform_may_make_pairs_of_something_else(key):
    rows = np.column_stack([X[:N], Y[:N]])
    batches = Batches(rows, transform=lambda key, batch: (batch[:, :-1], batch[:, -1]))
    members = train_ensemble(key, linear(), batches, num_members=2, max_epochs=2)
    assert np.isfinite(coefficients(members)).all()
    with pytest.raises(TypeError, match="must be a tuple"):
        train_ensemble(key, linear(), Batches({"x": X[:N], "y": Y[:N]}, transform=lambda key, batch: batch))
