from __future__ import annotations

import asyncio

import pytest

from router.runtime.spares import Spares

pytestmark = pytest.mark.process


async def filled(spares: Spares, count: int) -> None:
    async with asyncio.timeout(20):
        while len(spares.idle) < count:
            await asyncio.sleep(0.01)


async def test_with_processors_to_spare_the_next_spare_starts_as_soon_as_one_is_taken() -> None:
    async with Spares(1, backend="echo", beside=True) as spares:
        await filled(spares, 1)
        first = await spares.take()
        await filled(spares, 1)
        assert spares.idle != (first.pid,)
        assert set(spares.pids) == {first.pid, *spares.idle}


async def test_on_few_processors_it_starts_behind_the_load() -> None:
    async with Spares(1, backend="echo") as spares:
        await filled(spares, 1)
        first = await spares.take()
        await asyncio.sleep(0.3)
        assert spares.pids == (first.pid,)
        spares.refill()
        await filled(spares, 1)


async def test_who_takes_more_than_there_are_gets_those_that_are_coming_and_they_are_replaced() -> None:
    async with Spares(2, backend="echo", beside=True) as spares:
        async with asyncio.TaskGroup() as tasks:
            taken = [tasks.create_task(spares.take(), name=f"take {number}") for number in range(5)]
        pids = {task.result().pid for task in taken}
        assert len(pids) == 5
        await filled(spares, 2)
        assert len(spares.pids) == 7
        assert not pids & set(spares.idle)


async def test_a_house_that_ends_while_spares_start_leaves_no_process() -> None:
    async with Spares(3, backend="echo", beside=True) as spares:
        await asyncio.sleep(0.05)
    assert spares.pids == ()
