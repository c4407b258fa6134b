"""
What residency asks of a worker process and of whoever starts one, and what it hands out: a lease.

The one rule: nothing here but these shapes; behind them are processes, or a test's stand-ins.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from router.domain.generation import Delta, EmbeddingRequest, Embeddings, GenerationRequest, OnPrompt
from router.domain.models import Footprint, LocalModel, Placement
from router.domain.news import News
from router.protocol import EngineFacts, EngineGauges


class Worker(Protocol):
    """A process with a model in memory."""

    @property
    def facts(self) -> EngineFacts: ...
    @property
    def resident(self) -> Mapping[str, Footprint]: ...
    @property
    def pid(self) -> int: ...
    @property
    def gauges(self) -> EngineGauges: ...
    @property
    def sandbox(self) -> tuple[str, ...]: ...

    def generate(self, request: GenerationRequest, on_prompt: OnPrompt) -> AsyncGenerator[Delta, None]:
        """Closing it cancels. Raises InvalidRequest, ContextOverflow, WorkerCrashed."""
        ...

    async def embed(self, request: EmbeddingRequest) -> Embeddings: ...

    async def wait_gone(self) -> None:
        """Returns when it serves no more."""
        ...


class Launcher(Protocol):
    def launch(
        self, instance: str, model: LocalModel, placement: Placement, tell: Callable[[News], None]
    ) -> contextlib.AbstractAsyncContextManager[Worker]:
        """
        Enter: spawn and wait until ready, or raise LoadFailed. Leave: the process is gone.

        `tell` hears how the load goes on, and while leaving what was freed early or does not end.
        """
        ...


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to one slot of one ready worker. The seconds are the two parts of the wait for it."""

    instance: str
    worker: Worker
    queue_seconds: float
    load_seconds: float
    """The part of the wait in which this very instance was loading."""
