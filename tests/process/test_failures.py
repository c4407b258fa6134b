"""Every way in which a worker can fail, one by one, in a house where another model must notice nothing."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import pytest

from router.domain.errors import LoadFailed, WorkerCrashed
from router.domain.generation import Delta
from router.domain.models import LocalModel
from router.domain.news import Freed, News, Stuck
from router.runtime import process as worker_process
from router.runtime.launcher import ProcessLauncher
from router.runtime.process import WorkerProcess
from router.runtime.pulse import Pulse
from router.runtime.spares import Spares
from router.telemetry import Metrics
from tests.local import launch, quiet
from tests.process.house import House, house, model
from tests.process.people import ENDLESS, alive, ask, children, echo, text, until

pytestmark = pytest.mark.process


@asynccontextmanager
async def undisturbed(people: House, neighbour: LocalModel) -> AsyncIterator[list[Delta]]:
    """What a stream of another model says meanwhile. It does not end, and goes on afterwards."""
    async with people.residency.lease(neighbour, 20) as lease:
        async with aclosing(lease.worker.generate(ask("for ever", ENDLESS))) as deltas:
            words = [await anext(deltas)]

            async def read() -> None:
                async for delta in deltas:
                    words.append(delta)
                raise AssertionError("the neighbour's stream ended")

            async with asyncio.TaskGroup() as tasks:
                reading = tasks.create_task(read())
                yield words
                said = len(words)
                await until(lambda: len(words) > said + 3)
                reading.cancel()


LOAD_FAILURES = [
    ("fail=load", "The echo was told to fail its load"),
    ("fail=exit_load", "died during the load: exited with code 3"),
    ("fail=hang_load", "made no progress for 0.5 s"),
]
DECODE_FAILURES = [
    ("fail=exit_decode:3", "exited with code 4"),
    ("fail=abort_decode:3", "killed by SIGABRT"),
    ("fail=raise_decode:3", "exited with code 1"),
    ("fail=oom_decode:3", "run out of memory"),
    ("fail=hang_decode:3", "hung: no decode step"),
    ("fail=garbage", "broke the protocol"),
]


@pytest.mark.parametrize(("script", "words"), LOAD_FAILURES)
async def test_a_load_that_fails_fails_alone(script: str, words: str) -> None:
    bad, good = model("bad", script), model("good", "step_ms=5")
    async with house(bad, good) as people, undisturbed(people, good) as said:
        before = len(said)
        with pytest.raises(LoadFailed, match=words):
            await people.answer(bad)
        if "hang" in script:  # for half a second, and the neighbour says a word every 5 ms
            assert len(said) > before + 3


async def test_g10_a_worker_killed_while_it_loads_is_replaced_unseen() -> None:
    slow, good = model("slow", "load_ms=1000"), model("good", "step_ms=5")
    async with house(slow, good) as people, undisturbed(people, good):

        def loading() -> set[int | None]:
            ready = {instance.pid for instance in people.residency.view().instances}
            return set(people.spares.pids) - set(people.spares.idle) - ready

        async with asyncio.TaskGroup() as tasks:
            answer = tasks.create_task(people.answer(slow))
            await until(lambda: any(0 < i.progress < 1 for i in people.residency.view().instances))
            await until(lambda: len(loading()) == 1)
            (pid,) = loading()
            assert pid
            os.kill(pid, signal.SIGKILL)
        assert answer.result() == "hello"
        assert len(people.happened("StartWorker")) == 2  # one each: residency never heard of it


@pytest.mark.parametrize(("script", "words"), DECODE_FAILURES)
async def test_g9_a_worker_that_fails_in_its_answer_fails_alone_and_says_how(script: str, words: str) -> None:
    bad, good = model("bad", f"step_ms=5&{script}"), model("good", "step_ms=5")
    async with house(bad, good) as people, undisturbed(people, good) as said:
        before = len(said)
        with pytest.raises(WorkerCrashed, match=words):
            await people.endless(bad)
        if "hang" in script:
            assert len(said) > before + 3


async def test_g9_a_worker_killed_in_its_answer_is_told_as_soon_as_its_socket_closes() -> None:
    """No watch of a silence tells it: those are told to wait for an hour."""
    good, bad = model("good", "step_ms=5"), model("bad", "step_ms=5")
    async with house(good, bad, silence=3600) as people, undisturbed(people, good):
        async with people.residency.lease(bad, 20) as lease:
            async with aclosing(lease.worker.generate(ask("for ever", ENDLESS))) as deltas:
                await anext(deltas)
                os.kill(lease.worker.pid, signal.SIGKILL)
                with pytest.raises(WorkerCrashed, match="SIGKILL"):
                    while True:
                        await anext(deltas)


async def test_g13_a_model_that_crashes_again_and_again_is_refused_at_once_and_others_are_served() -> None:
    bad, good = model("bad", "step_ms=5&fail=exit_decode:2"), model("good", "step_ms=5")
    async with house(bad, good, failures=3, failure_window=60.0, backoff=5.0) as people:
        async with undisturbed(people, good):
            for _ in range(3):
                with pytest.raises(WorkerCrashed):
                    await people.endless(bad)
            await until(lambda: people.residency.view().status("bad") == "failed")
            loads = len(people.happened("StartWorker"))
            with pytest.raises(LoadFailed, match="bad failed too often") as caught:
                await people.answer(bad)
            asked, refused = (people.happened(kind)[-1] for kind in ("LeaseRequested", "RefuseLease"))
            assert refused == asked + 1  # at once: nothing else happened first
            assert caught.value.retry_after is not None and 1 < caught.value.retry_after <= 5
            assert len(people.happened("StartWorker")) == loads
        assert await people.answer(good) == "hello"


@pytest.mark.parametrize("when", ["idle", "decoding"])
async def test_g11_a_worker_that_is_frozen_is_found_killed_and_replaced(when: str) -> None:
    """In beats of a tenth of a second; how many there may be is `test_pulse`'s question."""
    async with Spares(1, backend="echo") as spares:
        launcher = ProcessLauncher(spares, Metrics(), "echo", beat=0.1, deaf_seconds=0.4)
        async with launch(launcher, "m#1", echo("step_ms=5"), quiet) as worker:
            async with aclosing(worker.generate(ask("for ever", ENDLESS))) as deltas:
                if when == "decoding":
                    await anext(deltas)
                await asyncio.sleep(0.15)  # the watch has its rhythm
                os.kill(worker.pid, signal.SIGSTOP)
                async with asyncio.timeout(60):
                    await worker.wait_gone()
        async with launch(launcher, "m#2", echo(), quiet) as worker:
            assert await text(worker.generate(ask("hello"))) == "hello"


