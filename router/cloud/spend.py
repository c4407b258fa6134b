"""
What may still be spent: reserved at the worst case before a call, settled at what it came to.

The one rule: spent and reserved together never pass a budget, whoever asks at the same time; when the record on disk
cannot be kept, nothing is spent.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import itertools
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Literal

import msgspec

from router.cloud.books import Books, Entry
from router.cloud.journal import JournalBroken, Reserve, Settle
from router.cloud.writer import Writer
from router.domain.errors import OverBudget, SpendUnknown
from router.domain.upstreams import Budget, Upstream, usd
from router.telemetry import logger

log = logger("cloud")

Window = Literal["day", "month"]


class Spent(msgspec.Struct, frozen=True):
    """Micro-dollars of one upstream, all callers together. `reserved`: what runs today and may still cost it."""

    day: int = 0
    month: int = 0
    reserved: int = 0


class Charge:
    """One call's reservation, settled once. What is never settled costs its worst case."""

    def __init__(self, worst: int, settled: Callable[[int], None] = lambda micro: None) -> None:
        self.worst = worst
        self.cost: int | None = None
        """Micro-dollars, once settled."""
        self._settled = settled

    def settle(self, micro: int | None) -> int:
        """At `micro`, or at the worst case when nobody told (None). Never waits; a second time changes nothing."""
        if self.cost is None:
            self.cost = self.worst if micro is None else micro
            self._settled(self.cost)
        return self.cost


class Spend:
    """
    The accounts of all upstreams. No file is touched before something costs money.

    `now`: seconds since 1970; days and months are those of UTC.
    """

    def __init__(self, path: Path, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._books = Books()
        self._month = ""
        self._ids = itertools.count(1)
        # All months: a machine may start with a wrong clock, and the right month is then not the one it thinks.
        self._writer = Writer(path, lambda: "", self._opened)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Owns the writing. At the end everything that was settled is on disk, if the disk takes it."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._writer.run(), name="spend-writer")
            tasks.create_task(self._writer.run_syncs(), name="spend-sync")
            try:
                yield
            finally:
                self._writer.stop()

    def open_soon(self) -> None:
        """Open the file ahead of the first call, so that what is wrong with it is in the log early."""
        self._writer.post(None)

    async def reserve(self, upstream: Upstream, caller: str | None, micro: int) -> Charge:
        """
        Room for `micro` within every budget that applies, on disk when this returns. What is free is not recorded.

        Raises OverBudget, or SpendUnknown when the record cannot be kept.
        """
        if upstream.price is None:
            return Charge(0)
        try:
            await self._writer.ready()
            self._check(upstream, caller, micro)
            return await self._reserved(Entry(upstream.name, caller or "", f"{self._today()}", micro))
        except JournalBroken as error:
            message = f"Nothing can be spent at {upstream.name} now: its spending cannot be recorded."
            raise SpendUnknown(message, upstream.name) from error

    def spent(self, upstream: str) -> Spent:
        """As far as this process knows: nothing before the file was opened."""
        day, month = f"{self._today()}", f"{self._today():%Y-%m}"
        return Spent(
            self._books.spent((upstream, None, day)),
            self._books.spent((upstream, None, month)),
            self._books.reserved((upstream, None, month)),
        )

    async def _reserved(self, entry: Entry) -> Charge:
        number = next(self._ids)
        # Before the first await: whoever asks meanwhile finds it counted.
        self._books.reserve(entry)
        charge = Charge(entry.micro, lambda micro: self._settled(number, entry, micro))
        try:
            await self._writer.write(Reserve(number, entry))
        except JournalBroken:
            self._books.release(entry)
            raise
        except asyncio.CancelledError:
            # On disk or not, nothing was sent: settling it at nothing is right in both cases.
            charge.settle(0)
            raise
        return charge

    def _check(self, upstream: Upstream, caller: str | None, micro: int) -> None:
        day = self._today()
        if self._month != (month := f"{day:%Y-%m}"):
            # The month that we come from stays: a clock that was wrong comes back to it.
            self._books.forget_before(min(month, self._month))
            self._month = month
        accounts: list[tuple[str | None, Budget]] = [(None, upstream.budget)]
        if caller is not None and caller in upstream.budgets_by_key:
            accounts.append((caller, upstream.budgets_by_key[caller]))
        for account, budget in accounts:
            limits: list[tuple[Window, str, int | None]] = [
                ("day", f"{day}", budget.day),
                ("month", month, budget.month),
            ]
            for window, period, limit in limits:
                left = None if limit is None else limit - self._books.held((upstream.name, account, period))
                if left is not None and micro > left:
                    raise self._over(upstream, account, window, micro, left)

    def _over(
        self, upstream: Upstream, account: str | None, window: Window, micro: int, left: int
    ) -> OverBudget:
        whose = f"The budget of key {account!r}" if account else "The budget"
        message = (
            f"{whose} at {upstream.name} has {usd(max(0, left))} USD left for this {window}; "
            f"this request may cost up to {usd(micro)} USD."
        )
        return OverBudget(message, upstream.name, window, seconds_left(window, self._now()))

    def _settled(self, number: int, entry: Entry, micro: int) -> None:
        final = msgspec.structs.replace(entry, micro=micro)
        self._books.release(entry)
        self._books.spend(final)
        self._writer.post(Settle(number, final))
        if micro > entry.micro:
            log.warning(
                "an upstream billed more than the worst case",
                upstream=entry.upstream,
                reserved_usd=usd(entry.micro),
                billed_usd=usd(micro),
            )

    def _opened(self, spent: list[Entry], left: list[Entry]) -> None:
        self._books = Books(spent)
        for name in sorted({entry.upstream for entry in left}):
            calls = [entry.micro for entry in left if entry.upstream == name]
            log.warning(
                "calls that an earlier run left open count as spent, at their worst case",
                upstream=name,
                calls=len(calls),
                usd=usd(sum(calls)),
            )

    def _today(self) -> datetime.date:
        return datetime.datetime.fromtimestamp(self._now(), datetime.UTC).date()


def seconds_left(window: Window, now: float) -> float:
    """Until the day or the month of `now` is over, by UTC."""
    at = datetime.datetime.fromtimestamp(now, datetime.UTC)
    day = at.replace(hour=0, minute=0, second=0, microsecond=0)
    if window == "day":
        end = day + datetime.timedelta(days=1)
    else:
        end = (day.replace(day=28) + datetime.timedelta(days=4)).replace(day=1)
    return (end - at).total_seconds()
