"""What the table is to show, and whether it does."""

import math
from collections.abc import Sequence
from typing import Any

from smilax.experiments.steps.timing import Row

# Peers and those of ours that do the same work: gradients per step, and the same law.
EQUAL_WORK = {
    "BlackJAX SGHMC": "sghmc",
    "posteriors SGHMC": "sghmc",
    "BlackJAX MCLMC": "mclmc",
    "bde MCLMC": "mclmc",
    "PyTorch gradient": "gradient",
}
# Two gradients of the same batch, at d >= 1e5 and B = 512, and of the tabular network at B = 256.
LARGE = {"psmile": 1.10, "ismile diagonal": 1.15, "ismile kronecker": 1.35}
TABLE = {"psmile": 1.15, "ismile kronecker": 1.5, "ismile dense": 1.5}
# Parameter-sizes over what the gradient itself takes.
MEMORY = {"psmile": 7.0, "ismile diagonal": 8.0}
EXPONENT = 1.05


def verdicts(rows: Sequence[Row]) -> list[tuple[bool, str]]:
    """Claims about the rows, each with whether it holds."""
    return [*_costs(rows), *_memory(rows), *_exponents(rows), *_peers(rows)]


def _of(rows: Sequence[Row], **wanted: Any) -> list[Row]:
    return [row for row in rows if all(getattr(row, name) == value for name, value in wanted.items())]


def _costs(rows):
    for program, bar in LARGE.items():
        for row in _of(rows, program=program, batch_size=512, chains=1):
            if row.num_params >= 9e4:
                yield (
                    row.ratio <= bar,
                    f"{program}, {row.model} d = {row.num_params:,}: {row.ratio:.2f} of two gradients (bar {bar})",
                )
    for program, bar in TABLE.items():
        for row in _of(rows, program=program, model="table", chains=1):
            yield row.ratio <= bar, f"{program}, d = {row.num_params}: {row.ratio:.2f} of two gradients (bar {bar})"


def _memory(rows):
    for program, bar in MEMORY.items():
        for row in _of(rows, program=program, model="mlp", batch_size=512, chains=1):
            own = _of(rows, program="gradient", model="mlp", num_params=row.num_params, batch_size=512, chains=1)
            if row.num_params >= 9e5 and own and row.sizes is not None and own[0].sizes is not None:
                over = row.sizes - own[0].sizes
                yield (
                    over <= bar,
                    f"{program}, d = {row.num_params:,}: {over:.3f} parameter-sizes over the gradient's (bar {bar})",
                )


def _exponents(rows):
    for program in ("psmile", "ismile diagonal"):
        cases = [r for r in _of(rows, program=program, model="mlp", batch_size=512, chains=1) if r.num_params >= 9e3]
        if len(cases) > 1:
            first, last = cases[0], cases[-1]
            exponent = math.log(last.seconds / first.seconds) / math.log(last.num_params / first.num_params)
            yield (
                exponent <= EXPONENT,
                f"{program}: cost grows as d^{exponent:.3f} from {first.num_params:,} to {last.num_params:,} "
                f"(bar {EXPONENT})",
            )


def _peers(rows):
    for row in rows:
        if row.program in EQUAL_WORK:
            ours = EQUAL_WORK[row.program]
            case = {name: getattr(row, name) for name in ("model", "num_params", "batch_size", "chains")}
            for own in _of(rows, program=ours, **case):
                times = row.seconds / own.seconds
                yield (
                    times >= 1,
                    f"{ours} against {row.program}, {row.model} d = {row.num_params:,}, B = {row.batch_size}, "
                    f"chains {row.chains}: {times:.2f} times as fast",
                )
