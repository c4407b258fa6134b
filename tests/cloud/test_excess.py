"""An upstream that sends, or bills, more than was asked for: cut, and settled at the most of what is known."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from router.cloud.calls import CloudCall
from router.domain.errors import UpstreamBroken, UpstreamUnavailable
from router.domain.upstreams import Upstream
from tests.cloud.endpoint import (
    Seen,
    Send,
    chunk,
    end,
    good,
    more,
    raw_stream,
    start_stream,
    status,
    usage_chunk,
    usage_of,
)
from tests.cloud.scene import HELLO, PRICE, Scene, call, scene

WORD, STOP = chunk("m", {"content": "word"}), chunk("m", {}, "stop")
DONE = b"data: [DONE]\n\n"
GUARD = 30.0
WORST = 1 * 1 + 16 * 10
"""Micro-dollars: one token of prompt, 16 of answer."""


@pytest.fixture
async def it(tmp_path: Path) -> AsyncIterator[Scene]:
    async with scene(tmp_path) as found:
        found.upstream = msgspec.structs.replace(found.upstream, price=PRICE)
        yield found


def asked(stream: bool = True, **more: Any) -> CloudCall:
    return call(stream, max_tokens=16, prompt_tokens_bound=1, **more)


async def settled(it: Scene, upstream: Upstream | None = None, **more: Any) -> tuple[int | None, bytes]:
    """What a whole stream cost, and what came of it."""
    received = b""
    answer = None
    try:
        async with asyncio.timeout(GUARD):
            async with it.cloud.open(upstream or it.upstream, asked(**more)) as answer:
                assert answer.events is not None
                async for event in answer.events:
                    received += event
    except UpstreamBroken as error:
        received += error.message.encode()
    assert answer is not None
    return answer.cost, received


async def test_an_answer_that_goes_on_is_cut_and_what_was_seen_is_paid(it: Scene) -> None:
    it.endpoint.answer = good(["word"] * 130_050)
    cost, received = await settled(it)
    assert b"went on beyond the limit of 16 tokens and was cut off" in received
    assert 16 < received.count(b'"word"') <= 16 + 64
    assert cost == WORST + (64 + 1) * 10
    async with asyncio.timeout(GUARD):
        while not it.endpoint.left:
            await asyncio.sleep(0.01)
    assert it.count("broken") == 1


@pytest.mark.parametrize(
    ("first", "each"),
    [
        (WORD, chunk("m", {"content": "word"}, "stop")),
        (STOP, WORD),
        (STOP, WORD.replace(b'"index": 0', b'"index": 1')),
        (STOP, chunk("m", {"content": "word"}, "stop").replace(b'"index": 0', b'"index": 1')),
    ],
    ids=["an end with each word", "words after the end", "another answer", "another answer with ends"],
)
async def test_an_end_that_comes_early_lets_nothing_pass(it: Scene, first: bytes, each: bytes) -> None:
    it.endpoint.answer = raw_stream(first, *[each] * 1000, usage_chunk("m", 1, 2), DONE)
    cost, received = await settled(it)
    assert b"went on beyond the limit of 16 tokens and was cut off" in received
    assert received.count(b'"word"') <= 16 + 64
    assert cost == WORST + (64 + 1) * 10


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning", "thoughts"])
async def test_thoughts_count_like_words(it: Scene, field: str) -> None:
    it.endpoint.answer = raw_stream(*[chunk("m", {field: "word"})] * 1000, then="silence")
    cost, received = await settled(it)
    assert b"beyond the limit" in received
    assert cost == WORST + (64 + 1) * 10


IMAGE = {"images": [{"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 1_500_000}}]}


async def test_an_image_is_neither_cut_nor_overcharged(it: Scene) -> None:
    picture = chunk("m", IMAGE)
    it.endpoint.answer = raw_stream(WORD, picture, STOP, usage_chunk("m", 10, 14), DONE)
    cost, received = await settled(it)
    assert (cost, received) == (10 + 14 * 10, WORD + picture + STOP + DONE)
    message = {"role": "assistant", "content": "word", **IMAGE}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    it.endpoint.answer = status(200, {"choices": choices, "usage": usage_of(10, 14)})
    answer, _ = await it.ask(asked(stream=False))
    assert answer.cost == 10 + 14 * 10


async def test_images_alone_are_no_silence(it: Scene) -> None:
    async def slowly(seen: Seen, send: Send) -> None:
        await start_stream(send)
        for _ in range(8):
            await more(send, chunk("m", {"images": [{"image_url": {"url": "data:,"}}]}))
            await asyncio.sleep(0.5)
        await more(send, STOP)
        await end(send, DONE)

    patient = msgspec.structs.replace(it.upstream.timeouts, idle=3.0)
    it.endpoint.answer = slowly
    _, received = await settled(it, msgspec.structs.replace(it.upstream, timeouts=patient))
    assert received.endswith(STOP + DONE)


async def test_one_huge_piece_is_cut_before_it_begins_and_costs_what_it_holds(it: Scene) -> None:
    it.endpoint.answer = raw_stream(chunk("m", {"content": "x" * 64_000}), then="silence")
    with pytest.raises(UpstreamUnavailable) as caught:
        await settled(it)
    assert caught.value.reason == "too_long"
    spent = it.cloud.view(it.upstream).spent.day
    assert spent == WORST + (1000 - 16) * 10


@pytest.mark.parametrize(
    ("parts", "cost"),
    [
        ([WORD, STOP, usage_chunk("m", 10, 130_050), usage_chunk("m", 10, 2)], 10 + 130_050 * 10),
        ([WORD, STOP, usage_chunk("m", 10, 2), usage_chunk("m", 10, 130_050)], 10 + 130_050 * 10),
        ([usage_chunk("m", 10, 2), WORD, STOP], WORST),
        ([WORD, STOP, usage_chunk("m", 1, 2), *[WORD] * 40, STOP], WORST + (41 - 16) * 10),
        ([WORD, usage_chunk("m", 10, 50), WORD, STOP], 10 + 50 * 10),
        ([*[WORD] * 40, STOP, usage_chunk("m", 1, 1)], 1 + 40 * 10),
        ([WORD, STOP, usage_chunk("m", 1, 1)], 1 + 1 * 10),
    ],
    ids=[
        "billed twice, less at last",
        "billed twice, more at last",
        "before it began",
        "and then it goes on",
        "more than was reserved in the middle",
        "less than was sent",
        "as it should be",
    ],
)
async def test_the_most_of_what_was_reserved_seen_and_told_is_paid(
    it: Scene, parts: list[bytes], cost: int
) -> None:
    it.endpoint.answer = raw_stream(*parts, DONE)
    assert (await settled(it))[0] == cost


async def test_a_usage_of_an_answer_that_breaks_is_paid_if_it_is_more(it: Scene) -> None:
    it.endpoint.answer = raw_stream(WORD, usage_chunk("m", 10, 50), then="cut")
    assert (await settled(it))[0] == 10 + 50 * 10


async def test_a_usage_before_an_error_in_place_of_an_answer_is_paid(it: Scene) -> None:
    it.endpoint.answer = raw_stream(usage_chunk("m", 10, 50), b'data: {"error": {"message": "no"}}\n\n')
    with pytest.raises(UpstreamUnavailable):
        await settled(it)
    assert it.cloud.view(it.upstream).spent.day >= 10 + 50 * 10


async def test_a_whole_answer_that_bills_more_than_its_limit_is_paid_in_full(it: Scene) -> None:
    choices = [{"message": {"content": "word"}, "finish_reason": "stop"}]
    it.endpoint.answer = status(200, {"choices": choices, "usage": usage_of(10, 130_050)})
    answer, _ = await it.ask(asked(stream=False))
    assert answer.cost == 10 + 130_050 * 10


async def test_a_whole_answer_that_tells_no_usage_costs_what_it_holds_if_that_is_more(it: Scene) -> None:
    it.endpoint.answer = status(200, {"choices": [{"message": {"content": "x" * 64_000}}]})
    answer, _ = await it.ask(asked(stream=False))
    assert answer.cost == WORST + (1000 - 16) * 10


async def test_embeddings_that_bill_more_are_paid_in_full(it: Scene) -> None:
    it.endpoint.answer = good(prompt=5000)
    answer, _ = await it.ask(CloudCall("embeddings", {"input": "x"}, prompt_tokens_bound=1))
    assert (answer.reserved, answer.cost) == (1, 5000 + 2 * 10)


async def test_several_answers_may_have_their_limit_each(it: Scene) -> None:
    def both(text: str, finish: str | None = None) -> list[bytes]:
        return [
            chunk("m", {"content": text}, finish).replace(b'"index": 0', b'"index": %d' % n) for n in (0, 1)
        ]

    it.endpoint.answer = raw_stream(*both("word") * 45, *both("", "stop"), usage_chunk("m", 1, 90), DONE)
    cost, received = await settled(it, body={**HELLO, "n": 2})
    assert (cost, received.count(b'"word"')) == (1 + 90 * 10, 90)


async def test_an_upstream_without_a_price_is_held_to_what_the_client_said(it: Scene) -> None:
    free = msgspec.structs.replace(it.upstream, price=None)
    it.endpoint.answer = good(["word"] * 1000)
    cost, received = await settled(it, free)
    assert (cost, b"beyond the limit of 16" in received) == (0, True)
    async with it.cloud.open(free, call()) as answer:
        assert answer.events is not None
        assert sum([b'"word"' in event async for event in answer.events]) == 1000


async def test_what_the_record_on_disk_says_is_what_was_settled(tmp_path: Path) -> None:
    async with scene(tmp_path) as it:
        it.endpoint.answer = raw_stream(WORD, STOP, *(usage_chunk("m", 10, n) for n in (130_050, 2)), DONE)
        await settled(it, msgspec.structs.replace(it.upstream, price=PRICE))
    with contextlib.closing(sqlite3.connect(tmp_path / "spend.db")) as base:
        assert any("1300510" in line for line in base.iterdump())


# An end that is not said -----------------------------------------------------------------------------------


@pytest.mark.parametrize("then", ["silence", "cut", "end"])
async def test_after_its_finish_an_answer_ends_by_itself_and_is_good(it: Scene, then: str) -> None:
    it.endpoint.answer = raw_stream(WORD, STOP, usage_chunk("m", 10, 2), then=then)
    assert await settled(it) == (10 + 2 * 10, WORD + STOP + DONE)
    assert it.count("ok") == 1


async def test_after_its_finish_nothing_that_says_nothing_holds_it_open(it: Scene) -> None:
    async def chatter(seen: Seen, send: Send) -> None:
        await raw_stream(WORD, STOP)(seen, _open(send))
        while True:
            await send({"type": "http.response.body", "body": usage_chunk("m", 1, 1), "more_body": True})
            await asyncio.sleep(0.05)

    it.endpoint.answer = chatter
    assert (await settled(it))[1] == WORD + STOP + DONE
    assert it.count("ok") == 1


def _open(send: Send) -> Send:
    async def unended(message: dict[str, object]) -> None:
        await send({**message, "more_body": True} if message["type"] == "http.response.body" else message)

    return unended


async def test_one_of_two_answers_that_has_its_end_is_no_end(it: Scene) -> None:
    it.endpoint.answer = raw_stream(WORD, STOP, then="silence")
    cost, received = await settled(it, body={**HELLO, "n": 2})
    assert b"fell silent" in received
    assert cost == 2 * WORST
