"""What a client sees of answers from beyond this machine, and of who answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from router.domain import errors
from router.domain.upstreams import Budget
from router.registry.loader import Key
from tests.api.beyond import Split, split
from tests.cloud.endpoint import event, good, raw_stream, silence, status, usage_of
from tests.scene import until

TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]


@pytest.fixture
async def house() -> AsyncIterator[Split]:
    async with split() as running:
        yield running


async def test_a_cloud_model_is_picked_by_name_and_says_who_it_is_and_what_it_cost(house: Split) -> None:
    call = await house.chat("big")
    assert call.status == 200
    assert call.json["choices"][0]["message"]["content"] == "Hello"
    assert call.json["model"] == "gpt-big"
    assert call.headers["x-router-served-by"] == "big"
    assert call.headers["x-router-attempts"] == "1"
    assert call.headers["x-router-cost-usd"] == "0.000030"  # 10 tokens in at 1, 2 out at 10 USD a million
    assert house.scene.total("router_requests_total", model="big", code="200", finish="stop") == 1


async def test_a_stream_is_the_upstreams_own_bytes_and_tells_its_cost_before_done(house: Split) -> None:
    odd = event({"choices": [{"index": 0, "delta": {"tool_calls": [{"x": "\u00e4"}]}}], "custom": {"a": [1]}})
    last = event({"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]})
    usage = event({"choices": [], "usage": usage_of(10, 2)})
    house.endpoint.answer = raw_stream(odd, last, usage, b"data: [DONE]\n\n")
    call = await house.chat("big", stream=True, stream_options={"include_usage": True})
    assert call.text.encode() == odd + last + usage + b": cost-usd=0.000030\n\ndata: [DONE]\n\n"
    assert call.headers["x-router-served-by"] == "big"
    assert call.headers["content-type"] == "text/event-stream"
    assert house.scene.total("router_requests_total", model="big", finish="length") == 1


async def test_an_alias_of_a_route_leads_to_its_candidates_and_the_answer_names_them(house: Split) -> None:
    call = await house.chat("gpt")
    assert call.json["model"] == "open"
    assert call.headers["x-router-served-by"].startswith("open#")
    house.launcher.broken["open"] = "no memory"
    await house.scene.ask("POST", "/unload")
    call = await house.chat("gpt")
    assert (call.headers["x-router-served-by"], call.headers["x-router-attempts"]) == ("big", "2")


async def test_a_model_falls_back_to_what_it_names(house: Split) -> None:
    house.launcher.broken["open"] = "no memory"
    assert (await house.chat("default")).headers["x-router-served-by"] == "big"


async def test_a_model_that_says_never_falls_back_to_nobody(house: Split) -> None:
    house.launcher.broken["shut"] = "no memory"
    call = await house.chat("private")
    assert (call.status, call.error["code"]) == (503, "model_load_failed")
    assert house.endpoint.seen == []


@pytest.mark.parametrize(
    "field",
    [
        {"structured_outputs": {"regex": "a+"}},
        {"reasoning_effort": "none"},
        {"chat_template_kwargs": {"enable_thinking": False}},
        {"logprobs": True, "top_logprobs": 2},
        {"response_format": {"type": "json_object"}, "future": [1]},
        {"messages": [{"role": "function", "name": "f", "content": "42"}]},
    ],
    ids=lambda field: next(iter(field)),
)
async def test_a_field_that_only_local_models_refuse_reaches_the_upstream_as_it_is(
    house: Split, field: dict[str, object]
) -> None:
    call = await house.chat("chat", **field)
    assert (call.status, call.headers["x-router-served-by"]) == (200, "big")
    assert field.items() <= house.endpoint.seen[0].body.items()
    refused = await house.chat("inside", **field)
    assert refused.status == 400 and refused.error["param"].split("[")[0] in field
    assert house.scene.total("router_fallbacks_total", reason="unsupported") >= 1


async def test_a_limit_under_llama_servers_name_holds_at_an_upstream_too(house: Split) -> None:
    for said, sent in ({"n_predict": 7}, 7), ({"n_predict": 7, "max_tokens": 5}, 5):
        assert (await house.chat("big", **said)).status == 200
        body = house.endpoint.seen[-1].body
        assert "n_predict" not in body
        assert {body.get("max_tokens"), body.get("max_completion_tokens")} == {sent, None}
    assert (await house.chat("big", n_predict=0)).error["param"] == "n_predict"
    assert (await house.chat("big", n_predict=-1)).status == 200
    assert (await house.chat("big", n_cmpl=2)).status == 200
    assert (house.endpoint.seen[-1].body["n"], "n_cmpl" in house.endpoint.seen[-1].body) == (2, False)


@pytest.mark.parametrize("stream", [False, True])
async def test_what_local_models_cannot_do_goes_to_the_upstream_of_the_route(
    house: Split, stream: bool
) -> None:
    call = await house.chat("chat", tools=TOOLS, stream=stream)
    assert (call.status, call.headers["x-router-served-by"]) == (200, "big")
    assert house.endpoint.seen[0].body["tools"] == TOOLS
    call = await house.chat("inside", tools=TOOLS, stream=stream)
    assert (call.status, call.error["param"]) == (400, "tools")


@pytest.mark.parametrize("how", ["header", "metadata", "effort"])
async def test_accuracy_is_asked_for_by_request(house: Split, how: str) -> None:
    headers = {"x-router-accuracy": "high"} if how == "header" else {}
    fields = {
        "header": {},
        "metadata": {"metadata": {"accuracy": "high"}},
        "effort": {"reasoning_effort": "high"},
    }
    assert (await house.chat("chat", headers=headers, **fields[how])).headers["x-router-served-by"] == "big"
    assert (await house.chat("chat")).headers["x-router-served-by"].startswith("open")
    assert (
        (await house.chat("shut", headers=headers, **fields[how]))
        .headers["x-router-served-by"]
        .startswith("shut")
    )
    assert len(house.endpoint.seen) == 1


@pytest.mark.parametrize(
    ("headers", "fields"),
    [({"x-router-local-only": "1"}, {}), ({}, {"provider": {"data_collection": "deny"}})],
)
async def test_a_client_may_forbid_what_the_operator_allows(
    house: Split, headers: dict[str, str], fields: dict[str, object]
) -> None:
    call = await house.chat("big", headers=headers, **fields)
    assert (call.status, call.error["code"]) == (403, "cloud_forbidden")
    house.launcher.broken["open"] = "no memory"
    assert (await house.chat("chat", headers=headers, **fields)).status == 503
    assert (await house.chat("open", provider={"allow_fallbacks": False})).status == 503
    assert house.endpoint.seen == []


async def test_a_key_without_cloud_stays_here() -> None:
    key = Key("al", "2bd806c97f0e00af1a1fc3328fa763a9269723c8db8fac4f93af71db186d6e90", ("*",), cloud=False)
    async with split(keys=(key,)) as house:
        call = await house.chat("big", headers={"authorization": "Bearer alice"})
        assert (call.status, call.error["code"]) == (403, "cloud_forbidden")
        assert house.endpoint.seen == []


async def test_a_spent_budget_is_a_clear_refusal_or_the_next_candidate() -> None:
    async with split(budget=Budget(day=1)) as house:
        call = await house.chat("big")
        assert (call.status, call.error["code"]) == (429, "over_budget")
        assert (await house.chat("smart")).headers["x-router-served-by"].startswith("open")
        assert house.endpoint.seen == []


async def test_a_request_that_would_wait_too_long_spills_and_is_still_served_here_when_the_cloud_is_down(
    house: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        type(house.scene.house.residency), "expected_wait", lambda _, model: 5.1, raising=False
    )
    call = await house.chat("eager")
    assert (call.headers["x-router-served-by"], call.headers["x-router-attempts"]) == ("big", "1")
    assert house.scene.total("router_spills_total", model="eager", reason="cold") == 1
    await until(lambda: house.launcher.workers)  # for the next requests
    house.endpoint.answer = status(500)
    call = await house.chat("eager")
    assert call.headers["x-router-served-by"].startswith("eager#")
    assert call.headers["x-router-attempts"] == "3"
    monkeypatch.setattr(
        type(house.scene.house.residency), "expected_wait", lambda _, model: 4.9, raising=False
    )
    assert (await house.chat("eager")).headers["x-router-attempts"] == "1"


async def test_a_stream_that_breaks_ends_with_our_error_and_not_with_done(house: Split) -> None:
    piece = event({"choices": [{"index": 0, "delta": {"content": "Hel"}}]})
    house.endpoint.answer = raw_stream(piece, then="cut")
    call = await house.chat("big", stream=True)
    assert call.status == 200
    assert call.data[0]["choices"][0]["delta"]["content"] == "Hel"
    assert call.data[-1]["error"]["code"] == "upstream_broken"
    assert "[DONE]" not in call.text
    assert house.scene.total("router_requests_total", model="big", finish="error") == 1


async def test_what_an_upstream_says_against_the_request_is_told_as_it_said_it(house: Split) -> None:
    said = {
        "error": {"message": "bad tool", "type": "invalid_request_error", "code": "bad", "param": "tools"}
    }
    house.endpoint.answer = status(422, said)
    call = await house.chat("smart", tools=TOOLS)
    assert (call.status, call.error["code"], call.error["param"]) == (422, "bad", "tools")
    assert "bad tool" in call.error["message"]


async def test_while_an_upstream_is_silent_a_stream_says_whom_it_waits_for(house: Split) -> None:
    async with split(commit_seconds=0.0, comment_seconds=0.05) as quick:
        quick.endpoint.answer = silence
        call = await quick.chat("big", stream=True)
        assert "waiting for big" in call.comments
        assert call.data[-1]["error"]["code"] == "upstream_unavailable"


async def test_a_client_that_leaves_ends_the_relay(house: Split) -> None:
    house.endpoint.answer = good(["word"] * 1000, pause=0.01)
    body = {"model": "big", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
    call = house.scene.call("POST", "/v1/chat/completions", body)
    await call.until("word")
    call.leave()
    await call.done()
    async with asyncio.timeout(2):
        while not house.endpoint.left:
            await asyncio.sleep(0.01)
    assert house.scene.total("router_requests_total", model="big", finish="left") == 1


async def test_embeddings_are_relayed_and_fall_back_alike(house: Split) -> None:
    call = await house.scene.ask("POST", "/v1/embeddings", {"model": "big", "input": "x"})
    assert call.json["data"][0]["embedding"] == [1.0, 0.0]
    assert call.headers["x-router-served-by"] == "big"
    house.launcher.broken["open"] = "no memory"
    call = await house.scene.ask("POST", "/v1/embeddings", {"model": "chat", "input": "x"})
    assert (call.headers["x-router-served-by"], call.headers["x-router-attempts"]) == ("big", "2")


async def test_completions_with_several_prompts_are_answered_by_whoever_answers_the_first(
    house: Split,
) -> None:
    body = {"model": "chat", "prompt": ["a", "b", "c"]}
    call = await house.scene.ask("POST", "/v1/completions", body)
    assert [c["text"] for c in call.json["choices"]] == ["Hello world"] * 3
    house.launcher.scripts["open"] = [[errors.LoadFailed("no")]]
    await house.scene.ask("POST", "/unload")
    call = await house.scene.ask("POST", "/v1/completions", {**body, "stream": True})
    assert call.headers["x-router-served-by"] == "big"
    assert house.endpoint.seen[0].body["prompt"] == ["a", "b", "c"]


async def test_a_route_or_an_upstream_cannot_be_loaded(house: Split) -> None:
    for name in ("chat", "big"):
        call = await house.scene.ask("POST", "/models/load", {"model": name})
        assert (call.status, call.error["param"]) == (400, "model")


async def test_a_key_over_its_rate_is_told_when_to_come_back() -> None:
    key = Key("al", "2bd806c97f0e00af1a1fc3328fa763a9269723c8db8fac4f93af71db186d6e90", ("*",), rpm=1)
    async with split(keys=(key,)) as house:
        headers = {"authorization": "Bearer alice"}
        assert (await house.chat("open", headers=headers)).status == 200
        call = await house.chat("open", headers=headers)
        assert (call.status, call.error["code"]) == (429, "rate_limit_exceeded")
        assert 0 < int(call.headers["retry-after"]) <= 60


@pytest.mark.parametrize(
    "body", [b'{"model": "big", "messages": [], "max_tokens": -5}', b'{"model": "big", "n": 10.5}']
)
async def test_a_body_that_makes_no_sense_leaves_nothing(house: Split, body: bytes) -> None:
    call = await house.scene.ask("POST", "/v1/chat/completions", body)
    assert call.status == 400
    assert house.endpoint.seen == []


HOSTILE = {
    "deep": b"[" * 950 + b"]" * 950,
    "deeper": b'{"a":' * 990 + b"1" + b"}" * 990,
    "surrogate": b'"\\ud800"',
    "huge int": b"9" * 5000,
    "large int": b"123456789012345678901234567890",
    "huge float": b"1e999",
    "nan": b"NaN",
    "same key twice": b'{"a": 1, "a": 2}',
    "not utf-8": b'"\xff"',
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_hostile_field_is_passed_on_whole_or_refused_and_never_a_500(house: Split, name: str) -> None:
    body = b'{"model": "big", "messages": [{"role": "user", "content": "Hi"}], "x": ' + HOSTILE[name] + b"}"
    call = await house.scene.ask("POST", "/v1/chat/completions", body)
    assert call.status in (200, 400), call.text
    assert len(house.endpoint.seen) == (call.status == 200)
