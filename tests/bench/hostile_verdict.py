"""
What a hostile soak comes to: how clients saw their requests end, beside what the gateway says of them.

The one rule: pure functions over a record. A client that left cannot know whether it was served to the end or
refused in the same moment; everybody else knows exactly which label is right.
"""

from __future__ import annotations

import enum
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from tests.bench.soak_verdict import JUDGED, Check, Count, passed, percentile

WARM_UP = 60.0
"""Seconds after which memory may grow no more."""
ENOUGH = 240.0
"""Seconds after the warm-up that a slope takes."""
MAX_SLOPE = 512 * 1024.0
"""Bytes a minute: 5 MiB in ten minutes, with some hundred workers, loads and edits in each hundred seconds."""
MAX_ANSWER = 5.0
"""Seconds; some milliseconds are usual, and a loop that stands still makes many."""
KILL_SECONDS = 2.0
"""A request that ended so shortly after a worker was killed may have ended because of it."""


class End(enum.StrEnum):
    """How a request ended, as its client saw it. The first four are a finish label, too."""

    STOP = "stop"
    LENGTH = "length"
    ERROR = "error"
    LEFT = "left"
    REFUSED = "refused"
    """An HTTP error in place of an answer."""
    CUT = "cut"
    """The connection closed without an end."""
    NONE = "none"
    """Nothing came for so long that the client gave up."""


