"""
Who is told when the status of a model changes.

The one rule: a slow listener costs one entry a model, never the house a wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass

from router.residency.view import Status
from router.telemetry import observing


@dataclass(frozen=True, slots=True)
class StatusChange:
    """`progress` is the part of the weights that is read, 0 to 1."""

    model: str
    status: Status
    progress: float


class _Listener:
    def __init__(self) -> None:
        self.pending: dict[str, StatusChange] = {}
        self.news = asyncio.Event()

    def tell(self, change: StatusChange) -> None:
        # The newest word on a model replaces the one that was not read yet, and goes to the end.
        self.pending.pop(change.model, None)
        self.pending[change.model] = change
        self.news.set()


class Feed:
    """Looks at every model's status and progress when it is stirred, and passes on what changed."""

    def __init__(self, look: Callable[[], Mapping[str, tuple[Status, float]]]) -> None:
        self._look = look
        self._last: dict[str, StatusChange] = {}
        self._listeners: set[_Listener] = set()
        self._closed = False

    @observing
    def stir(self) -> None:
        """Something may have changed. Costs nothing while nobody listens."""
        if not self._listeners:
            return
        before, self._last = self._last, self._now()
        gone = [StatusChange(name, "unloaded", 0.0) for name in before if name not in self._last]
        for change in gone + [change for name, change in self._last.items() if before.get(name) != change]:
            for listener in self._listeners:
                listener.tell(change)

    def _now(self) -> dict[str, StatusChange]:
        told = ((name, *state) for name, state in self._look().items())
        return {name: StatusChange(name, status, done) for name, status, done in told if status != "unloaded"}

    def close(self) -> None:
        """End every `changes`, after what it has not read yet."""
        self._closed = True
        for listener in self._listeners:
            listener.news.set()

    async def changes(self) -> AsyncGenerator[StatusChange, None]:
        """Each change from now on, until `close`. Changes that come faster than they are read are merged."""
        listener = _Listener()
        if not self._listeners:
            self._last = self._now()
        self._listeners.add(listener)
        try:
            while not self._closed or listener.pending:
                await listener.news.wait()
                listener.news.clear()
                while listener.pending:
                    yield listener.pending.pop(next(iter(listener.pending)))
        finally:
            self._listeners.discard(listener)
