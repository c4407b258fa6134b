"""A gateway without processes: real rooms around fake workers, and a client that controls every message."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import struct
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from router.api.app import build
from router.api.house import House
from router.cloud.client import Cloud
from router.domain.errors import LoadFailed, RegistryInvalid, RouterError, WorkerCrashed
from router.domain.generation import (
    Delta,
    EmbeddingRequest,
    Embeddings,
    FinishReason,
    GenerationRequest,
    OnPrompt,
    Usage,
    ignore_prompt,
)
from router.domain.models import EngineOptions, Footprint, Limits, LocalModel, Placement
from router.domain.news import News, Progress
from router.domain.routes import Route
from router.domain.upstreams import Upstream
from router.protocol import EngineFacts, EngineGauges
from router.registry.loader import Key, Registry
from router.residency.core import Residency
from router.residency.manager import ResidencyManager
from router.routing.dispatch import Dispatcher
from router.routing.journey import Journeys
from router.routing.peers import Peers
from router.settings import Settings
from router.telemetry import Metrics
from tests.local import local_model

Step = str | Delta | asyncio.Event | RouterError | float
"""A word, a delta as it is, something to wait for, an end, or how much of the prompt has been read."""

A = local_model(
    name="org/a:q4", path="/a", footprint=Footprint(60), engine=EngineOptions(slots=2), aliases=("default",)
)
B = local_model(name="b", path="/b", footprint=Footprint(60), engine=EngineOptions(slots=2))


class FakeWorker:
    """Plays one script per generation; the last one again and again."""

    facts = EngineFacts(4096, 2, 100, 3, True, True)
    resident: ClassVar = {"host": Footprint(60)}
    pid = 4711
    gauges = EngineGauges()
    sandbox = ("seccomp",)

    def __init__(self, scripts: list[Sequence[Step]]) -> None:
        self._scripts = scripts
        self._gone = asyncio.Event()
        self.requests: list[GenerationRequest] = []
        self.running = 0
        self.dimensions = 3

    async def generate(
        self, request: GenerationRequest, on_prompt: OnPrompt = ignore_prompt
    ) -> AsyncGenerator[Delta, None]:
        self.requests.append(request)
        script = self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0]
        self.running += 1
        try:
            async for delta in self._play(script, on_prompt):
                yield delta
        finally:
            self.running -= 1

    async def _play(self, script: Sequence[Step], on_prompt: OnPrompt) -> AsyncGenerator[Delta, None]:
        words = 0
        for step in script:
            match step:
                case str():
                    words += 1
                    yield Delta(step, tokens=1)
                case Delta():
                    yield step
                    if step.finish_reason is not None:
                        return
                case asyncio.Event():
                    await step.wait()
                case float():
                    on_prompt(step)
                case RouterError():
                    if isinstance(step, WorkerCrashed):
                        self._gone.set()
                    raise step
        yield Delta(finish_reason=FinishReason.STOP, usage=Usage(7, words, 5))

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        vector = struct.pack(f"<{self.dimensions}f", 1.0, 0.0, *[0.5] * (self.dimensions - 2))
        return Embeddings((vector,) * len(request.inputs), self.dimensions, 2 * len(request.inputs))

    async def wait_gone(self) -> None:
        await self._gone.wait()


class FakeLauncher:
    def __init__(self) -> None:
        self.scripts: dict[str, list[Sequence[Step]]] = {}
        self.workers: dict[str, list[FakeWorker]] = {}
        self.gates: dict[str, asyncio.Event] = {}
        """Loads that wait for an event."""
        self.broken: dict[str, str] = {}
        """Loads that fail, and why."""

    @contextlib.asynccontextmanager
    async def launch(
        self, instance: str, model: LocalModel, placement: Placement, tell: Callable[[News], None]
    ) -> AsyncIterator[FakeWorker]:
        tell(Progress(0.4))
        if gate := self.gates.get(model.name):
            await gate.wait()
        if reason := self.broken.get(model.name):
            raise LoadFailed(reason)
        worker = FakeWorker(self.scripts.setdefault(model.name, [["Hello", " world"]]))
        self.workers.setdefault(model.name, []).append(worker)
        yield worker

    def worker(self, model: LocalModel = A) -> FakeWorker:
        return self.workers[model.name][-1]


class FixedCatalog:
    """The part of the catalog that requests see; `current` is replaced by an edit."""

    def __init__(self, registry: Registry) -> None:
        self.current = registry
        self.refused: tuple[str, ...] = ()
        self.next: Registry | RegistryInvalid = registry
        """What the next reading finds."""
        self.forced: list[bool] = []

    async def reload(self, force: bool = False) -> Registry:
        self.forced.append(force)
        if isinstance(self.next, RegistryInvalid):
            raise self.next
        self.current = self.next
        return self.current


def registry(
    *models: LocalModel,
    keys: tuple[Key, ...] = (),
    limits: Limits | None = None,
    upstreams: Mapping[str, Upstream] | None = None,
    routes: Mapping[str, Route] | None = None,
) -> Registry:
    named = (*models, *(routes or {}).values())
    return Registry(
        path=Path("registry.yaml"),
        models={m.name: m for m in models},
        aliases={alias: n.name for n in named for alias in n.aliases},
        budgets={"host": 100},
        keys=keys,
        limits=limits or Limits(),
        warnings=(),
        upstreams=upstreams or {},
        routes=routes or {},
    )


class Scene:
    """What a test holds on to. `call` starts a request; `ask` also waits for its end."""

    def __init__(self, house: House, launcher: FakeLauncher, tasks: asyncio.TaskGroup) -> None:
        self.house = house
        self.launcher = launcher
        self.app = build(house)
        self._tasks = tasks

    def call(self, method: str, path: str, body: Any = None, **kwargs: Any) -> Call:
        return Call(self.app, self._tasks, method, path, body, **kwargs)

    async def ask(self, method: str, path: str, body: Any = None, **kwargs: Any) -> Call:
        call = self.call(method, path, body, **kwargs)
        await call.done()
        return call

    async def chat(self, content: str = "Hi", model: str = A.name, **fields: Any) -> Call:
        return await self.ask("POST", "/v1/chat/completions", chat_body(content, model, **fields))

    def total(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that carry these labels."""
        samples = (s for m in self.house.metrics.registry.collect() for s in m.samples if s.name == name)
        return sum(s.value for s in samples if labels.items() <= s.labels.items())


