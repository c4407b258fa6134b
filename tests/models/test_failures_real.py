"""How real models fail in real workers: memory that lacks at the load and later, aborts, a frozen process."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
from contextlib import aclosing
from pathlib import Path

import psutil
import pytest

from router.domain.errors import LoadFailed, WorkerCrashed
from router.domain.generation import GenerationRequest, SamplingParams, TextPrompt
from router.domain.models import EngineOptions, LocalModel
from router.domain.news import Freed, News
from router.runtime.client import WorkerClient
from router.runtime.launcher import ProcessLauncher
from router.runtime.spares import Spares
from router.sizing.parts import identity
from router.telemetry import Metrics
from tests.local import launch, local_model, quiet
from tests.process.people import until

pytestmark = [pytest.mark.model, pytest.mark.process]

ENDLESS = SamplingParams(ignore_eos=True, max_tokens=100_000)
MiB = 2**20


def real(path: Path, context: int = 4096, slots: int = 1) -> LocalModel:
    return local_model(
        "m", str(path), engine=EngineOptions(context=context, slots=slots), file=identity([path])
    )


def limit(pid: int, more: int) -> None:
    """From now on the process gets `more` bytes of address space and not one beyond them."""
    most = psutil.Process(pid).memory_info().vms + more
    resource.prlimit(pid, resource.RLIMIT_AS, (most, most))


@pytest.mark.parametrize(
    ("more", "context"), [(30 * MiB, 512), (400 * MiB, 200_000)], ids=["the weights", "the cache"]
)
async def test_a_real_load_that_lacks_memory_says_so(smollm2: Path, more: int, context: int) -> None:
    async with Spares(1) as spares:
        await until(lambda: spares.idle)
        await asyncio.sleep(0.3)  # its threads start behind its greeting, each with a stack of 64 MiB
        limit(spares.idle[0], more)
        with pytest.raises(LoadFailed) as caught:
            async with launch(ProcessLauncher(spares, Metrics()), "m#1", real(smollm2, context), quiet):
                raise AssertionError("it was launched")
    assert caught.value.out_of_memory, caught.value.message


async def test_a_file_that_is_no_model_is_no_lack_of_memory(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF" + bytes(500))
    async with Spares(0) as spares:
        with pytest.raises(LoadFailed) as caught:
            async with launch(ProcessLauncher(spares, Metrics()), "m#1", real(path), quiet):
                raise AssertionError("it was launched")
    assert not caught.value.out_of_memory


@pytest.mark.parametrize(
    ("number", "words"),
    [(signal.SIGABRT, "killed by SIGABRT"), (signal.SIGSTOP, "hung: no answer to a ping")],
)
async def test_a_real_worker_that_aborts_or_freezes_in_its_answer_is_told(
    smollm2: Path, number: int, words: str
) -> None:
    async with Spares(0) as spares:
        launcher = ProcessLauncher(spares, Metrics(), beat=0.1, deaf_seconds=1.0)
        async with launch(launcher, "m#1", real(smollm2), quiet) as worker:
            with pytest.raises(WorkerCrashed, match=words):
                await die_in_the_answer(worker, number)


async def die_in_the_answer(worker: WorkerClient, number: int) -> None:
    async with asyncio.timeout(30):
        async with aclosing(worker.generate(GenerationRequest("1", TextPrompt("Once"), ENDLESS))) as deltas:
            await anext(deltas)
            os.kill(worker.pid, number)
            async for _ in deltas:
                pass


async def test_a_real_worker_gives_its_memory_back_before_its_process_is_gone(smollm2: Path) -> None:
    told: list[tuple[News, bool]] = []
    async with Spares(0) as spares:
        pid = 0

        def hear(news: News) -> None:
            told.append((news, pid in spares.pids))

        async with launch(ProcessLauncher(spares, Metrics()), "m#1", real(smollm2), hear) as worker:
            pid = worker.pid
    news, lived = told[-1]
    assert isinstance(news, Freed) and lived
    assert set(news.remaining) == {"host"}
