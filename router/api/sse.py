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
    """How a stream ended. REFUSED: by an error before the status line; BROKEN: by one after it, or cut by us."""

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
        if left := not working.done():
            working.cancel()
    if left and working.cancelled():
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
    status line goes out, else one comment before the first event: `: served-by=x#1 queue-ms=3 attempts=1`, the
    names without `x-router-`. `refuse` turns an error into a response,
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
        self._begun = False
        """The status line is out, or on its way."""
        self._status_out = asyncio.Event()
        self._facts_told = False
        self._sent_at = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        end = End.BROKEN  # unless something else is known: cancelled, or a fault of ours
        try:
            end = await while_connected(receive, self._run(scope, receive, send))
        except ClientLeft:
            end = End.LEFT
        finally:
            self._ended(end)

    async def _run(self, scope: Scope, receive: Receive, send: Send) -> End:
        # One slot: a client that reads slowly holds back the source, not our memory.
        events: asyncio.Queue[Event] = asyncio.Queue(1)
        async with asyncio.TaskGroup() as tasks:
            producing = tasks.create_task(self._produce(events), name="produce-events")
            passing = tasks.create_task(
                _settled(self._pass_on(events, scope, receive, send)), name="pass-on-events"
            )
            telling = tasks.create_task(_settled(self._tell_of_silence(send)), name="tell-of-silence")
            done, _ = await asyncio.wait({passing, telling}, return_when=asyncio.FIRST_COMPLETED)
            for task in (producing, passing, telling):
                task.cancel()
        end, error = (passing if passing in done else telling).result()
        if isinstance(error, _SendFailed | TimeoutError):
            raise ClientLeft from error
        if error is not None:
            raise error
        return end or End.BROKEN

    async def _produce(self, events: asyncio.Queue[Event]) -> None:
        try:
            async with contextlib.aclosing(self._events) as source:
                async for event in source:
                    await events.put(event)
        except Exception as error:
            await events.put(error)
        else:
            await events.put(None)

    async def _pass_on(self, events: asyncio.Queue[Event], scope: Scope, receive: Receive, send: Send) -> End:
        """
        Send what the source gives, and how it ended.

        The end of the response goes out with the last event: a client that has read that may hang up at once.
        """
        async with asyncio.timeout(None) as limit:
            patiently = self._patient(send, limit)
            while isinstance(event := await events.get(), bytes):
                await self._begin_if_need_be(patiently)
                if event == DONE:
                    await _last(patiently, event)
                    return End.DONE
                await _body(patiently, event)
            if isinstance(event, Exception) and not self._begun:
                self._begun = True
                await self._refuse(event)(scope, receive, patiently)
                return End.REFUSED
            await self._begin_if_need_be(patiently)
            await _last(patiently, b"" if event is None else self._broken(event))
        return End.DONE if event is None else End.BROKEN

    async def _begin_if_need_be(self, send: Send) -> None:
        """The status line before the first event; if that went out without the facts, they are told now."""
        if self._facts_told:
            return
        self._facts_told = True
        if not self._begun:
            await self._begin(send)
            return
        await self._status_out.wait()  # the other task may be at it
        if facts := self._facts():
            told = (f"{name.removeprefix('x-router-')}={value}" for name, value in facts.items())
            await _body(send, comment(" ".join(told)))

    async def _begin(self, send: Send) -> None:
        self._begun = True
        facts = self._facts()
        self._facts_told = self._facts_told or bool(facts)
        self.headers.update(facts)
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        self._status_out.set()

    async def _tell_of_silence(self, send: Send) -> None:
        """The status line after `commit` seconds without an event, then a comment after each pause."""
        await asyncio.sleep(self._commit)
        async with asyncio.timeout(None) as limit:
            patiently = self._patient(send, limit)
            if not self._begun:
                await self._begin(patiently)
                await _body(patiently, comment(self._waiting()))
            while True:
                await self._silence()
                await _body(patiently, comment(self._waiting()))

    async def _silence(self) -> None:
        """Returns when nothing was sent for a pause."""
        loop = asyncio.get_running_loop()
        while (left := self._sent_at + self._pause - loop.time()) > 0:  # noqa: ASYNC110 - not an event a token
            await asyncio.sleep(left)

    def _patient(self, send: Send, limit: asyncio.Timeout) -> Send:
        """`send`, within `send_seconds`: then `limit` ends the task. What it raises is _SendFailed."""
        loop = asyncio.get_running_loop()

        async def patiently(message: Any) -> None:
            now = self._sent_at = loop.time()
            limit.reschedule(now + self._send_seconds)
            try:
                await send(message)
            except Exception as error:
                raise _SendFailed from error
            limit.reschedule(None)

        return patiently


class _SendFailed(Exception):
    """The client takes nothing any more."""


def _body(send: Send, chunk: bytes) -> Awaitable[None]:
    return send({"type": "http.response.body", "body": chunk, "more_body": True})


def _last(send: Send, chunk: bytes) -> Awaitable[None]:
    return send({"type": "http.response.body", "body": chunk, "more_body": False})
