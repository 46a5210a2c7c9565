"""The No-U-Turn sampler on all data: exact up to Monte Carlo error, and the reference where it is affordable."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from smilax import trees
from smilax.checks import check_count
from smilax.noise import rows
from smilax.packing import flatten
from smilax.posterior import Posterior
from smilax.samplers.base import SamplingAlgorithm, check_number, check_params, check_positive, check_posterior

# Stan's warm-up of 1,000 steps, in fractions: the step size alone at both ends, and windows of doubling length, at the
# ends of which the masses are set from the window's draws.
FIRST_WINDOW = 0.075
WINDOW_ENDS = (0.1, 0.15, 0.25, 0.45, 0.95)
# A shorter window is joined with the next.
LEAST_DRAWS = 10
# Dual averaging (Hoffman and Gelman 2014, section 3.2.1).
GAMMA, DELAY, KAPPA = 0.05, 10, 0.75
# Stan's shrinkage of variances: five draws of variance 10⁻³.
SHRINK_DRAWS, SHRINK_TO = 5, 1e-3


class DualAverage(NamedTuple):
    """Steers a log step size to an acceptance rate; scalars."""

    log_step: jax.Array
    average: jax.Array
    error: jax.Array
    start: jax.Array
    num_steps: jax.Array


class NutsState(NamedTuple):
    """State of NUTS.

    Attributes:
        params: position.
        variance: inverse masses, shape `(d,)` in the order of the leaves.
        mean, squares: mean and sum of squared deviations of the window's draws, shape `(d,)`.
        drawn: draws in the window.
        window: number of windows closed.
        tuner: the step size.
    """

    params: Any
    variance: jax.Array
    mean: jax.Array
    squares: jax.Array
    drawn: jax.Array
    window: jax.Array
    tuner: DualAverage


class NutsInfo(NamedTuple):
    """What a step reports; scalars.

    Attributes:
        log_density: log density of the draw, in nats.
        energy_error: energy of the draw less that of the trajectory's start, in nats.
        step_size: of the leapfrog.
        accepted: 1.0, or 0.0 where the start or the draw was not finite.
        acceptance_rate: mean Metropolis acceptance probability along the trajectory.
        num_leapfrogs: leapfrog steps, which is gradients less one.
        diverging: whether the trajectory ended because its energy went astray.
    """

    log_density: jax.Array
    energy_error: jax.Array
    step_size: jax.Array
    accepted: jax.Array
    acceptance_rate: jax.Array
    num_leapfrogs: jax.Array
    diverging: jax.Array


def _restarted(log_step: jax.Array) -> DualAverage:
    zero = jnp.zeros_like(log_step)
    ten = jnp.log(jnp.asarray(10, log_step.dtype))
    return DualAverage(log_step, log_step, zero, log_step + ten, jnp.zeros((), jnp.int32))


def _averaged(state: DualAverage, miss: jax.Array) -> DualAverage:
    """One step of dual averaging; `miss` is the target less the acceptance rate."""
    count = (state.num_steps + 1).astype(miss.dtype)
    error = state.error + (miss - state.error) / (count + DELAY)
    log_step = state.start - jnp.sqrt(count) / GAMMA * error
    weight = count**-KAPPA
    average = weight * log_step + (1 - weight) * state.average
    return DualAverage(log_step, average, error, state.start, state.num_steps + 1)


def nuts(
    posterior: Posterior,
    *,
    target_acceptance: float = 0.8,
    initial_step_size: float = 0.1,
    max_doublings: int = 10,
) -> SamplingAlgorithm:
    """NUTS (Hoffman and Gelman 2014; multinomial, Betancourt 2017), BlackJAX's kernel, with Stan's warm-up.

    Each step is a whole trajectory, of up to 2^`max_doublings` gradients of all rows, and chains that are vectorised
    wait for the longest: in `sample` use `chain_method="sequential"` where lengths differ. The batch must be the whole
    data set, and a smaller one is refused.

    Warm-up finds the step size by dual averaging to an acceptance rate, and one mass per parameter from the draws of
    windows of doubling length, at the fractions of warm-up that Stan has for 1,000 steps; both are then frozen. This
    part is ours: BlackJAX's needs to know the number of steps before it starts. The kernel (1.7.1) makes float64 arrays
    where JAX's default is that, whatever the parameters are: trajectories are then of float64 numbers, and the density
    is evaluated at, and the draws are, numbers of the parameters' own type. The gradient at the start of a trajectory
    is taken anew, one more than the kernel alone would need.

    Energies are differences of sums over all rows: in float32 and with very many rows (10⁶) their rounding reaches the
    acceptance rate; use float64 there.

    Args:
        posterior: the target.
        target_acceptance: mean acceptance probability to steer to, in (0, 1).
        initial_step_size: where the search starts, and what a run without warm-up uses; in units of the parameters.
        max_doublings: how often a trajectory may double.

    Raises:
        ValueError: if an argument is outside its range, or (when a step is traced) the batch is not all of the data.
        TypeError: if the parameters are of several dtypes.

    Example:
        >>> import jax, jax.numpy as jnp, smilax as sx
        >>> posterior = sx.Posterior(lambda x: -0.5 * jnp.sum(x**2), lambda x, batch: jnp.zeros(len(batch)), 10)
        >>> algorithm = sx.nuts(posterior)
        >>> state = algorithm.init(jax.random.key(0), jnp.ones(5))
        >>> state, info = algorithm.step(jax.random.key(1), state, jnp.zeros(10))
        >>> bool(info.diverging)
        False
    """
    check_posterior(posterior)
    check_number("target_acceptance", target_acceptance)
    if not 0 < target_acceptance < 1:
        raise ValueError(f"target_acceptance must be in (0, 1), got {target_acceptance!r}")
    check_positive("initial_step_size", initial_step_size)
    max_doublings = check_count("max_doublings", max_doublings, 1)
    # A NumPy number would widen single precision.
    target_acceptance = float(target_acceptance)

    def init(key, params):
        check_params(params)
        flat = flatten(params)
        zeros, none = jnp.zeros_like(flat), jnp.zeros((), jnp.int32)
        log_step = jnp.log(jnp.asarray(initial_step_size, flat.dtype))
        return NutsState(params, jnp.ones_like(flat), zeros, zeros, none, none, _restarted(log_step))

    def advance(key, state, batch, eps):
        # Takes a moment to import, and `import smilax` should not.
        from blackjax.mcmc import nuts as kernel

        if rows(batch) != posterior.num_data:
            raise ValueError(
                f"nuts needs all {posterior.num_data} rows at each step, got a batch of {rows(batch)}: an accept-reject"
                " rule on part of the data has another stationary law"
            )
        dtype = eps.dtype
        # The kernel's arrays are of JAX's default type, so its trajectory has to be; the model sees its own.
        wide = jnp.zeros(()).dtype

        def cast(tree, to):
            return jax.tree.map(lambda x: x.astype(to), tree)

        def log_density(params):
            return posterior.log_density(cast(params, dtype), batch).astype(wide)

        start = kernel.init(cast(state.params, wide), log_density)
        finite = jnp.isfinite(start.logdensity) & jnp.isfinite(trees.dot(start.logdensity_grad, start.logdensity_grad))
        # Where the density is not finite, no trajectory: its energies would be compared with NaN 2^10 times.
        length = jnp.where(finite, eps.astype(wide), jnp.nan)
        variance = state.variance.astype(wide)
        end, found = kernel.build_kernel()(key, start, log_density, length, variance, max_doublings)
        momentum = flatten(found.momentum)
        kinetic = 0.5 * jnp.sum(variance * momentum * momentum)
        params = cast(end.position, dtype)
        valid = finite & jnp.isfinite(end.logdensity) & jnp.isfinite(trees.dot(params, params))
        rate = jnp.where(valid & jnp.isfinite(found.acceptance_rate), found.acceptance_rate, 0)
        info = NutsInfo(
            jnp.where(valid, end.logdensity, start.logdensity).astype(dtype),
            (found.energy - (kinetic - start.logdensity)).astype(dtype),
            eps,
            valid.astype(dtype),
            rate.astype(dtype),
            jnp.asarray(found.num_integration_steps, jnp.int32),
            jnp.asarray(found.is_divergent, bool),
        )
        return state._replace(params=trees.where(valid, params, state.params)), info

    def closed(state):
        """The state after the end of a window: new masses, and the search for the step size begins anew."""
        count = state.drawn.astype(state.mean.dtype)
        variance = state.squares / jnp.maximum(count - 1, 1)
        shrunk = (count * variance + SHRINK_DRAWS * SHRINK_TO) / (count + SHRINK_DRAWS)
        zeros = jnp.zeros_like(state.mean)
        return state._replace(
            variance=shrunk,
            mean=zeros,
            squares=zeros,
            drawn=jnp.zeros_like(state.drawn),
            tuner=_restarted(state.tuner.average),
        )

    def begun(state):
        """The state at the first step of a warm-up, which need not be the chain's first; masses stay for now."""
        zeros, none = jnp.zeros_like(state.mean), jnp.zeros((), jnp.int32)
        tuner = _restarted(state.tuner.average)
        return state._replace(mean=zeros, squares=zeros, drawn=none, window=none, tuner=tuner)

    def warmup(key, state, batch, fraction):
        fraction = jnp.asarray(fraction, jnp.float32)
        state = trees.where(fraction == 0, begun(state), state)
        ends = jnp.asarray([*WINDOW_ENDS, 2.0], fraction.dtype)
        over = fraction >= ends[state.window]
        state = trees.where(over & (state.drawn >= LEAST_DRAWS), closed(state), state)
        state = state._replace(window=state.window + over.astype(jnp.int32))
        state, info = advance(key, state, batch, jnp.exp(state.tuner.log_step))
        tuner = _averaged(state.tuner, target_acceptance - info.acceptance_rate)
        counted = (fraction >= FIRST_WINDOW) & (fraction < WINDOW_ENDS[-1]) & (info.accepted > 0)
        x = flatten(state.params)
        drawn = state.drawn + 1
        off = x - state.mean
        mean = state.mean + off / drawn.astype(x.dtype)
        moments = (mean, state.squares + off * (x - mean), drawn)
        mean, squares, drawn = trees.where(counted, moments, (state.mean, state.squares, state.drawn))
        return state._replace(mean=mean, squares=squares, drawn=drawn, tuner=tuner), info

    def step(key, state, batch):
        return advance(key, state, batch, jnp.exp(state.tuner.average))

    return SamplingAlgorithm(
        init=init,
        warmup=warmup,
        step=step,
        config={
            "name": "nuts",
            "target_acceptance": float(target_acceptance),
            "initial_step_size": float(initial_step_size),
            "max_doublings": max_doublings,
            "batches": "full",
        },
        posterior=posterior,
    )
