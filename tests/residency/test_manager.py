"""The shell with a launcher that has no processes, in virtual time."""

from __future__ import annotations

import asyncio

import pytest

from router.domain.errors import (
    DoesNotFit,
    LeaseTimeout,
    LoadFailed,
    QueueFull,
    WorkerCrashed,
)
from router.domain.models import Limits, LocalModel
from router.residency.events import LeaseReleased
from tests.residency.fakes import FakeLauncher, out_of_memory
from tests.residency.manager_scene import BUDGET, A, B, House, _load_in_vain, _outcome, house, now
from tests.residency.playbook import model
from tests.residency.virtual_time import in_virtual_time


@in_virtual_time
async def test_models_swap_and_the_old_process_is_gone_before_the_new_one_starts() -> None:
    async with house() as home:
        assert await home.use(A) == "a#1"
        assert await home.use(B) == "b#2"
        assert await home.use(A) == "a#3"
        assert home.launcher.most <= BUDGET


@in_virtual_time
async def test_two_alternating_clients_are_all_served_and_the_bytes_never_pass_the_budget() -> None:
    async def client(home: House, *order: LocalModel) -> int:
        for wanted in order * 10:
            await home.use(wanted, seconds=0.2)
        return len(order) * 10

    async with house() as home:
        began = now()
        done = await asyncio.gather(client(home, A, B), client(home, B, A))
        assert sum(done) == 40
        assert home.launcher.most <= BUDGET
        # A swap takes 1.5 s here; nobody waited for a patience that was not needed.
        assert now() - began < 40 * (1.5 + 0.2 + 0.1)


@in_virtual_time
async def test_a_lease_tells_the_two_parts_of_its_wait() -> None:
    async with house(FakeLauncher(load_seconds=4.0, stop_seconds=1.0)) as home:
        async with home.manager.lease(A) as lease:
            assert lease.queue_seconds == pytest.approx(0.0)
            assert lease.load_seconds == pytest.approx(4.0)
        async with home.manager.lease(A) as lease:
            assert (lease.queue_seconds, lease.load_seconds) == (0.0, 0.0)
        async with home.manager.lease(B) as lease:  # first A has to go
            assert lease.queue_seconds == pytest.approx(1.0)
            assert lease.load_seconds == pytest.approx(4.0)
            assert lease.worker.pid == 1001


@in_virtual_time
async def test_who_joins_a_load_late_is_told_only_its_own_part_of_it() -> None:
    async with house(FakeLauncher(load_seconds=4.0, slots=2)) as home:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(home.use(A))
            await asyncio.sleep(3)
            async with home.manager.lease(A) as lease:
                assert lease.load_seconds == pytest.approx(1.0)
                assert lease.queue_seconds == pytest.approx(0.0)


@pytest.mark.parametrize("spins", range(14))
@in_virtual_time
async def test_a_client_who_leaves_at_any_moment_leaves_nothing_behind(spins: int) -> None:
    async with house(FakeLauncher(load_seconds=0.0, stop_seconds=0.0)) as home:
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(home.use(A, seconds=3600))
            for _ in range(spins):
                await asyncio.sleep(0)
            task.cancel()
        tables = home.core.tables
        assert not tables.holders and not tables.waiting
        assert await home.use(B) in {"b#1", "b#2"}


@pytest.mark.parametrize("seconds", [0.0, 0.2, 0.5, 0.9, 1.0, 1.4, 1.5, 2.0, 2.6])
@in_virtual_time
async def test_a_client_who_leaves_during_a_swap_leaves_the_house_usable(seconds: float) -> None:
    async with house() as home:
        await home.use(A)
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(home.use(B, seconds=3600))
            await asyncio.sleep(seconds)
            task.cancel()
        assert not home.core.tables.holders and not home.core.tables.waiting
        await home.use(A)


@in_virtual_time
async def test_a_waiter_cancelled_in_the_tick_of_its_grant_gives_the_slot_to_the_next() -> None:
    async with house() as home:
        async with asyncio.TaskGroup() as tasks:
            first = tasks.create_task(home.use(A, seconds=3600))
            await asyncio.sleep(2)
            second = tasks.create_task(home.use(A, seconds=3600))
            third = tasks.create_task(home.use(A))
            await asyncio.sleep(1)
            second.cancel()  # its future is cancelled now, its task runs later
            first.cancel()
            assert await third == "a#1"


