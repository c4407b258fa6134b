from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from router import protocol
from router.domain.errors import ModelRefused
from router.domain.models import EngineOptions, Footprint
from router.runtime.probe import Probe
from tests.runtime.fakes import FakeProcess, FakeSpares

OPTIONS = EngineOptions()


@asynccontextmanager
async def probing(
    *processes: FakeProcess, idle: float = 60, answer: float = 60
) -> AsyncIterator[tuple[Probe, FakeSpares]]:
    async with asyncio.TaskGroup() as tasks:
        spares = FakeSpares(tasks, *processes)
        probe = Probe(spares, idle, answer)  # type: ignore[arg-type]
        yield probe, spares
        probe._retire()


def answers(process: FakeProcess, command: protocol.Command) -> None:
    if isinstance(command, protocol.DryRun):
        process.on_event(protocol.DryRunDone(command.id, {"host": Footprint(weights=len(command.path))}))


async def test_one_process_answers_many_questions_at_once() -> None:
    process = FakeProcess(answers)
    async with probing(process) as (probe, _), asyncio.TaskGroup() as tasks:
        asked = [tasks.create_task(probe.dry_run("x" * n, OPTIONS)) for n in range(1, 6)]
    assert [task.result() for task in asked] == [({"host": Footprint(weights=n)}, "") for n in range(1, 6)]


async def test_a_crash_answers_none_and_the_next_question_gets_a_new_process() -> None:
    bad = FakeProcess(lambda process, command: process.die("killed by SIGSEGV"))
    async with probing(bad, FakeProcess(answers)) as (probe, _):
        assert await probe.dry_run("bad", OPTIONS) == (None, "the dry run crashed: killed by SIGSEGV")
        assert await probe.dry_run("good", OPTIONS) == ({"host": Footprint(weights=4)}, "")


async def test_a_question_that_is_never_answered_ends_and_its_process_is_killed() -> None:
    process = FakeProcess()
    async with probing(process, answer=0.01) as (probe, _):
        assert await probe.dry_run("m", OPTIONS) == (None, "the dry run did not end within 0.01 s")
    assert process.killed == ["killed because a dry run did not end"]


async def test_no_process_is_no_footprint_but_a_reason() -> None:
    async with probing() as (probe, _):
        assert await probe.dry_run("m", OPTIONS) == (None, "no process left")


async def test_the_process_leaves_when_nobody_asks() -> None:
    process = FakeProcess(answers)
    async with probing(process, idle=0.001) as (probe, _):
        await probe.dry_run("m", OPTIONS)
        async with asyncio.timeout(10):
            await process.gone.wait()
    assert process.how == "stopped"


async def test_a_process_that_leaves_takes_no_question_of_the_next_one_with_it() -> None:
    old, new = FakeProcess(answers), FakeProcess()
    old.lingers = True
    async with probing(old, new) as (probe, _), asyncio.TaskGroup() as tasks:
        await probe.dry_run("first", OPTIONS)
        probe._retire()
        asked = tasks.create_task(probe.dry_run("second", OPTIONS))
        await new.received(1)
        old.die("stopped")
        answers(new, new.sent[0])
    assert asked.result() == ({"host": Footprint(weights=6)}, "")


async def test_the_build_is_asked_once() -> None:
    async with probing(FakeProcess()) as (probe, _):
        assert await probe.build() == "fake build"
        probe._retire()
        assert await probe.build() == "fake build"


async def test_a_refusal_is_told_apart_from_a_dry_run_that_could_not_be_had() -> None:
    def refuses(process: FakeProcess, command: protocol.Command) -> None:
        if isinstance(command, protocol.DryRun):
            process.on_event(protocol.DryRunDone(command.id, None, "unknown architecture", refused=True))

    async with probing(FakeProcess(refuses)) as (probe, _):
        with pytest.raises(ModelRefused, match="unknown architecture"):
            await probe.dry_run("m", OPTIONS)
