"""BlackJAX: its stochastic-gradient kernels in `sx.sample`, and our samplers in its loops."""

import difflib
import inspect
from typing import Any, NamedTuple

import blackjax
import jax
import jax.numpy as jnp
from blackjax.base import SamplingAlgorithm as BlackjaxAlgorithm
from blackjax.sgmcmc.csgld import ContourSGLDState
from blackjax.sgmcmc.sgnht import SGNHTState

from smilax import trees
from smilax.data import check_batch_size, on_device
from smilax.posterior import Posterior
from smilax.samplers.base import Info, SamplingAlgorithm, StepSize, check_params, check_step_size, describe, schedule
from smilax.validation import check_data

KERNELS = {name: getattr(blackjax, name) for name in ("sgld", "sghmc", "sgnht", "csgld")}
# States that hold more than the position, which is all of the others'.
WITH_POSITION = (SGNHTState, ContourSGLDState)
# What `from_blackjax` itself gives to their functions.
GIVEN = {"logdensity_estimator", "gradient_estimator", "grad_estimator", "rng_key", "state", "minibatch", "position"}
STEP_SIZES = {"step_size", "step_size_diff"}


class KernelState(NamedTuple):
    """State of a smilax sampler in BlackJAX's form; `position` is where it is."""

    chain: Any

    @property
    def position(self) -> Any:
        """The parameters."""
        return self.chain.params


class BlackjaxState(NamedTuple):
    """State of a BlackJAX kernel in smilax's form, and steps taken."""

    kernel: Any
    num_steps: jax.Array

    @property
    def params(self) -> Any:
        """The position; the state of some kernels is nothing else."""
        return self.kernel.position if isinstance(self.kernel, WITH_POSITION) else self.kernel


class ContourInfo(NamedTuple):
    """What a step of contour SGLD reports; scalars.

    Attributes:
        log_density, energy_error, step_size, accepted: as `sx.Info`.
        log_weight: log importance weight of the draw, up to a constant, by the flattening at the time of the draw.
        partition: number of the energy partition of the draw.
    """

    log_density: jax.Array
    energy_error: jax.Array
    step_size: jax.Array
    accepted: jax.Array
    log_weight: jax.Array
    partition: jax.Array


