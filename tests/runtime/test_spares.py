from __future__ import annotations

import asyncio
from typing import Any

import pytest

from router import protocol
from router.domain.errors import LoadFailed
from router.runtime.process import WorkerProcess
from router.runtime.spares import Spares, _unexpected
from tests.runtime.fakes import FakeProcess

# What a spare does with real processes is asked in tests/process; here is what happens when there are none.

NOBODY = ("/no/such/program",)


async def test_a_house_that_cannot_start_processes_says_so_and_ends_cleanly() -> None:
    async with Spares(1, command=NOBODY, backoff=0.001) as spares:
        for _ in range(3):
            with pytest.raises(LoadFailed, match="No worker process could be started"):
                await spares.take()
        assert spares.idle == ()


async def test_an_error_in_the_house_leaves_it_unwrapped() -> None:
    with pytest.raises(KeyError):
        async with Spares(0, command=NOBODY):
            raise KeyError("ours")


async def test_a_cancelled_house_ends() -> None:
    entered = asyncio.Event()

    async def house() -> None:
        async with Spares(1, command=NOBODY, backoff=0.001):
            entered.set()
            await asyncio.Event().wait()

    async with asyncio.TaskGroup() as tasks:
        life = tasks.create_task(house())
        await entered.wait()
        life.cancel()
    assert life.cancelled()


async def test_an_error_in_one_workers_task_ends_no_other_worker() -> None:
    async def broken() -> None:
        raise RuntimeError("a bug of ours")

    async with Spares(0, command=NOBODY) as spares:
        other = spares.own(asyncio.Event().wait(), "another worker's")
        await spares.own(broken(), "watch")
        assert not other.done()
        other.cancel()
        spares.own(broken(), "cancelled before its first step").cancel()


async def test_a_start_that_fails_in_an_odd_way_costs_one_load(monkeypatch: pytest.MonkeyPatch) -> None:
    async def no_thread(*_: object) -> WorkerProcess:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(WorkerProcess, "spawn", no_thread)
    async with Spares(0, command=NOBODY) as spares:
        with pytest.raises(LoadFailed, match="can't start new thread"):
            await spares.take()
        assert spares.pids == ()


async def test_a_spare_that_comes_to_nothing_is_not_the_loads_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    starts: list[asyncio.Future[WorkerProcess]] = []

    async def start() -> WorkerProcess:
        starts.append(asyncio.get_running_loop().create_future())
        return await starts[-1]

    async with Spares(1, command=NOBODY, backoff=60) as spares, asyncio.TaskGroup() as tasks:
        monkeypatch.setattr(spares, "start", start)
        await asyncio.sleep(0)
        taking = tasks.create_task(spares.take())
        while not starts:
            await asyncio.sleep(0)
        starts[0].set_exception(LoadFailed("killed by SIGKILL"))
        while len(starts) < 2:
            await asyncio.sleep(0)
        worker: Any = object()
        starts[1].set_result(worker)
        assert await taking is worker


async def test_the_answer_to_the_watchs_last_ping_is_no_reason_to_kill_a_spare_that_was_taken() -> None:
    process = FakeProcess()
    hear = _unexpected(process)  # type: ignore[arg-type]
    hear(protocol.Pong(1, 0, False))
    assert not process.killed
    hear(protocol.Freed())
    assert process.killed == ["killed because it sent Freed out of turn"]
