"""
Server-sent events: the frames, and a response that always closes what it opened.

The one rule: whatever the client does (stay, leave, stop reading), the source of events is closed, in the
task that ran it, before the response is over. Sources hold leases.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping
from typing import Any, TypeVar

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

SEND_SECONDS = 60.0
"""A client that takes nothing for so long has left."""
DONE = b"data: [DONE]\n\n"

T = TypeVar("T")
Event = bytes | Exception | None
"""What a source gives: bytes, an error that ends it, or None for a good end."""


class ClientLeft(Exception):
    """The client closed its connection, or stopped reading."""


class End(enum.Enum):
    """How a stream ended. REFUSED: by an error before the status line; BROKEN: by one after it."""

    DONE = "done"
    REFUSED = "refused"
    BROKEN = "broken"
    LEFT = "left"


def data(payload: object) -> bytes:
    return b"data: " + msgspec.json.encode(payload) + b"\n\n"


def comment(text: str) -> bytes:
    """Ignored by clients, but it keeps them from giving up. Always one line."""
    return b": " + " ".join(text.split()).encode() + b"\n\n"


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, or its error. A client that leaves cancels it: ClientLeft, once it is undone."""
    async with asyncio.TaskGroup() as tasks:
        working = tasks.create_task(_settled(work), name="work")
        leaving = tasks.create_task(_disconnected(receive), name="watch-client")
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        leaving.cancel()
        if not working.done():
            working.cancel()
    if working.cancelled():
        raise ClientLeft
    result, error = working.result()
    if error is not None:
        raise error
    return result  # type: ignore[return-value]


async def _settled(work: Coroutine[Any, Any, T]) -> tuple[T | None, Exception | None]:
    # As a value: an exception would come out of the task group inside an ExceptionGroup.
    try:
        return await work, None
    except Exception as error:
        return None, error


async def _disconnected(receive: Receive) -> None:
    # A body that breaks off or never ends says the same as a closed connection.
    with contextlib.suppress(Exception):
        while (await receive())["type"] != "http.disconnect":
            pass


class EventStream(Response):
    """
    Sends `events`. The status line waits for the first one, so that an error before it is a real response.

    After `commit` seconds without an event it says 200 all the same, and from then on a comment
    (`waiting()`) after every `pause` seconds of silence. `facts()` are headers if they are known when the
    status line goes out, else a comment before the first event. `refuse` turns an error into a response,
    `broken` into a last event. `ended` hears how it went, once. Times are seconds.
    """

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        *,
        commit: float,
        pause: float,
        waiting: Callable[[], str],
        refuse: Callable[[Exception], Response],
        broken: Callable[[Exception], bytes],
        facts: Callable[[], Mapping[str, str]] = dict,
        ended: Callable[[End], None] = lambda end: None,
        send_seconds: float = SEND_SECONDS,
    ) -> None:
        self.status_code = 200
        self.background = None
        self.init_headers(
            {"content-type": "text/event-stream", "cache-control": "no-cache", "x-accel-buffering": "no"}
        )
        self._events = events
        self._commit = commit
        self._pause = pause
        self._waiting = waiting
        self._refuse = refuse
        self._broken = broken
        self._facts = facts
        self._ended = ended
        self._send_seconds = send_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        end = End.LEFT
        try:
            end = await while_connected(receive, self._run(scope, receive, self._patient(send)))
        except (ClientLeft, OSError):
            pass
        finally:
            self._ended(end)

    async def _run(self, scope: Scope, receive: Receive, send: Send) -> End:
        # One slot: a client that reads slowly holds back the source, not our memory.
        events: asyncio.Queue[Event] = asyncio.Queue(1)
        async with asyncio.TaskGroup() as tasks:
            producing = tasks.create_task(self._produce(events), name="produce-events")
            end, error = await _settled(self._deliver(events, scope, receive, send))
            producing.cancel()
        if isinstance(error, TimeoutError):
            raise ClientLeft from error
        if error is not None:
            raise error
        return end or End.LEFT

    async def _produce(self, events: asyncio.Queue[Event]) -> None:
        try:
            async with contextlib.aclosing(self._events) as source:
                async for event in source:
                    await events.put(event)
        except Exception as error:
            await events.put(error)
        else:
            await events.put(None)

    async def _deliver(self, events: asyncio.Queue[Event], scope: Scope, receive: Receive, send: Send) -> End:
        first: Event | _Silence = await _next(events, self._commit)
        if isinstance(first, Exception):
            await self._refuse(first)(scope, receive, send)
            return End.REFUSED
        late = not await self._begin(send)
        while isinstance(first, _Silence):
            await _body(send, comment(self._waiting()))
            first = await _next(events, self._pause)
        if late and (facts := self._facts()):
            told = (f"{name.removeprefix('x-router-')}={value}" for name, value in facts.items())
            await _body(send, comment(" ".join(told)))
        return await self._rest(first, events, send)

    async def _begin(self, send: Send) -> bool:
        """Send the status line. True when it carries the facts."""
        facts = self._facts()
        self.headers.update(facts)
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        return bool(facts)

    async def _rest(
        self,
        event: Event | _Silence,
        events: asyncio.Queue[Event],
        send: Send,
    ) -> End:
        end = End.DONE
        while event is not None:
            if isinstance(event, Exception):
                await _body(send, self._broken(event))
                end = End.BROKEN
                break
            await _body(send, comment(self._waiting()) if isinstance(event, _Silence) else event)
            event = await _next(events, self._pause)
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        return end

    def _patient(self, send: Send) -> Send:
        async def patiently(message: Any) -> None:
            async with asyncio.timeout(self._send_seconds):
                await send(message)

        return patiently


class _Silence:
    pass


async def _next(events: asyncio.Queue[Event], seconds: float) -> Event | _Silence:
    try:
        async with asyncio.timeout(seconds):
            return await events.get()
    except TimeoutError:
        return _Silence()


def _body(send: Send, chunk: bytes) -> Awaitable[None]:
    return send({"type": "http.response.body", "body": chunk, "more_body": True})
