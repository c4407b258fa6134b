"""
How much of its slots a hot device may use.

The one rule: pure. A step shows in the temperature before the next one is taken, and the way back is as gradual.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

COOL = 5
"""So many degrees below its limit a device is cool again."""
EVERY = 10.0
"""Seconds between two steps."""
SLOWEST = 1 / 8


@dataclass(frozen=True, slots=True)
class Pace:
    """`share` of the slots that may run, from SLOWEST to 1; `since`: the time of its last step."""

    share: float = 1.0
    since: float = float("-inf")

    def after(self, at: float, celsius: int, limit: int) -> Pace:
        """Half while it is at its limit or above, twice as much while it is cool, else as before."""
        share = self.share
        if celsius >= limit:
            share = max(share / 2, SLOWEST)
        elif celsius <= limit - COOL:
            share = min(share * 2, 1.0)
        return self if share == self.share or at < self.since + EVERY else Pace(share, at)


def paced(
    paces: Mapping[str, Pace], limits: Mapping[str, int], at: float, celsius: Mapping[str, int]
) -> dict[str, Pace]:
    """The paces after one reading, by device: of those that have a limit. Degrees Celsius, seconds."""
    found = {}
    for device, limit in limits.items():
        before = paces.get(device, Pace())
        found[device] = before.after(at, celsius[device], limit) if device in celsius else before
    return found
