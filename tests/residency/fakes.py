"""A launcher without processes: it keeps the same promises as the real one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass, field

from router.domain.errors import LoadFailed, WorkerCrashed
from router.domain.generation import (
    Delta,
    EmbeddingRequest,
    Embeddings,
    FinishReason,
    GenerationRequest,
    OnPrompt,
    ignore_prompt,
)
from router.domain.models import Footprint, LocalModel, Placement
from router.domain.news import Freed, News, Progress, Stuck
from router.protocol import EngineFacts, EngineGauges


class FakeWorker:
    def __init__(self, model: LocalModel, pid: int, resident: dict[str, Footprint], slots: int) -> None:
        self.model = model
        self.pid = pid
        self.resident = resident
        self.facts = EngineFacts(4096, slots, 32000, 64, True, True)
        self.gauges = EngineGauges()
        self.sandbox = ("seccomp",)
        self.gone = asyncio.Event()

    async def generate(
        self, request: GenerationRequest, on_prompt: OnPrompt = ignore_prompt
    ) -> AsyncGenerator[Delta, None]:
        if self.gone.is_set():
            raise WorkerCrashed("it is dead")
        yield Delta("word", 1, FinishReason.STOP)

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        return Embeddings((b"",), 0, 0)

    async def wait_gone(self) -> None:
        await self.gone.wait()


@dataclass
class FakeLauncher:
    """Each load takes `load_seconds` and reports progress half way; each stop takes `stop_seconds`."""

    load_seconds: float = 1.0
    stop_seconds: float = 0.5
    slots: int = 1
    fails: dict[str, Exception] = field(default_factory=dict)
    """Model -> what its load raises at the end."""
    measures: dict[str, Footprint] = field(default_factory=dict)
    live: dict[str, str] = field(default_factory=dict)
    """Instance -> model, of every process that exists."""
    workers: dict[str, FakeWorker] = field(default_factory=dict)
    """By instance."""
    frees: set[str] = field(default_factory=set)
    """Models whose workers give their memory back before they exit."""
    unkillable: set[str] = field(default_factory=set)
    """Models whose workers do not end within `stuck_seconds` of their stop."""
    stuck_seconds: float = 100.0
    most: int = 0
    """The most bytes that were held at once."""

    @contextlib.asynccontextmanager
    async def launch(
        self, instance: str, model: LocalModel, placement: Placement, tell: Callable[[News], None]
    ) -> AsyncIterator[FakeWorker]:
        self.live[instance] = model.name
        resident = dict(placement.footprints)
        if model.name in self.measures:
            resident = dict.fromkeys(resident, self.measures[model.name])
        self.workers[instance] = FakeWorker(model, 1000 + len(self.workers), resident, self.slots)
        self.most = max(self.most, sum(self.workers[i].model.footprint.total for i in self.live))
        try:
            await asyncio.sleep(self.load_seconds / 2)
            tell(Progress(0.5))
            await asyncio.sleep(self.load_seconds / 2)
            if model.name in self.fails:
                raise self.fails[model.name]
            yield self.workers[instance]
        finally:
            await self._end(instance, model, placement, tell)

    async def _end(
        self, instance: str, model: LocalModel, placement: Placement, tell: Callable[[News], None]
    ) -> None:
        if model.name in self.frees:
            tell(Freed(dict.fromkeys(placement.footprints, 1)))
        try:
            await asyncio.sleep(self.stop_seconds)
            if model.name in self.unkillable:
                tell(Stuck())
                await asyncio.sleep(self.stuck_seconds)
        finally:
            del self.live[instance]

    def kill(self, instance: str) -> None:
        self.workers[instance].gone.set()


def out_of_memory() -> LoadFailed:
    return LoadFailed("cudaMalloc failed: out of memory")
