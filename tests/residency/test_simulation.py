"""Two thousand random lives. Whatever happens, in whatever order, the house rules hold."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.residency.simulation import live

LIVES = int(os.environ.get("ROUTER_LIVES", "2000"))
"""More of them in a soak: 20,000 take some ten minutes of one core. Any number will do."""
BATCHES = 20
ENOUGH = 200
"""Seeds in which everything that can happen has happened, whatever LIVES is."""
MUST_HAPPEN = (
    "served",
    "left",
    "QueueFull",
    "LeaseTimeout",
    "DoesNotFit",
    "DoesNotFitNow",
    "LoadFailed",
    "WorkerCrashed",
    "ShuttingDown",
    "crashes",
    "stops",
    "freed",
    "oom",
    "abandoned",
    "spills",
    "dry runs",
)
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("batch", range(BATCHES))
def test_the_house_rules_hold_in_random_lives(batch: int) -> None:
    for seed in range(batch, LIVES, BATCHES):
        try:
            live(seed)
        except AssertionError as broken:
            raise AssertionError(f"seed {seed}: {broken}") from broken


def test_everything_that_can_happen_happens_in_the_lives() -> None:
    """A simulation in which these never happen would prove nothing."""
    met: Counter[str] = Counter()
    for seed in range(ENOUGH):
        met.update(live(seed))
    assert [what for what in MUST_HAPPEN if met[what] == 0] == []


def test_a_seed_is_a_life() -> None:
    assert live(7) == live(7)


def test_few_lives_are_no_failure() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-k", "house_rules", __file__]
    environment = {**os.environ, "ROUTER_LIVES": "40"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stdout[-2000:]
