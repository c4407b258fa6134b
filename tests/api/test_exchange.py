"""A generation meets a connection: every way out is told to the client, counted once, and frees its slot."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator

import httpx2
import pytest

from router.domain.errors import ContextOverflow, InvalidRequest, WorkerCrashed
from router.domain.generation import Delta, FinishReason, Usage
from router.domain.models import Footprint, Limits
from tests.api.door import served
from tests.local import resized
from tests.scene import A, B, Call, Scene, chat_body, scene, until


@pytest.fixture
async def house() -> AsyncIterator[Scene]:
    async with scene() as running:
        yield running


def outcomes(house: Scene) -> dict[tuple[str, str, str], float]:
    """(model, code, finish) -> count."""
    samples = (s for m in house.house.metrics.registry.collect() for s in m.samples)
    return {
        (s.labels["model"], s.labels["code"], s.labels["finish"]): s.value
        for s in samples
        if s.name == "router_requests_total"
    }


def leases(house: Scene) -> int:
    return sum(i.leases for i in house.house.residency.view().instances)


def stream(house: Scene, **fields: object) -> Call:
    return house.call("POST", "/v1/chat/completions", chat_body(stream=True, **fields))


async def test_each_outcome_is_counted_once(house: Scene) -> None:
    cut = Delta("x", 1, FinishReason.LENGTH, Usage(3, 1))
    house.launcher.scripts[A.name] = [
        ["Hello"],
        [cut],
        [InvalidRequest("no", "messages")],
        ["a", WorkerCrashed("x")],
    ]
    for _ in range(4):
        await house.chat(stream=True)
    await house.chat(model="nobody")
    await house.ask("POST", "/v1/chat/completions", b"{")
    assert outcomes(house) == {
        (A.name, "200", "stop"): 1,
        (A.name, "200", "length"): 1,
        (A.name, "400", "error"): 1,
        (A.name, "200", "error"): 1,
        ("unknown", "404", "error"): 1,
        ("unknown", "400", "error"): 1,
    }
    assert leases(house) == 0


async def test_text_of_the_last_delta_is_sent_before_the_end(house: Scene) -> None:
    house.launcher.scripts[A.name] = [[Delta("all", 1, FinishReason.LENGTH, Usage(3, 1))]]
    *chunks, _ = (await house.chat(stream=True)).data
    assert [c["choices"][0]["delta"] for c in chunks[1:]] == [{"content": "all"}, {}]
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"


async def test_a_refusal_before_the_first_word_is_a_real_error_with_a_time_to_come_back() -> None:
    async with scene(limits=Limits(max_waiting=1)) as house:
        house.launcher.gates[A.name] = asyncio.Event()
        first = stream(house)
        await until(lambda: house.house.residency.view().waiting)
        refused = await house.chat(stream=True)
        assert (refused.status, refused.error["code"]) == (429, "queue_full")
        assert 1 <= int(refused.headers["retry-after"]) <= 120
        house.launcher.gates[A.name].set()
        await first.done()
        assert first.data[-1] == "[DONE]"


async def test_a_load_whose_client_left_does_not_hold_up_the_next_one(house: Scene) -> None:
    house.launcher.gates[A.name] = asyncio.Event()  # never opened
    async with (
        served(house) as url,
        httpx2.AsyncClient(base_url=url, trust_env=False, timeout=30) as http,
        asyncio.TaskGroup() as tasks,
    ):
        leaving = tasks.create_task(http.post("/v1/chat/completions", json=chat_body()))
        await until(lambda: house.house.residency.view().instances)
        leaving.cancel()
        answer = await http.post("/v1/chat/completions", json=chat_body(model=B.name))
        assert answer.status_code == 200
    assert house.house.residency.view().failed == {}


async def test_a_model_that_never_fits_is_not_worth_a_retry() -> None:
    huge = resized(B, Footprint(101))
    async with scene(A, huge) as house:
        call = await house.chat(model="b")
    assert (call.status, call.error["code"]) == (503, "insufficient_vram")
    assert call.headers["x-should-retry"] == "false"
    assert "retry-after" not in call.headers


async def test_a_model_that_other_processes_leave_no_memory_for_is_worth_a_retry() -> None:
    async with (
        scene(A, resized(B, Footprint(101))) as house,
        served(house) as url,
        httpx2.AsyncClient(base_url=url, trust_env=False, timeout=30) as http,
    ):
        house.house.residency.device_free({"host": 50})  # of the 60 that it needs
        answer = await http.post("/v1/chat/completions", json=chat_body())
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "insufficient_vram_now")
        assert "other processes" in answer.json()["error"]["message"]
        assert answer.headers["retry-after"] == "120"
        assert "x-should-retry" not in answer.headers
        large = await http.post("/v1/chat/completions", json=chat_body(model=B.name))
        assert large.json()["error"]["code"] == "insufficient_vram"
        house.house.residency.device_free({"host": 100})
        assert (await http.post("/v1/chat/completions", json=chat_body())).status_code == 200


async def test_a_long_wait_is_committed_to_200_and_filled_with_what_it_waits_for() -> None:
    async with scene(commit_seconds=0, comment_seconds=0.001) as house:
        house.launcher.gates[A.name] = asyncio.Event()
        call = stream(house)
        await call.until(f": loading {A.name} 40%, about ")
        assert call.status == 200
        assert "x-router-served-by" not in call.headers
        house.launcher.gates[A.name].set()
        await call.done()
        facts = next(c for c in call.comments if c.startswith("served-by="))
        assert f"served-by={A.name}" in facts
        assert "queue-ms=" in facts
        assert call.data[-1] == "[DONE]"


async def test_a_failure_after_the_commit_is_an_error_event_and_no_done() -> None:
    async with scene(commit_seconds=0) as house:
        house.launcher.gates[A.name] = asyncio.Event()
        house.launcher.broken[A.name] = "the file is cut off"
        call = stream(house)
        await call.until(": loading")
        house.launcher.gates[A.name].set()
        await call.done()
        (error,) = call.data
        assert error["error"]["code"] == "model_load_failed"
        assert call.complete


async def test_a_crash_before_the_first_word_is_not_seen_by_the_client(house: Scene) -> None:
    house.launcher.scripts[A.name] = [[WorkerCrashed("gone")], ["Hello"]]
    call = await house.chat(stream=True)
    assert call.status == 200
    assert call.headers["x-router-attempts"] == "2"
    assert call.data[-1] == "[DONE]"
    assert len(house.launcher.workers[A.name]) == 2


async def test_a_crash_after_the_first_word_is_an_error_event_and_no_done(house: Scene) -> None:
    house.launcher.scripts[A.name] = [["Hello", WorkerCrashed("The worker died.")]]
    call = await house.chat(stream=True)
    assert call.data[-1] == {
        "error": {
            "message": "The process that answered ended before its answer was complete. "
            f"The operator's log has the reason under request {call.headers['x-request-id']}.",
            "type": "server_error",
            "param": None,
            "code": "worker_crashed",
        }
    }
    assert call.complete
    assert len(house.launcher.workers[A.name]) == 1


async def test_a_crash_in_the_middle_of_a_whole_answer_is_502(house: Scene) -> None:
    house.launcher.scripts[A.name] = [["Hello", WorkerCrashed("The worker died.")]]
    call = await house.chat()
    assert (call.status, call.error["code"]) == (502, "worker_crashed")


@pytest.mark.parametrize("streamed", [False, True])
async def test_too_long_a_prompt_is_said_in_the_words_that_agents_match(house: Scene, streamed: bool) -> None:
    house.launcher.scripts[A.name] = [[ContextOverflow(4096, 5000)]]
    call = await house.chat(stream=streamed)
    assert (call.status, call.error["code"]) == (400, "context_length_exceeded")
    assert call.error["message"] == (
        "This model's maximum context length is 4096 tokens. However, your messages resulted in 5000 tokens."
    )


async def test_a_bug_of_ours_is_a_500_that_names_the_request_and_nothing_else(house: Scene) -> None:
    house.launcher.scripts[A.name] = [[Delta("x")], []]

    class Bug(Exception):
        pass

    def explode(*_: object) -> None:
        raise Bug("/secret/path")

    house.house.dispatcher.generate = explode  # type: ignore[method-assign,assignment]
    for streamed in (False, True):
        call = await house.chat(stream=streamed)
        assert (call.status, call.error["code"]) == (500, "internal_error")
        assert call.headers["x-request-id"] in call.error["message"]
        assert "secret" not in call.text


async def test_a_client_that_leaves_while_it_waits_frees_its_place_at_once(house: Scene) -> None:
    house.launcher.gates[A.name] = asyncio.Event()
    call = stream(house)
    await until(lambda: house.house.residency.view().waiting)
    call.leave()
    await call.done()
    assert house.house.residency.view().waiting == {}
    assert outcomes(house) == {(A.name, "499", "left"): 1}


async def test_a_client_that_leaves_while_it_is_answered_frees_its_slot(house: Scene) -> None:
    house.launcher.scripts[A.name] = [["Hello", asyncio.Event()]]
    call = stream(house)
    await call.until("Hello")
    assert leases(house) == 1
    call.leave()
    await call.done()
    assert leases(house) == 0
    assert house.launcher.worker().running == 0
    assert outcomes(house) == {(A.name, "200", "left"): 1}


async def test_a_reader_that_leaves_the_tail_lying_holds_no_slot(house: Scene) -> None:
    call = house.call("POST", "/v1/completions", {"model": "b", "prompt": "x", "stream": True}, deaf=True)
    house.launcher.scripts["b"] = [["Hello"]]
    await call.until("Hello")
    for _ in range(50):
        await asyncio.sleep(0)
    assert leases(house) == 0
    call.leave()
    await call.done()


async def test_a_gateway_that_is_stopped_counts_what_it_cut(house: Scene) -> None:
    house.launcher.scripts[A.name] = [["Hello", asyncio.Event()]]
    call = stream(house)
    await call.until("Hello")
    call.cancel()
    await call.done()
    assert leases(house) == 0
    assert sum(outcomes(house).values()) == 1


async def test_a_silent_stream_says_what_it_waits_for_then_how_far_its_prompt_is_then_that_it_is_answered() -> (
    None
):
    async with scene(commit_seconds=0, comment_seconds=0.001) as house:
        load, begin, end = (asyncio.Event() for _ in range(3))
        house.launcher.gates[A.name] = load
        house.launcher.scripts[A.name] = [[0.4, begin, "Hello", end]]
        call = stream(house)
        await call.until(f": loading {A.name}")
        load.set()
        await call.until(": reading the prompt, 40 %")
        begin.set()
        await call.until("Hello")
        await call.until(": writing the answer")
        end.set()
        await call.done()
    order = [re.sub(r"\W.*", "", comment) for comment in call.comments]
    assert list(dict.fromkeys(order)) == ["loading", "reading", "served", "writing"]
