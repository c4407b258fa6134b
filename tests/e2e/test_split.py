"""The split from outside: a real gateway, an endpoint that remembers every byte, and two gateways as peers."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import json
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.cloud.endpoint import Endpoint, good, serving, status
from tests.e2e.gateway import Gateway, running, write_registry
from tests.registry.conftest import Folder

pytestmark = [pytest.mark.process, pytest.mark.timeout(180)]

CANARY = "canary-of-a-request-that-stays"
CLIENT = "client-secret-4711"
BOUND = "client-secret-of-a-key-without-cloud"
OPERATOR = "operator-secret-0815"
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]


def models(folder: Path) -> dict[str, dict[str, Any]]:
    """Small files that an echo serves, or fails to: its script is the name of the file."""
    files = Folder(folder)
    scripts = {"fine": "", "unloadable": "fail=load", "crashing": "fail=exit_decode:1"}
    found: dict[str, dict[str, Any]] = {}
    for name, script in scripts.items():
        # A file each: models of the same file and options share their process.
        shut, open = (str(files.model(f"{kind}-{name}?{script}")) for kind in ("shut", "open"))
        found[f"shut-{name}"] = {"path": shut, "aliases": [f"private-{name}"]}
        found[f"open-{name}"] = {"path": open, "cloud": "fallback", "fallback": ["big"]}
    found["open-fine"] |= {"cloud": "spill", "spill": {"max_wait": "1s"}}
    return found


ASKED: dict[str, Callable[[str], dict[str, Any]]] = {
    "chat/completions": lambda text: {"messages": [{"role": "user", "content": text}], "max_tokens": 8},
    "completions": lambda text: {"prompt": text, "max_tokens": 8},
    "embeddings": lambda text: {"input": text},
}


@dataclass(frozen=True, slots=True)
class Split:
    gateway: Gateway
    endpoint: Endpoint
    answers: list[str]
    """Every byte that a client was sent, headers included."""

    async def ask(self, model: str, text: str, key: str = CLIENT, **more: Any) -> httpx2.Response:
        headers = {
            "authorization": f"Bearer {key}",
            "x-api-key": key,
            "api-key": key,
            "cookie": key,
            **more.pop("headers", {}),
        }
        path = more.pop("path", "chat/completions")
        body = {"model": model, **ASKED[path](text), **more}
        post = self.gateway.http.post
        response = await asyncio.to_thread(post, f"/v1/{path}", json=body, headers=headers)
        if text != CANARY or response.status_code != 200:  # an echo says what it was told
            self.answers.append(f"{response.headers} {response.text}")
        return response


@contextlib.asynccontextmanager
async def split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Split]:
    monkeypatch.setenv("BIG_KEY", OPERATOR)
    async with serving(Endpoint()) as endpoint:
        digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in (CLIENT, BOUND)}
        big = {"base_url": endpoint.url, "model": "gpt", "allow_private": True, "api_key": {"env": "BIG_KEY"}}
        shut = [name for name in models(tmp_path) if name.startswith("shut")]
        path = write_registry(
            tmp_path / "registry.yaml",
            models(tmp_path),
            devices={"host": {"budget": "4GiB"}},
            limits={"backoff": "100ms"},
            cloud={"big": {**big, "aliases": ["gpt-4"], "price": {"input": 1, "output": 1}}},
            routes={
                "mixed": {"candidates": ["open-crashing", "big"], "aliases": ["either"]},
                "smart": {"candidates": ["big", "open-fine"], "accuracy": "high", "reasoning_effort": "high"},
                "inside": {"candidates": shut, "aliases": ["within"]},
                "inside-too": {"candidates": [*shut, "open-fine"]},
            },
            keys=[
                {"name": "al", "sha256": digests[CLIENT]},
                {"name": "bo", "sha256": digests[BOUND], "cloud": False},
            ],
        )
        starting = running(path, tmp_path, "--backend", "echo", "--log-level", "debug")
        gateway = await asyncio.to_thread(starting.__enter__)
        try:
            yield Split(gateway, endpoint, [])
        finally:
            await asyncio.to_thread(starting.__exit__, None, None, None)


WAYS: list[dict[str, Any]] = [
    {},
    {"stream": True},
    {"tools": TOOLS},
    {"reasoning_effort": "high"},
    {"metadata": {"accuracy": "high"}},
    {"headers": {"x-router-accuracy": "high"}, "stream": True},
    {"provider": {"allow_fallbacks": True, "data_collection": "allow", "order": ["big"]}},
    {"headers": {"x-router-local-only": "false"}},
    {"path": "completions"},
    {"path": "completions", "stream": True, "headers": {"x-router-accuracy": "high"}},
    {"path": "completions", "prompt": [CANARY, CANARY], "n": 2},
    {"path": "embeddings", "headers": {"x-router-accuracy": "high"}},
    {"path": "embeddings", "dimensions": 7},
]
"""All that a client can say to be sent on."""


async def test_g19_nothing_of_a_request_that_stays_and_no_secret_gets_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with split(tmp_path, monkeypatch) as it:
        shut = [
            f"{kind}-{name}" for kind in ("shut", "private") for name in ("fine", "unloadable", "crashing")
        ]
        for model, way in itertools.product([*shut, "inside", "within", "inside-too"], WAYS):
            response = await it.ask(model, CANARY, **way)
            assert response.headers.get("x-router-served-by", "shut").startswith(("shut", "open"))
        for model, way in itertools.product(
            ["open-crashing", "open-unloadable", "mixed", "either", "big"], WAYS
        ):
            await it.ask(model, CANARY, key=BOUND, **way)
            kept = {**way, "headers": {**way.get("headers", {}), "x-router-local-only": "true"}}
            await it.ask(model, CANARY, **kept)
        for model in (
            "SHUT-fine",
            "shut-fine ",
            "shut\u2010fine",
            "\uff53hut-fine",
            "big/shut-fine",
            "private-Fine",
        ):
            assert (await it.ask(model, CANARY)).status_code == 404
        assert it.endpoint.seen == []

        await ask_for_what_may_leave(it)
        assert len(it.endpoint.seen) > 10
        sent = "".join(f"{seen.path} {seen.headers} {seen.raw!r}" for seen in it.endpoint.seen)
        assert CANARY not in sent
        assert CLIENT not in sent
        assert {seen.headers["authorization"] for seen in it.endpoint.seen} == {f"Bearer {OPERATOR}"}
        told = "".join(it.answers)
        scraped = it.gateway.http.get("/metrics", headers={"x-api-key": CLIENT}).text
        scraped += it.gateway.http.get("/running", headers={"x-api-key": CLIENT}).text
        for secret, text in itertools.product(
            (CANARY, CLIENT, BOUND, OPERATOR), (it.gateway.log.read_text(), scraped, told)
        ):
            assert secret not in text


async def ask_for_what_may_leave(it: Split) -> None:
    """Through every way out, and every way that an upstream can fail."""
    for model in (
        "big",
        "gpt-4",
        "mixed",
        "either",
        "smart",
        "open-unloadable",
        "open-crashing",
    ):
        for stream in (False, True):
            response = await it.ask(model, "may leave", stream=stream)
            assert (response.status_code, response.headers["x-router-served-by"]) == (200, "big")
    for answer in (status(400), status(500), status(401), status(429)):
        it.endpoint.answer = answer
        assert (await it.ask("big", "may leave")).status_code >= 400
        await it.ask("smart", "may leave", tools=TOOLS)
    it.endpoint.answer = good()


async def test_a_client_sees_who_answered_and_after_how_many_tries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with split(tmp_path, monkeypatch) as it:
        crashed = await it.ask("open-crashing", "hello")
        assert crashed.json()["model"] == "gpt"
        assert crashed.headers["x-router-attempts"] == "3"
        assert float(crashed.headers["x-router-cost-usd"]) == 0.000012
        it.endpoint.answer = status(500)
        back = await it.ask("smart", "hello")
        assert back.json()["model"] == "open-fine"
        assert back.json()["choices"][0]["message"]["content"] == "hello"
        assert back.headers["x-router-served-by"].startswith("open-fine#")


async def test_a_request_spills_while_its_model_would_have_to_be_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with split(tmp_path, monkeypatch) as it:
        spilled = await it.ask("open-fine", "hello")
        assert (spilled.headers["x-router-served-by"], spilled.headers["x-router-attempts"]) == ("big", "1")
        stays = await it.ask("open-fine", "hello", headers={"x-router-local-only": "true"})
        assert stays.headers["x-router-served-by"].startswith("open-fine#")
        here = await it.ask("open-fine", "hello")
        assert here.headers["x-router-served-by"].startswith("open-fine#")
        assert len(it.endpoint.seen) == 1


# Peers -----------------------------------------------------------------------------------------------------


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[tuple[Gateway, Gateway]]:
    """Two gateways with the same models, each the other's peer."""
    with contextlib.ExitStack() as stack:
        boxes = []
        for name in ("one", "two"):
            folder = tmp_path / name
            folder.mkdir()
            files = Folder(folder)
            chosen = {"m": str(files.model("m.gguf")), "broken": str(files.model("broken?fail=load"))}
            path = write_registry(
                folder / "registry.yaml",
                {name: {"path": file} for name, file in chosen.items()},
                devices={"host": {"budget": "2GiB"}},
            )
            boxes.append(stack.enter_context(running(path, folder, "--backend", "echo")))
        for box, other in (boxes, reversed(boxes)):
            peer = {"base_url": f"{other.url}/v1", "allow_private": True, "models": ["m", "broken"]}
            known = {
                name: {**entry, "cloud": "fallback", "fallback": [f"peer/{name}"]}
                for name, entry in written(box)["models"].items()
            }
            box.edit(models=known, peers={"peer": peer})
        for box in boxes:
            box.until(lambda box=box: "peer/m" in states(box))  # type: ignore[misc]
        yield boxes[0], boxes[1]


