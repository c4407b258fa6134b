"""
Made-up work: which model each request wants, and whole traces out of a seed.

The one rule: the same seed gives the same trace, on every machine.
"""

from __future__ import annotations

import bisect
import itertools
import random
from collections.abc import Iterator, Sequence

from router.simulate.trace import Request

# Lengths of the conversation trace at these shares, shortest first: Azure Public Dataset, LLM inference trace
# 2023, CC-BY 4.0 (Patel et al., Splitwise, ISCA 2024).
SHARES = (*(part / 20 for part in range(20)), 0.99, 1.0)
PROMPTS = (
    2, 181, 207, 372, 387, 396, 403, 414, 703, 984, 1020, 1045, 1071, 1097, 1130, 1189, 1315, 1877, 2735, 4083,
    4142, 14050,
)  # fmt: skip
ANSWERS = (
    7, 41, 54, 67, 77, 85, 91, 96, 103, 113, 129, 151, 177, 217, 384, 395, 400, 411, 424, 451, 601, 1000,
)  # fmt: skip


def zipf(names: Sequence[str], alpha: float, seed: int) -> Iterator[str]:
    """Names without end, the n-th of the list 1 / n^alpha as often as the first; 0 = all alike."""
    draw = random.Random(seed)
    shares = list(itertools.accumulate((rank + 1) ** -alpha for rank in range(len(names))))
    while True:
        yield draw.choices(names, cum_weights=shares)[0]


def assign(requests: Sequence[Request], names: Sequence[str], alpha: float, seed: int) -> list[Request]:
    """Give a model to every request that has none."""
    models = zipf(names, alpha, seed)
    return [r if r.model else Request(r.at, next(models), r.prompt, r.output) for r in requests]


def synthetic(
    names: Sequence[str], count: int, rate: float, alpha: float = 1.0, seed: int = 1
) -> list[Request]:
    """
    `count` requests, `rate` a second on average, with the lengths of real conversations.

    Arrivals are a Poisson process, as those of the conversation trace nearly are (their coefficient of
    variation is 1.1); lengths are drawn from its quantiles, models by Zipf.
    """
    draw = random.Random(seed)
    models = zipf(names, alpha, seed + 1)
    at, found = 0.0, []
    for _ in range(count):
        found.append(Request(round(at, 3), next(models), _length(draw, PROMPTS), _length(draw, ANSWERS)))
        at += draw.expovariate(rate)
    return found


def _length(draw: random.Random, lengths: Sequence[int]) -> int:
    """One draw from the distribution that has `lengths` at SHARES, straight lines between them."""
    share = draw.random()
    high = bisect.bisect_right(SHARES, share)
    low = high - 1
    part = (share - SHARES[low]) / (SHARES[high] - SHARES[low])
    return round(lengths[low] + part * (lengths[high] - lengths[low]))
