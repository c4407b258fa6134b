"""A request's body: weighed before it is decoded, so that no body stalls the loop."""

from __future__ import annotations

import asyncio
import gc
import json
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.api import body
from router.api.body import MOST_CONTAINERS, MOST_KEYS, MOST_MEMBERS, SMALL, weigh
from router.api.errors import BodyTooLarge
from tests.scene import A, Scene, scene

LARGEST = 8 * 2**20
JSON = st.recursive(
    st.none() | st.integers() | st.text(st.sampled_from('a"\\,:[{}é\n')),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.sampled_from('a"\\,:[')), inner),
)


@given(JSON, st.integers(1, 7))
def test_pieces_count_what_the_whole_holds(value: Any, size: int) -> None:
    text = json.dumps(value, ensure_ascii=False).encode()
    count = body._Count()
    for start in range(0, len(text), size):
        count.read(text[start : start + size])
    bare = re.sub(rb'"(?:[^"\\]|\\.)*"', b"", text, flags=re.DOTALL)
    assert (count._members, count._keys, count._containers) == (
        bare.count(b","),
        bare.count(b":"),
        bare.count(b"{") + bare.count(b"["),
    )


@pytest.mark.parametrize(
    ("item", "most"), [("1", MOST_MEMBERS), ("[]", MOST_CONTAINERS), ('"a":1', MOST_KEYS)], ids=str
)
async def test_a_body_may_hold_so_many_values_and_no_more(item: str, most: int) -> None:
    opening, closing = ("{", "}") if ":" in item else ("[", "]")
    pad = " " * SMALL

    def of(count: int) -> bytes:
        return (pad + opening + ",".join([item] * count) + closing).encode()

    await weigh(of(most - 1))
    with pytest.raises(BodyTooLarge, match="too many values"):
        await weigh(of(most + 2))


async def test_megabytes_of_text_that_looks_like_values_are_text() -> None:
    quoted = json.dumps({"messages": [{"role": "user", "content": '[{"a":1},' * 500_000}]}).encode()
    assert len(quoted) > 4 * 2**20
    await weigh(quoted)


