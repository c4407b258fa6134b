"""
The policies that can be compared, by name.

The one rule: residency's own are the real core; a baseline is told what the core is told.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import msgspec

from router.residency.core import Residency
from router.simulate import baselines
from router.simulate.figures import Figures, figures
from router.simulate.trace import Request
from router.simulate.world import Decide, House, World

Step = Callable[[str, int], None]
"""Told the policy and how many requests have come."""
Policy = Callable[[House, int | None], tuple[House, Decide]]
"""A house and how many models may be there by count -> the house under its rules, and who decides in it."""


def compare(
    house: House,
    trace: Sequence[Request],
    policies: Sequence[str],
    objective: float,
    models_max: int | None = None,
    step: Step = lambda _policy, _count: None,
) -> list[Figures]:
    """Replay the trace once for each policy. `models_max`: for lru-count; None = as many as always fit."""
    found = []
    for name in policies:
        ruled, decide = POLICIES[name](house, models_max)
        found.append(figures(name, World(ruled, decide, _teller(step, name)).run(trace), objective))
    return found


def _teller(step: Step, policy: str) -> Callable[[int], None]:
    return lambda count: step(policy, count)


def _residency(eviction: Literal["cost", "lru"]) -> Policy:
    def rule(house: House, _models_max: int | None) -> tuple[House, Decide]:
        ruled = dataclasses.replace(house, limits=msgspec.structs.replace(house.limits, eviction=eviction))
        return ruled, Residency(ruled.budgets, ruled.limits).handle

    return rule


def _fifo(house: House, _models_max: int | None) -> tuple[House, Decide]:
    return house, baselines.StrictFifo().handle


def _lru_by_count(house: House, models_max: int | None) -> tuple[House, Decide]:
    most = models_max or baselines.fits_by_count(house.models, house.budgets)
    return house, baselines.LruByCount(most).handle


POLICIES: Mapping[str, Policy] = {
    "cost": _residency("cost"),
    "lru": _residency("lru"),
    "fifo": _fifo,
    "lru-count": _lru_by_count,
}
