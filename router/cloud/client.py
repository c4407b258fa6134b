"""
The cloud as the rooms above see it: one call to one upstream, begun or refused.

The one rule: what an upstream is comes with each call; what is remembered of it here goes by its name.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from router.cloud import keys, outgoing
from router.cloud.addresses import Addresses
from router.cloud.attempt import Attempt, outcome
from router.cloud.breaker import Breaker, Refusal
from router.cloud.calls import CloudAnswer, CloudCall
from router.cloud.line import Line, Progress
from router.cloud.outgoing import Outgoing
from router.cloud.pools import Pools
from router.cloud.reading import Reading
from router.cloud.report import Report, UpstreamView
from router.cloud.retries import RetryBudget, pause_before_retry
from router.cloud.spend import Spend
from router.cloud.tally import Tally
from router.domain.errors import PolicyRefused, UpstreamError, UpstreamUnavailable
from router.domain.upstreams import Upstream
from router.supervisor import contained
from router.telemetry import Metrics, logger

log = logger("cloud")


@dataclass(slots=True)
class _Desk:
    """What is remembered of one upstream."""

    upstream: Upstream
    breaker: Breaker = field(default_factory=Breaker)
    retries: RetryBudget = field(default_factory=RetryBudget)
    in_flight: int = 0


class Cloud:
    """
    Owns connections, breakers and the record of spending: `async with Cloud(...) as cloud`.

    `spend_file` is made when something first costs money. `clock` is monotonic, `now` counts from 1970; both seconds.
    """

    def __init__(
        self,
        spend_file: Path,
        metrics: Metrics,
        *,
        addresses: Addresses | None = None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._addresses = addresses or Addresses(clock=clock)
        self._clock = clock
        self._chance = chance
        self._spend = Spend(spend_file, now)
        self._pools = Pools()
        self._desks: dict[str, _Desk] = {}
        self._named: frozenset[str] | None = None
        """Upstreams of the registry; None before it was told."""
        self._report = Report(metrics, self.views)
        self._stack = contextlib.AsyncExitStack()
        self._tasks = asyncio.TaskGroup()

    async def __aenter__(self) -> Self:
        self._stack.push_async_callback(self._pools.retain, ())
        await self._stack.enter_async_context(self._spend.running())
        await self._stack.enter_async_context(self._tasks)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.__aexit__(kind, error, trace)

    def reconcile(self, upstreams: Mapping[str, Upstream]) -> None:
        """The whole set, after each registry edit. Breakers and sums of those that stay are kept."""
        self._named = frozenset(upstreams)
        for upstream in upstreams.values():
            self._desk(upstream).upstream = upstream
        for name in self._desks.keys() - self._named:
            self._let_go(name)
        if any(upstream.price for upstream in upstreams.values()):
            self._spend.open_soon()
        closing = contained(self._pools.retain(upstreams.values()), "close-pools")
        self._tasks.create_task(closing, name="close-pools")

    @contextlib.asynccontextmanager
    async def open(self, upstream: Upstream, call: CloudCall) -> AsyncIterator[CloudAnswer]:
        """
        Begin an answer. Leaving the context closes the connection to the upstream, which stops it generating.

        Before an answer has begun this raises what `domain.errors` lists under UpstreamError. The next candidate may
        be tried after UpstreamUnavailable, OverBudget and SpendUnknown; never after UpstreamRefused and PolicyRefused.
        The events raise UpstreamBroken. Trying this one upstream again is done in here.
        """
        desk = self._desk(upstream)
        if call.private:
            self._report.ended(upstream.name, "forbidden")
            raise PolicyRefused("This request may not leave this machine (cloud: never).", upstream.name)
        request = outgoing.compose(upstream, call)
        async with contextlib.AsyncExitStack() as stack:
            yield await self._begin(stack, desk, upstream, request, call)

    async def models(self, upstream: Upstream) -> dict[str, str]:
        """
        What a peer says of its models, by name and alias: unloaded, loading, loaded or failed; "" when it does not say.

        Bounded by twice the time to connect. Breakers are not asked and not told. Raises UpstreamUnavailable.
        """
        connect = upstream.timeouts.connect
        waits = msgspec.structs.replace(upstream.timeouts, whole=connect, idle=connect, total=2 * connect)
        hurried = msgspec.structs.replace(upstream, timeouts=waits)
        answer = CloudAnswer(0, upstream.name, 0)
        async with self._pools.of(hurried) as pool:
            line, progress = Line(hurried, pool, self._addresses), Progress()
            key = keys.read(hurried)
            async with line.send(outgoing.LIST_MODELS, key, progress, private=False) as response:
                await Reading(line, outgoing.LIST_MODELS, response, progress, answer, key).begin()
        return _statuses(upstream.name, answer.body)

    def views(self) -> tuple[UpstreamView, ...]:
        """Every upstream of the registry, for `/running`, metrics, and whoever chooses among candidates."""
        return tuple(self._view(desk) for name, desk in self._desks.items() if self._is_named(name))

    def view(self, upstream: Upstream) -> UpstreamView:
        return self._view(self._desk(upstream))

    async def _begin(
        self,
        stack: contextlib.AsyncExitStack,
        desk: _Desk,
        upstream: Upstream,
        request: Outgoing,
        call: CloudCall,
    ) -> CloudAnswer:
        """The answer of the first try, or of a second one; `stack` keeps what it needs."""
        desk.retries.note_request(self._clock())
        try:
            return await stack.enter_async_context(self._tried(desk, upstream, request, call, 1))
        except UpstreamUnavailable as error:
            pause = pause_before_retry(error, self._chance())
            now = self._clock()
            if pause is None or desk.breaker.retry_after(now) > pause or not desk.retries.take(now):
                raise
            log.info("trying an upstream once more", upstream=upstream.name, reason=error.reason)
        await asyncio.sleep(pause)
        try:
            return await stack.enter_async_context(self._tried(desk, upstream, request, call, 2))
        except UpstreamError as error:
            error.tries = 2
            raise

    @contextlib.asynccontextmanager
    async def _tried(
        self, desk: _Desk, upstream: Upstream, request: Outgoing, call: CloudCall, number: int
    ) -> AsyncIterator[CloudAnswer]:
        async with contextlib.AsyncExitStack() as stack:
            stack.enter_context(self._counted(desk))
            key, attempt = await self._prepared(desk, upstream, request, call, number)
            stack.callback(attempt.closed)
            try:
                pool = await stack.enter_async_context(self._pools.of(upstream))
                line = Line(upstream, pool, self._addresses)
                sending = line.send(request, key, attempt.progress, private=call.private)
                response = await stack.enter_async_context(sending)
                answer = attempt.answer
                answer.status = response.status_code
                await Reading(line, request, response, attempt.progress, answer, key).begin()
            except UpstreamError as error:
                attempt.failed(error)
                _log_notes(error)
                raise
            if answer.events is not None:
                answer.events = await stack.enter_async_context(
                    contextlib.aclosing(attempt.followed(answer.events))
                )
            attempt.begun()
            yield answer

    async def _prepared(
        self, desk: _Desk, upstream: Upstream, request: Outgoing, call: CloudCall, number: int
    ) -> tuple[str | None, Attempt]:
        """The key, and a try that has the breaker's pass and its money. Raises UpstreamError kinds, counted."""
        try:
            key = keys.read(upstream)
            given = desk.breaker.admit(self._clock())
            if isinstance(given, Refusal):
                words = (
                    f"{upstream.name} is left alone after failures, for another {given.retry_after:.0f} s."
                )
                raise UpstreamUnavailable(words, upstream.name, "open", given.retry_after)
            try:
                charge = await self._spend.reserve(upstream, call.caller, request.worst)
            except BaseException:
                desk.breaker.left(given)
                raise
        except UpstreamError as error:
            self._report.ended(upstream.name, outcome(error))
            _log_notes(error)
            raise
        answer = CloudAnswer(0, upstream.name, charge.worst, attempts=number)
        progress = Progress(Tally(request.limit, request.answers, request.echoed))
        tried = Attempt(upstream, desk.breaker, given, charge, self._report, self._clock, answer, progress)
        return key, tried

    @contextlib.contextmanager
    def _counted(self, desk: _Desk) -> Iterator[None]:
        desk.in_flight += 1
        try:
            yield
        finally:
            desk.in_flight -= 1
            if not self._is_named(desk.upstream.name):
                self._let_go(desk.upstream.name)

    def _desk(self, upstream: Upstream) -> _Desk:
        return self._desks.setdefault(upstream.name, _Desk(upstream))

    def _is_named(self, name: str) -> bool:
        return self._named is None or name in self._named

    def _let_go(self, name: str) -> None:
        """Of an upstream that the registry no longer has, once its last call is over."""
        if name in self._desks and not self._desks[name].in_flight:
            del self._desks[name]
            self._report.forget(name)

    def _view(self, desk: _Desk) -> UpstreamView:
        now = self._clock()
        return UpstreamView(
            desk.upstream,
            desk.breaker.state(now),
            desk.breaker.retry_after(now),
            desk.in_flight,
            self._spend.spent(desk.upstream.name),
        )


def _log_notes(error: UpstreamError) -> None:
    """What is for the operator alone: a client is told of no host, certificate or file."""
    for note in getattr(error, "__notes__", ()):
        log.warning("an upstream cannot be asked", upstream=error.upstream, reason=note)


class _Status(msgspec.Struct):
    value: str = ""


class _Entry(msgspec.Struct):
    id: str
    status: _Status = msgspec.field(default_factory=_Status)
    aliases: list[str] = []


class _List(msgspec.Struct):
    data: list[_Entry]


def _statuses(upstream: str, body: bytes) -> dict[str, str]:
    try:
        entries = msgspec.json.decode(body, type=_List).data
    except msgspec.DecodeError:
        words = f"{upstream} lists its models as no OpenAI-compatible endpoint does."
        raise UpstreamUnavailable(words, upstream, "protocol") from None
    return {name: entry.status.value for entry in entries for name in (entry.id, *entry.aliases)}