def filled(before: str, item: str, after: str, count: int | None = None, between: str = ",") -> bytes:
    """`item` again and again: `count` times, or as often as the largest body holds it."""
    room = LARGEST - len(before) - len(after)
    return (before + between.join([item] * (count or room // len(item + between))) + after).encode()


TURN = '{"role":"user","content":"hello there"}'
CHAT = '{"model":"b","messages":['
ONE = f"{CHAT}{TURN}],"
TEXT = f'{CHAT}{{"role":"user","content":"'
PARTS = f'{CHAT}{{"role":"user","content":['
PROMPT = '{"model":"b","prompt":['

CHATS: dict[str, bytes] = {
    "text": filled(TEXT, "a", '"}]}', between=""),
    "line ends": filled(TEXT, r"\n", '"}]}', between=""),
    "quotes": filled(TEXT, r"\"", '"}]}', between=""),
    "100,000 messages": filled(CHAT, TURN, "]}", 100_000),
    "19,000 messages": filled(CHAT, TURN, "]}", 19_000),
    "empty messages": filled(CHAT, '{"role":"user","content":""}', "]}"),
    "parts": filled(PARTS, '{"type":"text","text":""}', "]}]}"),
    "19,000 parts": filled(PARTS, '{"type":"text","text":""}', "]}]}", 19_000),
    "deep": b"[" * 4_000_000 + b"]" * 4_000_000,
    "deep in a field": filled(ONE + '"x":', "[", "}", between=""),
    "tools": filled(ONE + '"tools":[', "{}", "]}"),
    "19,000 tools": filled(ONE + '"tools":[', "{}", "]}", 19_000),
    "tool choices": filled(ONE + '"tool_choice":[', "[]", "]}"),
    "a schema": filled(ONE + '"json_schema":[', "[]", "]}"),
    "a format": filled(ONE + '"response_format":{', '"a":1', "}}"),
    "biases": filled(ONE + '"logit_bias":{', '"1":1', "}}", 65_000),
    "stops": filled(ONE + '"stop":[', '""', "]}"),
    "500,000 stops": filled(ONE + '"stop":[', '""', "]}", 500_000),
    "unknown fields": filled("{", '"k":1', "}", 65_000),
    "models": filled("{", '"model":1', "}"),
    "65,000 models": filled("{", '"model":1', "}", 65_000),
    "a model of lists": filled('{"model":[', "[]", "]}"),
    "a model of 19,000 lists": filled('{"model":[', "[]", "]}", 19_000),
    "a number": filled(ONE + '"seed":', "9", "}", between=""),
}
OTHERS: dict[str, tuple[str, bytes]] = {
    "token ids": ("completions", filled(PROMPT, "1", "]}")),
    "500,000 token ids": ("completions", filled(PROMPT, "1", "]}", 500_000)),
    "prompts": ("completions", filled(PROMPT, '""', "]}")),
    "500,000 prompts": ("completions", filled(PROMPT, '""', "]}", 500_000)),
    "lists of none": ("completions", filled(PROMPT, "[]", "]}")),
    "lists of tokens": (
        "embeddings",
        filled('{"model":"b","input":[', f"[{','.join(['1'] * 280)}]", "]}", 2048),
    ),
}
HOSTILE = {name: ("chat/completions", sent) for name, sent in CHATS.items()} | OTHERS


async def longest_turn(house: Scene, path: str, sent: bytes) -> tuple[float, int | None]:
    """The most processor seconds for which the loop did not come round, and the answer's status."""
    longest, over = 0.0, False

    async def watch() -> None:
        nonlocal longest
        at = time.thread_time()
        while not over:
            await asyncio.sleep(0)
            before, at = at, time.thread_time()
            longest = max(longest, at - before)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(watch())
        call = await house.ask("POST", f"/v1/{path}", sent)
        over = True
    return longest, call.status


@pytest.fixture
def heap_of_a_gateway() -> Iterator[None]:
    """A test session's heap takes the collector long; the gateway freezes its own (`spare_the_collector`)."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("heap_of_a_gateway")
@pytest.mark.parametrize("name", HOSTILE)
async def test_g20_no_body_keeps_the_loop_for_50_ms(name: str) -> None:
    path, sent = HOSTILE[name]
    assert len(sent) <= LARGEST
    async with scene() as house:
        found = [await longest_turn(house, path, sent) for _ in range(3)]
    assert {status for _, status in found} <= {200, 400, 413}
    assert min(seconds for seconds, _ in found) < 0.05


@pytest.mark.usefixtures("heap_of_a_gateway")
async def test_g20_the_largest_embedding_answer_keeps_the_loop_for_no_50_ms() -> None:
    async with scene() as house:
        await house.ask("POST", "/v1/embeddings", {"model": A.name, "input": "x"})
        house.launcher.worker().dimensions = 2048
        sent = json.dumps({"model": A.name, "input": ["x"] * 2048}).encode()
        seconds, status = min([await longest_turn(house, "embeddings", sent) for _ in range(2)])
        assert status == 200
        assert seconds < 0.05


async def test_bodies_that_wait_are_bounded_in_all_and_count_no_longer_when_they_are_answered() -> None:
    async with scene(max_bodies=1500) as house:
        gate = asyncio.Event()
        house.launcher.scripts[A.name] = [[gate, "a"], ["b"]]
        waiting = house.call("POST", "/v1/completions", {"model": A.name, "prompt": "x" * 1000})
        await asyncio.sleep(0)
        refused = await house.ask("POST", "/v1/completions", {"model": A.name, "prompt": "x" * 1000})
        assert (refused.status, refused.error["code"]) == (429, "queue_full")
        assert "retry-after" in refused.headers
        gate.set()
        await waiting.done()
        assert waiting.status == 200
        again = await house.ask("POST", "/v1/completions", {"model": A.name, "prompt": "x" * 1000})
        assert again.status == 200