@in_virtual_time
async def test_a_waiter_cancelled_in_the_tick_of_its_refusal_leaves_no_complaint() -> None:
    async with house(limits=Limits(max_wait=5)) as home:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(home.use(A, seconds=20))
            await asyncio.sleep(2)
            waiter = tasks.create_task(home.use(B))
            await asyncio.sleep(0)
            asyncio.get_running_loop().call_at(now() + 5, waiter.cancel)
            await asyncio.sleep(10)
            assert waiter.done()


@in_virtual_time
async def test_a_worker_started_and_stopped_in_the_same_tick_gives_its_memory_back() -> None:
    async with house() as home:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_load_in_vain(home))
            await asyncio.sleep(0)
            assert home.manager.unload("a") == 1  # its task has not run yet
        await asyncio.sleep(0.1)
        assert home.core.tables.instances == {} and home.launcher.workers == {}
        await home.use(B)


@in_virtual_time
async def test_a_crash_frees_the_house_for_the_next() -> None:
    async with house() as home:
        async with home.manager.lease(A):
            home.launcher.kill("a#1")
            await asyncio.sleep(0)
            assert await home.use(A) == "a#2"
        assert home.value("router_worker_restarts_total", model="a") == 1
        assert home.value("router_evictions_total", model="a", reason="crashed") == 1


@in_virtual_time
async def test_a_worker_that_dies_between_the_grant_and_its_use_is_a_crash() -> None:
    async with house() as home:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_outcome(home, A, seconds=3))
            await asyncio.sleep(2)
            waiter = tasks.create_task(_outcome(home, A))
            await asyncio.sleep(0)
            home.manager._post(LeaseReleased(now(), 1))  # the slot is granted to the waiter ...
            home.manager._went_down("a#1", home.manager._lives["a#1"], "killed")  # ... in this very tick
            home.launcher.kill("a#1")
            assert await waiter is WorkerCrashed


@in_virtual_time
async def test_a_failed_load_tells_its_waiters_why_and_a_crash_loop_ends() -> None:
    async with house(FakeLauncher(fails={"a": out_of_memory()})) as home:
        for _ in range(3):
            with pytest.raises(LoadFailed, match="out of memory"):
                await home.use(A)
        began = now()
        with pytest.raises(LoadFailed) as refused:
            await home.use(A)
        assert now() == began
        assert refused.value.retry_after == pytest.approx(5.0, abs=1.0)
        assert home.manager.view().status("a") == "failed"
        assert await home.use(B) == "b#4"


@in_virtual_time
async def test_a_launcher_that_breaks_costs_one_load_and_not_the_gateway() -> None:
    async with house(FakeLauncher(fails={"a": RuntimeError("a bug")})) as home:
        with pytest.raises(LoadFailed, match="RuntimeError: a bug"):
            await home.use(A)
        await home.use(B)


@in_virtual_time
async def test_every_refusal_reaches_its_waiter_with_its_time() -> None:
    limits = Limits(max_waiting=1, patience=100)
    async with house(limits=limits) as home:
        async with home.manager.lease(A):
            began = now()
            async with asyncio.TaskGroup() as tasks:
                waiting = tasks.create_task(_outcome(home, B, wait=3))
                await asyncio.sleep(0)
                with pytest.raises(QueueFull) as full:
                    await home.use(B)
                assert full.value.retry_after == 115.5  # patience, a lease, an exit and a load
                assert await waiting is LeaseTimeout
            assert now() - began == pytest.approx(3.0)
            assert await _outcome(home, B, wait=0) is LeaseTimeout
            assert await _outcome(home, model("huge", 11)) is DoesNotFit


@in_virtual_time
async def test_patience_ends_by_itself_when_nothing_else_happens() -> None:
    async with house(limits=Limits(patience=10)) as home:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(home.use(A, seconds=20))
            await asyncio.sleep(2)
            waiter = tasks.create_task(home.use(B))
            await asyncio.sleep(10.5)
            assert home.manager.view().instances[0].phase == "draining"
            assert await waiter == "b#2"
