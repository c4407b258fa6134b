"""
The guarantees that this house gives by number, each kept by tests that carry the number in their names.

The one rule: a guarantee is in the table only with a test, and a numbered test only with a row.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent

PROMISES = {
    1: "one outcome per request, counted, and the sum is exact",
    2: "no answer is cut short in silence",
    3: "bytes of loading, ready, stopping and quarantined workers stay within the budget",
    4: "a model in use or pinned is never evicted",
    5: "if anybody waits, something is running, loading or dying",
    6: "the head of the queue waits for patience and the longest running request at most",
    7: "every queue is bounded; above it 429 or 503 with Retry-After",
    8: "a client that leaves frees its slot",
    9: "a dead worker's streams get an error event; other models notice nothing",
    10: "a worker that dies before the first token: retried once, unseen",
    11: "a hung worker is found, killed and replaced in 5 s",
    12: "no worker outlives the gateway",
    13: "a crash loop is contained: refused at once, with a growing pause",
    14: "a bad registry never takes effect: no request fails for it",
    15: "a good registry takes effect atomically, within 3 s",
    16: "a reload touches only what changed, and drains it: no request fails in 200 reloads under load",
    17: "SIGTERM: readiness is 503, requests in flight run on, exit 0 in the drain time; a second one is immediate",
    18: "what is served is what was pinned by hash",
    19: "no client credential reaches worker, cloud, log, metric or error",
    20: "no request blocks the gateway's loop for 50 ms or grows it by 64 MiB",
    21: "series are bounded by the registry: 40 a model and 200",
    22: "nothing grows over swaps",
    23: "clock steps change nothing but timestamps",
    24: "health is honest",
}


def numbered() -> dict[int, list[str]]:
    """Number -> names of the tests that carry it."""
    found: dict[int, list[str]] = {}
    for path in TESTS.rglob("test_*.py"):
        for name, number in re.findall(r"def (test_g(\d+)_\w+)\(", path.read_text()):
            found.setdefault(int(number), []).append(name)
    return found


@pytest.mark.parametrize("number", PROMISES)
def test_a_guarantee_has_a_test_that_carries_its_number(number: int) -> None:
    assert numbered().get(number), f"G{number}, {PROMISES[number]}: no test_g{number}_..."


def test_no_test_carries_a_number_that_nobody_promised() -> None:
    assert set(numbered()) - set(PROMISES) == set()


def test_the_table_has_no_gap() -> None:
    assert list(PROMISES) == list(range(1, 25))
