"""
What a soak comes to: figures against limits.

The one rule: a run that is too short for a figure reports it and does not judge it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

WARM_UP = 100
"""Swaps after which memory may grow no more."""
WINDOW = 200
"""Swaps whose times are compared, from either end."""
ENOUGH = 1000
"""Swaps after the warm-up that a slope takes: the allocator settles for some hundreds (measured: 1.3 KiB a swap
from 100 to 520, 0.9 from 250 on)."""
MAX_SLOPE = 1024.0
"""Bytes a swap."""
MAX_RATIO = 1.1
JUDGED = ("files", "tasks", "processes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """What the gateway holds while nothing is loaded and nobody asks."""

    files: int
    tasks: int
    processes: int
    threads: int
    """Told and not judged: a pool grows to its size when it first has that much to do at once."""


def least(counts: Sequence[Count]) -> Count:
    """Of each kind."""
    seen = [asdict(count) for count in counts]
    return Count(**{kind: min(count[kind] for count in seen) for kind in seen[0]})


@dataclass(slots=True)
class Record:
    """What was measured."""

    seconds: list[float] = field(default_factory=list)
    """Of each swap, in order."""
    memory: list[tuple[int, int]] = field(default_factory=list)
    """Swaps so far and the gateway's resident bytes then."""
    quiet: list[Count] = field(default_factory=list)
    """After the warm-up and at the end."""
    answers: int = 0
    failures: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Check:
    """`passed` is None where the run was too short to say."""

    name: str
    value: float
    limit: float
    passed: bool | None

    def line(self) -> str:
        word = {True: "ok", False: "FAILED", None: "too short to judge"}[self.passed]
        return f"{word:<18} {self.name}: {self.value:.4g} (limit {self.limit:g})"


def judge(record: Record, swaps: int) -> list[Check]:
    """`swaps`: how many were asked for."""
    checks = [
        _at_most("swaps missing", swaps - len(record.seconds), 0),
        _at_most("answers that failed", len(record.failures), 0),
        _growth(record),
        _slower(record.seconds),
    ]
    if len(record.quiet) > 1:
        first, last = asdict(record.quiet[0]), asdict(record.quiet[-1])
        checks += [_at_most(f"more {what}", last[what] - first[what], 0) for what in JUDGED]
    return checks


def passed(checks: Sequence[Check]) -> bool:
    return all(check.passed is not False for check in checks)


def facts(record: Record, checks: Sequence[Check]) -> dict[str, Any]:
    return {
        "passed": passed(checks),
        "swaps": len(record.seconds),
        "answers": record.answers,
        "failures": record.failures[:20],
        "checks": [asdict(check) for check in checks],
        "swap_seconds": {"p50": percentile(record.seconds, 0.5), "p99": percentile(record.seconds, 0.99)},
        "quiet": [asdict(count) for count in record.quiet],
        "memory": record.memory[:: max(len(record.memory) // 100, 1)],
    }


def percentile(values: Sequence[float], share: float) -> float:
    """The least value that `share` of all do not exceed; 0 of nothing."""
    return sorted(values)[max(math.ceil(share * len(values)) - 1, 0)] if values else 0.0


def _growth(record: Record) -> Check:
    name = f"bytes of memory a swap, after the first {WARM_UP}"
    warm = [(count, size) for count, size in record.memory if count >= WARM_UP]
    if len({count for count, _ in warm}) < 2:
        return Check(name, 0.0, MAX_SLOPE, None)
    slope = statistics.linear_regression(*zip(*warm, strict=True)).slope
    long_enough = warm[-1][0] - warm[0][0] >= ENOUGH
    return Check(name, slope, MAX_SLOPE, slope <= MAX_SLOPE if long_enough else None)


def _slower(seconds: Sequence[float]) -> Check:
    name = f"p99 of the last {WINDOW} swaps by that of the first {WINDOW}"
    window = min(WINDOW, len(seconds) // 2)
    before = percentile(seconds[:window], 0.99)
    ratio = percentile(seconds[len(seconds) - window :], 0.99) / before if before else 1.0
    return Check(name, ratio, MAX_RATIO, ratio <= MAX_RATIO if window == WINDOW else None)


def _at_most(name: str, value: float, limit: float) -> Check:
    return Check(name, value, limit, value <= limit)
