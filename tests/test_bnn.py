import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats as st

import smilax as sx
from smilax.bnn import NetworkPosterior, bnn
from smilax.likelihoods import Bernoulli, Categorical, Gaussian, Poisson
from smilax.models import mlp
from smilax.network import Network
from smilax.packing import pack
from smilax.posterior import Posterior
from smilax.priors import Flat, Normal, by_path

N = 20
LINEAR = Network(
    init=lambda key: {"w": jax.random.normal(key, (3, 1))},
    apply=lambda params, x: x @ params["w"],
)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, 3)).astype(np.float64 if jax.config.jax_enable_x64 else np.float32)
Y = RNG.normal(size=N).astype(X.dtype)


def linear(likelihood=Gaussian(scale=0.5), prior=Normal(0.0, 2.0), num_data=N):
    return bnn(LINEAR, likelihood, prior, num_data)


def test_log_density_is_prior_plus_scaled_likelihood():
    posterior = linear()
    assert isinstance(posterior, Posterior) and isinstance(posterior, NetworkPosterior)
    w = np.array([[0.3], [-0.2], [1.0]], X.dtype)
    prior = st.norm(0, 2).logpdf(w).sum()
    terms = st.norm((X @ w)[:, 0], 0.5).logpdf(Y)
    params = {"network": {"w": jnp.asarray(w)}}
    for rows in (slice(0, N), slice(0, 7)):
        value = posterior.evaluate(params, (jnp.asarray(X[rows]), jnp.asarray(Y[rows])))
        np.testing.assert_allclose(value.log_likelihood, terms[rows], rtol=1e-4)
        np.testing.assert_allclose(value.total, prior + N / len(terms[rows]) * terms[rows].sum(), rtol=1e-4)


def test_weights_multiply_the_log_likelihood():
    posterior, params = linear(), LINEAR.init(jax.random.key(0))
    params, weight = {"network": params}, jnp.arange(N)
    x, y = jnp.asarray(X), jnp.asarray(Y)
    plain = posterior.log_likelihood(params, (x, y))
    np.testing.assert_allclose(posterior.log_likelihood(params, (x, y, weight)), plain * weight.astype(plain.dtype))
    with pytest.raises(ValueError, match=r"weight must have shape \(20,\)"):
        posterior.log_likelihood(params, (x, y, weight[:, None]))


def test_learned_scale_is_a_parameter_with_a_prior():
    posterior = linear(Gaussian(), by_path({"likelihood/*": Normal(0.0, 0.1), "*": Flat()}))
    params = posterior.init(jax.random.key(0))
    assert jax.tree.map(jnp.shape, params) == {"network": {"w": (3, 1)}, "likelihood": {"log_scale": ()}}
    params["likelihood"]["log_scale"] = jnp.asarray(0.2)
    np.testing.assert_allclose(posterior.log_prior(params), st.norm(0, 0.1).logpdf(0.2), rtol=1e-5)
    batch = (jnp.asarray(X), jnp.asarray(Y))
    mean = np.asarray(posterior.outputs(params, batch[0]))[:, 0]
    np.testing.assert_allclose(
        posterior.log_likelihood(params, batch), st.norm(mean, np.exp(0.2)).logpdf(Y), rtol=1e-4, atol=1e-5
    )
    with pytest.raises(ValueError, match="parameters of its own"):
        posterior.log_likelihood({"network": params["network"]}, batch)
    assert set(linear().init(jax.random.key(0))) == {"network"}


