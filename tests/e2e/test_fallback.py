"""Fallback to an upstream, end to end: a real gateway, and a scripted endpoint behind its upstreams."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.cloud.endpoint import (
    Answer,
    Endpoint,
    Seen,
    Send,
    good,
    hang_up,
    more,
    serving,
    start_stream,
    status,
)
from tests.e2e.gateway import Gateway, free_port, running, write_registry
from tests.registry.conftest import Folder

pytestmark = [pytest.mark.process, pytest.mark.timeout(180)]

WAYS = [
    ("chat/completions", False),
    ("chat/completions", True),
    ("completions", False),
    ("completions", True),
    ("embeddings", False),
]


async def keepalive(seen: Seen, send: Send) -> None:
    """Alive for ever, and never an answer."""
    if seen.body.get("stream"):
        await start_stream(send)
    else:
        await send({"type": "http.response.start", "status": 200, "headers": []})
    while True:
        await more(send, b": keepalive\n\n" if seen.body.get("stream") else b" ")
        await asyncio.sleep(0.05)


BAD: dict[str, Answer] = {
    "keepalive": keepalive,
    "hangup": hang_up,
    "broken": status(500),
    "limited": status(429, retry_after="60"),
}
"""How the endpoint answers, by the model that it is asked for; every other one is good."""


async def by_model(seen: Seen, send: Send) -> None:
    await BAD.get(seen.body["model"], good())(seen, send)


LOCAL = {
    "busy": "fail=hang_load",
    "cold": "load_ms=60000",
    "crash": "fail=exit_decode:1",
    "unloadable": "fail=load",
}
LOCAL |= {"huge": f"weights={2**40}", "fine": ""}


@dataclass(frozen=True, slots=True)
class Split:
    gateway: Gateway
    endpoint: Endpoint

    async def ask(self, model: str, path: str, stream: bool, **headers: str) -> httpx2.Response:
        said: dict[str, Any] = {"chat/completions": {"messages": [{"role": "user", "content": "hi"}]}}
        said |= {"completions": {"prompt": "hi"}, "embeddings": {"input": "hi"}}
        body = {"model": model, **said[path]}
        if path != "embeddings":
            body |= {"max_tokens": 8, "stream": stream}
        post = self.gateway.http.post
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return await asyncio.to_thread(post, f"/v1/{path}", json=body, headers=names)

    async def falls_back(self, model: str, reason: str, **headers: str) -> None:
        """In every way that there is to ask."""
        for path, stream in WAYS:
            before = self.gateway.total("router_fallbacks_total", reason=reason)
            answer = await self.ask(model, path, stream, **headers)
            assert answer.status_code == 200, answer.text
            assert served_by(answer) == "big", answer.text
            assert self.endpoint.seen[-1].path == f"/v1/{path}"
            assert self.endpoint.seen[-1].body["model"] == "gpt"
            assert complete(answer, path, stream)
            assert self.gateway.total("router_fallbacks_total", reason=reason) == before + 1


def served_by(answer: httpx2.Response) -> str:
    """In a header, or where the status line went out before anybody had answered, in a comment."""
    if name := answer.headers.get("x-router-served-by"):
        return str(name)
    return answer.text.partition("served-by=")[2].split()[0]


def complete(answer: httpx2.Response, path: str, stream: bool) -> bool:
    if path == "embeddings":
        return bool(answer.json()["data"][0]["embedding"] == [1.0, 0.0])
    if not stream:
        return bool(answer.json()["choices"][0]["message"]["content"] == "Hello")
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
    words = [c["delta"].get("content", "") for line in lines[:-1] for c in json.loads(line)["choices"]]
    return "".join(words) == "Hello" and lines[-1] == "[DONE]"


@contextlib.asynccontextmanager
async def split(tmp_path: Path) -> AsyncIterator[Split]:
    files = Folder(tmp_path)
    async with serving(Endpoint(by_model)) as endpoint:
        there: dict[str, Any] = {"base_url": endpoint.url, "allow_private": True}
        quick = {"first_byte": "300ms", "idle": "300ms", "total": "2s"}
        paid = {"price": {"input": 1, "output": 1}}
        cloud: dict[str, Any] = {name: {**there, "model": name, "timeouts": quick} for name in BAD}
        cloud |= {
            "big": {**there, **paid, "model": "gpt"},
            "poor": {**there, **paid, "model": "poor", "budget": {"day": 0.000001}},
            "nobody": {**there, "model": "x", "base_url": f"http://127.0.0.1:{free_port()}/v1"},
        }
        path = write_registry(
            tmp_path / "registry.yaml",
            {
                name: {"path": str(files.model(f"{name}?{script}")), "cloud": "fallback", "fallback": ["big"]}
                for name, script in LOCAL.items()
            },
            devices={"host": {"budget": "4GiB"}},
            limits={"backoff": "100ms", "max_waiting_per_model": 1, "failures": 100},
            cloud=cloud,
            routes={
                f"first-{name}": {"candidates": [name, "big", "fine"]} for name in (*BAD, "poor", "nobody")
            },
        )
        starting = running(path, tmp_path, "--backend", "echo")
        gateway = await asyncio.to_thread(starting.__enter__)
        try:
            yield Split(gateway, endpoint)
        finally:
            await asyncio.to_thread(starting.__exit__, None, None, None)


async def test_a_local_model_that_refuses_more_waiters(tmp_path: Path) -> None:
    async with split(tmp_path) as it, asyncio.TaskGroup() as tasks:
        # It waits for a load that never ends, so that the queue of one is full.
        waits = tasks.create_task(
            it.ask("busy", "completions", False, x_router_max_wait="60", x_router_local_only="true")
        )
        await asyncio.to_thread(it.gateway.until, lambda: it.gateway.total("router_waiting_requests") == 1)
        await it.falls_back("busy", "refused")
        assert not waits.done()
        it.gateway.process.terminate()
        await asyncio.wait({waits})
        assert waits.result().json()["error"]["code"] == "shutting_down"


async def test_a_local_model_that_is_cold_and_overdue(tmp_path: Path) -> None:
    async with split(tmp_path) as it:
        await it.falls_back("cold", "deadline", x_router_max_wait="0.3")


async def test_a_local_model_that_crashes_before_its_first_token(tmp_path: Path) -> None:
    async with split(tmp_path) as it:
        await it.falls_back("crash", "crash")


@pytest.mark.parametrize(("model", "reason"), [("huge", "memory"), ("unloadable", "load")])
async def test_a_local_model_over_the_budget_of_memory_or_that_cannot_be_loaded(
    tmp_path: Path, model: str, reason: str
) -> None:
    async with split(tmp_path) as it:
        await it.falls_back(model, reason)


async def test_an_upstream_over_its_budget_of_money(tmp_path: Path) -> None:
    async with split(tmp_path) as it:
        await it.falls_back("first-poor", "budget")
        assert {seen.body["model"] for seen in it.endpoint.seen} == {"gpt"}


@pytest.mark.parametrize("name", [*BAD, "nobody"])
async def test_an_upstream_that_refuses_fails_or_never_says_a_word(tmp_path: Path, name: str) -> None:
    async with split(tmp_path) as it:
        await it.falls_back(f"first-{name}", "upstream")


async def test_back_to_a_local_model_when_no_upstream_is_left(tmp_path: Path) -> None:
    async with split(tmp_path) as it:
        it.endpoint.answer = status(500)
        for path, stream in WAYS:
            answer = await it.ask("first-nobody", path, stream)
            assert served_by(answer).startswith("fine#")
