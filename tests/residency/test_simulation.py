"""Two thousand random lives. Whatever happens, in whatever order, the house rules hold."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.residency.simulation import live

LIVES = 2000
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
    assert met["crashes"] > 0 and met["stops"] > 0 and met["ShuttingDown"] > 0


def test_a_seed_is_a_life() -> None:
    assert live(7) == live(7)
