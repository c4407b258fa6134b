"""The event stream alone: whatever the client does, the source is closed and the end is told once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import pytest
from starlette.responses import PlainTextResponse

from router.api import sse
from router.api.sse import ClientLeft, End, EventStream, while_connected
from tests.scene import Call, until


class Source:
    """Yields its steps; an event is waited for, an error raised. Knows whether it was closed."""

    def __init__(self, *steps: bytes | asyncio.Event | Exception) -> None:
        self._steps = steps
        self.opened = self.closed = False

    async def events(self) -> AsyncGenerator[bytes, None]:
        self.opened = True
        try:
            for step in self._steps:
                match step:
                    case bytes():
                        yield step
                    case asyncio.Event():
                        await step.wait()
                    case Exception():
                        raise step
        finally:
            await asyncio.sleep(0)
            self.closed = True


class Streams:
    """Starts streams in a task group and collects how they ended."""

    def __init__(self, tasks: asyncio.TaskGroup) -> None:
        self._tasks = tasks
        self.ends: list[End] = []
        self.facts: dict[str, str] = {}

    def start(self, source: Source, commit: float = 60, pause: float = 60, **kwargs: Any) -> Call:
        stream = EventStream(
            source.events(),
            commit=commit,
            pause=pause,
            waiting=lambda: "loading\nx 40%",
            refuse=lambda error: PlainTextResponse(f"refused: {error}", 503),
            broken=lambda error: sse.data({"error": str(error)}),
            facts=lambda: self.facts,
            ended=self.ends.append,
            send_seconds=kwargs.pop("send_seconds", 60),
        )
        return Call(stream, self._tasks, "GET", "/", **kwargs)


@pytest.fixture
async def streams() -> AsyncIterator[Streams]:
    async with asyncio.TaskGroup() as tasks:
        yield Streams(tasks)


async def test_events_go_out_in_order_and_the_stream_is_completed(streams: Streams) -> None:
    source = Source(b"a", b"b", b"c")
    call = streams.start(source)
    await call.done()
    assert (call.status, call.text, call.complete) == (200, "abc", True)
    assert source.closed
    assert streams.ends == [End.DONE]


async def test_an_error_before_the_first_event_is_a_real_response(streams: Streams) -> None:
    call = streams.start(Source(ValueError("no room")))
    await call.done()
    assert (call.status, call.text) == (503, "refused: no room")
    assert streams.ends == [End.REFUSED]


async def test_an_error_after_the_first_event_is_the_last_event(streams: Streams) -> None:
    call = streams.start(Source(b"a", ValueError("it died")))
    await call.done()
    assert (call.status, call.text) == (200, 'adata: {"error":"it died"}\n\n')
    assert call.complete
    assert streams.ends == [End.BROKEN]


async def test_silence_commits_to_200_and_is_filled_with_one_line_comments(streams: Streams) -> None:
    gate = asyncio.Event()
    call = streams.start(Source(gate, b"a"), commit=0, pause=0.001)
    await call.until(": loading x 40%\n\n: loading x 40%\n\n")
    assert call.status == 200
    streams.facts["x-router-served-by"] = "x#1"
    gate.set()
    await call.done()
    assert call.comments[-1] == "served-by=x#1"
    assert call.text.endswith(": served-by=x#1\n\na")
    assert streams.ends == [End.DONE]


async def test_an_error_after_the_commit_is_an_event_and_no_second_status(streams: Streams) -> None:
    gate = asyncio.Event()
    call = streams.start(Source(gate, ValueError("no room")), commit=0)
    await call.until(": loading")
    gate.set()
    await call.done()
    assert call.text.endswith('data: {"error":"no room"}\n\n')
    assert [m["type"] for m in call.messages].count("http.response.start") == 1
    assert streams.ends == [End.BROKEN]


async def test_facts_that_are_known_in_time_are_headers(streams: Streams) -> None:
    streams.facts["x-router-served-by"] = "x#1"
    call = streams.start(Source(b"a"))
    await call.done()
    assert call.headers["x-router-served-by"] == "x#1"
    assert call.text == "a"


@pytest.mark.timeout(30)
async def test_silence_between_events_is_filled_too(streams: Streams) -> None:
    gate = asyncio.Event()
    call = streams.start(Source(b"a", gate, b"b"), commit=0.001, pause=0.001)
    await call.until("a: loading x 40%")
    gate.set()
    await call.done()
    assert call.text.endswith("b")


@pytest.mark.parametrize("before", [(), (b"a",)], ids=["while it waits", "in the middle"])
async def test_a_client_that_leaves_closes_the_source(streams: Streams, before: tuple[bytes, ...]) -> None:
    source = Source(*before, asyncio.Event())
    call = streams.start(source)
    await until(lambda: source.opened)
    if before:
        await call.until("a")
    call.leave()
    await call.done()
    assert source.closed
    assert streams.ends == [End.LEFT]


async def test_a_client_that_stops_reading_has_left_after_a_while(streams: Streams) -> None:
    source = Source(b"a", b"b", b"c", b"d")
    call = streams.start(source, deaf=True, send_seconds=0.01)
    await call.done()
    assert source.closed
    assert streams.ends == [End.LEFT]


async def test_a_client_that_leaves_while_it_does_not_read_closes_the_source(streams: Streams) -> None:
    source = Source(b"a", b"b", b"c", b"d")
    call = streams.start(source, deaf=True)
    await call.until("a")
    call.leave()
    await call.done()
    assert source.closed


async def test_a_slow_client_holds_the_source_back(streams: Streams) -> None:
    read: list[int] = []

    class Counting(Source):
        async def events(self) -> AsyncGenerator[bytes, None]:
            for n in range(1000):
                read.append(n)
                yield b"x"

    call = streams.start(Counting(), deaf=True)
    await call.until("x")
    for _ in range(50):
        await asyncio.sleep(0)
    assert len(read) <= 3
    call.leave()
    await call.done()


async def test_a_gateway_that_is_stopped_closes_the_source(streams: Streams) -> None:
    source = Source(b"a", asyncio.Event())
    call = streams.start(source)
    await call.until("a")
    call.cancel()
    await call.done()
    assert source.closed
    assert len(streams.ends) == 1


async def test_work_is_done_or_undone_before_the_client_is_forgotten() -> None:
    undone = []

    async def work() -> str:
        with contextlib.suppress(KeyError):
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0)
                undone.append(True)
        return "never"

    async def leaves() -> Any:
        await asyncio.sleep(0)
        return {"type": "http.disconnect"}

    with pytest.raises(ClientLeft):
        await while_connected(leaves, work())
    assert undone == [True]


async def test_the_error_of_the_work_comes_out_as_it_is() -> None:
    async def fails() -> None:
        raise ValueError("bare")

    async def stays() -> Any:
        await asyncio.Event().wait()

    with pytest.raises(ValueError, match="bare"):
        await while_connected(stays, fails())
