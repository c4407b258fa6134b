"""What the access log of a real gateway says of requests that were refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import echo
from tests.e2e.gateway import Gateway

pytestmark = pytest.mark.process

HI = [{"role": "user", "content": "Hi"}]
CHAT = {"model": "quick", "messages": HI, "max_tokens": 1}
EMBED = {"model": "quick", "input": "Hi"}
LONG = "word " * 20_000


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    log = tmp_path / "gateway.log"
    with log.open("wb") as out:
        with echo.serving(echo.registry(tmp_path), stdout=out, stderr=out) as running:
            running.wait()
            yield running


def line_of(gateway: Gateway, request: str) -> dict[str, Any]:
    """The access log's line of a request."""
    found: list[dict[str, Any]] = []

    def logged() -> bool:
        lines = [json.loads(text) for text in gateway.log.read_text().splitlines() if request in text]
        found[:] = [line for line in lines if line["event"] == "request" and line["request"] == request]
        return bool(found)

    gateway.until(logged)
    assert len(found) == 1
    return found[0]


def test_the_line_of_a_refused_request_has_the_field_and_the_code(gateway: Gateway) -> None:
    cases: list[tuple[str, Any, int, str | None, str | None]] = [
        ("chat/completions", {**CHAT, "min_tokens": 3}, 400, "min_tokens", None),
        ("chat/completions", {**CHAT, "min_tokens": 3, "stream": True}, 400, "min_tokens", None),
        ("chat/completions", {**CHAT, "temperature": 9}, 400, "temperature", None),
        ("chat/completions", {**CHAT, "temperature": "hot"}, 400, "temperature", None),
        ("chat/completions", {**CHAT, "model": "nobody"}, 404, "model", "model_not_found"),
        (
            "chat/completions",
            {**CHAT, "messages": [{"role": "user", "content": LONG}]},
            400,
            "messages",
            "context_length_exceeded",
        ),
        ("completions", {"model": "quick", "prompt": "Hi", "logprobs": 0}, 400, "logprobs", None),
        (
            "completions",
            {"model": "quick", "prompt": LONG, "stream": True},
            400,
            "prompt",
            "context_length_exceeded",
        ),
        ("embeddings", {**EMBED, "input_type": "query"}, 400, "input_type", None),
        ("embeddings", {**EMBED, "input": ["a", LONG]}, 400, "input[1]", "context_length_exceeded"),
        ("nowhere", {}, 404, None, "not_found"),
    ]
    for number, (path, body, status, param, code) in enumerate(cases):
        answer = gateway.http.post(f"/v1/{path}", json=body, headers={"x-request-id": f"case-{number}"})
        error = answer.json()["error"]
        assert (answer.status_code, error["param"], error["code"]) == (status, param, code), body
        line = line_of(gateway, f"case-{number}")
        assert (line["status"], line["param"], line["code"]) == (status, param, code)


def test_the_line_of_an_answer_has_neither(gateway: Gateway) -> None:
    headers = {"x-request-id": "good"}
    assert gateway.http.post("/v1/chat/completions", json=CHAT, headers=headers).status_code == 200
    assert line_of(gateway, "good").keys().isdisjoint({"param", "code"})
