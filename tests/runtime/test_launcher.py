from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from router import protocol
from router.domain.errors import LoadFailed
from router.domain.models import FileIdentity, LocalModel
from router.domain.news import Freed, News, Stuck
from router.runtime.launcher import ProcessLauncher, usable
from router.sizing.devices import Device
from router.sizing.parts import identity
from router.telemetry import Metrics
from tests.local import heard, launch, local_model, quiet
from tests.runtime.fakes import FACTS, LOADED, FakeProcess, FakeSpares

MODEL = local_model("m", "echo:")


@asynccontextmanager
async def launching(
    *processes: FakeProcess, **patience: float
) -> AsyncIterator[tuple[ProcessLauncher, FakeSpares, Metrics]]:
    async with asyncio.TaskGroup() as tasks:
        spares, metrics = FakeSpares(tasks, *processes), Metrics()
        yield (
            ProcessLauncher(spares, metrics, "echo", **patience),  # type: ignore[arg-type]
            spares,
            metrics,
        )


def says(*events: protocol.WorkerEvent) -> Callable[[FakeProcess, protocol.Command], None]:
    def answer(process: FakeProcess, command: protocol.Command) -> None:
        if isinstance(command, protocol.Load):
            for event in events:
                process.on_event(event)

    return answer


async def refused(process: FakeProcess, model: LocalModel = MODEL, **patience: float) -> str:
    """The message with which the launch fails; the process is gone after it."""
    async with launching(process, **patience) as (launcher, spares, _):
        with pytest.raises(LoadFailed) as caught:
            async with launch(launcher, "m#1", model, quiet):
                raise AssertionError("it was launched")
    assert process.gone.is_set()
    assert spares.refills == 1
    return caught.value.message


async def test_a_launch_takes_a_spare_loads_it_and_leaves_no_process() -> None:
    fractions: list[float] = []
    process = FakeProcess(says(protocol.LoadProgress(0.3), protocol.LoadProgress(1.0), LOADED))
    async with launching(process) as (launcher, spares, metrics):
        async with launch(launcher, "m#1", MODEL, heard(fractions)) as worker:
            assert process.instance == "m#1"
            assert (worker.facts, worker.resident, worker.pid) == (FACTS, LOADED.resident, process.pid)
            assert spares.refills == 1
            assert not process.gone.is_set()
        assert process.gone.is_set()
        for phase in ("start", "weights"):
            labels = {"model": "m", "phase": phase}
            assert metrics.registry.get_sample_value("router_load_seconds_count", labels) == 1
    assert fractions == [0.3, 1.0]


async def test_an_error_of_the_user_comes_out_unwrapped_and_the_process_is_gone() -> None:
    process = FakeProcess(says(LOADED))
    async with launching(process) as (launcher, _, _):
        with pytest.raises(KeyError):
            async with launch(launcher, "m#1", MODEL, quiet):
                raise KeyError("ours")
    assert process.gone.is_set()


async def test_a_load_that_fails_says_what_the_worker_said() -> None:
    assert await refused(FakeProcess(says(protocol.LoadFailed("bad magic")))) == "bad magic"


def dying(how: str) -> FakeProcess:
    return FakeProcess(lambda process, command: process.die(how))


def dead(how: str) -> FakeProcess:
    process = FakeProcess()
    process.die(how)
    return process


@pytest.mark.parametrize("first", [dying, dead])
async def test_g10_a_worker_that_dies_during_the_load_is_replaced_once_unseen(
    first: Callable[[str], FakeProcess],
) -> None:
    second = FakeProcess(says(LOADED))
    async with launching(first("killed by SIGKILL"), second) as (launcher, _, _):
        async with launch(launcher, "m#1", MODEL, quiet) as worker:
            assert worker.pid == second.pid
            assert second.instance == "m#1"
    assert second.gone.is_set()


async def test_two_workers_that_die_during_one_load_are_a_failed_load() -> None:
    async with launching(dying("killed by SIGBUS"), dying("killed by SIGABRT")) as (launcher, spares, _):
        with pytest.raises(LoadFailed, match="The worker m#1 died during the load: killed by SIGABRT"):
            async with launch(launcher, "m#1", MODEL, quiet):
                raise AssertionError("it was launched")
    assert spares.refills == 2


async def test_a_worker_that_says_something_else_during_the_load_is_killed() -> None:
    assert "sent Freed during a load" in await refused(FakeProcess(says(protocol.Freed())))


async def test_a_load_that_lacked_memory_is_told_from_others() -> None:
    process = FakeProcess(says(protocol.LoadFailed("no room", out_of_memory=True)))
    async with launching(process) as (launcher, _, _):
        with pytest.raises(LoadFailed) as caught:
            async with launch(launcher, "m#1", MODEL, quiet):
                raise AssertionError("it was launched")
    assert caught.value.out_of_memory


