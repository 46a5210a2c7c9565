"""Compiled loops over steps: of gradients, of the samplers, and of JAX libraries that do the same work."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import smilax as sx
from smilax.experiments.steps.cases import Case, Problem
from smilax.packing import pack, packable
from smilax.samplers.ismile_state import IsmileState

STEP_SIZE = 1e-5
# BlackJAX's SGHMC draws a momentum at each call; with one step a call no gradient would ever reach the position, and
# the compiler would leave them out.
INTEGRATION_STEPS = 10
# Largest number of parameters for which a dense mass matrix is timed.
DENSE = 2000

# Always timed: they make the unit.
GRADIENTS = ("gradient", "gradient, alone")
FIXED_STEP = ("sgld", "sghmc", "mclmc", "smile_naive", "psmile_naive", "psmile")
ISMILE: dict[str, dict[str, Any]] = {
    "ismile diagonal": {"geometry": "diagonal"},
    "ismile kronecker": {"geometry": "kronecker"},
    "ismile dense": {"geometry": "dense"},
    "ismile diagonal, no friction": {"geometry": "diagonal", "friction": False},
}
JAX_PEERS = ("Optax AdamW", "BlackJAX SGHMC", "BlackJAX MCLMC")
NAMES = (*FIXED_STEP, *ISMILE, *JAX_PEERS)


class Program(NamedTuple):
    """A loop, compiled for one case.

    Attributes:
        run: `run(steps)` advances all chains and waits for the end.
        compile_seconds: tracing and compilation.
        bytes: arguments, results and temporaries at once, without the batch, per chain; None if it is not known.
        inner: gradients that one of its steps takes, where it can take no fewer; times are divided by it.
    """

    run: Callable[[int], Any]
    compile_seconds: float
    bytes: float | None
    inner: int = 1


def loop(advance: Callable, state: Any, batch: Any, chains: int = 1) -> Program:
    """The program of `advance(key, state, batch) -> state`, iterated; `state` is that of one chain."""

    def run(states, batch, steps):
        def chain(key, state):
            return jax.lax.fori_loop(0, steps, lambda t, s: advance(jax.random.fold_in(key, t), s, batch), state)

        keys = jax.random.split(jax.random.key(1), chains)
        return jax.vmap(chain)(keys, states) if chains > 1 else chain(keys[0], states)

    states = jax.tree.map(lambda x: jnp.stack([x] * chains), state) if chains > 1 else state
    begin = time.perf_counter()
    compiled = jax.jit(run).lower(states, batch, 1).compile()
    seconds = time.perf_counter() - begin
    memory: Any = compiled.memory_analysis()
    # The results are as large as the states, which `sx.sample` donates.
    held = memory.argument_size_in_bytes + memory.temp_size_in_bytes - sum(x.nbytes for x in jax.tree.leaves(batch))
    return Program(lambda steps: jax.block_until_ready(compiled(states, batch, steps)), seconds, held / chains)


def of_gradients(problem: Problem, params: Any, chains: int) -> Program:
    """Values and gradients in a loop; each moves the parameters a little, so that none can be taken out of it."""
    return loop(_descend(problem), params, problem.batch, chains)


def of_single_gradients(problem: Problem, params: Any) -> Program:
    """Values and gradients, each in a call of its own."""
    begin = time.perf_counter()
    move = _descend(problem)
    compiled = jax.jit(lambda p, batch: move(None, p, batch)).lower(params, problem.batch).compile()
    seconds = time.perf_counter() - begin

    def run(steps):
        current = params
        for _ in range(steps):
            current = jax.block_until_ready(compiled(current, problem.batch))

    return Program(run, seconds, None)


def _descend(problem: Problem) -> Callable:
    def advance(key, params, batch):
        value, gradient = problem.posterior.value_and_grad(params, batch)
        # The value is read, too; its weight is too small to be seen.
        return jax.tree.map(lambda p, g: p + 1e-12 * g + 1e-30 * value.total, params, gradient)

    return advance


def of_sampler(algorithm: Any, problem: Problem, params: Any, chains: int) -> Program:
    """One of smilax's samplers, after warm-up."""
    state = algorithm.init(jax.random.key(0), params)
    if isinstance(state, IsmileState):
        # With a geometry that passes for learnt, explicit noise is part of the steps, as it is of nearly all real ones.
        state = state._replace(factored=state.factored + 1)
    return loop(lambda key, state, batch: algorithm.step(key, state, batch)[0], state, problem.batch, chains)


def samplers(case: Case, problem: Problem) -> dict[str, Any]:
    """Those that are timed on a case."""
    posterior = problem.posterior
    found = {name: getattr(sx, name)(posterior, STEP_SIZE) for name in FIXED_STEP}
    for name, options in ISMILE.items():
        if options["geometry"] != "dense" or problem.num_params <= DENSE:
            found[name] = sx.ismile(posterior, step_size=STEP_SIZE, **options)
    return found


def programs(case: Case, problem: Problem) -> dict[str, Callable[[], Program]]:
    """What makes each program that is timed in this process, by name; gradients first."""
    params = pack(problem.params) if packable(problem.params) else problem.params
    found: dict[str, Callable[[], Program]] = {"gradient": lambda: of_gradients(problem, params, case.chains)}
    if case.chains == 1:
        found["gradient, alone"] = lambda: of_single_gradients(problem, params)
    for name, algorithm in samplers(case, problem).items():
        found[name] = partial(of_sampler, algorithm, problem, params, case.chains)
    # Peers get the parameters as their users have them.
    makers = (_of_adamw, _of_blackjax_sghmc, _of_blackjax_mclmc)
    found |= {name: partial(make, case, problem) for name, make in zip(JAX_PEERS, makers, strict=True)}
    return found


def _of_adamw(case: Case, problem: Problem) -> Program:
    adamw = optax.adamw(1e-6)

    def train(key, state, batch):
        params, moments = state
        _, gradient = problem.posterior.value_and_grad(params, batch)
        updates, moments = adamw.update(jax.tree.map(jnp.negative, gradient), moments, params)
        return optax.apply_updates(params, updates), moments

    return loop(train, (problem.params, adamw.init(problem.params)), problem.batch, case.chains)


def _of_blackjax_sghmc(case: Case, problem: Problem) -> Program:
    import blackjax

    sghmc = blackjax.sghmc(
        lambda p, batch: problem.posterior.value_and_grad(p, batch)[1], num_integration_steps=INTEGRATION_STEPS
    )
    program = loop(
        lambda key, state, batch: sghmc.step(key, state, batch, STEP_SIZE),
        sghmc.init(problem.params), problem.batch, case.chains,
    )  # fmt: skip
    return program._replace(inner=INTEGRATION_STEPS)


def _of_blackjax_mclmc(case: Case, problem: Problem) -> Program:
    import blackjax

    batch = problem.batch
    mclmc = blackjax.mclmc(lambda p: problem.posterior.log_density(p, batch), L=1.0, step_size=STEP_SIZE)
    start = mclmc.init(problem.params, jax.random.key(0))
    return loop(lambda key, state, batch: mclmc.step(key, state)[0], start, batch, case.chains)