LABELS = (End.STOP, End.LENGTH, End.ERROR, End.LEFT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One request as its client saw it. Times are seconds since the start of the run."""

    id: str
    model: str
    end: End
    began: float
    ended: float
    pieces: int = 0
    """Pieces of the answer that came."""


@dataclass(frozen=True, slots=True)
class Sample:
    """The gateway from outside."""

    at: float
    memory: int
    """Resident bytes."""
    files: int
    children: int


@dataclass(slots=True)
class Record:
    """What was seen in one run."""

    asked_seconds: float
    seconds: float = 0.0
    requests: list[Seen] = field(default_factory=list)
    visits: list[Seen] = field(default_factory=list)
    """Requests for a model that edits add and remove: its counters leave with it, so only their ends are judged."""
    kills: list[float] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    livez: list[float] = field(default_factory=list)
    """Seconds of each answer."""
    silent: int = 0
    """Probes of /livez without an answer."""
    saves: int = 0
    broken_saves: int = 0
    rest: list[Count] = field(default_factory=list)
    """What the gateway holds when nobody asks: after the warm-up and at the end."""
    log: Mapping[str, str] = field(default_factory=dict)
    """Request id -> finish label, of the log lines that came through."""
    log_lines: int = 0
    counters: Mapping[str, float] | None = None
    """Finish label -> requests, from /metrics at the end; None if it could not be read."""
    applied: float = 0.0
    refused: float = 0.0
    restarts: float = 0.0
    dropped: float | None = None
    """Log lines that the gateway gave up; None if it does not say."""
    wrong_models: list[str] = field(default_factory=list)
    """Models that are in the last good registry or in the gateway's list, but not in both."""
    exit_status: int | None = None
    """After SIGTERM; None if it had to be killed."""
    stalled: str = ""
    """Why the run was given up before its time."""


def right_labels(seen: Seen, kills: Sequence[float]) -> frozenset[str]:
    """The finish labels that are true of a request with this end."""
    match seen.end:
        case End.STOP | End.LENGTH | End.ERROR:
            return frozenset({seen.end.value})
        case End.REFUSED:
            return frozenset({"error"})
        case End.LEFT:
            disturbed = any(seen.began <= at <= seen.ended + KILL_SECONDS for at in kills)
            return frozenset({"left", "error"} if disturbed or not seen.pieces else {"left"})
    return frozenset()


def wrong_in_log(record: Record) -> list[str]:
    """Requests whose label in the log is not true, with both."""
    found = []
    for seen in (*record.requests, *record.visits):
        label, right = record.log.get(seen.id), right_labels(seen, record.kills)
        if label is not None and right and label not in right:
            found.append(f"{seen.id}: {seen.end} for its client, {label} in the log")
    return found


def wrong_in_counters(record: Record) -> dict[str, float]:
    """Finish label -> how many requests too many (or, negative, too few) the gateway counted."""
    if record.counters is None:
        return {}
    least: Counter[str] = Counter()
    most: Counter[str] = Counter()
    for seen in record.requests:
        right = right_labels(seen, record.kills) or {label.value for label in LABELS}
        most.update(right)
        if len(right) == 1:
            least.update(right)
    off = {}
    for label in {*record.counters, *most}:
        counted = record.counters.get(label, 0.0)
        if not least[label] <= counted <= most[label]:
            off[label] = counted - (most[label] if counted > most[label] else least[label])
    return off


def judge(record: Record) -> list[Check]:
    ends = Counter(seen.end for seen in (*record.requests, *record.visits))
    counted = None if record.counters is None else sum(record.counters.values())
    difference = float("inf") if counted is None else abs(counted - len(record.requests))
    off = float("inf") if counted is None else sum(map(abs, wrong_in_counters(record).values()))
    checks = [
        _at_most("seconds that the run was cut short by", record.asked_seconds - record.seconds, 1.0),
        _at_most("requests without an end", ends[End.NONE] + ends[End.CUT], 0),
        _at_most("wrong finish labels in the log", len(wrong_in_log(record)), 0),
        _at_most("wrong finish labels in the counters", off, 0),
        _at_most("requests counted that were not made, or not counted", difference, 0),
        _at_most("probes of /livez without an answer", record.silent, 0),
        _at_most("seconds of the longest answer of /livez", max(record.livez, default=0.0), MAX_ANSWER),
        _at_most("models that differ from the last good registry", len(record.wrong_models), 0),
        _at_most("good edits that were refused", max(record.refused - record.broken_saves, 0), 0),
        _at_most("exit status", 1 if record.exit_status is None else abs(record.exit_status), 0),
        _growth(record.samples),
    ]
    if len(record.rest) > 1:
        first, last = asdict(record.rest[0]), asdict(record.rest[-1])
        checks += [_at_most(f"more {what} at rest", last[what] - first[what], 0) for what in JUDGED]
    return [*checks, _happened(record, ends)]


def _happened(record: Record, ends: Counter[End]) -> Check:
    """A soak in which these never happen proves nothing."""
    happened = {
        **{f"requests that ended as {label}": ends[label] for label in LABELS},
        "kills": len(record.kills),
        "restarts": record.restarts,
        "edits applied": record.applied,
        "edits refused": record.refused,
        "log lines": record.log_lines,
        "dropped log lines": record.dropped or 0,
    }
    never = [name for name, count in happened.items() if not count]
    name = f"things that never happened{': ' if never else ''}{', '.join(never)}"
    return Check(name, len(never), 0, not never if record.asked_seconds > WARM_UP else None)


def _growth(samples: Sequence[Sample]) -> Check:
    name = f"bytes of memory a minute, after the first {WARM_UP:.0f} s"
    warm = [(sample.at / 60, float(sample.memory)) for sample in samples if sample.at >= WARM_UP]
    if len(warm) < 2:
        return Check(name, 0.0, MAX_SLOPE, None)
    slope = statistics.linear_regression(*zip(*warm, strict=True)).slope
    long_enough = 60 * (warm[-1][0] - warm[0][0]) >= ENOUGH
    return Check(name, slope, MAX_SLOPE, slope <= MAX_SLOPE if long_enough else None)


def _at_most(name: str, value: float, limit: float) -> Check:
    return Check(name, value, limit, value <= limit)


# For people ---------------------------------------------------------------------------------------------------


def facts(record: Record) -> dict[str, Any]:
    checks = judge(record)
    warm = [sample for sample in record.samples if sample.at >= WARM_UP] or record.samples
    return {
        "passed": passed(checks) and not record.stalled,
        "stalled": record.stalled,
        "seconds": round(record.seconds, 1),
        "checks": [asdict(check) for check in checks],
        "ends": by_end(record),
        "counters": record.counters,
        "wrong": wrong_in_log(record)[:20],
        "wrong_counters": wrong_in_counters(record),
        "wrong_models": record.wrong_models,
        "endless": [seen.id for seen in record.requests if seen.end in (End.CUT, End.NONE)][:20],
        "kills": len(record.kills),
        "restarts": record.restarts,
        "saves": {
            "good": record.saves,
            "broken": record.broken_saves,
            "applied": record.applied,
            "refused": record.refused,
        },
        "log": {"lines": record.log_lines, "dropped": record.dropped, "requests": len(record.log)},
        "memory": spread([sample.memory for sample in warm]),
        "files": spread([sample.files for sample in warm]),
        "children": spread([sample.children for sample in warm]),
        "livez": {
            "p50": percentile(record.livez, 0.5),
            "p99": percentile(record.livez, 0.99),
            "longest": max(record.livez, default=0.0),
        },
        "rest": [asdict(count) for count in record.rest],
        "exit_status": record.exit_status,
    }


def by_end(record: Record) -> dict[str, dict[str, int]]:
    """The client's end -> the label in the log ("not in the log" for lines that did not come through) -> requests."""
    found: dict[str, Counter[str]] = {}
    for seen in (*record.requests, *record.visits):
        found.setdefault(seen.end.value, Counter())[record.log.get(seen.id, "not in the log")] += 1
    return {end: dict(labels) for end, labels in sorted(found.items())}


def spread(values: Sequence[int]) -> dict[str, int]:
    if not values:
        return {"first": 0, "last": 0, "least": 0, "most": 0}
    return {"first": values[0], "last": values[-1], "least": min(values), "most": max(values)}


def table(found: Mapping[str, Any]) -> list[str]:
    """The lines that are printed at the end."""
    mib = 2**20
    memory, livez, saves, log = found["memory"], found["livez"], found["saves"], found["log"]
    lines = [
        f"\nrequests by end, as their clients saw it, beside the label in the log ({found['seconds']} s)"
    ]
    for end, labels in found["ends"].items():
        told = ", ".join(f"{label} {count}" for label, count in sorted(labels.items()))
        lines.append(f"  {end:<8} {sum(labels.values()):6d}   {told}")
    lines += [
        f"counters of the gateway: {_told(found['counters'])}; off by {_told(found['wrong_counters'])}",
        f"workers killed {found['kills']}, restarts counted {found['restarts']:.0f}, "
        f"children {_range(found['children'])}",
        f"registry saved {saves['good']} times well and {saves['broken']} times broken: "
        f"{saves['applied']:.0f} applied, {saves['refused']:.0f} refused",
        f"log: {log['lines']} lines read, {log['dropped']} dropped, labels of {log['requests']} requests",
        f"memory after the warm-up {memory['first'] / mib:.1f} to {memory['last'] / mib:.1f} MiB "
        f"(least {memory['least'] / mib:.1f}, most {memory['most'] / mib:.1f}); files {_range(found['files'])}",
        f"/livez p50 {livez['p50'] * 1000:.1f} ms, p99 {livez['p99'] * 1000:.1f} ms, "
        f"longest {livez['longest'] * 1000:.0f} ms",
        *(f"at rest: {count}" for count in found["rest"]),
        *(f"wrong: {line}" for line in found["wrong"]),
        *(f"without an end: {line}" for line in found["endless"]),
        *(Check(**check).line() for check in found["checks"]),
    ]
    if found["stalled"]:
        lines.append(f"given up: {found['stalled']}")
    return [*lines, "passed" if found["passed"] else "FAILED"]


def _told(counts: Mapping[str, float] | None) -> str:
    if counts is None:
        return "unknown"
    return ", ".join(f"{label} {count:+.0f}" for label, count in sorted(counts.items())) or "none"


def _range(values: Mapping[str, int]) -> str:
    return f"{values['first']} to {values['last']} (least {values['least']}, most {values['most']})"
