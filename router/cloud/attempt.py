"""
One try at one upstream: what it holds while it runs, and what is said of it when it is over.

The one rule: each of money, breaker and counters hears exactly once how it ended, and the first to say so is right.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass, field

from router.cloud.breaker import Breaker, Pass
from router.cloud.calls import CloudAnswer
from router.cloud.line import Progress
from router.cloud.report import Report
from router.cloud.spend import Charge
from router.domain.errors import UpstreamBroken, UpstreamError, UpstreamRefused, UpstreamUnavailable
from router.domain.generation import Usage
from router.domain.upstreams import Upstream

_FREE = frozenset({"status", "rate_limited", "setup", "connect", "tls", "address", "busy"})
"""Reasons after which no upstream bills: the request did not reach it, or it said no."""
_NOT_ITS_FAULT = frozenset({"busy", "key", "address"})
"""Reasons that say nothing of whether the upstream is well."""


@dataclass(slots=True)
class Attempt:
    upstream: Upstream
    breaker: Breaker
    given: Pass
    charge: Charge
    report: Report
    clock: Callable[[], float]
    answer: CloudAnswer
    progress: Progress = field(default_factory=Progress)
    _over: bool = False

    def begun(self) -> None:
        """The first byte for the client is there."""
        self.breaker.begun(self.given)
        if self.answer.events is None:
            self.completed()

    async def followed(self, events: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        """`events`, and how they ended."""
        try:
            async for event in events:
                if self.progress.phase == "done":
                    # Before [DONE] is handed out: who reads it may not ask again.
                    self.completed()
                yield event
        except UpstreamBroken as error:
            self.failed(error)
            raise
        self.completed()

    def completed(self) -> None:
        if self._ends("ok"):
            self.breaker.succeeded(self.given)
            self._settle(self._cost(self.progress.tally.current))

    def failed(self, error: UpstreamError) -> None:
        if not self._ends(outcome(error)):
            return
        match error:
            case UpstreamRefused():
                self.breaker.succeeded(self.given)
            case UpstreamUnavailable() if error.reason not in _NOT_ITS_FAULT:
                self.breaker.failed(self.given, self.clock(), error.retry_after)
            case UpstreamBroken():
                self.breaker.failed(self.given, self.clock())
            case _:
                self.breaker.left(self.given)
        self._settle(0 if self._is_free(error) else self._cost(False))

    def closed(self) -> None:
        """Nobody listens any more. A try that is not over was left by its client."""
        if self._ends("left"):
            self.breaker.left(self.given)
            self._settle(self._cost(self.progress.tally.last_word))

    def _ends(self, said: str) -> bool:
        first, self._over = not self._over, True
        if first:
            self.report.ended(self.upstream.name, said)
        return first

    def _settle(self, micro: int) -> None:
        self.answer.cost = self.charge.settle(micro)
        self.report.cost(self.upstream.name, self.answer.cost)

    def _is_free(self, error: UpstreamError) -> bool:
        tally = self.progress.tally
        if tally.told is not None or tally.at_least:
            return False  # whatever it says in the end
        return isinstance(error, UpstreamRefused) or (
            isinstance(error, UpstreamUnavailable) and error.reason in _FREE
        )

    def _cost(self, final: bool) -> int:
        """Micro-dollars. `final`: the usage that was told is the bill; else the most that is known or to be feared."""
        if self.progress.sent_at is None:
            return 0
        tally, cost = self.progress.tally, self.upstream.cost
        told = tally.told or Usage(0, 0)
        billed = cost(told.prompt_tokens, max(told.completion_tokens, tally.at_least))
        if final:
            return billed
        beyond = max(0, tally.at_least - (tally.limit or 0))
        return max(billed, self.charge.worst + cost(0, beyond))


def outcome(error: UpstreamError) -> str:
    """The label of `router_cloud_requests_total`."""
    if isinstance(error, UpstreamUnavailable):
        return error.reason
    return _OUTCOMES[type(error).__name__]


_OUTCOMES = {
    "UpstreamRefused": "refused",
    "UpstreamBroken": "broken",
    "OverBudget": "over_budget",
    "SpendUnknown": "spend_unknown",
    "PolicyRefused": "forbidden",
}