def to_blackjax(algorithm: SamplingAlgorithm, data: Any = None, *, batch_size: int | None = None) -> BlackjaxAlgorithm:
    """A smilax sampler as a `blackjax.base.SamplingAlgorithm`.

    `state = init(position, rng_key)`; `state.position` are the parameters. Without data,
    `state, info = step(rng_key, state, minibatch)`, as BlackJAX's stochastic-gradient kernels have it, and
    `step(rng_key, state, minibatch, fraction)` is a step of warm-up, `fraction` in [0, 1) telling how far it has come.
    With data each step draws a batch of its own, with a key apart from the sampler's, and what BlackJAX has for
    `step(rng_key, state)` works, such as `blackjax.util.run_inference_algorithm`; warm-up is
    `step(rng_key, state, fraction)` then.

    Args:
        algorithm: the sampler, e.g. `sx.ismile(posterior)`.
        data: None, or arrays (or `sx.Batches`) that fit on the device.
        batch_size: B, with data; None takes all rows at each step.

    Raises:
        TypeError: if an argument is of another kind, or `init` gets no key.
        ValueError: if the data do not fit the posterior, or `batch_size` is out of range or given without data.

    Example:
        >>> import blackjax, jax, jax.numpy as jnp, numpy as np, smilax as sx
        >>> posterior = sx.Posterior(
        ...     lambda m: -0.5 * jnp.sum(m**2), lambda m, x: -0.5 * jnp.sum((x - m) ** 2, axis=-1), num_data=100
        ... )
        >>> algorithm = sx.to_blackjax(sx.sgld(posterior, step_size=1e-3))
        >>> state = algorithm.init(jnp.zeros(2), jax.random.key(0))
        >>> state, info = jax.jit(algorithm.step)(jax.random.key(1), state, jnp.ones((10, 2)))
        >>> state.position.shape
        (2,)
        >>> bound = sx.to_blackjax(sx.mclmc(posterior, step_size=0.05), np.ones((100, 2), np.float32))
        >>> last, (states, infos) = blackjax.util.run_inference_algorithm(
        ...     jax.random.key(2), bound, num_steps=20, initial_position=jnp.zeros(2)
        ... )
        >>> states.position.shape
        (20, 2)
    """
    if not isinstance(algorithm, SamplingAlgorithm):
        raise TypeError(f"algorithm must be a SamplingAlgorithm, e.g. sx.ismile(posterior), got {algorithm!r}")
    if data is None and batch_size is not None:
        raise ValueError("batch_size is of use with data only: without, the loop gives the batches")

    def init(position, rng_key=None):
        if rng_key is None:
            raise TypeError(f"init(position, rng_key): {algorithm.config['name']} needs a key, got None")
        return KernelState(algorithm.init(rng_key, jax.tree.map(jnp.asarray, position)))

    def advance(rng_key, state, batch, fraction):
        if fraction is None:
            chain, info = algorithm.step(rng_key, state.chain, batch)
        else:
            chain, info = algorithm.warmup(rng_key, state.chain, batch, jnp.asarray(fraction, jnp.float32))
        return KernelState(chain), info

    if data is None:

        def step(rng_key, state, minibatch, fraction=None):
            return advance(rng_key, state, minibatch, fraction)

        return BlackjaxAlgorithm(init, step)

    batches = on_device("data", data)
    if batches.order != "independent":
        raise ValueError(f"data must have independent batches here, got order={batches.order!r}")
    size = check_batch_size(batch_size, batches)
    if algorithm.config.get("batches") == "full" and size != batches.num_rows:
        raise ValueError(f"{algorithm.config['name']} needs all {batches.num_rows} rows, got batch_size = {size}")
    if algorithm.posterior is not None:
        check_data(algorithm.posterior, batches)
    rows = jax.tree.map(jnp.asarray, batches.data)

    def step_on_data(rng_key, state, fraction=None):
        data_key, step_key = jax.random.split(rng_key)
        batch = batches.draw(rows, data_key, jnp.zeros((), jnp.uint32), size)
        return advance(step_key, state, batch, fraction)

    return BlackjaxAlgorithm(init, step_on_data)


