"""What DESIGN.md says of the trace bench, on a shorter run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.bench import trace


@pytest.fixture(scope="module")
def heavy() -> dict[str, dict[str, Any]]:
    """Policy -> its figures when the card is nearly always busy."""
    found = trace.run(trace.parse(["--requests", "1000", "--seeds", "1", "--rates", "1.1"]))
    return {row["policy"]: row for row in found["rows"]}


def test_every_request_is_answered_under_every_policy(heavy: dict[str, dict[str, Any]]) -> None:
    assert {row["answered"] for row in heavy.values()} == {1.0}


def test_residency_swaps_half_as_often_as_strict_fifo_and_waits_less(
    heavy: dict[str, dict[str, Any]],
) -> None:
    assert heavy["fifo"]["swaps"] >= 2 * heavy["cost"]["swaps"]
    assert heavy["cost"]["wait_p95"] < heavy["fifo"]["wait_p95"] / 5


def test_residency_answers_more_in_time_than_lru_by_count(heavy: dict[str, dict[str, Any]]) -> None:
    assert heavy["cost"]["goodput"] > 1.3 * heavy["lru-count"]["goodput"]


def test_nobody_waits_longer_than_the_bound_in_design(heavy: dict[str, dict[str, Any]]) -> None:
    assert heavy["cost"]["wait_max"] <= heavy["cost"]["wait_bound"]
    assert heavy["cost"]["wait_max"] < 60


def test_a_recorded_trace_is_brought_to_the_same_rate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = "".join(f"2023-11-16 18:15:{n:02d}.0,374,44\n" for n in range(50))
    (tmp_path / "azure.csv").write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + rows)
    chosen = trace.parse(["--trace", str(tmp_path / "azure.csv"), "--seeds", "1", "--rates", "0.1"])
    assert trace.work(chosen, ["a"], 0.1, 1)[-1].at == pytest.approx(490)
    trace.show(trace.run(chosen))
    assert "0.1/s" in capsys.readouterr().out
