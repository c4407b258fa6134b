"""
Questions to a driver, which can block for ever: a GPU that fell off the bus takes every caller with it.

The one rule: nobody waits longer than PATIENCE for an answer, not even the gateway's own end.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

from router.telemetry import logger

log = logger("runtime")
_V = TypeVar("_V")

PATIENCE = 1.0
"""Seconds; a driver that takes longer has said nothing."""


class Asking:
    """A driver that owes an answer is asked nothing more until it has given it."""

    def __init__(self) -> None:
        self._owed: asyncio.Future[object] | None = None

    async def ask(self, question: Callable[[], dict[str, _V]]) -> dict[str, _V]:
        """The answer, found in a thread; {} when it does not come in time or the question fails."""
        if self._owed is not None and not self._owed.done():
            return {}
        answer = _in_thread(question)
        done, _ = await asyncio.wait({answer}, timeout=PATIENCE)
        if not done:
            self._owed = answer  # type: ignore[assignment]
            log.warning("the driver does not answer", seconds=PATIENCE)
            return {}
        return answer.result()


def _in_thread(question: Callable[[], dict[str, _V]]) -> asyncio.Future[dict[str, _V]]:
    """Not a thread of an executor: Python waits for those when it ends, however long they block."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[dict[str, _V]] = loop.create_future()

    def run() -> None:
        try:
            found = question()
        except Exception:
            log.exception("the devices could not be looked at")
            found = {}
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(_settle, answer, found)

    threading.Thread(target=run, name="driver", daemon=True).start()
    return answer


def _settle(answer: asyncio.Future[dict[str, _V]], found: dict[str, _V]) -> None:
    if not answer.done():
        answer.set_result(found)
