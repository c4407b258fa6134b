from __future__ import annotations

import asyncio

import pytest

from router.domain.errors import LoadFailed
from router.runtime.spares import Spares

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
