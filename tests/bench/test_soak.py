"""The soak itself, on the echo backend, and its verdict on made-up records."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bench import at_rest, soak
from tests.bench.soak_verdict import Check, Count, Record, facts, judge, least, passed

REST = Count(files=20, tasks=9, processes=1, threads=3)


def record(swaps: int = 2000, slope: float = 0.0, slower: float = 1.0, end: Count = REST) -> Record:
    seconds = [0.3 * (1 + (slower - 1) * n / (swaps - 1)) for n in range(swaps)]
    memory = [(n, int(1e8 + slope * n)) for n in range(0, swaps + 1, 10)]
    return Record(seconds, memory, [REST, end], answers=swaps)


def failed(found: list[Check]) -> list[str]:
    return [check.name.split(",")[0] for check in found if check.passed is False]


def test_a_flat_run_passes() -> None:
    found = judge(record(), 2000)
    assert passed(found)
    assert all(check.passed for check in found)


@pytest.mark.parametrize(
    ("made", "name"),
    [
        (record(slope=1100), "bytes of memory a swap"),
        (record(slower=1.2), "p99 of the last 200 swaps by that of the first 200"),
        (record(end=Count(files=21, tasks=9, processes=1, threads=3)), "more files"),
        (record(end=Count(files=20, tasks=10, processes=1, threads=3)), "more tasks"),
        (record(end=Count(files=20, tasks=9, processes=2, threads=3)), "more processes"),
        (record(swaps=1999), "swaps missing"),
    ],
)
def test_each_kind_of_leak_fails_by_its_name(made: Record, name: str) -> None:
    assert failed(judge(made, 2000)) == [name]


def test_rest_is_the_least_that_was_seen_of_each_kind() -> None:
    assert least(
        [Count(files=20, tasks=11, processes=1, threads=5), Count(files=22, tasks=9, processes=1, threads=6)]
    ) == Count(files=20, tasks=9, processes=1, threads=5)


def test_an_answer_that_failed_fails_the_run() -> None:
    made = record()
    made.failures.append("a: 503")
    assert failed(judge(made, 2000)) == ["answers that failed"]


def test_growth_before_the_warm_up_is_over_does_not_count() -> None:
    made = record()
    made.memory[:10] = [(n, n) for n in range(0, 100, 10)]
    assert passed(judge(made, 2000))


def test_a_short_run_says_what_it_cannot_say() -> None:
    found = judge(record(swaps=150, slope=5000, slower=2.0), 150)
    assert passed(found)
    assert [check.passed for check in found].count(None) == 2
    assert "too short to judge" in found[2].line()


def test_the_facts_are_json() -> None:
    assert json.loads(json.dumps(facts(record(), judge(record(), 2000))))["swap_seconds"]["p50"] == 0.3
    assert facts(Record(), judge(Record(), 5))["passed"] is False


@pytest.mark.process
def test_the_soak_runs_from_start_to_end(
    model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(at_rest, "QUIET_SECONDS", 1.0)
    monkeypatch.setattr(soak, "TELL_SECONDS", 0.5)
    files = [str(model(name)) for name in "abc"]
    found = soak.run(soak.parse(["--swaps", "8", "--models", *files]), "--backend", "echo")
    assert found["swaps"] >= 8
    assert found["failures"] == []
    assert found["passed"], found["checks"]
    assert " of 8 swaps" in capsys.readouterr().err
    soak.show(found)
    assert "passed" in capsys.readouterr().out


def test_no_swaps_are_refused() -> None:
    with pytest.raises(SystemExit):
        soak.parse(["--swaps", "0"])
