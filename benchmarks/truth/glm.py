"""Generalised linear models on the data sets that scikit-learn brings along.

The held-out ones were chosen, with their features, priors and batch sizes, before any sampler had been run on them.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from benchmarks.truth.reference import by_nuts
from benchmarks.truth.target import Reference, Target, gaussian_reference
from sklearn import datasets

import smilax as sx

NOISE = 0.7  # known standard deviation of the standardised diabetes target, about that of the residuals


def _standardised(x):
    """Columns of mean 0 and variance 1; constant ones (dark pixels) become zeros."""
    spread = x.std(axis=0)
    return (x - x.mean(axis=0)) / np.where(spread > 0, spread, 1)


def _with_intercept(x):
    return np.column_stack([_standardised(x), np.ones(len(x))]).astype(np.float32)


def _zeros(size: int) -> Callable:
    return lambda num: np.zeros((num, size), np.float32)


def _normal_prior(params):
    return -0.5 * sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))


def _glm(name, title, about, x, y, log_likelihood, batch_size, reference=None, **options) -> Target:
    """A posterior with prior N(0, 1) on every weight; `log_likelihood(linear, y) -> (B,)`."""
    posterior = sx.Posterior(_normal_prior, lambda w, batch: log_likelihood(batch[0] @ w, batch[1]), num_data=len(y))
    about = f"{about} N = {len(y)}, d = {x.shape[1]}, B = {batch_size}."
    return Target(
        name, title, about, posterior, (x, y), batch_size, _zeros(x.shape[1]), reference or by_nuts(), **options
    )  # fmt: skip


def _signed(y):
    return (2.0 * y - 1).astype(np.float32)


def _logistic(linear, sign):
    return -jax.nn.softplus(-sign * linear)


def linear() -> Target:
    """Bayesian linear regression, closed form."""
    x, y = datasets.load_diabetes(return_X_y=True)
    x, y = _with_intercept(x), _standardised(y).astype(np.float32)

    def exact(target: Target) -> Reference:
        wide, goal = x.astype(np.float64), y.astype(np.float64)
        covariance = np.linalg.inv(wide.T @ wide / NOISE**2 + np.eye(x.shape[1]))
        return gaussian_reference(covariance @ (wide.T @ goal) / NOISE**2, np.diag(covariance), "closed form")

    return _glm(
        "linear", "Linear regression, diabetes",
        f"Standardised features and target, intercept, known noise sd {NOISE}, prior N(0, 1).",
        x, y, lambda mean, y: -0.5 * ((y - mean) / NOISE) ** 2, 64, exact,
    )  # fmt: skip


def breast_cancer() -> Target:
    """Logistic regression, the target of the closing bars."""
    x, y = datasets.load_breast_cancer(return_X_y=True)
    return _glm(
        "breast_cancer", "Logistic regression, breast-cancer", "Standardised features, intercept, prior N(0, 1).",
        _with_intercept(x), _signed(y), _logistic, 64, by_nuts(8000), grid_seeds=3,
        extra={
            "ismile, diagonal": {"geometry": "diagonal"},
            "ismile from 1e-6": {"initial_step_size": 1e-6},
            "ismile from 10": {"initial_step_size": 10.0},
        },
    )  # fmt: skip


def digits() -> Target:
    """Logistic regression, odd against even."""
    x, y = datasets.load_digits(return_X_y=True)
    return _glm(
        "digits", "Logistic regression, digits", "Odd against even, 64 standardised pixels, intercept, prior N(0, 1).",
        _with_intercept(x), _signed(y % 2), _logistic, 64, seeds=2, grid_chains=2,
    )  # fmt: skip


def softmax() -> Target:
    """Softmax regression with a matrix of weights."""
    x, y = datasets.load_digits(return_X_y=True)
    x, y = _standardised(x).astype(np.float32), y.astype(np.int32)

    def log_likelihood(params, batch):
        logits = batch[0] @ params["weight"] + params["bias"]
        picked = jnp.take_along_axis(logits, batch[1][:, None], axis=1)[:, 0]
        return picked - jax.nn.logsumexp(logits, axis=1)

    def start(num):
        return {"bias": np.zeros((num, 10), np.float32), "weight": np.zeros((num, 64, 10), np.float32)}

    return Target(
        "softmax", "Softmax regression, digits",
        "64 standardised pixels, ten classes, weights 64 × 10 and biases, prior N(0, 1). N = 1797, d = 650, B = 64. "
        "The default geometry is kronecker at this size.",
        sx.Posterior(_normal_prior, log_likelihood, len(y)), (x, y), 64, start, by_nuts(2000),
        seeds=1, grid_chains=1, full_batch=False,
    )  # fmt: skip


def softmax_larger_batches() -> Target:
    """The same posterior with batches, and a run, as long as its 650 parameters ask for."""
    target = softmax()
    return dataclasses.replace(
        target,
        name="softmax_256",
        title="Softmax regression, digits, larger batches",
        about="The same posterior, B = 256, and more steps: of 650 variance ratios, each with the Monte-Carlo error of "
        "its own, the largest and smallest are judged. `ismile` alone was run.",
        batch_size=256, num_samples=50_000, reference=lambda _: target.reference(target), grid=False,
    )  # fmt: skip


def interactions() -> Target:
    """Held out: logistic regression with squares and products of features."""
    x, y = datasets.load_diabetes(return_X_y=True)
    x = _standardised(x)[:, [1, 2, 3, 4, 6, 7, 8, 9]]  # without age and ldl, to have about fifty parameters
    rows, columns = np.triu_indices(x.shape[1])
    wide = np.column_stack([x, x[:, rows] * x[:, columns]])
    return _glm(
        "interactions", "Held out: logistic regression with interactions, diabetes",
        "Target above its median; eight standardised features, their squares and products, standardised again, "
        "intercept, prior N(0, 1).",
        _with_intercept(wide), _signed(y > np.median(y)), _logistic, 48, by_nuts(16_000), grid_seeds=3,
    )  # fmt: skip


def poisson() -> Target:
    """Held out: Poisson regression."""
    x, y = datasets.load_diabetes(return_X_y=True)
    return _glm(
        "poisson", "Held out: Poisson regression, diabetes",
        "Target divided by 25 and rounded, a count from 1 to 14; log link, standardised features, intercept, prior "
        "N(0, 1).",
        _with_intercept(x), np.round(y / 25).astype(np.float32), lambda eta, y: y * eta - jnp.exp(eta), 64,
        by_nuts(16_000), grid_seeds=3,
    )  # fmt: skip


def wine() -> Target:
    """Held out: softmax regression with few, well separated rows."""
    x, y = datasets.load_wine(return_X_y=True)
    x, y = _with_intercept(x), y.astype(np.int32)

    def log_likelihood(params, batch):
        logits = batch[0] @ params
        picked = jnp.take_along_axis(logits, batch[1][:, None], axis=1)[:, 0]
        return picked - jax.nn.logsumexp(logits, axis=1)

    return Target(
        "wine", "Held out: softmax regression, wine",
        "Three cultivars, 13 standardised features and an intercept, prior N(0, 1). N = 178, d = 42, B = 32.",
        sx.Posterior(_normal_prior, log_likelihood, len(y)), (x, y), 32,
        lambda num: np.zeros((num, 14, 3), np.float32), by_nuts(16_000), grid_seeds=3,
    )  # fmt: skip


def student() -> Target:
    """Held out: robust regression with a learned scale."""
    x, y = datasets.load_diabetes(return_X_y=True)
    x, y = _with_intercept(x), _standardised(y).astype(np.float32)
    freedom = 4.0

    def log_likelihood(w, batch):
        scaled = (batch[1] - batch[0] @ w[:-1]) * jnp.exp(-w[-1])
        return -w[-1] - 0.5 * (freedom + 1) * jnp.log1p(scaled**2 / freedom)

    return Target(
        "student", "Held out: Student-t regression, diabetes",
        "Four degrees of freedom, learned log scale, standardised features, intercept, prior N(0, 1). N = 442, d = 12, "
        "B = 64.",
        sx.Posterior(_normal_prior, log_likelihood, len(y)), (x, y), 64, _zeros(x.shape[1] + 1), by_nuts(16_000),
        grid_seeds=3,
    )  # fmt: skip
