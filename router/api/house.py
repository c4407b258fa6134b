"""
What the handlers are handed: the rooms below, and the request's own record.

The one rule: names of models are looked up here and nowhere else, so that nobody walks around a key's limits.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from router.api.errors import NotAllowed
from router.domain.models import LocalModel
from router.registry.catalog import Catalog
from router.registry.loader import Key
from router.residency.manager import ResidencyManager
from router.routing.dispatch import Dispatcher
from router.routing.route import resolve
from router.settings import Settings
from router.telemetry import Metrics, logger

log = logger("api")

Finish = Literal["stop", "length", "error", "left"]


@dataclass(slots=True)
class Record:
    """One request, as the access log and the metrics will see it."""

    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    model: LocalModel | None = None
    key: Key | None = None
    """Whose request it is; None when the registry has no keys, and anybody may ask for anything."""
    finish: Finish | None = None

    def may_use(self, model: LocalModel) -> bool:
        if self.key is None or "*" in self.key.models:
            return True
        return not {model.name, *model.aliases}.isdisjoint(self.key.models)


class Background:
    """Owns the work that outlives its request, such as an operator's load. One piece of work per name."""

    def __init__(self) -> None:
        self._tasks: asyncio.TaskGroup | None = None
        self._running: dict[str, asyncio.Task[None]] = {}

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as self._tasks:
            yield
            for task in self._running.values():
                task.cancel()

    def start(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` unless something of this name runs already. What it raises is logged and ends only it."""
        if name in self._running:
            work.close()
            return
        if self._tasks is None:
            work.close()
            raise RuntimeError("background work before the app has started")
        task = self._running[name] = self._tasks.create_task(_logged(name, work), name=name)
        task.add_done_callback(lambda _: self._running.pop(name))
        task.add_done_callback(lambda _: work.close())  # cancelled before its first step, it would complain


async def _logged(name: str, work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except Exception as error:  # in the task group it would end the gateway
        log.error("background work failed", work=name, exc_info=error)


@dataclass(slots=True)
class House:
    settings: Settings
    catalog: Catalog
    residency: ResidencyManager
    dispatcher: Dispatcher
    metrics: Metrics
    background: Background = field(default_factory=Background)

    def model(self, name: str, record: Record) -> LocalModel:
        """The model that `name` means. Raises UnknownModel, or NotAllowed for a key that may not use it."""
        model = resolve(self.catalog.current, name)
        if not record.may_use(model):
            raise NotAllowed(f"This key may not use the model {model.name!r}.")
        record.model = model
        return model

    def models(self, record: Record) -> Iterator[LocalModel]:
        """The models that the request may use, in the registry's order."""
        return (m for m in self.catalog.current.models.values() if record.may_use(m))