def from_blackjax(kernel: Any, posterior: Posterior, step_size: StepSize, **settings: Any) -> SamplingAlgorithm:
    """One of BlackJAX's stochastic-gradient kernels as a sampler for `sx.sample`.

    The kernel gets the posterior's mini-batch gradient, the batches and keys of `sx.sample`, and is otherwise as it is:
    each of its calls is a step. A step that ends where something is not finite is undone, and counted as rejected.

    What to know of BlackJAX 1.7.1. `sghmc` draws its momenta at every call with the key that it also splits for its
    noise; each step is a trajectory of `num_integration_steps` gradients in explicit Euler steps, which gain energy:
    on a Gaussian of precision λ, ten of them with ε²λ = 0.04 make the variance 1.4 times too large (`sx.sghmc` keeps
    its momentum and is semi-implicit). `csgld` is contour SGLD, another algorithm than `sx.csgld`: it samples a
    flattened density, and its draws have to be weighted by `exp(info.log_weight)`, which is approximate (on a Gaussian
    of four dimensions, with 40 partitions of width 1, weighted variances came out 20 to 24 % too small); its default
    partitions, 512 of width 100 from energy 0, seldom fit, and with `zeta=0` it is `sgld`.

    Args:
        kernel: `blackjax.sgld`, `blackjax.sghmc`, `blackjax.sgnht` or `blackjax.csgld`.
        posterior: the target.
        step_size: a positive number or a schedule `step_size(count)`; BlackJAX's ε.
        settings: what the kernel takes besides: `temperature`; `num_integration_steps`, `alpha`, `beta`; `zeta`,
            `num_partitions`, `energy_gap`, `min_energy`, `step_size_stoch` (0.001 unless given).

    Raises:
        TypeError: if the kernel is another, or does not take a setting.
        ValueError: if the step size is not positive and finite.

    Example:
        >>> import blackjax, jax, jax.numpy as jnp, numpy as np, smilax as sx
        >>> posterior = sx.Posterior(
        ...     lambda m: -0.5 * jnp.sum(m**2), lambda m, x: -0.5 * jnp.sum((x - m) ** 2, axis=-1), num_data=100
        ... )
        >>> algorithm = sx.from_blackjax(blackjax.sghmc, posterior, 0.01, num_integration_steps=5, alpha=1.0)
        >>> result = sx.sample(
        ...     jax.random.key(0), algorithm, np.ones((100, 2), np.float32), jnp.zeros(2), num_chains=2, num_warmup=10,
        ...     num_samples=20, batch_size=10, progress_bar=False,
        ... )
        >>> result.config["algorithm"]["name"], result.draws.shape
        ('blackjax.sghmc', (2, 20, 2))
    """
    name = next((name for name, known in KERNELS.items() if kernel is known), None)
    if name is None:
        known = ", ".join(f"blackjax.{name}" for name in KERNELS)
        raise TypeError(f"kernel must be one of {known}, got {kernel!r}; of the others sx.nuts and sx.mclmc are here")
    if not isinstance(posterior, Posterior):
        raise TypeError(f"posterior must be a Posterior, got {type(posterior).__name__}")
    check_step_size(step_size)
    step_size_at = schedule(step_size)

    def log_density(params, batch):
        return posterior.evaluate(params, batch).total

    def gradient(params, batch):
        return posterior.value_and_grad(params, batch)[1]

    functions = (log_density, gradient) if name == "csgld" else (gradient,)
    made = set(inspect.signature(kernel.differentiable).parameters) - GIVEN
    taken = set(inspect.signature(kernel(*functions).step).parameters) - GIVEN - STEP_SIZES
    for setting, value in settings.items():
        if setting not in made | taken:
            near = difflib.get_close_matches(setting, made | taken, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise TypeError(f"blackjax.{name} takes no {setting!r}, only {sorted(made | taken)}{hint}")
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"{setting} must be a number, got {value!r}")
    if name == "csgld":
        settings.setdefault("step_size_stoch", 1e-3)
    algorithm = kernel(*functions, **{k: v for k, v in settings.items() if k in made})
    at_step = {k: v for k, v in settings.items() if k in taken}
    zeta = settings.get("zeta", 1)

    def init(key, params):
        check_params(params)
        state = algorithm.init(params, key)
        # Their states also hold Python numbers, and arrays of JAX's default type.
        dtype = jnp.result_type(*jax.tree.leaves(params))

        def strong(leaf):
            kind = jnp.result_type(leaf)
            return jnp.asarray(leaf, dtype if jnp.issubdtype(kind, jnp.floating) else jnp.int32)

        if isinstance(state, WITH_POSITION):
            state = jax.tree.map(strong, state)._replace(position=params)
        return BlackjaxState(state, jnp.zeros((), jnp.int32))

    def step(key, state, batch):
        dtype = jnp.result_type(*jax.tree.leaves(state.params))
        eps = step_size_at(state.num_steps).astype(dtype)
        value = posterior.evaluate(state.params, batch).total
        start, length, wide = state.kernel, eps, jax.dtypes.canonicalize_dtype(float)
        if name == "sghmc" and dtype != wide:
            # Its noise is of JAX's default type, and its loop over steps takes no other.
            start, length = jax.tree.map(lambda leaf: leaf.astype(wide), (start, eps))
        moved = algorithm.step(key, start, batch, length, **at_step)
        moved = jax.tree.map(lambda new, old: new.astype(old.dtype), moved, state.kernel)
        valid = jnp.isfinite(value)
        for leaf in jax.tree.leaves(moved):
            valid = valid & jnp.all(jnp.isfinite(leaf))
        kept = trees.where(valid, moved, state.kernel)
        info: Any = Info(value, jnp.full((), jnp.nan, value.dtype), eps, valid.astype(dtype))
        if name == "csgld":
            weight = zeta * jnp.log(kept.energy_pdf[kept.energy_idx])
            info = ContourInfo(**info._asdict(), log_weight=weight, partition=kept.energy_idx)
        return BlackjaxState(kept, state.num_steps + 1), info

    return SamplingAlgorithm(
        init=init,
        warmup=lambda key, state, batch, fraction: step(key, state, batch),
        step=step,
        config={
            "name": f"blackjax.{name}",
            "step_size": describe(step_size),
            **{k: settings[k] for k in sorted(settings)},
            "batches": "mini",
        },
        posterior=posterior,
    )
