"""
The last events and actions of residency, for whoever has to find out why it broke.

The one rule: a bounded number of them, and nothing is rendered before somebody asks.
"""

from __future__ import annotations

from collections import deque

from router.residency import events
from router.telemetry import logger, observing

log = logger("residency")

SIZE = 256
"""How many events and actions are kept."""
_CHARACTERS = 2000
"""Of one entry in the log: the whole registry may be in an event."""


class History:
    def __init__(self) -> None:
        self._entries: deque[events.Event | events.Action] = deque(maxlen=SIZE)

    def note(self, *entries: events.Event | events.Action) -> None:
        self._entries.extend(entries)

    def lines(self) -> tuple[str, ...]:
        """Oldest first."""
        return tuple(repr(entry) for entry in self._entries)

    @observing
    def log(self) -> None:
        """One log line each, oldest first."""
        for number, line in enumerate(self.lines(), 1):
            log.critical("history", number=number, entry=line[:_CHARACTERS])
