from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bench import flat


def test_a_reading_waits_until_it_no_longer_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flat.time, "sleep", lambda seconds: None)
    readings = iter([30, 20, 10, 10, 5])
    assert flat.settled(lambda: next(readings)) == 10


def test_a_reading_that_never_rests_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flat.time, "sleep", lambda seconds: None)
    values, clock = iter(range(1000)), iter(range(1000))
    assert flat.settled(lambda: next(values), lambda: float(next(clock))) < 20


def test_the_spread_shows_what_grew() -> None:
    assert flat.spread([10, 12, 11]) == {"first": 10, "last": 11, "spread": 2}


@pytest.mark.process
def test_the_flatness_benchmark_runs_from_start_to_end(
    model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flat, "used", lambda: 7)
    chosen = flat.parse(["--models", str(model("a")), str(model("b")), "--swaps", "4"])
    found = flat.run(chosen, "--backend", "echo")
    assert {name: row["spread"] for name, row in found["device"].items()} == {"a": 0, "b": 0}
    assert sum(map(len, found["seconds"].values())) == 4
    assert found["booked"]
