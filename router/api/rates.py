"""
How many requests a minute each key may send.

The one rule: exact, by the times of the last ones; what is refused does not count.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from router.api.errors import RateLimited
from router.registry.loader import Key

WINDOW = 60.0
"""Seconds."""


class Rates:
    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._times: dict[str, deque[float]] = {}
        """By the key's name: bounded by the registry, and each by its own limit."""

    def admit(self, key: Key | None) -> None:
        """Count one request. Raises RateLimited with the seconds until there is room again."""
        if key is None or key.rpm is None:
            return
        now = self._clock()
        times = self._times.setdefault(key.name, deque())
        while times and now - times[0] >= WINDOW:
            times.popleft()
        if len(times) >= key.rpm:
            raise RateLimited(f"This key may send {key.rpm} requests a minute.", WINDOW - (now - times[0]))
        times.append(now)
