"""Two thousand random lives. Whatever happens, in whatever order, the house rules hold."""

from __future__ import annotations

import os
from collections import Counter

import pytest

from tests.residency.simulation import live

LIVES = int(os.environ.get("ROUTER_LIVES", "2000"))
"""More of them in a soak: 20,000 take some ten minutes of one core."""
BATCHES = 20


@pytest.mark.parametrize("batch", range(BATCHES))
def test_the_house_rules_hold_in_random_lives(batch: int) -> None:
    met: Counter[str] = Counter()
    for seed in range(batch, LIVES, BATCHES):
        try:
            met.update(live(seed))
        except AssertionError as broken:
            raise AssertionError(f"seed {seed}: {broken}") from broken
    # A simulation in which these never happen would prove nothing.
    for outcome in (
        "served",
        "left",
        "QueueFull",
        "LeaseTimeout",
        "DoesNotFit",
        "LoadFailed",
        "WorkerCrashed",
    ):
        assert met[outcome] > 0, f"no request ended as {outcome}"
    for happening in ("crashes", "stops", "ShuttingDown", "freed", "oom", "spills", "dry runs"):
        assert met[happening] > 0, f"nothing of {happening}"


def test_a_seed_is_a_life() -> None:
    assert live(7) == live(7)
