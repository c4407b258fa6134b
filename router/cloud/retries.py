"""
Whether a failed call is tried once more at the same upstream, and after how long.

The one rule: pure, before the first byte only, and within a budget, so that retries never multiply an outage. The
loop itself is two turns whose second depends on money, breaker and budget; a library for retries would only hide it.
"""

from __future__ import annotations

import collections

from router.domain.errors import UpstreamUnavailable

WINDOW = 10.0
"""Seconds over which the share is taken."""
SHARE = 0.1
LEAST = 3
"""So many are always allowed in a window: a share of a few requests is none."""
LONGEST_WAIT = 2.0
"""A Retry-After that is longer is left to the next candidate, or to the client."""
PAUSE = 0.1

_WORTH_IT = frozenset({"connect", "cut", "status", "rate_limited"})


class RetryBudget:
    """Counts requests and retries of the last seconds."""

    def __init__(self, share: float = SHARE, least: int = LEAST, window: float = WINDOW) -> None:
        self._share = share
        self._least = least
        self._window = window
        self._requests: collections.deque[float] = collections.deque(maxlen=10_000)
        self._retries: collections.deque[float] = collections.deque(maxlen=10_000)

    def note_request(self, now: float) -> None:
        self._requests.append(now)

    def take(self, now: float) -> bool:
        """True if one more retry is within the budget; it is counted then."""
        for times in (self._requests, self._retries):
            while times and times[0] <= now - self._window:
                times.popleft()
        if len(self._retries) >= max(self._least, int(len(self._requests) * self._share)):
            return False
        self._retries.append(now)
        return True


def pause_before_retry(error: UpstreamUnavailable, random: float) -> float | None:
    """
    Seconds, or None when a retry is no use: it may have been generated (and billed) already, or nothing would change.

    `random`: from 0 to 1, so that clients that failed together do not come back together.
    """
    if error.reason not in _WORTH_IT:
        return None
    if error.retry_after is None:
        return None if error.reason == "rate_limited" else PAUSE * (0.5 + random)
    return error.retry_after + PAUSE * random if error.retry_after <= LONGEST_WAIT else None
