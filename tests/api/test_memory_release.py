"""With a whole gateway: tests/e2e/test_body_memory.py."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest

from router.api import memory_release
from router.api.memory_release import LARGE, MemoryRelease


class Knot:
    """What only the collector can free."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_release, "QUIET_SECONDS", 0.01)


async def freed(release: MemoryRelease, size: int, seconds: float) -> bool:
    gc.disable()
    try:
        knot = weakref.ref(Knot())
        release.ended(size)
        until = asyncio.get_running_loop().time() + seconds
        while knot() is not None and asyncio.get_running_loop().time() < until:
            await asyncio.sleep(0.01)
        return knot() is None
    finally:
        gc.enable()


async def test_a_large_body_is_followed_by_a_collection_and_a_trim(monkeypatch: pytest.MonkeyPatch) -> None:
    trimmed = []
    monkeypatch.setattr(memory_release, "trim", lambda: trimmed.append(1))
    assert await freed(MemoryRelease(lambda: 0), LARGE, 30)
    async with asyncio.timeout(30):
        while not trimmed:
            await asyncio.sleep(0.01)


async def test_small_bodies_and_busy_moments_are_left_alone() -> None:
    held = [LARGE]
    release = MemoryRelease(lambda: held[0])
    assert not await freed(release, LARGE - 1, 0.1)
    assert not await freed(release, LARGE, 0.1)
    held[0] = 0
    assert await freed(release, LARGE, 30)


def test_trimming_is_possible_or_nothing() -> None:
    memory_release.trim()
