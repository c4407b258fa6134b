"""Bytes that say nothing are silence: they move no deadline, before the first data and after it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from router.cloud.client import Cloud
from router.domain.errors import UpstreamBroken, UpstreamUnavailable
from router.domain.upstreams import Timeouts
from tests.cloud.endpoint import Seen, Send, chunk, end, event, good, more, start_stream
from tests.cloud.scene import Scene, call, scene

WORD, STOP = chunk("m", {"content": "word"}), chunk("m", {}, "stop")
DONE = b"data: [DONE]\n\n"
GUARD = 30.0
"""Seconds after which a test that waits for ever has failed."""


@pytest.fixture
async def it(tmp_path: Path) -> AsyncIterator[Scene]:
    async with scene(tmp_path) as found:
        yield found


EMPTY: dict[str, bytes] = {
    "a comment": b": keepalive\n\n",
    "a blank line": b"\n",
    "an event without data": b"event: ping\n\n",
    "empty data": b"data:\n\n",
    "blank data": b"data:  \n\n",
    "an empty object": event({}),
    "no choices": event({"choices": []}),
    "an empty delta": chunk("m", {"role": "assistant", "content": ""}),
    "a usage again and again": event({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 0}}),
}


def for_ever(part: bytes, *first: bytes, pause: float = 0.05) -> Callable[[Seen, Send], Awaitable[None]]:
    async def answer(seen: Seen, send: Send) -> None:
        if seen.body.get("stream"):
            await start_stream(send)
        else:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        for piece in first:
            await more(send, piece)
        while True:
            await more(send, part)
            await asyncio.sleep(pause)

    return answer


@pytest.mark.parametrize("part", EMPTY.values(), ids=EMPTY)
async def test_what_says_nothing_does_not_hold_off_the_next_candidate(it: Scene, part: bytes) -> None:
    it.endpoint.answer = for_ever(part)
    async with asyncio.timeout(GUARD):
        with pytest.raises(UpstreamUnavailable, match=r"no data for 0.3 s") as caught:
            await it.ask(call())
    assert caught.value.reason == "timeout"


@pytest.mark.parametrize("part", EMPTY.values(), ids=EMPTY)
async def test_what_says_nothing_is_silence_in_the_middle_too(it: Scene, part: bytes) -> None:
    it.endpoint.answer = for_ever(part, WORD)
    async with asyncio.timeout(GUARD):
        with pytest.raises(UpstreamBroken, match=r"fell silent for 0.3 s"):
            await it.ask(call())


async def test_a_flood_that_is_never_waited_for_is_silence_too(it: Scene) -> None:
    it.endpoint.answer = for_ever(b": keepalive\n\n" * 1000, WORD, pause=0.0)
    async with asyncio.timeout(GUARD):
        with pytest.raises(UpstreamBroken, match="fell silent"):
            await it.ask(call())


@pytest.mark.parametrize(("first", "words"), [((), "no data for 0.3 s"), ((b'{"a":',), "silent for 0.3 s")])
async def test_blanks_around_an_answer_in_one_piece_are_silence(
    it: Scene, first: tuple[bytes, ...], words: str
) -> None:
    it.endpoint.answer = for_ever(b" \n", *first)
    async with asyncio.timeout(GUARD):
        with pytest.raises(UpstreamUnavailable, match=words):
            await it.ask(call(stream=False))


async def test_events_without_data_come_first_when_data_comes_in_time(it: Scene) -> None:
    role = EMPTY["an empty delta"]

    async def answer(seen: Seen, send: Send) -> None:
        await start_stream(send)
        for part in (b": one\n\n", role, b": two\n\n", WORD + STOP + DONE):
            await more(send, part)
        await end(send)

    it.endpoint.answer = answer
    assert (await it.ask(call()))[1] == role + WORD + STOP + DONE


async def test_a_client_that_reads_slowly_is_no_silence_of_the_upstream(it: Scene) -> None:
    it.endpoint.answer = good(["word"] * 4, pause=0.05)
    async with it.cloud.open(it.upstream, call()) as answer:
        assert answer.events is not None
        async for _ in answer.events:
            await asyncio.sleep(0.4)
    assert it.count("ok") == 1


# Before there is an answer ---------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def dripping(first: bytes, part: bytes) -> AsyncIterator[str]:
    """A server that sends `first` once a request is there, and then `part` for ever."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.read(2**16)
            writer.write(first)
            while True:
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(0.05)

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"


@pytest.mark.parametrize(
    ("first", "part"),
    [(b"", b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n"), (b"HTTP/1.1 200 OK\r\nx-long: ", b"x")],
    ids=["interim responses", "a header byte by byte"],
)
async def test_neither_interim_responses_nor_a_trickle_of_headers_are_an_answer(
    it: Scene, first: bytes, part: bytes
) -> None:
    async with dripping(first, part) as url, asyncio.timeout(GUARD):
        with pytest.raises(UpstreamUnavailable) as caught:
            await it.ask(call(), msgspec.structs.replace(it.upstream, base_url=url))
    assert caught.value.reason == "timeout"


async def test_a_look_at_a_peer_that_never_ends_its_list_is_bounded(it: Scene) -> None:
    hurried = msgspec.structs.replace(it.upstream, timeouts=Timeouts(connect=0.3))
    async with dripping(b"HTTP/1.1 200 OK\r\n\r\n[", b"1,") as url, asyncio.timeout(GUARD):
        with pytest.raises(UpstreamUnavailable) as caught:
            await it.cloud.models(msgspec.structs.replace(hurried, base_url=url))
    assert caught.value.reason == "timeout"


async def test_a_plain_answer_to_a_stream_that_never_ends_is_bounded(it: Scene) -> None:
    async with dripping(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\n", b"x") as url:
        async with asyncio.timeout(GUARD):
            with pytest.raises(UpstreamUnavailable, match="sent none"):
                await it.ask(call(), msgspec.structs.replace(it.upstream, base_url=url))


# In all ----------------------------------------------------------------------------------------------------


async def bounded(cloud: Cloud, it: Scene, stream: bool) -> None:
    waits = msgspec.structs.replace(it.upstream.timeouts, whole=5, total=0.5)
    async with asyncio.timeout(GUARD):
        await it.ask(call(stream), msgspec.structs.replace(it.upstream, timeouts=waits))


async def test_an_answer_that_goes_on_for_ever_ends_where_the_operator_says(it: Scene) -> None:
    it.endpoint.answer = for_ever(WORD)
    with pytest.raises(UpstreamBroken, match=r"not done within 0.5 s"):
        await bounded(it.cloud, it, stream=True)
    it.endpoint.answer = for_ever(b"1,", b'{"a":[')
    with pytest.raises(UpstreamUnavailable, match=r"not done within 0.5 s") as caught:
        await bounded(it.cloud, it, stream=False)
    assert caught.value.reason == "timeout"


async def test_the_bound_of_the_whole_holds_before_the_first_data_too(it: Scene) -> None:
    it.endpoint.answer = for_ever(b" ")
    with pytest.raises(UpstreamUnavailable, match=r"not done within 0.5 s"):
        await bounded(it.cloud, it, stream=False)
