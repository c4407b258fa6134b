"""What OpenAI's clients see: answers whole and streamed, lists, embeddings."""

from __future__ import annotations

import asyncio
import base64
import struct
from collections.abc import AsyncIterator

import msgspec
import pytest

from router.domain.generation import ChatPrompt, Message, TextPrompt, TokenPrompt
from router.domain.models import SamplingDefaults
from tests.scene import A, B, Scene, chat_body, scene, until


@pytest.fixture
async def house() -> AsyncIterator[Scene]:
    async with scene() as running:
        yield running


async def test_a_chat_is_answered_whole(house: Scene) -> None:
    call = await house.chat("Hi", temperature=0)
    assert call.status == 200
    answer = call.json
    assert answer["object"] == "chat.completion"
    assert answer["model"] == A.name
    assert answer["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hello world", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert answer["usage"] == {
        "prompt_tokens": 7,
        "completion_tokens": 2,
        "total_tokens": 9,
        "prompt_tokens_details": {"cached_tokens": 5},
    }
    (request,) = house.launcher.worker().requests
    assert request.prompt == ChatPrompt((Message("user", "Hi"),))
    assert request.sampling.temperature == 0
    assert answer["id"] in request.id


async def test_every_generation_says_who_served_it_and_what_it_waited_for(house: Scene) -> None:
    for stream in (False, True):
        headers = (await house.chat(stream=stream)).headers
        assert headers["x-router-served-by"].startswith(A.name)
        assert headers["x-router-attempts"] == "1"
        assert headers["x-router-queue-ms"].isdigit()
        assert headers["x-router-load-ms"].isdigit()
        assert headers["x-request-id"]


async def test_a_stream_has_the_shape_that_all_clients_read(house: Scene) -> None:
    call = await house.chat(stream=True, stream_options={"include_usage": True})
    assert call.headers["content-type"] == "text/event-stream"
    assert call.headers["cache-control"] == "no-cache"
    assert call.headers["x-accel-buffering"] == "no"
    *chunks, usage, done = call.data
    assert all({"id", "object", "created", "model", "choices"} <= chunk.keys() for chunk in chunks)
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert [chunk["choices"][0]["delta"] for chunk in chunks] == [
        {"role": "assistant", "content": ""},
        {"content": "Hello"},
        {"content": " world"},
        {},
    ]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, None, "stop"]
    assert usage["choices"] == []
    assert usage["usage"]["total_tokens"] == 9
    assert done == "[DONE]"
    assert call.complete


async def test_without_include_usage_a_stream_has_no_usage_chunk(house: Scene) -> None:
    chunks = (await house.chat(stream=True)).data[:-1]
    assert all(chunk["choices"] for chunk in chunks)


async def test_an_alias_and_the_path_without_v1_reach_the_same_model(house: Scene) -> None:
    call = await house.ask("POST", "/chat/completions", chat_body(model="default"))
    assert call.json["model"] == A.name


async def test_completions_take_text_tokens_and_several_prompts(house: Scene) -> None:
    body = {"model": "b", "prompt": ["one", "two"], "max_tokens": 3}
    answer = (await house.ask("POST", "/v1/completions", body)).json
    assert answer["object"] == "text_completion"
    assert [(c["index"], c["text"]) for c in answer["choices"]] == [(0, "Hello world"), (1, "Hello world")]
    assert answer["usage"]["completion_tokens"] == 4
    await house.ask("POST", "/v1/completions", {**body, "prompt": [1, 2, 3]})
    await house.ask("POST", "/v1/completions", {**body, "prompt": [[4], [5, 6]]})
    prompts = [r.prompt for r in house.launcher.worker(B).requests]
    assert prompts == [
        TextPrompt("one"),
        TextPrompt("two"),
        TokenPrompt((1, 2, 3)),
        TokenPrompt((4,)),
        TokenPrompt((5, 6)),
    ]


async def test_streamed_completions_count_their_prompts_by_index(house: Scene) -> None:
    body = {"model": "b", "prompt": ["one", "two"], "stream": True}
    *chunks, done = (await house.ask("POST", "/v1/completions", body)).data
    assert done == "[DONE]"
    said = [
        (c["choices"][0]["index"], c["choices"][0]["text"], c["choices"][0]["finish_reason"]) for c in chunks
    ]
    assert said == [
        (0, "Hello", None),
        (0, " world", None),
        (0, "", "stop"),
        (1, "Hello", None),
        (1, " world", None),
        (1, "", "stop"),
    ]


