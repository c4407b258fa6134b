"""An answer is read with bounds, and never only looks complete."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from router.domain.errors import UpstreamBroken, UpstreamUnavailable
from router.domain.generation import Usage
from tests.cloud.endpoint import Seen, Send, chunk, end, more, raw_stream, status, usage_chunk
from tests.cloud.scene import HELLO, Scene, call, scene

DONE = b"data: [DONE]\n\n"
WORD, STOP = chunk("m", {"content": "w"}), chunk("m", {}, "stop")


@pytest.fixture
async def it(tmp_path: Path) -> AsyncIterator[Scene]:
    async with scene(tmp_path) as found:
        yield found


async def test_comments_of_the_upstream_are_dropped_and_keep_it_alive(it: Scene) -> None:
    it.endpoint.answer = raw_stream(b": one\n\n", b": two\n\n", WORD, b": three\n\n", STOP, DONE)
    assert (await it.ask(call()))[1] == WORD + STOP + DONE


async def test_usage_beside_a_choice_is_passed_on_though_only_we_asked(it: Scene) -> None:
    both = chunk("m", {}, "stop", usage={"prompt_tokens": 1, "completion_tokens": 1})
    it.endpoint.answer = raw_stream(both, DONE)
    answer, received = await it.ask(call())
    assert (received, answer.usage) == (both + DONE, Usage(1, 1))


async def test_usage_alone_is_read_and_dropped(it: Scene) -> None:
    it.endpoint.answer = raw_stream(WORD, STOP, usage_chunk("m", 10, 2), DONE)
    answer, received = await it.ask(call())
    assert (received, answer.usage) == (WORD + STOP + DONE, Usage(10, 2))


async def test_usage_of_a_client_that_asked_is_the_first_event_if_it_comes_first(it: Scene) -> None:
    it.endpoint.answer = raw_stream(usage_chunk("m", 10, 2), STOP, DONE)
    _, received = await it.ask(call(body={**HELLO, "stream_options": {"include_usage": True}}))
    assert received == usage_chunk("m", 10, 2) + STOP + DONE


async def test_a_stream_of_nothing_but_done_is_complete(it: Scene) -> None:
    it.endpoint.answer = raw_stream(DONE)
    answer, received = await it.ask(call())
    assert (received, answer.finish) == (DONE, None)


@pytest.mark.parametrize(
    "end", [b"data:[DONE]\n\n", b"event: done\r\ndata: [DONE]\r\n\r\n", b"data: [DONE]\n"]
)
async def test_done_is_told_once_and_in_one_way_however_it_was_written(it: Scene, end: bytes) -> None:
    it.endpoint.answer = raw_stream(WORD, STOP, end)
    assert (await it.ask(call()))[1] == WORD + STOP + DONE


async def test_what_comes_after_done_is_not_passed_on(it: Scene) -> None:
    it.endpoint.answer = raw_stream(STOP, DONE + WORD, WORD, then="silence")
    assert (await it.ask(call()))[1] == STOP + DONE


async def test_half_an_event_at_the_end_is_broken_even_after_a_finish(it: Scene) -> None:
    it.endpoint.answer = raw_stream(WORD, STOP, b'data: {"usage"')
    with pytest.raises(UpstreamBroken, match="in the middle"):
        await it.ask(call())


async def test_an_error_of_a_whole_answer_with_a_good_status_is_one(it: Scene) -> None:
    it.endpoint.answer = status(200, {"error": {"message": "overloaded"}})
    with pytest.raises(UpstreamUnavailable, match="big failed: overloaded"):
        await it.ask(call(stream=False))


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"a": '])
async def test_a_whole_answer_that_is_no_object_is_none(it: Scene, body: bytes) -> None:
    it.endpoint.answer = status(200, body or b" ")
    with pytest.raises(UpstreamUnavailable) as caught:
        await it.ask(call(stream=False))
    assert caught.value.reason == "protocol"


async def test_a_refusal_whose_body_never_ends_is_told_by_its_status(it: Scene) -> None:
    async def endless(seen: Seen, send: Send) -> None:
        await send({"type": "http.response.start", "status": 503, "headers": []})
        for _ in range(10_000):
            await more(send, b"x" * 2**16)
        await end(send)

    it.endpoint.answer = endless
    with pytest.raises(UpstreamUnavailable, match="failed \\(503\\)"):
        await it.ask(call())
