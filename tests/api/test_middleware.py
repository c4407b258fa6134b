"""What every request passes through."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

import pytest
from structlog.testing import capture_logs

from router.api import errors
from router.api.middleware import BodyLimit, Outermost
from router.registry.loader import Key
from tests.scene import A, B, Call, chat_body, scene


def key(name: str, secret: str, *models: str) -> Key:
    return Key(name=name, sha256=hashlib.sha256(secret.encode()).hexdigest(), models=models)


KEYS = (key("alice", "s3cret-a", "*"), key("bob", "s3cret-b", "b"))
ALICE = {"authorization": "Bearer s3cret-a"}
BOB = {"x-api-key": "s3cret-b"}


async def test_a_sane_request_id_is_kept_and_any_other_replaced() -> None:
    async with scene() as house:
        kept = await house.ask("GET", "/livez", headers={"x-request-id": "my-id.7"})
        assert kept.headers["x-request-id"] == "my-id.7"
        for bad in ("", "a b", "x" * 65, "a\nb"):
            replaced = await house.ask("GET", "/livez", headers={"x-request-id": bad})
            assert len(replaced.headers["x-request-id"]) == 32


async def test_one_line_a_request_with_no_credential_and_no_body() -> None:
    async with scene(keys=KEYS) as house:
        with capture_logs() as lines:
            await house.ask(
                "POST",
                "/v1/chat/completions",
                chat_body("my secret words"),
                headers=ALICE,
                query="key=s3cret-q",
            )
            await house.ask("GET", "/v1/models", headers={"authorization": "Bearer wrong-s3cret"})
    requests = [line for line in lines if line["event"] == "request"]
    assert [(r["status"], r["model"], r["key"], r["path"]) for r in requests] == [
        (200, A.name, "alice", "/v1/chat/completions"),
        (401, None, None, "/v1/models"),
    ]
    assert "secret" not in str(lines).replace("s3cret", "secret").replace("/secret", "")


async def test_g19_no_credential_of_a_client_reaches_a_worker() -> None:
    async with scene(keys=KEYS) as house:
        for path in ("chat/completions", "completions"):
            asked = chat_body() if path.startswith("chat") else {"model": A.name, "prompt": "Hi"}
            more = {"user": "al", "metadata": {"key": "not a secret of ours"}}
            headers = {**ALICE, "x-api-key": "s3cret-a", "cookie": "s3cret-a"}
            answer = await house.ask(
                "POST", f"/v1/{path}", {**asked, **more}, headers=headers, query="s3cret-a"
            )
            assert answer.status == 200
        requests = house.launcher.worker().requests
    assert len(requests) == 2
    assert "s3cret" not in repr(requests)


async def test_where_the_registry_has_keys_everything_but_probes_needs_one() -> None:
    async with scene(keys=KEYS) as house:
        for path in ("/livez", "/readyz", "/health"):
            assert (await house.ask("GET", path)).status == 200
        for path in (
            "/",
            "/v1/models",
            "/metrics",
            "/running",
            "/openapi.json",
            "/nowhere",
            "/livez/x",
            "/livezz",
        ):
            refused = await house.ask("GET", path)
            assert (refused.status, refused.error["code"]) == (401, "invalid_api_key")
        assert (await house.ask("GET", "/unload")).status == 401


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer"},
        {"authorization": "Bearer "},
        {"authorization": "Basic s3cret-a"},
        {"authorization": "s3cret-a"},
        {"authorization": "Bearer s3cret-A"},
        {"x-api-key": ""},
        {"x-api-key": KEYS[0].sha256},
    ],
    ids=str,
)
async def test_a_wrong_key_is_401(headers: dict[str, str]) -> None:
    async with scene(keys=KEYS) as house:
        assert (await house.ask("GET", "/v1/models", headers=headers)).status == 401


@pytest.mark.parametrize(
    "headers",
    [ALICE, {"authorization": "bearer  s3cret-a"}, {"x-api-key": "s3cret-a"}, {"api-key": "s3cret-a"}],
    ids=str,
)
async def test_a_right_key_is_taken_from_any_of_the_headers(headers: dict[str, str]) -> None:
    async with scene(keys=KEYS) as house:
        assert (await house.ask("GET", "/v1/models", headers=headers)).status == 200


async def test_a_key_reaches_only_its_models() -> None:
    async with scene(keys=KEYS) as house:
        listed = (await house.ask("GET", "/v1/models", headers=BOB)).json["data"]
        assert [m["id"] for m in listed] == ["b"]
        for name in (A.name, "default"):
            refused = await house.ask("POST", "/v1/chat/completions", chat_body(model=name), headers=BOB)
            assert (refused.status, refused.error["code"]) == (404, "model_not_found")
            assert (await house.ask("POST", "/models/load", {"model": name}, headers=BOB)).status == 404
        served = await house.ask("POST", "/v1/chat/completions", chat_body(model="b"), headers=BOB)
        assert served.status == 200
        assert house.launcher.workers.keys() == {B.name}


async def test_a_refused_key_is_counted_too() -> None:
    async with scene(keys=KEYS) as house:
        await house.chat()
        assert house.total("router_requests_total", code="401", model="unknown", finish="error") == 1


async def test_two_hosts_are_one_too_many() -> None:
    async with scene() as house:
        call = await house.ask("GET", "/livez", headers=[("host", "a"), ("host", "b")])
        assert call.status == 400
        assert "Host" in call.error["message"]


@pytest.mark.parametrize("headers", [{}, {"content-length": "1"}], ids=["streamed", "a lie"])
async def test_a_body_over_the_limit_is_refused_as_it_comes(headers: dict[str, str]) -> None:
    async with scene(max_body=100) as house:
        call = await house.ask("POST", "/v1/completions", b"x" * 101, headers=headers)
        assert (call.status, call.error["code"]) == (413, "request_too_large")


@pytest.mark.parametrize("length", ["101", "9" * 5000, "-1", "x"])
async def test_a_length_over_the_limit_is_refused_before_the_body(length: str) -> None:
    async with scene(max_body=100) as house:
        call = await house.ask(
            "POST", "/v1/completions", b"", headers={"content-length": length}, endless=True
        )
        assert call.status == 413


async def test_any_content_type_is_taken_for_json() -> None:
    async with scene() as house:
        call = await house.ask(
            "POST", "/v1/chat/completions", chat_body(), headers={"content-type": "text/plain"}
        )
        assert call.status == 200


async def limited(seconds: float, leave: bool) -> tuple[Call, list[str]]:
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            while (await receive()).get("more_body"):
                pass
        except Exception as error:
            seen.append(type(error).__name__)
            raise

    async def answering(scope: Any, receive: Any, send: Any) -> None:
        try:
            await BodyLimit(app, 100, 1000, seconds)(scope, receive, send)
        except errors.BodyTooSlow as error:
            await errors.response(error, "r1")(scope, receive, send)
        except Exception:
            return

    async with asyncio.TaskGroup() as tasks:
        call = Call(answering, tasks, "POST", "/", b"half", endless=True)
        if leave:
            call.leave()
        await call.done()
    return call, seen


async def test_a_body_that_stops_halfway_is_not_waited_for_for_ever() -> None:
    call, seen = await limited(0.01, leave=False)
    assert seen == ["BodyTooSlow"]
    assert call.status == 408


async def test_a_body_that_drips_is_not_waited_for_either() -> None:
    clock = iter(range(0, 1000, 20))
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass

    async def receive() -> Any:
        sent.append(1)
        return {"type": "http.request", "body": b"x", "more_body": True}

    async def send(message: Any) -> None:
        raise AssertionError(message)

    limit = BodyLimit(app, 100, 1000, 30.0, clock=lambda: float(next(clock)))
    with pytest.raises(errors.BodyTooSlow, match="slower than"):
        await limit({"type": "http", "headers": []}, receive, send)
    assert len(sent) == 2


async def test_a_client_that_leaves_in_its_body_is_no_error() -> None:
    call, seen = await limited(60, leave=True)
    assert seen == ["ClientLeft"]
    assert call.messages == []


async def test_a_bug_after_the_first_byte_is_logged_and_counted_and_not_sent() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise ValueError("a bug")

    async with scene() as house, asyncio.TaskGroup() as tasks:
        with capture_logs() as lines:
            outer = Outermost(app, house.house, {"/x": "chat"})
            call = Call(outer, tasks, "POST", "/x")
            await call.done()
        assert [m["type"] for m in call.messages] == ["http.response.start"]
        assert house.total("router_requests_total", code="200", finish="error") == 1
    assert [line["event"] for line in lines] == ["unexpected error", "request"]