def test_init_keeps_the_networks_dtype():
    half = Network(lambda key: {"w": jnp.zeros((3, 1), jnp.float16)}, LINEAR.apply)
    params = bnn(half, Gaussian(), Normal(), N).init(jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float16")}


def test_packed_params_have_the_same_density():
    posterior = bnn(mlp(3, 1), Gaussian(), Normal(), N)
    params, batch = posterior.init(jax.random.key(0)), (jnp.asarray(X), jnp.asarray(Y))
    value, gradient = jax.jit(posterior.value_and_grad)(params, batch)
    packed_value, packed_gradient = jax.jit(posterior.value_and_grad)(pack(params), batch)
    np.testing.assert_allclose(packed_value.total, value.total, rtol=1e-5)
    np.testing.assert_allclose(packed_gradient.buffer, pack(gradient).buffer, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(posterior.outputs(pack(params), batch[0]), posterior.outputs(params, batch[0]))


def test_tokens_and_pytrees_reach_the_network_as_they_are():
    seen = []

    def apply(params, x):
        seen.append(jax.tree.map(lambda leaf: leaf.dtype, x))
        return params["table"][x["tokens"]].sum(axis=1) + x["shift"][:, None]

    network = Network(lambda key: {"table": jnp.zeros((5, 2))}, apply)
    posterior = bnn(network, Categorical(), Normal(), 4)
    x = {"tokens": np.zeros((4, 3), np.uint8), "shift": np.zeros(4, X.dtype)}
    posterior.check_data((x, np.array([0, 1, 0, 1])))
    assert seen == [{"tokens": jnp.uint8, "shift": X.dtype}]
    x["shift"][2] = np.nan
    with pytest.raises(ValueError, match=r"x\['shift'\]\[2\] \(row 2\) is nan"):
        posterior.check_data((x, np.array([0, 1, 0, 1])))


def test_good_data_pass():
    linear().check_data((X, Y))
    linear().check_data((X, Y[:, None]))
    linear().check_data((X.astype(np.float64), Y.astype(np.float32), np.ones(N)))
    linear().check_data((X[:5], Y[:5]), whole=False)
    linear(Bernoulli()).check_data((X, Y > 0))
    linear(Poisson()).check_data((X, (Y > 0).astype(np.int8)))
    linear().check_data((jnp.asarray(X), jnp.asarray(Y)))


def broken(array, index, value):
    array = np.array(array)
    array[index] = value
    return array


@pytest.mark.parametrize(
    "likelihood, data, message",
    [
        (Gaussian(), (broken(X, (4, 1), np.nan), Y), r"x must be finite.*row 4, column 1.* nan"),
        (Gaussian(), (broken(X, (0, 2), -np.inf), Y), r"x must be finite.*row 0, column 2.* -inf"),
        (Gaussian(), (X, broken(Y, 3, np.inf)), r"y must be finite.*row 3\) is inf"),
        (Gaussian(), (X, Y[:-1]), "x has 20, y has 19"),
        (Gaussian(), (X, Y, np.ones(3)), "weight has 3"),
        (Gaussian(), (X[:5], Y[:5]), "num_data is 20, but data has 5 rows"),
        (Gaussian(), (X[:0], Y[:0]), "no rows"),
        (Gaussian(), (X, Y, broken(np.ones(N), 6, -1.0)), "weight must not be negative.*row 6"),
        (Gaussian(), (X, Y, broken(np.ones(N), 6, np.nan)), "weight must be finite.*row 6"),
        (Gaussian(), (X, Y, np.ones((N, 1))), "one number per row"),
        (Gaussian(), (X, np.stack([Y, Y], 1)), r"outputs of shape \(20, 1\) .* targets of shape \(20, 2\)"),
        (Gaussian(scale="input"), (X, Y), r"2 \* K"),
        (Gaussian(), (X, 3.0), "single number"),
        (Poisson(), (X, Y), "counts"),
        (Categorical(), (X, np.arange(N)), "labels must be 0 to 0.*row 1.* is 1"),
    ],
)
def test_bad_data_are_named(likelihood, data, message):
    with pytest.raises(ValueError, match=message):
        linear(likelihood).check_data(data)


@pytest.mark.parametrize(
    "likelihood, data",
    [
        (Gaussian(), X),
        (Gaussian(), (X,)),
        (Gaussian(), (X, Y, Y, Y)),
        (Categorical(), (X, Y)),
        (Gaussian(), (X, Y > 0)),
    ],
)
def test_data_of_the_wrong_type(likelihood, data):
    with pytest.raises(TypeError):
        linear(likelihood).check_data(data)


def test_arguments_of_the_wrong_type_are_named():
    with pytest.raises(TypeError, match="network must have"):
        bnn(lambda x: x, Gaussian(), Normal(), N)
    with pytest.raises(TypeError, match="likelihood must be"):
        bnn(LINEAR, Gaussian, Normal(), N)
    with pytest.raises(TypeError, match="prior must be"):
        bnn(LINEAR, Gaussian(), 1.0, N)
    with pytest.raises(ValueError, match="num_data"):
        bnn(LINEAR, Gaussian(), Normal(), 0)


@pytest.mark.parametrize("sampler", ["ismile", "psmile", "sghmc"])
def test_a_network_that_computes_in_bfloat16(sampler):
    half = Network(LINEAR.init, lambda params, x: (x @ params["w"]).astype(jnp.bfloat16))
    posterior, full = (bnn(network, Gaussian(), Normal(0.0, 1.0), 500) for network in (half, LINEAR))
    params = posterior.init(jax.random.key(0))
    batch = (jnp.asarray(X), jnp.asarray(Y) + 1000)
    value, gradient = posterior.value_and_grad(params, batch)
    dtype = params["network"]["w"].dtype
    assert {leaf.dtype for leaf in jax.tree.leaves((value.total, value.log_prior, value.scale, gradient))} == {dtype}
    # Targets keep their digits: in bfloat16, 1000.4 is 1000.
    np.testing.assert_allclose(value.total, full.log_density(params, batch), rtol=1e-4)
    data = (np.repeat(X, 25, 0), np.repeat(Y, 25))
    algorithm = sx.ismile(posterior) if sampler == "ismile" else getattr(sx, sampler)(posterior, 1e-3)
    result = sx.sample(
        jax.random.key(0), algorithm, data, params,
        num_chains=2, num_warmup=50, num_samples=5, batch_size=20, progress_bar=False,
    )  # fmt: skip
    assert result.draws["network"]["w"].dtype == dtype
    assert np.isfinite(result.info.log_density).all()


@pytest.mark.parametrize("sampler", ["ismile", "psmile", "sghmc"])
def test_float32_parameters_stay_so_beside_wider_data(sampler):
    posterior = linear(Gaussian(), num_data=500)
    params = jax.tree.map(lambda x: x.astype(jnp.float32), posterior.init(jax.random.key(0)))
    data = (np.repeat(X, 25, 0).astype(np.float64), np.repeat(Y, 25).astype(np.float64))
    with jax.numpy_dtype_promotion("standard"):
        algorithm = sx.ismile(posterior) if sampler == "ismile" else getattr(sx, sampler)(posterior, 1e-3)
        result = sx.sample(
            jax.random.key(0), algorithm, data, params, num_chains=2, num_warmup=50,
            num_samples=5, batch_size=20, progress_bar=False,
        )  # fmt: skip
    assert {leaf.dtype for leaf in jax.tree.leaves(result.draws)} == {np.dtype("float32")}


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        (
            {"a": jnp.ones(3), "b": jnp.ones(2, jnp.bfloat16)},
            TypeError,
            r"one dtype, got bfloat16 \(as params\['b'\]\)",
        ),
        ({"a": jnp.ones(3, jnp.bfloat16)}, TypeError, "must be float32 or float64"),
        ({"a": jnp.ones(3), "b": jnp.ones((0, 2))}, ValueError, r"params\['b'\] has shape \(0, 2\)"),
    ],
)
def test_parameters_that_no_sampler_can_move_are_refused(params, error, message):
    posterior = Posterior(lambda p: jnp.zeros(()), lambda p, batch: batch, 5)
    for algorithm in (sx.psmile(posterior), sx.nuts(posterior), sx.sgld(posterior, 1e-3)):
        with pytest.raises(error, match=message):
            algorithm.init(jax.random.key(0), params)


def test_several_targets_and_loaders_are_told_where_they_belong():
    posterior = bnn(mlp(3, 1), Gaussian(), Normal(0.0, 1.0), num_data=20)
    x = np.ones((20, 3), np.float32)
    with pytest.raises(TypeError, match="y must be one array of targets, got a dict: put several targets side by side"):
        posterior.check_data((x, {"a": np.ones(20), "b": np.ones(20)}))
    loader = [(x[:10], np.ones(10)), (x[10:], np.ones(10)), (x, np.ones(20)), (x, np.ones(20))]
    with pytest.raises(TypeError, match="of a loader sx.sample takes an sx.Stream"):
        posterior.check_data(loader)

    class Loader:
        def __iter__(self):
            return iter(loader)

    with pytest.raises(TypeError, match="data must be arrays, got a Loader: of an iterable of batches"):
        sx.Batches(Loader())
