"""A key for a few names, at a real gateway: no byte of any answer names what it may not use, or a file of ours."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import itertools
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from router.api.app import TABLE
from tests.cloud.endpoint import Endpoint, good, serving, status
from tests.e2e.gateway import Gateway, running, write_registry
from tests.registry.conftest import Folder

pytestmark = [pytest.mark.process, pytest.mark.timeout(180)]

SECRET = "hush"
"""In the name, alias and file of everything that the keys below may not know."""
OPERATOR, ROUTES, NICK = "key-of-the-operator", "key-for-routes", "key-for-an-alias"
PLAIN = "key-for-another-alias"
MINE = {ROUTES: ["pub", "pub-broken", "pub-crash", "pub-cloud"], NICK: ["nick"], PLAIN: ["plain"]}


@dataclass(frozen=True, slots=True)
class House:
    gateway: Gateway
    endpoint: Endpoint
    folder: Path

    async def ask(self, method: str, path: str, key: str, body: Any = None, **more: Any) -> httpx2.Response:
        headers = {"authorization": f"Bearer {key}"}
        return await asyncio.to_thread(
            self.gateway.http.request, method, path, json=body, headers=headers, **more
        )

    async def post(self, path: str, model: str, key: str, **fields: Any) -> httpx2.Response:
        asked = {
            "messages": [{"role": "user", "content": "hi"}],
            "prompt": "hi",
            "input": "hi",
            "max_tokens": 4,
        }
        wanted = {"chat/completions": "messages", "completions": "prompt", "embeddings": "input"}[path]
        body = {"model": model, wanted: asked[wanted], **fields}
        if path != "embeddings":
            body["max_tokens"] = 4
        return await self.ask("POST", f"/v1/{path}", key, body)

    def leaks(self, response: httpx2.Response, said: str = "") -> str:
        """What an answer tells that its key may not know; `said` is the client's own word."""
        text = f"{response.headers} {response.text}"
        text = text.replace(said, "@") if said else text
        return text if SECRET in text or str(self.folder) in text else ""


@contextlib.asynccontextmanager
async def house(tmp_path: Path) -> AsyncIterator[House]:
    files = Folder(tmp_path)
    scripts = {"fine": "", "broken": "fail=load", "crash": "fail=exit_decode:1", "slow": "load_ms=1500"}
    models: dict[str, dict[str, Any]] = {
        f"{SECRET}-{name}": {"path": str(files.model(f"{SECRET}-{name}?{script}")), "cloud": "fallback"}
        for name, script in scripts.items()
    }
    models[f"{SECRET}-fine"]["aliases"] = ["nick", f"{SECRET}-alias"]
    models["context"] = {"path": str(files.model("context")), "aliases": ["plain"]}
    models[f"{SECRET}-gone"] = {"path": str(tmp_path / f"{SECRET}-gone.gguf")}
    digests = {key: hashlib.sha256(key.encode()).hexdigest() for key in (OPERATOR, *MINE)}
    async with serving(Endpoint()) as endpoint:
        cloud = {
            f"{SECRET}-big": {
                "base_url": endpoint.url,
                "model": f"{SECRET}-gpt",
                "allow_private": True,
                "price": {"input": 1, "output": 1},
                "aliases": [f"{SECRET}-large"],
            }
        }
        routes = {
            "pub": {"candidates": [f"{SECRET}-fine"]},
            "pub-broken": {"candidates": [f"{SECRET}-gone", f"{SECRET}-broken"]},
            "pub-crash": {"candidates": [f"{SECRET}-crash"]},
            "pub-cloud": {"candidates": [f"{SECRET}-broken", f"{SECRET}-big"]},
            f"{SECRET}-route": {"candidates": [f"{SECRET}-fine"]},
        }
        path = write_registry(
            tmp_path / "registry.yaml",
            models,
            devices={"host": {"budget": "4GiB"}},
            limits={"backoff": "100ms"},
            cloud=cloud,
            routes=routes,
            keys=[
                {"name": "op", "sha256": digests[OPERATOR]},
                *(
                    {"name": f"k{n}", "sha256": digests[k], "models": names}
                    for n, (k, names) in enumerate(MINE.items())
                ),
            ],
        )
        starting = running(path, tmp_path, "--backend", "echo")
        gateway = await asyncio.to_thread(starting.__enter__)
        try:
            yield House(gateway, endpoint, tmp_path)
        finally:
            await asyncio.to_thread(starting.__exit__, None, None, None)


FORBIDDEN = [f"{SECRET}-{name}" for name in ("fine", "broken", "gone", "alias", "big", "large", "route")]
GENERATE = ["chat/completions", "completions", "embeddings"]


