"""
Sums of money by upstream, caller, day and month.

The one rule: pure; a sum is what was spent and what is reserved, and whoever reserves counts at once.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Iterator

import msgspec

Account = tuple[str, str | None, str]
"""Upstream, caller (None = all of them), and a day `2026-11-24` or a month `2026-11`."""


class Entry(msgspec.Struct, frozen=True):
    """Micro-dollars of one upstream and caller on one day (UTC). `caller` is "" where there are no keys."""

    upstream: str
    caller: str
    day: str
    micro: int


class Books:
    def __init__(self, spent: Iterable[Entry] = ()) -> None:
        self._spent: collections.Counter[Account] = collections.Counter()
        self._reserved: collections.Counter[Account] = collections.Counter()
        for entry in spent:
            self.spend(entry)

    def spend(self, entry: Entry) -> None:
        for account in _accounts(entry):
            self._spent[account] += entry.micro

    def reserve(self, entry: Entry) -> None:
        for account in _accounts(entry):
            self._reserved[account] += entry.micro

    def release(self, entry: Entry) -> None:
        for account in _accounts(entry):
            self._reserved[account] -= entry.micro
            if not self._reserved[account]:
                del self._reserved[account]

    def spent(self, account: Account) -> int:
        return self._spent[account]

    def reserved(self, account: Account) -> int:
        return self._reserved[account]

    def held(self, account: Account) -> int:
        """Spent and reserved: what counts against a budget."""
        return self._spent[account] + self._reserved[account]

    def forget_before(self, month: str) -> None:
        """Drop the sums of earlier months: nobody asks for them any more."""
        for account in [a for a in self._spent if a[2][:7] < month]:
            del self._spent[account]


def _accounts(entry: Entry) -> Iterator[Account]:
    for caller in (None, entry.caller):
        for period in (entry.day, entry.day[:7]):
            yield entry.upstream, caller, period
