"""
When an upstream is left alone for a while: after failures in a row, or because it said so.

The one rule: pure. Time is an argument; whoever was let in says exactly once how it went.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

FAILURES = 5
FIRST_PAUSE = 10.0
LONGEST_PAUSE = 300.0
PROBE_RETRY = 1.0
"""What those are told who come while the probe is out. Seconds."""


class State(enum.Enum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class Pass:
    """The right to one request. `probe`: the one by which an open breaker is judged."""

    period: int
    probe: bool


@dataclass(frozen=True, slots=True)
class Refusal:
    retry_after: float


class Breaker:
    """
    CLOSED -> (failures in a row) -> OPEN -> (pause) -> HALF_OPEN -> one probe -> CLOSED, or OPEN for twice as long.

    A Retry-After is a pause at once, whatever was counted. Requests that began before the breaker last opened no
    longer count: what they found is known. Pauses grow until an answer was complete.
    """

    def __init__(
        self, failures: int = FAILURES, first_pause: float = FIRST_PAUSE, longest_pause: float = LONGEST_PAUSE
    ) -> None:
        self._most = failures
        self._first = first_pause
        self._longest = longest_pause
        self._failures = 0
        self._shut = False
        """From the opening until a probe's answer has begun."""
        self._pause = 0.0
        self._until = 0.0
        self._asked_until = 0.0
        """The end of a pause that the upstream asked for."""
        self._probing = False
        self._period = 0
        """How often it has opened."""

    def state(self, now: float) -> State:
        if now < self._paused_until():
            return State.OPEN
        return State.HALF_OPEN if self._shut else State.CLOSED

    def retry_after(self, now: float) -> float:
        """Seconds until a request has a chance; 0 = now."""
        if (wait := self._paused_until() - now) > 0:
            return wait
        return PROBE_RETRY if self._probing else 0.0

    def admit(self, now: float) -> Pass | Refusal:
        if wait := self.retry_after(now):
            return Refusal(wait)
        self._probing = self._shut
        return Pass(self._period, self._shut)

    def begun(self, given: Pass) -> None:
        """Its answer has begun: a probe lets the others in, but the next failure opens the breaker again."""
        if given.probe and given.period == self._period:
            self._shut = self._probing = False
            self._failures = self._most - 1

    def succeeded(self, given: Pass) -> None:
        """Its answer is complete, or the upstream was well enough to find fault with the request."""
        if given.period == self._period:
            self._shut = self._probing = False
            self._failures = 0
            self._pause = 0.0

    def failed(self, given: Pass, now: float, retry_after: float | None = None) -> None:
        if retry_after is not None:
            self._asked_until = max(self._asked_until, now + min(retry_after, self._longest))
        if given.period != self._period:
            return
        self._failures += 1
        if given.probe or self._failures >= self._most:
            self._open(now)

    def left(self, given: Pass) -> None:
        """Nobody knows: the client left before an answer began. The next one is the probe."""
        if given.probe and given.period == self._period:
            self._probing = False

    def _paused_until(self) -> float:
        return max(self._until if self._shut else 0.0, self._asked_until)

    def _open(self, now: float) -> None:
        self._pause = min(self._longest, self._pause * 2 or self._first)
        self._until = now + self._pause
        self._shut = True
        self._failures = 0
        self._probing = False
        self._period += 1
