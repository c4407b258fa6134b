"""How a request ended, as log and counters have it, over a real socket: by what was sent last, not by who hung up first."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from structlog.testing import capture_logs

from router.api.middleware import Outermost
from router.domain.errors import ContextOverflow, WorkerCrashed
from router.domain.generation import Delta, FinishReason, Usage
from tests.api.beyond import split
from tests.api.door import served
from tests.cloud.endpoint import event, raw_stream
from tests.scene import A, Scene, chat_body, scene, until

LENGTH = [Delta("x", 1, FinishReason.LENGTH, Usage(1, 1))]
CHAT = "/v1/chat/completions"


@pytest.fixture
async def house() -> AsyncIterator[Scene]:
    async with scene(commit_seconds=0.01) as running:
        yield running


async def curl(url: str, body: object | None = None) -> str:
    command = ["curl", "--silent", "--no-buffer", "--noproxy", "*", "--max-time", "60", url]
    if body is not None:
        command += ["--header", "content-type: application/json", "--data-raw", json.dumps(body)]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    told, _ = await process.communicate()
    return told.decode()


def outcomes(house: Scene) -> Counter[tuple[str, str]]:
    """Requests of all models by status and finish."""
    found: Counter[tuple[str, str]] = Counter()
    for metric in house.house.metrics.registry.collect():
        for sample in metric.samples:
            if sample.name == "router_requests_total":
                found[sample.labels["code"], sample.labels["finish"]] += int(sample.value)
    return found


async def ended(house: Scene, path: str, body: object, lines: list[Any]) -> tuple[str, str]:
    """Status and finish of one request by curl; log line and counter have to agree."""
    before = outcomes(house)
    async with served(house) as url:
        await curl(url + path, body)
    (line,) = [line for line in lines if line["event"] == "request"]
    assert outcomes(house) - before == {(str(line["status"]), line["finish"]): 1}
    return str(line["status"]), line["finish"]


async def leaves_after(url: str, said: bytes) -> None:
    """A client that reads up to `said` and hangs up."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    body = json.dumps(chat_body(stream=True)).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nhost: {host}\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await reader.readuntil(said)
    writer.close()


