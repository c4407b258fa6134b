"""The table of routes, and the whole app under a real server and the real openai package."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest

from router.api.app import TABLE, build
from router.domain.errors import WorkerCrashed
from tests.api.door import served
from tests.scene import A, B, Scene, scene, until


@pytest.mark.parametrize(
    ("path", "method", "allowed"),
    [
        ("/v1/chat/completions", "GET", "POST"),
        ("/models/load", "GET", "POST"),
        ("/metrics", "POST", "GET, HEAD"),
        ("/unload", "DELETE", "GET, HEAD, POST"),
        ("/v1/models", "PUT", "GET, HEAD"),
    ],
)
async def test_a_wrong_method_is_405_in_the_usual_envelope(path: str, method: str, allowed: str) -> None:
    async with scene() as house:
        call = await house.ask(method, path)
    assert (call.status, call.error["code"]) == (405, "method_not_allowed")
    assert call.headers["allow"] == allowed


@pytest.mark.parametrize("path", ["/nowhere", "/v1", "/v1/../livez", "/livez/.", "/v1/messages"])
async def test_an_unknown_path_is_404_in_the_usual_envelope(path: str) -> None:
    async with scene() as house:
        call = await house.ask("GET", path)
    assert call.status == 404
    assert call.error.keys() == {"message", "type", "param", "code"}


def test_every_row_is_reached_before_a_wider_one_takes_it() -> None:
    paths = [row.path for row in TABLE]
    assert len(set(paths)) == len(paths)
    wide = paths.index("/models/{id:path}")
    assert all(paths.index(p) < wide for p in paths if p.startswith("/models") and p != "/models/{id:path}")


async def test_the_lifespan_owns_the_background_work() -> None:
    async with scene() as house:
        house.house.background._tasks = None
        app = build(house.house)
        said: asyncio.Queue[str] = asyncio.Queue()
        heard: asyncio.Queue[Any] = asyncio.Queue()

        async def send(message: Any) -> None:
            await said.put(message["type"])

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(app({"type": "lifespan", "asgi": {"version": "3.0"}}, heard.get, send))
            await heard.put({"type": "lifespan.startup"})
            assert await said.get() == "lifespan.startup.complete"
            house.launcher.gates[A.name] = asyncio.Event()
            assert (await house.ask("POST", "/models/load", {"model": A.name})).status == 200
            await heard.put({"type": "lifespan.shutdown"})
            assert await said.get() == "lifespan.shutdown.complete"
        assert house.house.residency.view().waiting == {}


@contextlib.asynccontextmanager
async def client(house: Scene) -> AsyncIterator[openai.AsyncOpenAI]:
    async with served(house) as url:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as speaks:
            yield speaks


HI: Any = [{"role": "user", "content": "Hi"}]


async def test_the_openai_package_reads_our_streams() -> None:
    async with scene(commit_seconds=0.01, comment_seconds=0.01) as house:
        gate = house.launcher.gates[A.name] = asyncio.Event()
        async with client(house) as speaks, asyncio.TaskGroup() as tasks:
            asking = tasks.create_task(
                speaks.chat.completions.create(
                    model="default", messages=HI, stream=True, stream_options={"include_usage": True}
                )
            )
            stream = await asking  # committed while the model loads
            gate.set()
            chunks = [chunk async for chunk in stream]
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "Hello world"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 9


async def test_the_openai_package_reads_whole_answers_lists_and_embeddings() -> None:
    async with scene() as house, client(house) as speaks:
        chat = await speaks.chat.completions.create(model=A.name, messages=HI)
        assert chat.choices[0].message.content == "Hello world"
        text = await speaks.completions.create(model="b", prompt="Hi")
        assert text.choices[0].text == "Hello world"
        assert [m.id async for m in speaks.models.list()] == [A.name, B.name]
        assert (await speaks.models.retrieve(A.name)).id == A.name
        vectors = await speaks.embeddings.create(model="b", input=["x", "y"])
        assert vectors.data[1].embedding == [1.0, 0.0, 0.5]


async def test_the_openai_package_raises_what_went_wrong() -> None:
    async with scene() as house, client(house) as speaks:
        house.launcher.scripts["b"] = [["Hello", WorkerCrashed("The worker died.")]]
        with pytest.raises(openai.NotFoundError, match="does not exist"):
            await speaks.chat.completions.create(model="nobody", messages=HI)
        with pytest.raises(openai.BadRequestError) as refused:
            await speaks.chat.completions.create(model="b", messages=HI, temperature=9)
        assert refused.value.param == "temperature"
        stream = await speaks.chat.completions.create(model="b", messages=HI, stream=True)
        with pytest.raises(openai.APIError, match="ended before its answer was complete"):
            async for _ in stream:
                pass


async def test_a_real_connection_that_closes_frees_its_slot() -> None:
    async with scene() as house:
        house.launcher.scripts[A.name] = [["Hello", asyncio.Event()]]
        async with client(house) as speaks:
            stream = await speaks.chat.completions.create(model=A.name, messages=HI, stream=True)
            await anext(aiter(stream))
            assert house.launcher.worker().running == 1
            await stream.close()
            await until(lambda: not house.launcher.worker().running)
            await until(lambda: house.total("router_requests_total", finish="left"))
