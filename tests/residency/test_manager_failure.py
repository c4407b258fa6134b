"""Errors between an event and its actions: those of watching go no further, those of deciding end everything."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from structlog.testing import capture_logs

from router.domain.errors import ShuttingDown
from router.residency import events
from router.residency.core import Residency
from tests.residency.manager_scene import A, B, House, house
from tests.residency.virtual_time import in_virtual_time


def broken(*args: object, **kwargs: object) -> None:
    raise OSError("no space left on device")


def break_the_core(monkeypatch: pytest.MonkeyPatch, kind: type) -> None:
    whole = Residency.handle

    def handle(self: Residency, event: events.Event) -> Sequence[events.Action]:
        if isinstance(event, kind):
            raise RuntimeError("injected")
        return whole(self, event)

    monkeypatch.setattr(Residency, "handle", handle)


@in_virtual_time
async def test_whoever_only_watches_may_break_and_every_decision_is_carried_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with house() as home:
        async with asyncio.TaskGroup() as tasks:
            listening = tasks.create_task(_listen(home))
            await asyncio.sleep(0)
            for metric in (home.metrics.swaps, home.metrics.evictions, home.metrics.worker_restarts):
                monkeypatch.setattr(metric, "labels", broken)
            monkeypatch.setattr(home.metrics.queue_wait, "observe", broken)
            monkeypatch.setattr(home.manager, "view", broken)
            with capture_logs() as lines:
                assert [await home.use(A), await home.use(B), await home.use(A)] == ["a#1", "b#2", "a#3"]
                home.launcher.workers["a#3"].gone.set()
                await asyncio.sleep(1)
                assert await home.use(A) == "a#4"
            assert not home.manager.failed.is_set()
            broke = {line["of"] for line in lines if line["event"] == "an observation failed"}
            assert {"Report.ready", "Report.stopping", "Report.died", "Report.granted", "Feed.stir"} <= broke
            listening.cancel()


@in_virtual_time
async def test_an_error_in_the_core_refuses_who_waits_and_who_comes_and_ends_every_worker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with house() as home:
        await home.use(A)
        break_the_core(monkeypatch, events.TimePassed)
        async with asyncio.TaskGroup() as tasks:
            using = tasks.create_task(home.use(A, seconds=5))
            await asyncio.sleep(0)
            waiting = tasks.create_task(_refusal(home.use(B)))
            hurried = tasks.create_task(_refusal(home.use(B, wait=0.3)))
            with capture_logs() as lines:
                assert "stops after an error" in await waiting
                assert "stops after an error" in await hurried
            assert home.manager.failed.is_set()
            assert "stops after an error" in await _refusal(home.use(A))
            await home.manager.shut_down(0.0)
            assert home.launcher.live == {}
            assert not using.done()
        assert lines[0]["event"].startswith("residency broke")
        assert lines[-1]["entry"].startswith("TimePassed(")
        home.core.tables.instances.clear()  # it heard of nothing any more
        home.core.tables.holders.clear()


@in_virtual_time
async def test_an_action_that_cannot_be_carried_out_is_as_bad_as_one_that_cannot_be_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with house() as home:
        monkeypatch.setattr(home.manager, "_start", broken)
        assert "stops after an error" in await _refusal(home.use(A))
        assert home.manager.failed.is_set()
        home.core.tables.instances.clear()
        home.core.tables.holders.clear()


async def _listen(home: House) -> None:
    async for _ in home.manager.changes():
        await asyncio.sleep(0)


async def _refusal(use: object) -> str:
    with pytest.raises(ShuttingDown) as refused:
        await use  # type: ignore[misc]
    return refused.value.message
