"""A prompt that is never read to its end: who is served beside it, and who is not tried again."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from router.domain.errors import WorkerCrashed
from router.domain.models import LocalModel
from router.routing.dispatch import Dispatcher
from router.runtime.launcher import ProcessLauncher
from router.runtime.spares import Spares
from router.telemetry import Metrics
from tests.local import launch, quiet
from tests.process.house import house, model
from tests.process.people import LARGE, ask, echo, text, until

pytestmark = pytest.mark.process


async def said(dispatcher: Dispatcher, asked: LocalModel, prompt: str) -> str:
    async with dispatcher.generate(asked, ask(prompt)) as answer:
        return "".join([delta.text async for delta in answer.deltas])


async def test_a_short_prompt_is_answered_while_a_long_one_is_read() -> None:
    async with Spares(0, backend="echo") as spares:
        launcher = ProcessLauncher(spares, Metrics(), "echo")
        async with launch(launcher, "m#1", echo("fail=hang_read:1000", LARGE), quiet) as worker:
            async with asyncio.TaskGroup() as tasks:
                long = tasks.create_task(text(worker.generate(ask("x" * 90_000))))
                await asyncio.sleep(0)
                for _ in range(3):
                    assert await text(worker.generate(ask("hello"))) == "hello"
                assert not long.done()
                long.cancel()


async def test_a_client_that_leaves_before_its_prompt_is_read_leaves_nothing_behind() -> None:
    async with Spares(0, backend="echo") as spares:
        launcher = ProcessLauncher(spares, Metrics(), "echo", beat=0.05, hang_seconds=0.5)
        async with launch(launcher, "m#1", echo(), quiet) as worker:
            for _ in range(20):
                async with aclosing(worker.generate(ask("hello"))):
                    pass
            assert await text(worker.generate(ask("hello"))) == "hello"
            await until(lambda: worker.gauges.slots_busy == 0)


async def test_what_a_hung_intake_takes_down_is_not_retried() -> None:
    """Two prompts hang, one of them behind the other: the worker dies once, and neither goes to the next one."""
    hangs = model("hangs", "fail=hang_read:1000")
    async with house(hangs) as people:
        dispatcher = Dispatcher(people.residency, people.metrics)
        assert await said(dispatcher, hangs, "hello") == "hello"
        async with asyncio.TaskGroup() as tasks:
            long = [tasks.create_task(refused(dispatcher, hangs, "x" * 90_000)) for _ in range(2)]
            reasons = [await task for task in long]
        assert all("the same prompt has been read for 0.5 s" in reason for reason in reasons)
        await until(lambda: not people.residency.view().instances)
        assert len(people.happened("StartWorker")) == 1
        assert await said(dispatcher, hangs, "again") == "again"


async def refused(dispatcher: Dispatcher, asked: LocalModel, prompt: str) -> str:
    with pytest.raises(WorkerCrashed) as caught:
        await said(dispatcher, asked, prompt)
    return str(caught.value)
