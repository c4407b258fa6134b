from __future__ import annotations

import pytest
import structlog
from structlog.testing import LogCapture

from router.runtime.logs import BURST, LINE, LogPump


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def capture() -> LogCapture:
    return LogCapture()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pump(capture: LogCapture, clock: Clock) -> LogPump:
    log = structlog.wrap_logger(None, processors=[capture], wrapper_class=structlog.stdlib.BoundLogger)
    made = LogPump(log, clock)  # type: ignore[arg-type]
    made.instance = "m#1"
    return made


def test_our_own_lines_keep_level_and_facts_and_get_the_instance(pump: LogPump, capture: LogCapture) -> None:
    pump.feed(b'{"level": "warning", "event": "slow", "ms": 3, "instance": "forged"}\n')
    assert capture.entries == [{"event": "slow", "ms": 3, "instance": "m#1", "log_level": "warning"}]


def test_foreign_lines_are_debug_events(pump: LogPump, capture: LogCapture) -> None:
    pump.feed(b"llama.cpp: odd tensor\n{not json\n[1]\n")
    assert [(e["log_level"], e["event"]) for e in capture.entries] == [
        ("debug", "llama.cpp: odd tensor"),
        ("debug", "{not json"),
        ("debug", "[1]"),
    ]


def test_lines_may_come_in_pieces_and_the_last_without_an_end(pump: LogPump, capture: LogCapture) -> None:
    pump.feed(b"GGML_")
    pump.feed(b"ASSERT\nab")
    assert [entry["event"] for entry in capture.entries] == ["GGML_ASSERT"]
    pump.close()
    assert [entry["event"] for entry in capture.entries] == ["GGML_ASSERT", "ab"]
    assert pump.last == "ab"


def test_the_last_line_tells_event_and_error(pump: LogPump) -> None:
    pump.feed(b'{"level": "error", "event": "the step thread failed", "error": "ValueError: no"}\n\n')
    assert pump.last == "the step thread failed ValueError: no"


def test_a_line_without_end_does_not_grow(pump: LogPump, capture: LogCapture) -> None:
    for _ in range(100):
        pump.feed(b"x" * LINE)
    pump.close()
    assert len(capture.entries) == 1
    assert len(capture.entries[0]["event"]) == LINE


def test_bytes_that_are_no_utf8_and_odd_levels_are_survived(pump: LogPump, capture: LogCapture) -> None:
    pump.feed(b'\xff\xfe\n{"event": "e", "level": "close"}\n{"event": 3}\n' + b"[" * 5000 + b"\n")
    assert [entry["log_level"] for entry in capture.entries] == ["debug", "info", "debug", "debug"]


def test_a_flood_is_cut_and_counted(pump: LogPump, capture: LogCapture, clock: Clock) -> None:
    pump.feed(b"flood\n" * 1000)
    assert len(capture.entries) == BURST
    clock.now = 1.0
    pump.feed(b"calm\n")
    assert capture.entries[-2]["event"] == "worker log lines dropped"
    assert capture.entries[-2]["lines"] == 1000 - BURST
    assert capture.entries[-1]["event"] == "calm"


def test_a_worker_cannot_name_a_fact_as_the_loggers_own_arguments(pump: LogPump, capture: LogCapture) -> None:
    pump.feed(b'{"event": "odd", "self": 1, "exc_info": true, "room": "api", "ms": 3}\n')
    assert capture.entries == [{"event": "odd", "ms": 3, "instance": "m#1", "log_level": "info"}]