async def test_a_worker_that_is_deaf_during_its_load_is_found_before_its_progress_is_missed() -> None:
    process = FakeProcess()
    assert "hung: no answer to a ping" in await refused(process, beat=0.001, deaf_seconds=0.003)


async def test_what_a_leaving_worker_freed_is_told_before_it_is_gone() -> None:
    told: list[tuple[News, bool]] = []
    process = FakeProcess(leaves_after_a_while)
    process.lingers = True
    async with launching(process) as (launcher, _, _):
        async with launch(launcher, "m#1", MODEL, lambda news: told.append((news, process.gone.is_set()))):
            pass
    assert told == [(Freed({"host": 0}), False)]


def leaves_after_a_while(process: FakeProcess, command: protocol.Command) -> None:
    match command:
        case protocol.Load():
            process.on_event(LOADED)
        case protocol.Stop():
            for _ in range(3):  # it is heard once: each would be a task of ours
                process.on_event(protocol.Freed())
            asyncio.get_running_loop().call_later(0.01, process.die, "stopped")
        case _:
            pass


async def test_a_worker_that_cannot_be_killed_is_told_and_its_end_is_waited_for() -> None:
    told: list[News] = []
    process = FakeProcess(says(LOADED))
    process.unkillable = True
    async with launching(process) as (launcher, _, _), asyncio.TaskGroup() as tasks:
        left = tasks.create_task(come_and_go(launcher, told))
        await process.lost.wait()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert (told, left.done()) == ([Stuck()], False)
        process.die("after all")
    assert told == [Stuck()]


async def come_and_go(launcher: ProcessLauncher, told: list[News]) -> None:
    async with launch(launcher, "m#1", MODEL, told.append):
        pass


@pytest.mark.parametrize("told", [(), (0.5, 0.5), (1.0,)], ids=["nothing", "the same again", "all weights"])
async def test_a_load_without_progress_is_killed(told: tuple[float, ...]) -> None:
    process = FakeProcess(says(*map(protocol.LoadProgress, told)))
    assert "made no progress" in await refused(process, stall_seconds=0.01)
    assert process.killed == ["killed because its load made no progress"]


async def test_a_file_replaced_since_the_registry_was_read_is_not_loaded(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF")
    model = local_model("m", str(path), file=FileIdentity(inode=1, size=4))
    process = FakeProcess(says(LOADED))
    assert "was replaced" in await refused(process, model)
    assert process.sent == []


async def test_a_file_replaced_during_the_load_is_not_served(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF")

    def answer(process: FakeProcess, command: protocol.Command) -> None:
        (tmp_path / "new").write_bytes(b"GGUF")
        (tmp_path / "new").replace(path)
        process.on_event(LOADED)

    assert "was replaced" in await refused(
        FakeProcess(answer), local_model("m", str(path), file=identity([path]))
    )


async def test_a_pinned_file_is_hashed_before_a_process_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF")
    pinned = local_model("m", str(path), file=identity([path]), sha256=hashlib.sha256(b"GGUF").hexdigest())
    wrong = msgspec.structs.replace(pinned, sha256="00" * 32)
    process = FakeProcess(says(protocol.LoadProgress(0.5), LOADED))
    fractions: list[float] = []
    async with launching(process) as (launcher, _, _):
        with pytest.raises(LoadFailed, match="is not the file that the registry pins"):
            async with launch(launcher, "m#1", wrong, quiet):
                raise AssertionError("it was launched")
        assert process.sent == []
        async with launch(launcher, "m#2", pinned, heard(fractions)):
            pass
    assert fractions == [0.5]  # the hash was known from the first attempt


async def test_the_hash_is_the_first_half_of_the_progress(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF")
    model = local_model("m", str(path), file=identity([path]), sha256=hashlib.sha256(b"GGUF").hexdigest())
    fractions: list[float] = []
    async with launching(FakeProcess(says(protocol.LoadProgress(0.5), LOADED))) as (launcher, _, _):
        async with launch(launcher, "m#1", model, heard(fractions)):
            pass
    assert fractions == [0.5, 0.75]


class Offloading:
    """The part of the launcher that says whether the engine was built for GPUs."""

    def __init__(self, offloads: bool) -> None:
        self._offloads = offloads

    async def offloads(self) -> bool:
        return self._offloads


@pytest.mark.parametrize("offloads", [True, False])
async def test_a_gpu_that_the_engine_was_not_built_for_is_none(offloads: bool) -> None:
    found = (Device("gpu0", "cuda", 9, 9), Device("host", "cpu", 9, 9))
    launcher: Any = Offloading(offloads)
    assert await usable(launcher, found) == (found if offloads else found[1:])
