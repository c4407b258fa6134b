"""A catalog over a folder, with a record of what it did."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from router.domain.errors import RegistryInvalid
from router.registry import loader
from router.registry.catalog import Catalog
from router.registry.loader import Registry
from tests.registry.conftest import HOST, Folder

ONE = "version: 1\nmodels:\n  a: {path: a.gguf}\n"
TWO = ONE + "  b: {path: b.gguf}\n"


class Rig:
    """A catalog over a folder, what it did, and pauses that take no time."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self.applied: list[Registry] = []
        self.outcomes: list[tuple[str, tuple[str, ...]]] = []
        self.loads = 0
        self.pauses = 0
        self.during_pause: Callable[[], object] = lambda: None
        self.pause: Callable[[float], Awaitable[None]] = lambda seconds: asyncio.sleep(0)
        self.refine: Callable[[Registry], Awaitable[Registry]] = self._as_is
        self.told = asyncio.Event()
        self.catalog = Catalog(
            folder.file, self._load, lambda r: self.refine(r), self.applied.append, self._report, self._pause
        )

    async def start(self, text: str = ONE) -> Catalog:
        self.folder.write(text)
        await self.catalog.start()
        self.loads = 0
        return self.catalog

    def hold_refine(self) -> tuple[asyncio.Event, asyncio.Event]:
        """From now on a reading waits in its middle: set the first to let it go on; the second says it is there."""
        gate, inside = asyncio.Event(), asyncio.Event()

        async def refine(registry: Registry) -> Registry:
            inside.set()
            await gate.wait()
            return registry

        self.refine = refine
        return gate, inside

    async def refused(self) -> list[str]:
        with pytest.raises(RegistryInvalid) as caught:
            await self.catalog.reload()
        return self.folder.short(caught.value.problems)

    def kinds(self) -> list[str]:
        return [outcome for outcome, _ in self.outcomes]

    def _load(self, path: Path) -> Registry:
        self.loads += 1
        return loader.load(path, [HOST], self.folder.cache)

    async def _as_is(self, registry: Registry) -> Registry:
        return registry

    def _report(self, outcome: str, lines: tuple[str, ...]) -> None:
        self.outcomes.append((outcome, lines))
        self.told.set()

    async def _pause(self, seconds: float) -> None:
        self.pauses += 1
        self.during_pause()
        await self.pause(seconds)
