"""How long to sample, from the size of the data and the time there is."""

import math
from typing import NamedTuple


class Plan(NamedTuple):
    """Lengths of a run.

    Attributes:
        batch_size: B.
        num_warmup: steps before the first draw.
        num_samples: steps after them.
        thinning: steps per draw.
    """

    batch_size: int
    num_warmup: int
    num_samples: int
    thinning: int


def plan(
    num_rows: int,
    batch_size: int | None,
    num_warmup: int | None,
    num_samples: int | None,
    num_draws: int,
    full: bool = False,
) -> Plan:
    """Lengths for a data set; arguments that are not None stand.

    A batch is an eighth of the rows, between 32 and 256, or with `full` all of them; never more than there are. A
    posterior known from N rows is as many batches long as N/B says: independent draws cost in proportion to N/B steps
    (docs/theory.md), so the length grows with it. No more than `num_draws` draws are kept; a length that is chosen here
    is a multiple of them.
    """
    if batch_size is None:
        batch_size = num_rows if full else max(32, min(256, round(num_rows / 8)))
    batch_size = min(batch_size, num_rows)
    ratio = num_rows / batch_size
    if num_samples is None:
        num_samples = round(min(20_000, max(2400, 150 * ratio)) / 100) * 100
        num_samples = -(-num_samples // num_draws) * num_draws
    if num_warmup is None:
        num_warmup = 2 * num_samples
    return Plan(batch_size, num_warmup, num_samples, -(-num_samples // num_draws))


def shortened(wanted: Plan, affordable: float) -> Plan:
    """The same plan with no more steps in all than `affordable`, of which two thirds are warm-up.

    A tenth of the plan is taken in any case.
    """
    total = wanted.num_warmup + wanted.num_samples
    if affordable >= total:
        return wanted
    share = max(affordable / total, 0.1)
    draws = max(1, math.floor(share * wanted.num_samples / wanted.thinning))
    return wanted._replace(num_warmup=math.floor(share * wanted.num_warmup), num_samples=draws * wanted.thinning)