async def test_g11_a_worker_that_is_frozen_while_it_loads_is_found_long_before_its_progress_is_missed() -> (
    None
):
    async with Spares(0, backend="echo") as spares:
        launcher = ProcessLauncher(spares, Metrics(), "echo", beat=0.1, deaf_seconds=0.5, stall_seconds=60)

        def freeze(news: News) -> None:
            for process in spares.pids:
                os.kill(process, signal.SIGSTOP)

        with pytest.raises(LoadFailed, match="hung: no answer to a ping"):
            async with asyncio.timeout(10), launch(launcher, "m#1", echo("load_ms=6000"), freeze):
                raise AssertionError("it was launched")


async def test_a_slow_load_is_no_hang_as_long_as_it_goes_on() -> None:
    async with house(slow := model("slow", "load_ms=1500")) as people:
        assert await people.answer(slow) == "hello"  # three times as long as a stall may be


async def test_a_spare_that_is_frozen_is_replaced_before_a_load_is_given_to_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("router.runtime.spares.Pulse", functools.partial(Pulse, deaf_seconds=0.3))
    async with Spares(1, backend="echo", beat=0.05) as spares:
        await until(lambda: spares.idle)
        (first,) = spares.idle
        os.kill(first, signal.SIGSTOP)
        await until(lambda: spares.idle and spares.idle != (first,))
        assert alive([first]) == []


