"""
Candidate after candidate, until one has begun to answer.

The one rule: the plan decides who, `failover` whether another one; after the first token nothing is tried again.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from router.cloud.calls import CloudAnswer, CloudCall
from router.cloud.client import Cloud
from router.domain.errors import LeaseTimeout, RouterError, ShuttingDown
from router.domain.models import LocalModel
from router.domain.upstreams import Upstream
from router.residency.manager import ResidencyManager
from router.routing import failover
from router.routing.dispatch import Answer, EmbeddingAnswer
from router.routing.plan import Plan, Spilled
from router.routing.route import Candidate
from router.telemetry import Metrics, logger

log = logger("routing")

L = TypeVar("L", Answer, EmbeddingAnswer)


@dataclass(frozen=True, slots=True)
class Relayed:
    """An answer of an upstream that has begun. `queue_ms` is what was spent on candidates before it."""

    served_by: str
    queue_ms: float
    attempts: int
    answer: CloudAnswer
    load_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Asked(Generic[L]):
    """One request, as each kind of candidate wants it."""

    local: Callable[[LocalModel], contextlib.AbstractAsyncContextManager[L]]
    """May raise InvalidRequest when called: what one model cannot do, the next candidate may."""
    call: Callable[[], CloudCall]
    trying: Callable[[Candidate], None] = lambda candidate: None
    """Hears who is asked now."""


class Journeys:
    def __init__(
        self,
        cloud: Cloud,
        metrics: Metrics,
        residency: ResidencyManager,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._residency = residency
        self._cloud = cloud
        self._metrics = metrics
        self._clock = clock
        self._relays: set[asyncio.Timeout] = set()
        self._closing = False
        self._quiet = asyncio.Event()
        self._quiet.set()

    @contextlib.asynccontextmanager
    async def open(self, plan: Plan, asked: Asked[L]) -> AsyncIterator[L | Relayed]:
        """
        The first answer that begins; leaving the context ends it, wherever it comes from.

        Raises what the last candidate raised, or of several whose error promises the soonest help.
        """
        began = self._clock()
        tries = 0
        errors: list[RouterError] = []
        passed = plan.spilled
        for candidate in plan.candidates:
            asked.trying(candidate)
            if isinstance(candidate, Upstream):
                passed = self._warm(passed)
            async with contextlib.AsyncExitStack() as stack:
                try:
                    answer = await self._begin(stack, plan, candidate, asked, began)
                except RouterError as error:
                    self._note(plan, candidate, error)
                    errors.append(error)
                    tries += failover.tries(error)
                    continue
                self._warm(passed)  # of local ones only now: whoever answers needs memory first
                self._count(plan, candidate)
                yield dataclasses.replace(answer, attempts=answer.attempts + tries)
                return
        raise failover.told(errors)

    async def _begin(
        self,
        stack: contextlib.AsyncExitStack,
        plan: Plan,
        candidate: Candidate,
        asked: Asked[L],
        began: float,
    ) -> L | Relayed:
        if isinstance(candidate, LocalModel):
            return await stack.enter_async_context(asked.local(candidate))
        call = dataclasses.replace(asked.call(), private=plan.private)
        answer = await stack.enter_async_context(self._relay(candidate, call))
        return Relayed(answer.served_by, (self._clock() - began) * 1000, answer.attempts, answer)

    def _warm(self, passed: tuple[Spilled, ...]) -> tuple[Spilled, ...]:
        """
        Have what the request goes past loaded for the next ones: nobody else does, and all of them would be paid for.

        Returns those that were not told of, which are none.
        """
        if not self._closing:
            for spilled in passed:
                self._residency.spilled(spilled.model)
        return ()

    def _count(self, plan: Plan, answering: Candidate) -> None:
        """Those that the answer went past: not those that were asked after all, because others could not."""
        asked = plan.candidates[: plan.candidates.index(answering) + 1]
        for spilled in plan.spilled:
            if spilled.model not in asked:
                self._metrics.spills.labels(spilled.model.name, spilled.reason).inc()

    def _note(self, plan: Plan, candidate: Candidate, error: RouterError) -> None:
        """Raises the error when it ends the request."""
        reason = failover.reason(error)
        if reason is None:
            raise error
        if candidate is not plan.candidates[-1]:
            self._metrics.fallbacks.labels(reason).inc()
            facts = {"candidate": candidate.name, "reason": reason, "detail": error.message}
            log.info("a candidate could not answer", route=plan.name, **facts)
            if isinstance(candidate, LocalModel) and isinstance(error, LeaseTimeout):
                self._residency.spilled(candidate, waited=True)

    @contextlib.asynccontextmanager
    async def _relay(self, upstream: Upstream, call: CloudCall) -> AsyncIterator[CloudAnswer]:
        if self._closing:
            raise ShuttingDown("The gateway is stopping.", 5.0)
        limit = asyncio.timeout(None)
        try:
            async with limit:
                self._relays.add(limit)
                self._quiet.clear()
                async with self._cloud.open(upstream, call) as answer:
                    yield answer
        except TimeoutError:
            if limit.expired():
                raise ShuttingDown("The gateway stopped in the middle of the answer.", 5.0) from None
            raise
        finally:
            self._relays.discard(limit)
            if not self._relays:
                self._quiet.set()

    async def shut_down(self, drain: float) -> None:
        """Refuse new relays, let those that run go on for `drain` seconds, then end them with an error."""
        self._closing = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(drain):
                await self._quiet.wait()
        for limit in self._relays:
            limit.reschedule(asyncio.get_running_loop().time())
        await self._quiet.wait()
