"""What the tests with real processes share: models, requests, and who is still alive."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Callable, Iterable

import psutil

from router.domain.generation import Delta, GenerationRequest, SamplingParams, TextPrompt
from router.domain.models import EngineOptions, LocalModel
from tests.local import local_model

ENDLESS = SamplingParams(ignore_eos=True)
LARGE = EngineOptions(context=200_000, slots=2)


def echo(script: str = "", engine: EngineOptions | None = None) -> LocalModel:
    return local_model("m", f"echo:?{script}", engine=engine or EngineOptions(context=512, slots=2))


def ask(text: str, sampling: SamplingParams | None = None) -> GenerationRequest:
    return GenerationRequest("id", TextPrompt(text), sampling or SamplingParams())


async def text(deltas: AsyncGenerator[Delta, None]) -> str:
    return "".join([delta.text async for delta in deltas])


def alive(pids: Iterable[int]) -> list[int]:
    """Those that run; a zombie that nobody has reaped yet does not."""
    found = []
    for pid in pids:
        try:
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                found.append(pid)
        except psutil.NoSuchProcess:
            continue
    return found


def children() -> set[int]:
    """Zombies included: a child that is not reaped is a leak."""
    return {child.pid for child in psutil.Process().children(recursive=True)}


def open_files() -> int:
    return psutil.Process(os.getpid()).num_fds()


async def until(condition: Callable[[], object], seconds: float = 10) -> None:
    """A bounded wait for something that another process does."""
    async with asyncio.timeout(seconds):
        while not condition():  # other processes set no events
            await asyncio.sleep(0.01)


def wait_until(condition: Callable[[], object], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():  # other processes set no events
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)