async def until(condition: Callable[[], object]) -> None:
    """Let everything else run until the condition holds."""
    async with asyncio.timeout(10):
        for _ in itertools.count():
            if condition():
                return
            await asyncio.sleep(0)


def chat_body(content: str = "Hi", model: str = A.name, **fields: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": content}], **fields}


@contextlib.asynccontextmanager
async def scene(
    *models: LocalModel,
    keys: tuple[Key, ...] = (),
    limits: Limits | None = None,
    upstreams: Mapping[str, Upstream] | None = None,
    routes: Mapping[str, Route] | None = None,
    **settings: Any,
) -> AsyncIterator[Scene]:
    current = registry(*(models or (A, B)), keys=keys, limits=limits, upstreams=upstreams, routes=routes)
    metrics = Metrics()
    launcher = FakeLauncher()
    core = Residency(current.budgets, current.limits)
    chosen = Settings(registry=Path("registry.yaml"), **settings)
    async with contextlib.AsyncExitStack() as stack:
        residency = await stack.enter_async_context(ResidencyManager(core, launcher, metrics))
        residency.reconcile(current.models, current.budgets, current.limits)
        catalog: Any = FixedCatalog(current)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        cloud = await stack.enter_async_context(Cloud(folder / "spend.db", metrics, chance=lambda: 0.0))
        cloud.reconcile(current.upstreams)
        dispatcher = Dispatcher(residency, metrics)
        peers = Peers(cloud.models, lambda: catalog.current.upstreams.values())
        journeys = Journeys(cloud, metrics, residency)
        house = House(chosen, catalog, residency, dispatcher, metrics, cloud, journeys, peers)
        async with house.background.open(), asyncio.TaskGroup() as tasks:
            yield Scene(house, launcher, tasks)


class Call:
    """One request, message by message: the client may be slow, deaf or gone."""

    def __init__(
        self,
        app: Any,
        tasks: asyncio.TaskGroup,
        method: str,
        path: str,
        body: Any = None,
        *,
        headers: Mapping[str, str] | Sequence[tuple[str, str]] = (),
        query: str = "",
        deaf: bool = False,
        endless: bool = False,
    ) -> None:
        pairs = headers.items() if isinstance(headers, Mapping) else headers
        raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        self._incoming = [raw]
        self._endless = endless
        self._deaf = deaf
        self._left = asyncio.Event()
        self._news = asyncio.Event()
        self.messages: list[Any] = []
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "scheme": "http",
            "headers": [(k.lower().encode(), v.encode()) for k, v in pairs],
            "server": ("127.0.0.1", 8080),
            "client": ("127.0.0.1", 1),
        }
        self._task = tasks.create_task(app(scope, self._receive, self._send))

    async def _receive(self) -> Any:
        if self._incoming:
            return {"type": "http.request", "body": self._incoming.pop(), "more_body": self._endless}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        self.messages.append(message)
        self._news.set()
        if self._deaf and message["type"] == "http.response.body":
            await asyncio.Event().wait()

    def leave(self) -> None:
        self._left.set()

    def cancel(self) -> None:
        self._task.cancel()

    async def done(self) -> None:
        await asyncio.wait({self._task})

    async def until(self, text: str) -> None:
        """Wait until the body holds `text`."""
        while text not in self.text:
            assert not self._task.done(), f"it ended with {self.text!r}"
            self._news.clear()
            await self._news.wait()

    @property
    def status(self) -> int | None:
        status: int | None = self.messages[0]["status"] if self.messages else None
        return status

    @property
    def headers(self) -> dict[str, str]:
        return {k.decode(): v.decode() for k, v in self.messages[0]["headers"]}

    @property
    def text(self) -> str:
        return b"".join(m.get("body", b"") for m in self.messages).decode()

    @property
    def complete(self) -> bool:
        return bool(self.messages) and not self.messages[-1].get("more_body", True)

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def error(self) -> dict[str, Any]:
        found: dict[str, Any] = self.json["error"]
        return found

    @property
    def data(self) -> list[Any]:
        """The stream's events, parsed; [DONE] as it is."""
        lines = [line[6:] for line in self.text.split("\n\n") if line.startswith("data: ")]
        return [line if line == "[DONE]" else json.loads(line) for line in lines]

    @property
    def comments(self) -> list[str]:
        return [line[2:] for line in self.text.split("\n\n") if line.startswith(": ")]