async def test_a_load_that_lacked_memory_is_told_from_other_failures() -> None:
    for script, lacked in (("fail=oom_load", True), ("fail=load", False)):
        async with Spares(0, backend="echo") as spares:
            with pytest.raises(LoadFailed) as caught:
                async with launch(ProcessLauncher(spares, Metrics(), "echo"), "m#1", echo(script), quiet):
                    raise AssertionError("it was launched")
        assert caught.value.out_of_memory is lacked


async def test_a_worker_killed_while_it_is_idle_is_replaced_by_the_next_request() -> None:
    async with house(idle := model("idle")) as people:
        assert await people.answer(idle) == "hello"
        (instance,) = people.residency.view().instances
        assert instance.pid is not None
        os.kill(instance.pid, signal.SIGKILL)
        await until(lambda: not people.residency.view().instances)
        assert await people.answer(idle) == "hello"


# Leaving ------------------------------------------------------------------------------------------------------


async def test_a_worker_gives_its_memory_back_before_it_exits() -> None:
    told: list[tuple[News, bool]] = []
    async with Spares(0, backend="echo") as spares:
        launcher = ProcessLauncher(spares, Metrics(), "echo")
        pid = 0

        def hear(news: News) -> None:
            told.append((news, pid in spares.pids))

        async with launch(launcher, "m#1", echo("weights=7"), hear) as worker:
            pid = worker.pid
        assert told[-1] == (Freed({"host": 0}), True)


async def test_the_next_load_starts_when_the_memory_is_freed() -> None:
    a, b = model("a"), model("b")
    async with house(a, b, room=1) as people:
        assert await people.answer(a) == "hello"
        assert await people.answer(b) == "hello"
        (freed,) = people.happened("WorkerFreed")
        started = people.happened("StartWorker")[-1]
        (left,) = people.happened("WorkerExited")
        assert freed < started < left


class Unkillable(WorkerProcess):
    """
    Nothing can make a process that survives SIGKILL; it takes a driver that hangs in the kernel. So the signals
    of this one do not leave the house: what is tested is all that the house does about it.
    """

    def _signal(self, number: signal.Signals) -> None:
        """Not sent."""


@pytest.fixture
def unkillable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router.runtime.spares.WorkerProcess", Unkillable)
    monkeypatch.setattr(worker_process, "STUCK_SECONDS", 0.3)


async def test_a_worker_that_cannot_be_killed_ends_its_streams_and_is_told_and_waited_for(
    unkillable: None,
) -> None:
    told: list[News] = []
    async with Spares(0, backend="echo") as spares:
        launcher = ProcessLauncher(spares, Metrics(), "echo", grace=0.1, beat=0.05, deaf_seconds=0.3)
        async with asyncio.TaskGroup() as tasks:
            serving = tasks.create_task(freeze_in_the_answer(launcher, told))
            await until(lambda: Stuck() in told)
            assert not serving.done()
            (pid,) = spares.pids
            os.kill(pid, signal.SIGKILL)  # the driver let go after all
        assert told.count(Stuck()) == 1
        assert spares.pids == ()


async def freeze_in_the_answer(launcher: ProcessLauncher, told: list[News]) -> None:
    async with launch(launcher, "m#1", echo("step_ms=5"), told.append) as worker:
        with pytest.raises(WorkerCrashed, match="hung"):
            async with aclosing(worker.generate(ask("for ever", ENDLESS))) as deltas:
                await anext(deltas)
                os.kill(worker.pid, signal.SIGSTOP)
                async for _ in deltas:
                    pass
        await worker.wait_gone()


async def test_a_worker_that_cannot_be_killed_does_not_keep_the_gateway_from_ending(unkillable: None) -> None:
    async with asyncio.timeout(20):
        async with Spares(0, backend="echo") as spares:
            process = await spares.take()
            os.kill(process.pid, signal.SIGSTOP)
    assert process.lost.is_set()
    os.kill(process.pid, signal.SIGKILL)
    await until(lambda: process.pid not in children())
