"""The shell with a launcher that has no processes, in virtual time."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from router.domain.errors import (
    DoesNotFit,
    DoesNotFitNow,
    LeaseTimeout,
    LoadFailed,
    ShuttingDown,
)
from router.domain.models import Footprint, Limits
from router.residency.feed import StatusChange
from router.residency.history import SIZE
from tests.local import resized
from tests.residency.fakes import FakeLauncher
from tests.residency.manager_scene import A, B, House, _outcome, house, now
from tests.residency.playbook import DEVICE, model, on
from tests.residency.virtual_time import in_virtual_time


@in_virtual_time
async def test_an_idle_model_is_unloaded_after_its_ttl() -> None:
    async with house() as home:
        await home.use(A)
        (instance,) = home.manager.view().instances
        assert instance.expires_in == 600
        await asyncio.sleep(601)
        assert home.launcher.live == {}
        assert home.value("router_evictions_total", model="a", reason="idle") == 1


@in_virtual_time
async def test_an_edit_while_a_model_loads_strands_nobody() -> None:
    async with house() as home:
        async with asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(home.use(A))
            await asyncio.sleep(0.7)
            home.told(B)
            assert await waiting == "a#1"
        await home.use(B)


@in_virtual_time
async def test_an_edit_that_changes_nothing_of_a_process_ends_no_stream() -> None:
    async with house() as home, home.manager.lease(A) as lease:
        home.told(msgspec.structs.replace(A, ttl=None, pinned=True), B)
        await asyncio.sleep(1)
        assert lease.instance in home.launcher.live
        assert home.manager.view().status("a") == "loaded"


@in_virtual_time
async def test_measured_bytes_are_charged_and_an_unmeasured_overhead_is_charged_as_estimated() -> None:
    estimated = resized(A, Footprint(weights=5, overhead=2))
    async with house(FakeLauncher(measures={"a": Footprint(weights=4)})) as home:
        home.told(estimated)
        async with home.manager.lease(estimated):
            view = home.manager.view()
            assert (view.memory.used, view.memory.free) == (6, 4)
            assert view.instances[0].measured == Footprint(weights=4)
        assert home.value("router_model_bytes", model="a", kind="estimated") == 7
        assert home.value("router_model_bytes", model="a", kind="measured") == 6


@in_virtual_time
async def test_a_worker_that_takes_more_than_there_is_is_stopped_and_its_waiter_told() -> None:
    async with house(FakeLauncher(measures={"a": Footprint(weights=11)})) as home:
        with pytest.raises(DoesNotFit):
            await home.use(A)
        await asyncio.sleep(1)
        assert home.launcher.live == {}
        assert home.value("router_evictions_total", model="a", reason="oom") == 1


@in_virtual_time
async def test_shutdown_refuses_who_waits_lets_leases_run_and_stops_every_worker() -> None:
    async with house() as home:
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(home.use(A, seconds=5))
            await asyncio.sleep(2)
            waiting = tasks.create_task(_outcome(home, B))
            await asyncio.sleep(0)
            began = now()
            await home.manager.shut_down(drain=30)
            assert await waiting is ShuttingDown
            assert running.done() and running.result() == "a#1"
            assert now() - began < 5
        assert home.launcher.live == {}
        assert await _outcome(home, A) is ShuttingDown
        assert home.manager.view().shutting_down


@in_virtual_time
async def test_shutdown_waits_no_longer_than_it_may() -> None:
    async with house() as home, home.manager.lease(A):
        began = now()
        await home.manager.shut_down(drain=10)
        assert home.launcher.live == {}
        assert now() - began == pytest.approx(10.5)


@in_virtual_time
async def test_leaving_the_house_refuses_who_waits() -> None:
    built = House(FakeLauncher(), Limits())
    async with asyncio.TaskGroup() as tasks:
        async with built.manager:
            built.told(A, B)
            waiting = tasks.create_task(_outcome(built, A))
            await asyncio.sleep(0.1)
        assert await waiting is ShuttingDown
    assert built.launcher.live == {}
    assert await _outcome(built, A) is ShuttingDown


@in_virtual_time
async def test_changes_are_told_as_they_happen() -> None:
    async with house() as home:
        seen: list[StatusChange] = []

        async def listen() -> None:
            async for change in home.manager.changes():
                seen.append(change)

        async with asyncio.TaskGroup() as tasks:
            listener = tasks.create_task(listen())
            await asyncio.sleep(0)
            await home.use(A)
            home.manager.unload("a")
            await asyncio.sleep(5)
            listener.cancel()
        assert seen == [
            StatusChange("a", "loading", 0.0),
            StatusChange("a", "loading", 0.5),
            StatusChange("a", "loaded", 1.0),
            StatusChange("a", "unloaded", 0.0),
        ]


@in_virtual_time
async def test_a_wait_is_described_for_people() -> None:
    async with house() as home:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(home.use(A, seconds=2))
            await asyncio.sleep(0.7)
            assert home.manager.describe_wait(A) == "loading a 50%, about 1 s"
            await asyncio.sleep(0.7)
            tasks.create_task(home.use(B))
            await asyncio.sleep(0)
            assert home.manager.describe_wait(B) == "waiting for b: next, about 26 s"


@in_virtual_time
async def test_the_last_events_and_actions_are_kept_and_no_more() -> None:
    async with house() as home:
        for _ in range(SIZE):
            await home.use(A)
        history = home.manager.history()
        assert len(history) == SIZE
        assert history[-1].startswith("WakeAt")
        assert any(entry.startswith("GrantLease") for entry in history)


@in_virtual_time
async def test_a_hundred_swaps_leave_nothing_behind() -> None:
    async with house() as home:
        for _ in range(50):
            await home.use(A)
            await home.use(B)
        manager = home.manager
        assert len(manager._lives) == 1 and not manager._grants
        assert len(asyncio.all_tasks()) == 2  # this test and one worker's life
        swaps = [home.value("router_swaps_total", model=m, reason="request") for m in "ab"]
        assert swaps == [50, 50]


@in_virtual_time
async def test_freed_bytes_let_the_next_model_in_before_the_process_is_gone() -> None:
    async with house(FakeLauncher(stop_seconds=5.0, load_seconds=1.0, frees={"a"})) as home:
        await home.use(A)
        began = now()
        await home.use(B)
        assert now() - began == pytest.approx(1.0)
        await asyncio.sleep(5)
        assert list(home.launcher.live) == ["b#2"]


@in_virtual_time
async def test_a_process_that_cannot_be_killed_is_quarantined_shown_and_not_waited_for() -> None:
    async with house(FakeLauncher(unkillable={"a"})) as home:
        await home.use(A)
        with pytest.raises(DoesNotFitNow):  # B needs the bytes that may never come back
            await home.use(B)
        (instance,) = home.manager.view().instances
        assert instance.phase == "quarantined"
        assert home.manager.view().memory.quarantined == 6
        assert home.value("router_device_bytes", device=DEVICE, kind="quarantined") == 6
        assert home.manager.view().status("a") == "unloaded"
        began = now()
        await home.manager.shut_down(drain=30)
        assert now() == began
        await asyncio.sleep(101)


@in_virtual_time
async def test_a_quarantined_process_that_ends_after_all_gives_its_bytes_back() -> None:
    async with house(FakeLauncher(unkillable={"a"}, stuck_seconds=20)) as home:
        await home.use(A)
        assert await _outcome(home, B) is DoesNotFitNow
        await asyncio.sleep(21)
        assert await home.use(B) == "b#2"


@in_virtual_time
async def test_a_load_that_runs_out_of_memory_is_tried_again_when_the_idle_are_gone() -> None:
    small = model("small", 2)
    full = LoadFailed("cudaMalloc failed", out_of_memory=True)
    async with house(FakeLauncher(load_seconds=1.0, stop_seconds=0.5)) as home:
        home.told(A, small)
        await home.use(small)
        home.launcher.fails["a"] = full
        async with asyncio.TaskGroup() as tasks:
            waiter = tasks.create_task(_outcome(home, A))
            await asyncio.sleep(1.6)  # the first try has failed, and what was idle is told to go
            assert home.manager.view().status("small") == "unloaded"
            del home.launcher.fails["a"]
            assert await waiter == "a#3"
        home.launcher.fails["a"] = full
        home.manager.unload(None)
        assert await _outcome(home, A) is LoadFailed  # twice, and no more


@in_virtual_time
async def test_what_strangers_take_is_shown_and_blocks_loads() -> None:
    async with house() as home:
        home.manager.device_free(on(5))
        view = home.manager.view().memory
        assert (view.budget, view.strangers, view.free) == (10, 5, 5)
        assert home.value("router_device_bytes", device=DEVICE, kind="strangers") == 5
        assert await _outcome(home, A) is DoesNotFitNow
        home.manager.device_free(on(99))
        assert await home.use(A) == "a#1"


@in_virtual_time
async def test_a_pace_is_shown_and_held_until_it_changes() -> None:
    async with house(FakeLauncher(slots=2)) as home:
        home.manager.device_paced({DEVICE: 0.25})
        assert home.manager.view().paces == {DEVICE: 0.25}
        assert home.value("router_device_pace_ratio", device=DEVICE) == 0.25
        async with home.manager.lease(A):
            assert await _outcome(home, A, wait=1.0) is LeaseTimeout
            home.manager.device_paced({})
            assert await home.use(A) == "a#1"
        assert home.value("router_device_pace_ratio", device=DEVICE) == 1


@in_virtual_time
async def test_an_expected_wait_is_what_was_measured() -> None:
    async with house(FakeLauncher(load_seconds=4.0, stop_seconds=0.5)) as home:
        await home.use(A, seconds=3)
        assert home.manager.expected_wait(A) == 0.0
        home.manager.unload("a")
        await asyncio.sleep(1)
        assert home.manager.expected_wait(A) == pytest.approx(4.0)
        async with home.manager.lease(A):
            assert home.manager.expected_wait(A) == pytest.approx(3.0)


@in_virtual_time
async def test_a_lease_with_a_higher_priority_is_granted_first() -> None:
    served: list[int] = []

    async def ask(home: House, priority: int) -> None:
        async with home.manager.lease(A, priority=priority):
            served.append(priority)

    async with house() as home, asyncio.TaskGroup() as tasks:
        tasks.create_task(home.use(A, seconds=5))
        await asyncio.sleep(2)
        for priority in (0, 5, 9):
            tasks.create_task(ask(home, priority))
            await asyncio.sleep(0.1)
    assert served == [9, 5, 0]