async def lived(it: House) -> None:
    """Everything has happened once: loads, failures, crashes, relays; one load is under way and one waits."""
    for name in ("fine", "broken", "gone", "crash", "big"):
        for path in GENERATE[:2]:
            await it.post(path, f"{SECRET}-{name}", OPERATOR)
    await it.ask("POST", "/models/load", OPERATOR, {"model": f"{SECRET}-slow"})


@pytest.mark.parametrize("key", [ROUTES, NICK])
async def test_no_endpoint_tells_a_key_of_what_it_may_not_use(tmp_path: Path, key: str) -> None:
    async with house(tmp_path) as it:
        await lived(it)
        for row, method in [(r, method) for r in TABLE for method in r.methods]:
            if row.path == "/models/sse":
                continue  # it never ends: below
            for name in (MINE[key][0], "none", f"{SECRET}-fine", f"{SECRET}-gone"):
                body = {
                    "model": name,
                    "messages": [{"role": "user", "content": "hi"}],
                    "prompt": "x",
                    "input": "x",
                }
                path = row.path.replace("{id:path}", name)
                response = await it.ask(
                    method, path, key, body if method == "POST" else None, params={"model": name}
                )
                assert not it.leaks(response, name), f"{method} {path}"
        for name, path, stream in itertools.product(MINE[key], GENERATE, (False, True)):
            fields = {"stream": stream} if path != "embeddings" else {}
            response = await it.post(path, name, key, **fields)
            assert not it.leaks(response), response.text
        assert SECRET in (await it.ask("GET", "/metrics", OPERATOR)).text
        assert SECRET in (await it.ask("GET", "/running", OPERATOR)).text


@pytest.mark.parametrize("key", [ROUTES, NICK])
async def test_what_is_not_yours_and_what_is_not_there_get_one_answer(tmp_path: Path, key: str) -> None:
    async with house(tmp_path) as it:

        async def answers(name: str) -> list[tuple[int, set[str], str]]:
            asked = [await it.post(path, name, key, stream=s) for path in GENERATE[:2] for s in (False, True)]
            asked += [await it.post("embeddings", name, key)]
            asked += [
                await it.ask("POST", f"/models/{what}", key, {"model": name}) for what in ("load", "unload")
            ]
            asked += [await it.ask("GET", f"{at}/models/{name}", key) for at in ("", "/v1")]
            asked += [await it.ask("GET", "/props", key, params={"model": name})]
            hint = r" Did you mean [^?]*\?"  # it depends on the word; only own names may be in it
            assert not any(SECRET in found for r in asked for found in re.findall(hint, r.text))
            said = [re.sub(hint, "", r.text).replace(name, "@") for r in asked]
            kinds = [set(r.headers) for r in asked]
            return list(zip([r.status_code for r in asked], kinds, said, strict=True))

        missing = await answers(f"{SECRET}-none")
        assert {status for status, _, _ in missing} == {404}
        for name in FORBIDDEN:
            assert await answers(name) == missing
        near = await it.post("completions", f"{MINE[key][0]}x", key)
        assert f"Did you mean '{MINE[key][0]}'" in near.text


async def test_what_is_ones_own_is_called_as_one_knows_it(tmp_path: Path) -> None:
    async with house(tmp_path) as it:
        for stream in (False, True):
            here = await it.post("chat/completions", "nick", NICK, stream=stream)
            assert here.headers["x-router-served-by"].startswith("nick#")
            assert '"model":"nick"' in here.text
            there = await it.post("completions", "pub-cloud", ROUTES, stream=stream)
            assert there.headers["x-router-served-by"] == "pub-cloud"
            assert '"model":"pub-cloud"' in there.text
            assert "Hel" in there.text
        entry = (await it.ask("GET", "/running", NICK)).json()["running"]
        assert [e["model"] for e in entry] == ["nick"]
        assert entry[0]["id"].startswith("nick#")
        series = (await it.ask("GET", "/metrics", NICK)).text
        assert 'router_model_loaded{model="nick"} 1.0' in series
        assert [e["id"] for e in (await it.ask("GET", "/v1/models", NICK)).json()["data"]] == ["nick"]
        it.endpoint.answer = status(500)
        down = await it.post("completions", "pub-cloud", ROUTES)
        assert down.status_code == 503
        assert not it.leaks(down)
        it.endpoint.answer = good()


