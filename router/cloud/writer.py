"""
The journal seen from the event loop: calls that come together share one write to the disk.

The one rule: one thread at a time touches the file; a reservation waits for the disk, a settlement never does.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import anyio

from router.cloud.books import Entry
from router.cloud.journal import Journal, JournalBroken, Settle, Step
from router.telemetry import logger

log = logger("cloud")

PAUSE = 1.0
"""Seconds between two tries of what the disk refused."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    """`step` None: only open the file."""

    step: Step | None
    done: asyncio.Future[None] | None


class Writer:
    """`opened` hears once, on the loop, what was spent from `since()` on and what an earlier run left open."""

    def __init__(
        self,
        path: Path,
        since: Callable[[], str],
        opened: Callable[[list[Entry], list[Entry]], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path
        self._since = since
        self._opened = opened
        self._clock = clock
        self._journal: Journal | None = None
        self._refused: tuple[float, JournalBroken] | None = None
        """When the file could last not be opened, and why."""
        self._waiting: list[_Waiting] = []
        self._wake = asyncio.Event()
        self._unsynced = asyncio.Event()
        self._stopping = False

    async def ready(self) -> None:
        """Until the file is open. Raises JournalBroken; one that was just refused is not tried again at once."""
        if self._journal is not None:
            return
        if self._refused is not None and self._clock() - self._refused[0] < PAUSE:
            raise self._refused[1]
        await self._ask(None)

    async def write(self, step: Step) -> None:
        """Until `step` is recorded, whatever becomes of this process. Raises JournalBroken."""
        await self._ask(step)

    def post(self, step: Step | None) -> None:
        """Without waiting; what the disk refuses now is tried again. None: open the file, soon."""
        self._waiting.append(_Waiting(step, None))
        self._wake.set()

    def stop(self) -> None:
        """`run` ends after one more write."""
        self._stopping = True
        self._wake.set()
        self._unsynced.set()

    async def run(self) -> None:
        while not self._stopping:
            await self._wake.wait()
            self._wake.clear()
            if self._waiting and not await self._turn():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(PAUSE):
                        await self._wake.wait()
                self._wake.set()
        await self._last_turn()

    async def run_syncs(self) -> None:
        """Behind the writes and not before them: a disk takes milliseconds, and a call would wait for them."""
        while not self._stopping:
            await self._unsynced.wait()
            self._unsynced.clear()
            try:
                if self._journal is not None:
                    await anyio.to_thread.run_sync(self._journal.sync)
            except Exception as error:
                _as_broken(error)

    async def _last_turn(self) -> None:
        if self._waiting:
            await self._turn()
        if self._waiting:
            log.error(
                "settlements were not recorded; they count at their worst case", count=len(self._waiting)
            )
        try:
            if self._journal is not None:
                await anyio.to_thread.run_sync(self._journal.close)
        except Exception as error:
            _as_broken(error)

    async def _ask(self, step: Step | None) -> None:
        done = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(step, done))
        self._wake.set()
        await done

    async def _turn(self) -> bool:
        """Write all that waits. False when settlements are left over."""
        batch, self._waiting = self._waiting, []
        steps = [waiting.step for waiting in batch if waiting.step is not None]
        error: JournalBroken | None = None
        try:
            await self._open()
            if self._journal is not None and steps:
                await anyio.to_thread.run_sync(self._journal.write, steps)
                self._unsynced.set()
        except Exception as broken:
            error = _as_broken(broken)
            self._waiting[:0] = [w for w in batch if w.done is None and isinstance(w.step, Settle)]
        for waiting in batch:
            _tell(waiting.done, error)
        return not (error and self._waiting)

    async def _open(self) -> None:
        if self._journal is not None:
            return
        since = self._since()
        try:
            self._journal, spent, left = await anyio.to_thread.run_sync(_open, self._path, since)
        except JournalBroken as error:
            self._refused = (self._clock(), error)
            raise
        self._opened(spent, left)


def _as_broken(error: Exception) -> JournalBroken:
    """Logged. Of an unforeseen kind, too: raised further it would end the writer, and reservations would wait for ever."""
    if isinstance(error, JournalBroken):
        log.error("the record of spending cannot be kept", reason=str(error))
        return error
    log.error("the record of spending cannot be kept", exc_info=error)
    return JournalBroken(f"{type(error).__name__}: {error}")


def _open(path: Path, since: str) -> tuple[Journal, list[Entry], list[Entry]]:
    journal = Journal(path)
    try:
        left = journal.adopt()
        return journal, journal.spent(since), left
    except BaseException:
        journal.close()
        raise


def _tell(done: asyncio.Future[None] | None, error: JournalBroken | None) -> None:
    if done is None or done.done():
        return
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)