async def test_the_models_own_params_stand_where_the_request_says_nothing() -> None:
    model = msgspec.structs.replace(A, params=SamplingDefaults(temperature=0.1, top_k=3, max_tokens=9))
    async with scene(model) as house:
        await house.chat(top_k=5)
        (request,) = house.launcher.worker().requests
    assert (request.sampling.temperature, request.sampling.top_k, request.sampling.max_tokens) == (0.1, 5, 9)


async def test_embeddings_come_as_numbers_or_as_base64(house: Scene) -> None:
    body = {"model": A.name, "input": ["one", "two"]}
    call = await house.ask("POST", "/v1/embeddings", body)
    assert [e["embedding"] for e in call.json["data"]] == [[1.0, 0.0, 0.5]] * 2
    assert call.json["usage"] == {"prompt_tokens": 4, "total_tokens": 4}
    assert call.headers["x-router-served-by"].startswith(A.name)
    packed = (await house.ask("POST", "/v1/embeddings", {**body, "encoding_format": "base64"})).json
    assert struct.unpack("<3f", base64.b64decode(packed["data"][1]["embedding"])) == (1.0, 0.0, 0.5)


async def test_embeddings_of_other_dimensions_are_refused(house: Scene) -> None:
    body = {"model": A.name, "input": "one", "dimensions": 3}
    assert (await house.ask("POST", "/v1/embeddings", body)).status == 200
    call = await house.ask("POST", "/v1/embeddings", {**body, "dimensions": 2})
    assert call.status == 400
    assert call.error["param"] == "dimensions"


async def test_the_list_of_models_wakes_none_of_them(house: Scene) -> None:
    for path in ("/v1/models", "/models"):
        answer = (await house.ask("GET", path)).json
        assert answer["object"] == "list"
        assert [(m["id"], m["status"]["value"]) for m in answer["data"]] == [
            (A.name, "unloaded"),
            (B.name, "unloaded"),
        ]
    assert house.launcher.workers == {}


async def test_one_model_is_found_by_a_name_with_slashes_and_colons(house: Scene) -> None:
    await house.chat()
    for path in ("/v1/models/org/a:q4", "/models/org/a:q4", "/v1/models/default"):
        entry = (await house.ask("GET", path)).json
        assert entry["id"] == A.name
        assert entry["status"] == {"value": "loaded"}
        assert entry["context_length"] == A.engine.context
        assert entry["aliases"] == ["default"]
    assert (await house.ask("GET", "/v1/models/nobody")).error["code"] == "model_not_found"


async def test_a_broken_model_file_is_listed_as_failed_with_its_reason() -> None:
    broken = msgspec.structs.replace(B, problem="no such file: /b")
    async with scene(A, broken) as house:
        entries = (await house.ask("GET", "/v1/models")).json["data"]
        call = await house.chat(model="b")
    assert entries[1]["status"] == {"value": "failed", "failed": True, "error": "no such file: /b"}
    assert call.status == 503
    assert "cannot be loaded now" in call.error["message"]
    assert "/b" not in call.text


async def test_a_client_that_leaves_while_it_waits_for_a_whole_answer_frees_its_place(house: Scene) -> None:
    house.launcher.gates[A.name] = asyncio.Event()
    call = house.call("POST", "/v1/chat/completions", chat_body())
    await until(lambda: house.house.residency.view().waiting)
    call.leave()
    await call.done()
    assert house.house.residency.view().waiting == {}
    assert call.messages == []
    assert house.total("router_requests_total", finish="left", code="499", model=A.name) == 1


async def test_a_client_that_leaves_during_a_whole_answer_stops_it(house: Scene) -> None:
    house.launcher.scripts[A.name] = [["Hello", asyncio.Event()]]
    call = house.call("POST", "/v1/chat/completions", chat_body())
    await until(lambda: A.name in house.launcher.workers and house.launcher.worker().running)
    call.leave()
    await call.done()
    assert house.launcher.worker().running == 0
    assert sum(i.leases for i in house.house.residency.view().instances) == 0