def written(box: Gateway) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(box.registry.read_text())
    return found


def states(box: Gateway) -> dict[str, str]:
    return {entry["id"]: entry["status"]["value"] for entry in box.http.get("/v1/models").json()["data"]}


def served_by(box: Gateway, model: str = "m") -> str:
    body = {"model": model, "messages": [{"role": "user", "content": "hello"}]}
    response = box.http.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    assert response.json()["choices"][0]["message"]["content"] == "hello"
    return str(response.headers["x-router-served-by"])


def test_two_gateways_share_models_and_a_request_goes_where_its_model_is(
    fleet: tuple[Gateway, Gateway],
) -> None:
    one, two = fleet
    assert served_by(two).startswith("m#")
    one.until(lambda: states(one)["peer/m"] == "loaded")
    assert served_by(one) == "peer/m"
    assert one.workers() == {}
    one.http.post("/models/load", json={"model": "m"})
    one.until(lambda: states(one)["m"] == "loaded")
    assert served_by(one).startswith("m#")
    one.http.get("/unload")
    one.until(lambda: one.workers() == {})
    two.http.get("/unload")
    one.until(lambda: states(one)["peer/m"] == "unloaded")
    assert served_by(one).startswith("m#")


def test_a_peer_that_is_gone_is_no_peer(fleet: tuple[Gateway, Gateway]) -> None:
    one, two = fleet
    assert served_by(two).startswith("m#")
    one.until(lambda: states(one)["peer/m"] == "loaded")
    two.process.kill()
    two.process.wait()
    assert served_by(one).startswith("m#")


def test_peers_that_both_cannot_do_not_ask_each_other_for_ever(fleet: tuple[Gateway, Gateway]) -> None:
    one, two = fleet
    body = {"model": "broken", "messages": [{"role": "user", "content": "hello"}]}
    response = one.http.post("/v1/chat/completions", json=body)
    assert response.status_code == 503
    assert two.total("router_requests_total", model="broken") >= 1
    assert one.total("router_requests_total", model="broken") <= 1
