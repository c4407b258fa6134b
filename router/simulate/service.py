"""
A device at work: which prompts are read and which answers are written, and when each ends.

The one rule: work is shared, never reordered: whatever runs gets its part of the device at every moment.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field

from router.domain.models import LocalModel
from router.simulate.machine import Machine

TINY = 1e-6
"""Tokens. Less work than this is done."""

End = tuple[int, bool]
"""Ticket, and whether its answer is complete: else its first token is there."""


@dataclass(slots=True)
class _Crowd:
    """
    The prompts, or the answers, that one model works on. All of them advance alike, so one counter serves for
    all, and each is done when the counter reaches where it stood at its coming plus its own tokens.
    """

    rate: Callable[[int], float]
    """Tokens a second of each, by how many there are, if they had the device for themselves."""
    written: bool
    """Answers, not prompts."""
    done: float = 0.0
    ends: list[tuple[float, int]] = field(default_factory=list)

    def add(self, ticket: int, tokens: int) -> None:
        heapq.heappush(self.ends, (self.done + tokens, ticket))


class Service:
    """One device. Every crowd on it gets an equal part of its time, as processes on a GPU do."""

    def __init__(self, machine: Machine, now: float = 0.0) -> None:
        self._machine = machine
        self._crowds: dict[tuple[str, bool], _Crowd] = {}
        self._answers: dict[int, tuple[LocalModel, int]] = {}
        """Ticket -> what is to be written once its prompt is read."""
        self._now = now
        self.busy_seconds = 0.0

    def begin(self, ticket: int, model: LocalModel, prompt: int, output: int) -> None:
        self._answers[ticket] = (model, output)
        self._crowd(model, written=False).add(ticket, prompt)

    def next_end(self) -> float:
        """When the next prompt or answer is done if nobody comes; infinity when nothing runs."""
        busy = [crowd for crowd in self._crowds.values() if crowd.ends]
        return self._now + min((self._left(crowd, len(busy)) for crowd in busy), default=float("inf"))

    def advance(self, to: float) -> list[End]:
        """Work on until `to`, which is no later than `next_end`; what ended then, in a stable order."""
        busy = [crowd for crowd in self._crowds.values() if crowd.ends]
        passed, self._now = to - self._now, to
        self.busy_seconds += passed if busy else 0.0
        ended: list[End] = []
        for crowd in busy:
            crowd.done += passed * crowd.rate(len(crowd.ends)) / len(busy)
        for crowd in busy:
            while crowd.ends and crowd.ends[0][0] <= crowd.done + TINY:
                _, ticket = heapq.heappop(crowd.ends)
                ended += self._ended(ticket, crowd.written)
            if not crowd.ends:
                crowd.done = 0.0  # so that a long replay loses no digits
        return ended

    def _ended(self, ticket: int, written: bool) -> list[End]:
        model, output = self._answers[ticket]
        if written or not output:
            del self._answers[ticket]
            return [(ticket, True)]
        self._crowd(model, written=True).add(ticket, output)
        return [(ticket, False)]

    def _left(self, crowd: _Crowd, busy: int) -> float:
        left = max(crowd.ends[0][0] - crowd.done, 0.0)
        return left * busy / crowd.rate(len(crowd.ends))

    def _crowd(self, model: LocalModel, written: bool) -> _Crowd:
        key = (model.fingerprint, written)
        if key not in self._crowds:
            rate = self._machine.decode_rate if written else self._machine.prefill_rate
            self._crowds[key] = _Crowd(lambda together: rate(model, together), written)
        return self._crowds[key]
