"""What operators order, through the shell, in virtual time."""

from __future__ import annotations

import asyncio

import pytest

from router.domain.errors import LoadFailed, ModelBusy, Unloaded
from tests.residency.fakes import out_of_memory
from tests.residency.manager_scene import A, B, House, _outcome, house, now
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


@in_virtual_time
async def test_an_unload_of_what_loads_for_clients_is_a_conflict_that_counts_them() -> None:
    async with house() as home:
        async with asyncio.TaskGroup() as tasks:
            clients = [tasks.create_task(_outcome(home, A)) for _ in range(2)]
            await asyncio.sleep(0.5)
            with pytest.raises(ModelBusy, match="2 requests wait") as busy:
                home.manager.unload("a")
            assert busy.value.waiting == 2
        assert [client.result() for client in clients] == ["a#1", "a#1"]


@in_virtual_time
async def test_a_forced_unload_refuses_who_waits_and_stops_the_load() -> None:
    async with house() as home:
        async with asyncio.TaskGroup() as tasks:
            client = tasks.create_task(_outcome(home, A))
            await asyncio.sleep(0.3)
            assert home.manager.unload("a", force=True) == 1
            await asyncio.sleep(0.6)
            assert home.launcher.live == {}
        assert client.result() is Unloaded
        assert home.manager.view().failed == {}


@in_virtual_time
async def test_who_waits_for_memory_or_a_slot_is_a_conflict_too() -> None:
    async with house() as home:
        async with asyncio.TaskGroup() as tasks, home.manager.lease(A):
            slot = tasks.create_task(_outcome(home, A))
            memory = tasks.create_task(_outcome(home, B))
            await asyncio.sleep(0.1)
            for name in "ab":
                with pytest.raises(ModelBusy, match="1 request waits"):
                    home.manager.unload(name)
            assert home.manager.unload(None) == 0
            assert home.manager.unload("b", force=True) == 1
            await asyncio.sleep(0)
            assert memory.done() and not slot.done()
            assert home.manager.unload(None, force=True) == 1  # it drains: its lease runs on
            assert home.manager.unload("a") == 1  # and may be told so again
        assert (slot.result(), memory.result()) == (Unloaded, Unloaded)


@in_virtual_time
async def test_what_drains_for_another_is_running_and_may_be_unloaded() -> None:
    async with house() as home:
        async with asyncio.TaskGroup() as tasks:
            async with home.manager.lease(A):
                other = tasks.create_task(_outcome(home, B))
                await asyncio.sleep(15)
                assert home.manager.view().instances[0].phase == "draining"
                assert home.manager.unload("a") == 1
            assert await other == "b#2"
        assert home.value("router_evictions_total", model="a", reason="requested") == 1


@in_virtual_time
async def test_an_operators_load_that_waits_for_memory_is_called_off() -> None:
    async with house() as home, asyncio.TaskGroup() as tasks, home.manager.lease(A):
        loading = tasks.create_task(refused_load(home))
        await asyncio.sleep(0.1)
        assert home.manager.unload("b") == 1
        assert "was unloaded" in await loading
