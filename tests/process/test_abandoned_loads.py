"""A load whose clients all left: it gives way to whoever needs its memory, and its process really ends."""

from __future__ import annotations

import asyncio

import pytest

from router.domain.models import LocalModel
from tests.process.house import House, house, model
from tests.process.people import alive, children, until

pytestmark = pytest.mark.process

SLOW = "load_ms=4000"


def loading(people: House, wanted: LocalModel) -> bool:
    """It reads its weights in a process of its own."""
    return people.residency.view().progress(wanted.name) > 0


async def leave_during_the_load(people: House, wanted: LocalModel) -> set[int]:
    """A client asks, and leaves once the load is under way. Returns the processes that there are then."""
    async with asyncio.TaskGroup() as clients:
        client = clients.create_task(people.answer(wanted))
        await until(lambda: loading(people, wanted))
        client.cancel()
    return children()


async def test_a_load_that_nobody_waits_for_is_stopped_for_who_needs_its_memory() -> None:
    slow, quick = model("slow", SLOW), model("quick")
    async with house(slow, quick, room=1) as people:
        await leave_during_the_load(people, slow)
        assert await people.answer(quick) == "hello"
        history = people.residency.history()
        assert [e for e in history if e.startswith("WorkerReady") and "'slow#1'" in e] == []
        assert any(e.startswith("StopWorker") and "abandoned" in e for e in history)
        value = people.metrics.registry.get_sample_value
        assert value("router_evictions_total", {"model": "slow", "reason": "abandoned"}) == 1
        assert value("router_worker_restarts_total", {"model": "slow"}) is None
        assert people.residency.view().failed == {}


async def test_a_stopped_load_leaves_no_process_and_may_be_asked_for_again_at_once() -> None:
    slow, quick = model("slow", SLOW), model("quick")
    async with house(slow, quick, room=1, failures=1) as people:
        before = await leave_during_the_load(people, slow)
        await people.answer(quick)
        (instance,) = people.residency.view().instances
        assert instance.model == "quick"
        gone = before - children()
        assert len(gone) == 1 and not alive(gone)
        assert await people.answer(slow) == "hello"  # one failure would have paused it
