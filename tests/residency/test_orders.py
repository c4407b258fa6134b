"""What operators order, through the shell, in virtual time."""

from __future__ import annotations

import asyncio

import pytest

from router.domain.errors import LoadFailed
from tests.residency.fakes import out_of_memory
from tests.residency.manager_scene import A, B, House, house, now
from tests.residency.virtual_time import in_virtual_time


@in_virtual_time
async def test_an_operator_loads_and_unloads() -> None:
    async with house() as home:
        await home.manager.load(A)
        assert home.manager.view().status("a") == "loaded"
        await home.manager.load(A)
        assert home.value("router_swaps_total", model="a", reason="operator") == 1
        assert home.manager.unload("nobody") == 0
        assert home.manager.unload(None) == 1
        await asyncio.sleep(1)
        assert home.launcher.live == {}
        assert home.value("router_evictions_total", model="a", reason="requested") == 1
        home.launcher.fails["b"] = out_of_memory()
        with pytest.raises(LoadFailed, match="out of memory"):
            await home.manager.load(B)


@in_virtual_time
async def test_an_operators_load_that_failed_is_seen_until_the_next_one() -> None:
    async with house() as home:
        home.launcher.fails["b"] = LoadFailed("bad magic")
        with pytest.raises(LoadFailed):
            await home.manager.load(B)
        assert home.manager.view().status("b") == "failed"
        assert "bad magic" in home.manager.view().failed["b"]
        del home.launcher.fails["b"]
        await home.manager.load(B)
        assert home.manager.view().status("b") == "loaded"
        assert "b" not in home.manager.view().failed


@in_virtual_time
async def test_an_operators_load_that_was_called_off_did_not_fail() -> None:
    async with house() as home:
        async with asyncio.TaskGroup() as tasks:
            loading = tasks.create_task(refused_load(home))
            await asyncio.sleep(0.5)
            home.manager.unload("b")
        assert "was unloaded" in loading.result()
        assert home.manager.view().failed == {}


async def refused_load(home: House) -> str:
    with pytest.raises(LoadFailed) as caught:
        await home.manager.load(B)
    return caught.value.message


@in_virtual_time
async def test_an_edit_that_takes_a_model_out_forgets_that_its_load_failed() -> None:
    async with house() as home:
        home.launcher.fails["b"] = LoadFailed("bad magic")
        await refused_load(home)
        home.told(A)
        home.told(A, B)
        assert home.manager.view().failed == {}


@in_virtual_time
async def test_an_operators_load_of_a_busy_model_returns_at_once() -> None:
    async with house() as home, home.manager.lease(A):
        began = now()
        await home.manager.load(A)
        assert now() == began
