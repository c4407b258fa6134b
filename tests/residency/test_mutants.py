"""The tests bite: every seeded fault is caught, and the core without one is not."""

from __future__ import annotations

import pytest

from router.residency.core import Residency
from tests.residency import mutants, mutants_loads
from tests.residency.simulation import live

SEEDS = 40
MUTANTS = (*mutants.MUTANTS, *mutants_loads.MUTANTS)


def caught(core: type[Residency]) -> str | None:
    """The first complaint in a few random lives, or None."""
    for seed in range(SEEDS):
        try:
            live(seed, requests=120, core=core)
        except (AssertionError, LookupError) as complaint:
            return f"seed {seed}: {complaint!r}"
    return None


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_a_seeded_fault_is_caught(mutant: type[Residency]) -> None:
    assert caught(mutant) is not None


def test_the_real_core_is_not_accused() -> None:
    assert caught(Residency) is None
