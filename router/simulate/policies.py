"""
The policies that can be compared, by name.

The one rule: residency's own are the real core; a baseline is told what the core is told.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import msgspec

from router.residency.core import Residency
from router.simulate import baselines
from router.simulate.figures import Figures, figures
from router.simulate.trace import Request
from router.simulate.world import Decide, House, World

Step = Callable[[str, int], None]
"""Told the policy and how many requests have come."""


def compare(
    house: House,
    trace: Sequence[Request],
    policies: Sequence[str],
    objective: float,
    models_max: int | None = None,
    step: Step = lambda _policy, _count: None,
) -> list[Figures]:
    """Replay the trace once for each policy. `models_max`: for lru-count; None = as many as always fit."""
    return [
        figures(
            name,
            World(_told(name, house), _decider(name, house, models_max), _teller(step, name)).run(trace),
            objective,
        )
        for name in policies
    ]


def _teller(step: Step, policy: str) -> Callable[[int], None]:
    return lambda count: step(policy, count)


def _residency(house: House, _models_max: int | None) -> Decide:
    return Residency(house.budgets, house.limits).handle


def _fifo(_house: House, _models_max: int | None) -> Decide:
    return baselines.StrictFifo().handle


def _lru_by_count(house: House, models_max: int | None) -> Decide:
    most = models_max or baselines.fits_by_count(house.models, house.budgets)
    return baselines.LruByCount(most).handle


POLICIES: Mapping[str, Callable[[House, int | None], Decide]] = {
    "cost": _residency,
    "lru": _residency,
    "fifo": _fifo,
    "lru-count": _lru_by_count,
}


def _told(name: str, house: House) -> House:
    """Residency's own policies differ in one limit of the registry."""
    if POLICIES[name] is not _residency:
        return house
    return replace(house, limits=msgspec.structs.replace(house.limits, eviction=name))


def _decider(name: str, house: House, models_max: int | None) -> Decide:
    return POLICIES[name](house, models_max)