@pytest.mark.parametrize("streamed", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize(
    ("script", "finish"), [(["Hello", " world"], "stop"), (LENGTH, "length")], ids=["stop", "length"]
)
async def test_an_answer_that_curl_read_to_its_end_has_not_been_left(
    house: Scene, script: list[Any], finish: str, streamed: bool
) -> None:
    house.launcher.scripts[A.name] = [script]
    with capture_logs() as lines:
        assert await ended(house, CHAT, chat_body(stream=streamed), lines) == ("200", finish)


async def test_several_prompts_end_as_the_last_one_did(house: Scene) -> None:
    house.launcher.scripts[A.name] = [["Hello"], LENGTH]
    body = {"model": A.name, "prompt": ["a", "b"], "stream": True}
    with capture_logs() as lines:
        assert await ended(house, "/v1/completions", body, lines) == ("200", "length")


async def test_embeddings_that_were_read_to_their_end_have_not_been_left(house: Scene) -> None:
    with capture_logs() as lines:
        assert await ended(house, "/v1/embeddings", {"model": "b", "input": ["a"] * 300}, lines) == (
            "200",
            "stop",
        )


async def test_a_stream_that_is_refused_is_an_error(house: Scene) -> None:
    house.launcher.scripts[A.name] = [[ContextOverflow(4096, 5000)]]
    with capture_logs() as lines:
        assert await ended(house, CHAT, chat_body(stream=True), lines) == ("400", "error")


async def test_a_stream_that_is_refused_after_its_status_line_is_an_error(house: Scene) -> None:
    gate = house.launcher.gates[A.name] = asyncio.Event()
    house.launcher.broken[A.name] = "no memory"
    with capture_logs() as lines:
        async with asyncio.TaskGroup() as tasks:
            asked = tasks.create_task(ended(house, CHAT, chat_body(stream=True), lines))
            await until(lambda: house.house.residency.view().waiting)
            await asyncio.sleep(0.05)  # past the silence that commits to 200
            gate.set()
    assert asked.result() == ("200", "error")


async def test_a_stream_that_breaks_is_an_error(house: Scene) -> None:
    house.launcher.scripts[A.name] = [["Hello", WorkerCrashed("it died")]]
    with capture_logs() as lines:
        assert await ended(house, CHAT, chat_body(stream=True), lines) == ("200", "error")


async def test_relayed_answers_that_were_read_to_their_end_have_not_been_left() -> None:
    last = event({"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]})
    async with split() as beyond:
        with capture_logs() as lines:
            whole = await ended(beyond.scene, CHAT, chat_body(model="big"), lines)
        beyond.endpoint.answer = raw_stream(last, b"data: [DONE]\n\n")
        with capture_logs() as lines:
            streamed = await ended(beyond.scene, CHAT, chat_body(model="big", stream=True), lines)
        assert (whole, streamed) == (("200", "stop"), ("200", "length"))
        assert beyond.scene.total("router_cloud_requests_total", outcome="left") == 0


async def test_a_client_that_goes_in_the_middle_has_left(house: Scene) -> None:
    house.launcher.scripts[A.name] = [["Hello", asyncio.Event()]]
    with capture_logs() as lines:
        async with served(house) as url:
            await leaves_after(url, b"Hello")
            await until(lambda: outcomes(house))
    assert outcomes(house) == {("200", "left"): 1}
    assert [line["finish"] for line in lines if line["event"] == "request"] == ["left"]


@pytest.mark.parametrize("late", [True, False], ids=["before the last byte", "after it"])
async def test_who_goes_in_the_moment_of_the_last_byte_has_left_if_it_did_not_go_out(
    house: Scene, late: bool
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["router.record"].finish = "stop"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"Hello", "more_body": True})
        while late and (await receive())["type"] != "http.disconnect":
            pass
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    house.app = Outermost(app, house.house, {CHAT: "chat"})
    async with served(house) as url:
        await leaves_after(url, b"Hello" if late else b"0\r\n\r\n")
        await until(lambda: outcomes(house))
    assert outcomes(house) == {("200", "left" if late else "stop"): 1}


@pytest.mark.parametrize("script", [LENGTH, ["Hello", WorkerCrashed("gone")]], ids=["good", "broken"])
async def test_the_end_of_a_stream_goes_out_with_its_last_event(house: Scene, script: list[Any]) -> None:
    """The openai package reads no further than [DONE] and closes: then nothing may be left to send."""
    house.launcher.scripts[A.name] = [script]
    call = house.call("POST", CHAT, chat_body(stream=True))
    await until(lambda: call.messages and not call.messages[-1].get("more_body", True))
    last = call.messages[-1]["body"]
    assert last.startswith(b'data: {"error"' if script is not LENGTH else b"data: [DONE]")


async def test_who_hangs_up_at_done_has_the_whole_answer(house: Scene) -> None:
    async with served(house) as url:
        for _ in range(8):
            await leaves_after(url, b"data: [DONE]\n\n")
        await until(lambda: sum(outcomes(house).values()) == 8)
    assert outcomes(house) == {("200", "stop"): 8}


async def test_a_request_that_we_cut_was_not_left(house: Scene) -> None:
    house.launcher.scripts[A.name] = [["Hello", asyncio.Event()]]
    call = house.call("POST", CHAT, chat_body(stream=True))
    await call.until("Hello")
    call.cancel()
    await call.done()
    assert outcomes(house) == {("200", "error"): 1}


async def test_a_fault_of_ours_in_a_stream_is_not_laid_at_its_client(
    house: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.launcher.gates[A.name] = asyncio.Event()

    def fails(*_: object) -> str:
        raise ValueError("a bug")

    monkeypatch.setattr(house.house.residency, "describe_wait", fails)
    with capture_logs() as lines:
        assert await ended(house, CHAT, chat_body(stream=True), lines) == ("200", "error")
    assert "unexpected error" in [line["event"] for line in lines]


async def test_the_openai_package_is_not_taken_for_one_that_left(house: Scene) -> None:
    async with served(house) as url:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as speaks:
            said: Any = [{"role": "user", "content": "Hi"}]
            for _ in range(3):  # one connection, kept alive
                stream = await speaks.chat.completions.create(model=A.name, messages=said, stream=True)
                assert [chunk async for chunk in stream]
            await speaks.chat.completions.create(model=A.name, messages=said)
            await speaks.embeddings.create(model="b", input="x")
    assert outcomes(house) == {("200", "stop"): 5}


async def test_who_watches_the_models_and_goes_has_left(house: Scene) -> None:
    with capture_logs() as lines:
        async with served(house) as url, openai.AsyncOpenAI(base_url=url, api_key="none") as speaks:
            async with speaks._client.stream("GET", f"{url}/models/sse") as response:
                await anext(response.aiter_lines())
            await until(lambda: any(line["event"] == "request" for line in lines))
    assert [line["finish"] for line in lines if line["event"] == "request"] == ["left"]
