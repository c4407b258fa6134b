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
            self.progress.billed = True
            self._settle(None)

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
        self._settle(error)

    def closed(self) -> None:
        """Nobody listens any more. A try that is not over was left by its client."""
        if self._ends("left"):
            self.breaker.left(self.given)
            self._settle(None)

    def _ends(self, said: str) -> bool:
        first, self._over = not self._over, True
        if first:
            self.report.ended(self.upstream.name, said)
        return first

    def _settle(self, error: UpstreamError | None) -> None:
        self.answer.cost = self.charge.settle(self._bill(error))
        self.report.cost(self.upstream.name, self.answer.cost)

    def _bill(self, error: UpstreamError | None) -> int | None:
        """Micro-dollars, or None when nobody knows and the worst is to be feared."""
        if self.progress.sent_at is None or isinstance(error, UpstreamRefused):
            return 0
        if isinstance(error, UpstreamUnavailable) and error.reason in _FREE:
            return 0
        usage = self.answer.usage if self.progress.billed else None
        return None if usage is None else self.upstream.cost(usage.prompt_tokens, usage.completion_tokens)


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
