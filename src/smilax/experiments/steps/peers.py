"""Libraries that need an environment of their own, each timed in a child process that waits for its turn.

The child is this file, run by the Python of that environment, which needs smilax too: it makes the same posterior (or,
in PyTorch, the same network) and obeys one line a time: a number of steps, answered by seconds. Without the library it
says so, and the row is left out.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from smilax.experiments.steps.cases import FEATURES, NUM_DATA, TABLE_FEATURES, Case, build, hidden_width

PEERS = ("PyTorch gradient", "posteriors SGHMC", "bde MCLMC")


class Peer:
    """A child process; `run(steps)` waits for that many steps and returns seconds, or None where it cannot."""

    def __init__(self, name: str, case: Case, python: str):
        self._process = subprocess.Popen(
            [python, "-m", "smilax.experiments.steps.peers", name, json.dumps(case)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        answer = self._read()
        self.missing: str | None = answer.get("missing")
        self.compile_seconds: float | None = answer.get("compile")

    def run(self, steps: int) -> float:
        """Seconds of so many steps."""
        assert self._process.stdin is not None
        print(steps, file=self._process.stdin, flush=True)
        return self._read()["seconds"]

    def close(self) -> None:
        """Ends the child."""
        self._process.kill()
        self._process.communicate()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None and self._process.stderr is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a peer's process ended: {self._process.stderr.read()[-2000:]}")
        return json.loads(line)


def main() -> None:
    """The child."""
    name, case = sys.argv[1], Case(*json.loads(sys.argv[2]))
    begin = time.perf_counter()
    try:
        run = _bde(case) if name == "bde MCLMC" else _torch(name, case)
    except ImportError as error:
        print(json.dumps({"missing": str(error)}), flush=True)
        return
    if run is None:
        print(json.dumps({"missing": f"not for {case.model} with {case.chains} chains"}), flush=True)
        return
    run(1)
    print(json.dumps({"compile": time.perf_counter() - begin}), flush=True)
    for line in sys.stdin:
        begin = time.perf_counter()
        run(int(line))
        print(json.dumps({"seconds": time.perf_counter() - begin}), flush=True)


def _bde(case: Case) -> Callable[[int], Any] | None:
    """bde's MCLMC kernel on the same batch as all of its data; its chains are one after another on a device."""
    import jax
    import jax.numpy as jnp
    from bde.sampler.mile_wrapper import MileWrapper

    if case.chains > 1:
        return None
    problem = build(case)
    wrapper = MileWrapper(lambda p: problem.posterior.log_density(p, problem.batch))
    state = wrapper.init(problem.params, jax.random.key(0))
    ones = jnp.ones(problem.num_params)

    @jax.jit
    def run(state, steps):
        def body(t, state):
            return wrapper.step(jax.random.fold_in(jax.random.key(1), t), state, 1.0, 1e-5, ones)[0]

        return jax.lax.fori_loop(0, steps, body, state)

    return lambda steps: jax.block_until_ready(run(state, steps))


def _torch(name: str, case: Case) -> Callable[[int], Any] | None:
    """PyTorch in eager mode, as posteriors' own examples use it: perceptrons only."""
    import torch

    if case.model not in ("mlp", "table") or case.chains > 1:
        return None
    features = FEATURES if case.model == "mlp" else TABLE_FEATURES
    hidden = [hidden_width(case.size)] * 2 if case.model == "mlp" else [16] * 3
    sizes = [features, *hidden, 1]
    layers: list[Any] = []
    for before, after in zip(sizes, sizes[1:], strict=False):
        layers += [torch.nn.Linear(before, after), torch.nn.ReLU()]
    model = torch.nn.Sequential(*layers[:-1])
    params = {name: p.detach().clone() for name, p in model.named_parameters()}
    params["log_scale"] = torch.zeros(())
    batch = torch.randn(case.batch_size, features), torch.randn(case.batch_size, 1)

    def log_posterior(params, batch):
        x, y = batch
        network = {name: p for name, p in params.items() if name != "log_scale"}
        law = torch.distributions.Normal(torch.func.functional_call(model, network, (x,)), params["log_scale"].exp())
        prior = sum(-0.5 * (p**2).sum() for p in params.values())
        return prior + NUM_DATA / len(x) * law.log_prob(y).sum(), torch.tensor([])

    if name == "PyTorch gradient":
        gradient = torch.func.grad(lambda params: log_posterior(params, batch)[0])

        def run(steps):
            for _ in range(steps):
                gradient(params)

        return run
    import posteriors

    transform = posteriors.sgmcmc.sghmc.build(log_posterior, lr=1e-6, alpha=1.0)
    state = transform.init(params)

    def sample(steps):
        current = state
        for _ in range(steps):
            current, _ = transform.update(current, batch)

    return sample


if __name__ == "__main__":
    main()
