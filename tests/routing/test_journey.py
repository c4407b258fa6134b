"""Candidate after candidate, until one has begun to answer: real rooms, fake workers, a scripted endpoint."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from router.cloud.calls import CloudCall
from router.domain import errors
from router.domain.generation import GenerationRequest, TextPrompt
from router.domain.upstreams import Timeouts, Upstream
from router.routing import failover
from router.routing.dispatch import Answer
from router.routing.journey import Asked, Relayed
from router.routing.plan import Plan
from router.routing.route import Candidate
from tests.cloud.endpoint import Endpoint, good, raw_stream, serving, silence, status
from tests.scene import A, B, Scene, scene, until

REQUEST = GenerationRequest("g1", TextPrompt("Hi"))
BODY = {"model": "ours", "messages": [{"role": "user", "content": "hi"}]}
QUICK = Timeouts(connect=0.5, first_byte=0.3, idle=0.3)


class House:
    def __init__(self, running: Scene, endpoint: Endpoint) -> None:
        self.scene = running
        self.endpoint = endpoint
        self.big = Upstream("big", endpoint.url, "gpt", allow_private=True, timeouts=QUICK)
        self.journeys = running.house.journeys
        self.tried: list[str] = []

    def open(self, *candidates: Candidate, private: bool = False) -> Any:
        asked = Asked(
            lambda model: self.scene.house.dispatcher.generate(model, REQUEST),
            lambda: CloudCall("chat/completions", BODY, stream=True),
            lambda candidate: self.tried.append(candidate.name),
        )
        return self.journeys.open(Plan("r", candidates, private=private), asked)

    async def words(self, *candidates: Candidate) -> tuple[str, str, int]:
        """What was said, by whom, in how many attempts."""
        async with self.open(*candidates) as answer:
            match answer:
                case Answer():
                    text = "".join([delta.text async for delta in answer.deltas])
                case Relayed(answer=relayed):
                    assert relayed.events is not None
                    text = b"".join([event async for event in relayed.events]).decode()
            return text, answer.served_by, answer.attempts


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with serving(Endpoint()) as endpoint, scene() as running:
        yield House(running, endpoint)


async def test_the_first_candidate_answers_and_nobody_else_hears_of_it(house: House) -> None:
    text, by, attempts = await house.words(A, house.big)
    assert (text, attempts) == ("Hello world", 1)
    assert by.startswith(A.name)
    assert house.endpoint.seen == []


async def test_an_upstream_answers_with_its_own_bytes(house: House) -> None:
    text, by, attempts = await house.words(house.big, A)
    assert (by, attempts) == ("big", 1)
    assert text.endswith("data: [DONE]\n\n")
    assert house.endpoint.seen[0].body["model"] == "gpt"
    assert house.scene.launcher.workers == {}


@pytest.mark.parametrize(
    "error",
    [
        errors.LeaseTimeout("late"),
        errors.QueueFull("full"),
        errors.DoesNotFit("large"),
        errors.LoadFailed("no"),
    ],
)
async def test_a_local_model_that_cannot_answer_is_followed_by_the_next_candidate(
    house: House, error: errors.RouterError
) -> None:
    house.scene.launcher.scripts[A.name] = [[error]]
    text, by, attempts = await house.words(A, house.big)
    assert (by, attempts) == ("big", 2)
    assert "[DONE]" in text
    assert house.tried == [A.name, "big"]
    reason = failover.reason(error)
    assert reason is not None
    assert house.scene.total("router_fallbacks_total", reason=reason) == 1


async def test_a_model_that_crashes_twice_before_its_first_word_is_followed_by_the_next(house: House) -> None:
    house.scene.launcher.scripts[A.name] = [[errors.WorkerCrashed("gone")]]
    assert (await house.words(A, B))[1:] == ("b#3", 3)


async def test_a_model_that_cannot_be_loaded_is_followed_by_the_next(house: House) -> None:
    house.scene.launcher.broken[A.name] = "no such file"
    assert (await house.words(A, house.big))[1] == "big"


@pytest.mark.parametrize(
    "answer", [status(500), status(429), status(401), silence], ids=["500", "429", "401", "silence"]
)
async def test_an_upstream_that_is_down_or_slow_is_followed_by_the_local_model(
    house: House, answer: Any
) -> None:
    house.endpoint.answer = answer
    text, by, attempts = await house.words(house.big, A)
    assert (text, attempts) == ("Hello world", len(house.endpoint.seen) + 1)
    assert by.startswith(A.name)


@pytest.mark.parametrize(
    "error", [errors.InvalidRequest("bad"), errors.ContextOverflow(1, 2), errors.ShuttingDown("bye")]
)
async def test_a_fault_of_the_request_ends_it(house: House, error: errors.RouterError) -> None:
    house.scene.launcher.scripts[A.name] = [[error]]
    with pytest.raises(type(error)):
        await house.words(A, house.big)
    assert house.endpoint.seen == []


async def test_what_an_upstream_finds_wrong_with_the_request_ends_it(house: House) -> None:
    house.endpoint.answer = status(400)
    with pytest.raises(errors.UpstreamRefused):
        await house.words(house.big, A)
    assert house.scene.launcher.workers == {}


async def test_after_the_first_token_nothing_is_tried_again(house: House) -> None:
    house.scene.launcher.scripts[A.name] = [["Hello", errors.WorkerCrashed("gone")]]
    with pytest.raises(errors.WorkerCrashed):
        await house.words(A, house.big)
    assert house.endpoint.seen == []

    async def cut(seen: Any, send: Any) -> None:
        await raw_stream(b'data: {"choices": [{"index": 0, "delta": {"content": "x"}}]}\n\n', then="cut")(
            seen, send
        )

    house.endpoint.answer = cut
    with pytest.raises(errors.UpstreamBroken):
        await house.words(house.big, B)
    assert house.scene.launcher.workers.keys() == {A.name}


async def test_when_all_fail_the_error_is_of_whoever_can_be_asked_again_soonest(house: House) -> None:
    house.scene.launcher.scripts[A.name] = [[errors.QueueFull("full", 3.0)]]
    house.endpoint.answer = status(429, retry_after="100")
    with pytest.raises(errors.QueueFull):
        await house.words(A, house.big)
    with pytest.raises(errors.QueueFull):
        await house.words(house.big, A)


async def test_a_second_try_at_an_upstream_is_counted_too(house: House) -> None:
    house.endpoint.answer = status(503)
    async with house.open(house.big, A) as answer:
        assert answer.attempts == len(house.endpoint.seen) + 1 == 3


async def test_a_private_request_is_refused_where_bytes_leave_also_if_the_plan_were_wrong(
    house: House,
) -> None:
    with pytest.raises(errors.PolicyRefused):
        async with house.open(house.big, A, private=True):
            pass
    assert house.endpoint.seen == []


async def test_leaving_ends_the_answer_wherever_it_comes_from(house: House) -> None:
    house.endpoint.answer = good(["word"] * 1000, pause=0.01)
    async with house.open(house.big) as answer:
        await anext(answer.answer.events)
    await until_left(house.endpoint)


async def test_what_the_user_of_an_answer_raises_is_no_failure_of_the_candidate(house: House) -> None:
    with pytest.raises(errors.LoadFailed):
        async with house.open(A, house.big):
            raise errors.LoadFailed("mine")
    assert house.tried == [A.name]


async def test_at_shutdown_relays_run_on_for_a_while_and_then_end_with_an_error(house: House) -> None:
    house.endpoint.answer = good(["word"] * 1000, pause=0.01)

    async def listen() -> None:
        async with house.open(house.big) as answer:
            async for _ in answer.answer.events:
                pass

    async with asyncio.TaskGroup() as tasks:
        listening = tasks.create_task(settled(listen()))
        await until(lambda: house.endpoint.seen)
        closing = tasks.create_task(house.journeys.shut_down(0.2))
        await asyncio.sleep(0.05)
        assert not listening.done()
        with pytest.raises(errors.ShuttingDown):
            await house.words(house.big)
        await closing
    assert isinstance(listening.result(), errors.ShuttingDown)
    await house.journeys.shut_down(10)  # nothing runs: no wait


async def settled(work: Any) -> Exception | None:
    try:
        await work
    except Exception as error:
        return error
    return None


async def until_left(endpoint: Endpoint) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(2):
            while not endpoint.left:
                await asyncio.sleep(0.01)
    assert endpoint.left == 1