async def test_an_upstreams_way_of_writing_its_name_hides_it_too(tmp_path: Path) -> None:
    async with house(tmp_path) as it:
        words = "HUSH-GPT is odd, hush-gpt-2024-08-06 is, and Hush-Gpt:free."
        it.endpoint.answer = status(400, {"error": {"message": words}})
        refused = await it.post("completions", "pub-cloud", ROUTES)
        assert refused.json()["error"]["message"] == "pub-cloud is odd, pub-cloud is, and pub-cloud."
        it.endpoint.answer = good()
        wide = await it.post("completions", "pub-cloud", ROUTES, service_tier="priority")
        assert wide.status_code == 400
        assert "'service_tier' at pub-cloud may be" in wide.text
        idle = await it.ask("POST", "/models/unload", NICK, {"model": "nick"})
        assert not it.leaks(idle)


async def test_a_message_that_names_nobody_keeps_its_words(tmp_path: Path) -> None:
    async with house(tmp_path) as it:
        long = await it.ask("POST", "/v1/completions", PLAIN, {"model": "plain", "prompt": "word " * 50_000})
        assert (long.status_code, long.json()["error"]["code"]) == (400, "context_length_exceeded")
        assert "maximum context length" in long.text


async def test_changes_are_told_by_the_names_that_a_key_has(tmp_path: Path) -> None:
    async with house(tmp_path) as it:

        def listen() -> str:
            text = ""
            headers = {"authorization": f"Bearer {NICK}"}
            with it.gateway.http.stream("GET", "/models/sse", headers=headers) as response:
                began.set()
                for line in response.iter_lines():
                    text += line
                    if '"loaded"' in line:
                        return text
            return text

        loop, began = asyncio.get_running_loop(), asyncio.Event()
        began.set = lambda set=began.set: loop.call_soon_threadsafe(set)  # type: ignore[method-assign, misc]
        async with asyncio.TaskGroup() as tasks:
            heard = tasks.create_task(asyncio.to_thread(listen))
            await began.wait()
            for name in ("broken", "fine"):
                await it.post("completions", f"{SECRET}-{name}", OPERATOR)
        assert '"model":"nick"' in heard.result()
        assert SECRET not in heard.result()


# Facts for clients, insides for the log --------------------------------------------------------------------


@pytest.mark.parametrize("key", [OPERATOR, ROUTES])
@pytest.mark.parametrize("stream", [False, True])
async def test_an_error_tells_what_to_do_and_the_log_tells_why(
    tmp_path: Path, key: str, stream: bool
) -> None:
    async with house(tmp_path) as it:
        for name, code, inside in (
            ("pub-broken", "model_load_failed", "told to fail its load"),
            ("pub-crash", "worker_crashed", "exited with code"),
        ):
            response = await it.post("completions", name, key, stream=stream)
            assert code in response.text
            for secret in (str(it.folder), ".gguf", "last words", "exited", "echo was told", "SIG", "pid"):
                assert secret not in response.text
            request = response.headers["x-request-id"]
            assert request in response.text
            await asyncio.to_thread(it.gateway.until, functools.partial(logged, it.gateway, request, inside))


def logged(gateway: Gateway, request: str, words: str) -> bool:
    """Whether a line about this request has these words; the log is written beside the loop."""
    return any(request in line and words in line for line in gateway.log.read_text().splitlines())


async def test_reasons_are_shown_to_operators_where_they_look(tmp_path: Path) -> None:
    async with house(tmp_path) as it:
        await lived(it)
        failed = (await it.ask("GET", "/running", OPERATOR)).json()["failed"]
        assert str(it.folder) in failed[f"{SECRET}-gone"]
        listed = (await it.ask("GET", f"/v1/models/{SECRET}-gone", OPERATOR)).json()
        assert str(it.folder) in listed["status"]["error"]


async def test_an_answer_that_a_drain_cuts_off_was_stopped_and_did_not_die(tmp_path: Path) -> None:
    path = write_registry(
        tmp_path / "registry.yaml",
        {"m": {"path": str(Folder(tmp_path).model("m?step_ms=20"))}},
        devices={"host": {"budget": "4GiB"}},
    )

    def cut() -> str:
        with running(path, tmp_path, "--backend", "echo", "--drain", "1") as gateway:
            body = {
                "model": "m",
                "prompt": "for ever",
                "max_tokens": 900,
                "ignore_eos": True,
                "stream": True,
            }
            with gateway.http.stream("POST", "/v1/completions", json=body) as response:
                lines = response.iter_lines()
                while not next(lines).startswith("data: "):
                    pass
                gateway.process.terminate()
                rest = [line for line in lines if line]
            assert gateway.process.wait(60) == 0
            return rest[-1]

    last = await asyncio.to_thread(cut)
    assert '"code":"worker_stopped"' in last
    assert "was stopped" in last
    assert "exited" not in last and "died" not in last
