"""
What a worker writes on stderr, turned into log events of the gateway.

The one rule: no worker can flood the log; lines are cut, their rate is bounded, what is dropped is counted.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from structlog.typing import FilteringBoundLogger

LINE = 4000
"""Characters kept of one line."""
RATE = 50.0
"""Lines a second in the long run."""
BURST = 200.0
_FACTS = 16
_RESERVED = frozenset({"event", "level", "instance", "room", "timestamp", "self", "exc_info"})
"""The logger's own: said by a worker they would be an error in its call, or be taken for something else."""


class LogPump:
    """Bytes in, log events out. `last` is the newest line that says something, for a crash message."""

    def __init__(self, log: FilteringBoundLogger, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._clock = clock
        self._rest = bytearray()
        self._allowance = BURST
        self._seen = clock()
        self._dropped = 0
        self.instance = "spare"
        self.last = ""

    def feed(self, data: bytes) -> None:
        """Take what was read; whole lines are logged, the rest waits (cut, if it grows too long)."""
        self._rest += data
        *lines, rest = self._rest.split(b"\n")
        self._rest = rest[: 4 * LINE]
        for line in lines:
            self._line(bytes(line[: 4 * LINE]))

    def close(self) -> None:
        """Log the unfinished last line and how much was dropped."""
        if self._rest:
            self.feed(b"\n")
        self._say_dropped()

    def _line(self, raw: bytes) -> None:
        text = raw.decode("utf-8", "replace")[:LINE].strip()
        if not text:
            return
        level, event, facts = _parse(text)
        self.last = " ".join(filter(None, [event, str(facts.get("error", ""))]))[:500]
        if self._allowed():
            self._say_dropped()
            getattr(self._log, level)(event, instance=self.instance, **facts)
        else:
            self._dropped += 1

    def _allowed(self) -> bool:
        now = self._clock()
        self._allowance = min(BURST, self._allowance + (now - self._seen) * RATE)
        self._seen = now
        if self._allowance < 1.0:
            return False
        self._allowance -= 1.0
        return True

    def _say_dropped(self) -> None:
        if self._dropped:
            self._log.warning("worker log lines dropped", instance=self.instance, lines=self._dropped)
            self._dropped = 0


def _parse(text: str) -> tuple[str, str, dict[str, Any]]:
    """Level, event and facts of one line; a line that is not ours (llama.cpp's, C++'s) is a debug event."""
    try:
        line = json.loads(text) if text.startswith("{") else None
    except (ValueError, RecursionError):
        line = None
    if not isinstance(line, dict) or not isinstance(line.get("event"), str):
        return "debug", text, {}
    level = line.get("level")
    known = level if level in ("debug", "info", "warning", "error") else "info"
    facts = [(key, value) for key, value in line.items() if key not in _RESERVED]
    return known, line["event"], dict(facts[:_FACTS])
