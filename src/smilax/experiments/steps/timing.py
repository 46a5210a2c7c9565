"""Programs and peers take turns; medians, spread, and cost in gradients."""

import time
from collections.abc import Callable, Collection, Iterable
from statistics import median
from typing import NamedTuple

from smilax.experiments.steps.cases import Case, Problem, build
from smilax.experiments.steps.peers import PEERS, Peer
from smilax.experiments.steps.programs import GRADIENTS, programs

# What one repetition should take, and the least and most steps of one: what a call does once, as touching its memory
# for the first time, is no part of a step, and took as long as one on models with large temporaries.
SECONDS, LEAST_STEPS, MOST_STEPS = 0.15, 10, 10_000
# A share of its steps that a program takes before each turn that counts: the first to run after another process was
# measured at two to four times its time. Threads of that process may spin on for as long as the pause.
LEAD_IN, PAUSE = 0.25, 0.3


class Row(NamedTuple):
    """What one program took on one case.

    Attributes:
        model, num_params, batch_size, chains: the case.
        program: its name.
        seconds: median time of a step of all chains.
        low, high: least and largest.
        ratio: median over two gradients of the same batch and chains.
        sizes: peak memory of a chain in parameter-sizes of float32, the batch left out, or None.
        compile_seconds: tracing and compilation; of a peer, from its start to its first step.
    """

    model: str
    num_params: int
    batch_size: int
    chains: int
    program: str
    seconds: float
    low: float
    high: float
    ratio: float
    sizes: float | None
    compile_seconds: float | None


def measure(
    cases: Iterable[Case],
    repeats: int,
    pythons: dict[str, str],
    say: Callable[[str], None] = print,
    wanted: Collection[str] | None = None,
) -> list[Row]:
    """Times programs on every case: all, or the gradients and those `wanted`.

    `pythons` names the interpreter of each peer that has one of its own.
    """
    rows: list[Row] = []
    for case in cases:
        problem = build(case)
        say(f"{case.model}, {problem.num_params:,} parameters, B = {case.batch_size}, chains: {case.chains}")
        rows += _measure(case, problem, repeats, pythons, say, wanted)
    return rows


def _measure(
    case: Case,
    problem: Problem,
    repeats: int,
    pythons: dict[str, str],
    say: Callable[[str], None],
    wanted: Collection[str] | None,
) -> list[Row]:
    def chosen(name: str) -> bool:
        return wanted is None or name in wanted or name in GRADIENTS

    found = {name: make() for name, make in programs(case, problem).items() if chosen(name)}
    peers = {name: Peer(name, case, pythons[name]) for name in PEERS if chosen(name)}
    try:
        for name, peer in peers.items():
            if peer.missing:
                say(f"  without {name}: {peer.missing}")
        present = {name: peer for name, peer in peers.items() if not peer.missing}

        def timed(name: str, steps: int) -> float:
            if name in present:
                return present[name].run(steps)
            begin = time.perf_counter()
            found[name].run(steps)
            return time.perf_counter() - begin

        def steps_of_a_turn(name: str) -> int:
            least = -(-LEAST_STEPS // (found[name].inner if name in found else 1))
            timed(name, 1)
            steps = 1
            # A first guess from one step, most of whose time is that of a call, and one from as many as that.
            for _ in range(2):
                steps = max(least, min(MOST_STEPS, round(SECONDS * steps / timed(name, steps))))
            return steps

        names = [*found, *present]
        steps = {name: steps_of_a_turn(name) for name in names}
        times: dict[str, list[float]] = {name: [] for name in names}
        for turn in range(repeats):
            # Back and forth, so that no program always has the same one before it.
            for name in names if turn % 2 == 0 else names[::-1]:
                timed(name, max(1, round(LEAD_IN * steps[name])))
                taken = steps[name] * (found[name].inner if name in found else 1)
                times[name].append(timed(name, steps[name]) / taken)
                if name in present:
                    time.sleep(PAUSE)
    finally:
        for peer in peers.values():
            peer.close()
    gradient = min(median(times[name]) for name in GRADIENTS if name in times)
    rows = []
    for name, values in times.items():
        program = found.get(name)
        held = program.bytes if program else None
        rows.append(
            Row(
                case.model, problem.num_params, case.batch_size, case.chains, name,
                median(values), min(values), max(values), median(values) / (2 * gradient),
                held / (4 * problem.num_params) if held else None,
                program.compile_seconds if program else present[name].compile_seconds,
            )
        )  # fmt: skip
    return rows
