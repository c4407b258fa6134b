"""The cloud as the rooms above see it: begun, refused, tried again, given back."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import msgspec
import pytest

from router.cloud.breaker import State
from router.domain.errors import PolicyRefused, UpstreamBroken, UpstreamRefused, UpstreamUnavailable
from router.domain.upstreams import Budget, Upstream
from tests.cloud.endpoint import Endpoint, chunk, good, hang_up, in_turn, raw_stream, serving, silence, status
from tests.cloud.scene import HELLO, PRICE, call, scene


async def test_a_stream_comes_as_the_upstream_sent_it(tmp_path: Path) -> None:
    odd = b'event: x\r\ndata: {"choices": [{"delta": {"tool_calls": [7]}}], "vendor":{"a" :1}}\r\n\r\n'
    last = chunk("gpt-big", {}, "stop")
    async with scene(tmp_path) as it:
        it.endpoint.answer = raw_stream(b": hello\n\n", odd[:9], odd[9:], last + b"data: [DONE]\n\n")
        answer, received = await it.ask(call())
    assert received == odd + last + b"data: [DONE]\n\n"
    assert (answer.status, answer.served_by, answer.finish, answer.model) == (200, "big", "stop", "gpt-big")
    assert (answer.cost, it.count("ok")) == (0, 1)


async def test_usage_is_always_asked_for_and_passed_on_only_to_those_who_asked(tmp_path: Path) -> None:
    async with scene(tmp_path) as it:
        silent, unasked = await it.ask(call())
        told, asked = await it.ask(call(body={**HELLO, "stream_options": {"include_usage": True}}))
    assert silent.usage == told.usage is not None
    assert b'"usage"' not in unasked
    assert b'"completion_tokens": 2' in asked


async def test_a_whole_answer_comes_byte_for_byte(tmp_path: Path) -> None:
    async with scene(tmp_path) as it:
        answer, received = await it.ask(call(stream=False))
    assert json.loads(received)["choices"][0]["message"]["content"] == "Hello"
    assert answer.usage is not None and answer.usage.prompt_tokens == 10
    assert "stream" not in it.endpoint.seen[0].body


async def test_what_may_not_leave_is_refused_and_nothing_leaves(tmp_path: Path) -> None:
    async with scene(tmp_path) as it:
        with pytest.raises(PolicyRefused, match="may not leave"):
            await it.ask(call(private=True))
    assert (it.endpoint.seen, it.count("forbidden")) == ([], 1)


async def test_a_call_that_failed_before_its_first_byte_is_tried_once_more_unseen(tmp_path: Path) -> None:
    async with scene(tmp_path) as it:
        it.endpoint.answer = in_turn(status(503), good())
        answer, received = await it.ask(call())
    assert (answer.attempts, len(it.endpoint.seen)) == (2, 2)
    assert b"[DONE]" in received
    assert (it.count("status"), it.count("ok")) == (1, 1)


async def test_a_hung_up_connection_is_tried_again_and_then_given_up(tmp_path: Path) -> None:
    async with scene(tmp_path) as it:
        it.endpoint.answer = hang_up
        with pytest.raises(UpstreamUnavailable) as caught:
            await it.ask(call())
    assert (caught.value.reason, caught.value.tries, len(it.endpoint.seen)) == ("cut", 2, 2)


@pytest.mark.parametrize("answer", [silence, status(400), status(401), status(429, retry_after="60")])
async def test_what_a_second_try_would_not_change_is_not_tried_again(tmp_path: Path, answer: object) -> None:
    async with scene(tmp_path) as it:
        it.endpoint.answer = answer  # type: ignore[assignment]
        with pytest.raises((UpstreamUnavailable, UpstreamRefused)):
            await it.ask(call())
    assert len(it.endpoint.seen) == 1


async def test_a_short_retry_after_is_waited_for(tmp_path: Path) -> None:
    async with scene(tmp_path) as it:
        it.endpoint.answer = in_turn(status(429, retry_after="0.2"), good())
        began = asyncio.get_running_loop().time()
        answer, _ = await it.ask(call())
        assert asyncio.get_running_loop().time() - began >= 0.2
    assert answer.attempts == 2


async def test_after_five_failures_it_is_left_alone_and_a_probe_brings_it_back(tmp_path: Path) -> None:
    now = 100.0
    async with scene(tmp_path, clock=lambda: now) as it:
        it.endpoint.answer = status(500)
        for _ in range(4):
            with pytest.raises(UpstreamUnavailable):
                await it.ask(call())
        # The budget of retries (3 here) ended with the third call; the breaker with the fifth failure.
        (view,) = it.cloud.views()
        assert (view.breaker, view.retry_after, len(it.endpoint.seen)) == (State.OPEN, 10.0, 5)
        it.endpoint.answer = good()
        with pytest.raises(UpstreamUnavailable) as caught:
            await it.ask(call())
        assert (caught.value.reason, caught.value.retry_after) == ("open", 10.0)
        assert len(it.endpoint.seen) == 5
        now += 10.0
        assert it.cloud.view(it.upstream).breaker is State.HALF_OPEN
        await it.ask(call())
        assert it.cloud.view(it.upstream).breaker is State.CLOSED


async def test_leaving_early_stops_the_upstream_and_costs_the_worst_case(tmp_path: Path) -> None:
    async with scene(tmp_path) as it:
        it.endpoint.answer = good(["word"] * 100, pause=0.05)
        upstream = msgspec.structs.replace(it.upstream, price=PRICE, budget=Budget(day=10**6))
        async with it.cloud.open(upstream, call(max_tokens=50, prompt_tokens_bound=7)) as answer:
            assert answer.events is not None
            await anext(aiter(answer.events))
            assert (answer.cost, answer.reserved) == (None, 507)
        assert answer.cost == 507
        async with asyncio.timeout(2):
            while not it.endpoint.left:
                await asyncio.sleep(0.01)
    assert it.count("left") == 1


async def test_a_reader_who_stops_at_done_has_read_it_all(tmp_path: Path) -> None:
    async with scene(tmp_path) as it:
        upstream = msgspec.structs.replace(it.upstream, price=PRICE)
        async with it.cloud.open(upstream, call()) as answer:
            assert answer.events is not None
            async for event in answer.events:
                if b"[DONE]" in event:
                    assert answer.cost == 10 * 1 + 2 * 10
                    break
    assert it.count("ok") == 1


async def test_connections_are_used_again(tmp_path: Path) -> None:
    ports: set[str] = set()
    async with scene(tmp_path) as it:

        class Watching(Endpoint):
            async def __call__(self, scope, receive, send):  # type: ignore[no-untyped-def]
                ports.add(scope["client"][1])
                await super().__call__(scope, receive, send)

        async with serving(Watching()) as endpoint:
            upstream = msgspec.structs.replace(it.upstream, base_url=endpoint.url)
            for stream in (True, False, True):
                await it.ask(call(stream), upstream)
    assert len(ports) == 1


async def test_a_removed_upstream_is_forgotten_when_its_last_call_is_over(tmp_path: Path) -> None:
    async with scene(tmp_path) as it:
        it.cloud.reconcile({"big": it.upstream})
        async with it.cloud.open(it.upstream, call()) as answer:
            it.cloud.reconcile({})
            assert it.cloud.views() == ()
            assert answer.events is not None
            received = [event async for event in answer.events]
            assert received[-1] == b"data: [DONE]\n\n"
            assert it.count("ok") == 1
        assert b'upstream="big"' not in it.metrics.render()


async def test_a_broken_stream_counts_against_the_upstream(tmp_path: Path) -> None:
    async with scene(tmp_path) as it:
        it.endpoint.answer = raw_stream(chunk("m", {"content": "a"}), then="cut")
        for _ in range(5):
            with pytest.raises(UpstreamBroken):
                await it.ask(call())
        assert it.cloud.view(it.upstream).breaker is State.OPEN
    assert it.count("broken") == 5


async def test_a_peer_tells_what_is_resident(tmp_path: Path) -> None:
    async with scene(tmp_path) as it:
        assert await it.cloud.models(it.upstream) == {"m": "loaded", "also-m": "loaded"}
        it.endpoint.answer = status(200, [1])
        with pytest.raises(UpstreamUnavailable):
            await it.cloud.models(it.upstream)
        nobody = Upstream("nobody", "http://127.0.0.1:9/v1", "m", allow_private=True)
        with pytest.raises(UpstreamUnavailable, match="cannot be reached"):
            await it.cloud.models(nobody)
