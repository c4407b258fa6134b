"""Requests to real worker processes, and the deaths in the middle of them."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import aclosing

import pytest

from router.domain.errors import ContextOverflow, InvalidRequest, WorkerCrashed
from router.domain.generation import EmbeddingRequest, FinishReason, SamplingParams
from router.domain.models import EngineOptions
from router.runtime.client import WorkerClient
from router.runtime.launcher import ProcessLauncher
from router.runtime.spares import Spares
from router.telemetry import Metrics
from tests.local import launch, quiet
from tests.process.people import ENDLESS, LARGE, ask, echo, text, until

pytestmark = pytest.mark.process


async def test_an_answer_streams_through_a_real_process(launcher: ProcessLauncher) -> None:
    async with launch(launcher, "m#1", echo("step_ms=20"), quiet) as worker:
        deltas = [delta async for delta in worker.generate(ask("Grüße 🦙!"))]
    assert "".join(delta.text for delta in deltas) == "Grüße 🦙!"
    assert deltas[-1].finish_reason is FinishReason.STOP
    assert deltas[-1].usage is not None
    assert len(deltas) > 2


async def test_how_far_a_long_prompt_is_read_is_told_until_the_first_delta(launcher: ProcessLauncher) -> None:
    engine = EngineOptions(context=512, slots=2, ubatch=16)
    async with launch(launcher, "m#1", echo("step_ms=40", engine), quiet) as worker:
        told: list[float] = []
        async with aclosing(worker.generate(ask("x" * 400), told.append)) as deltas:
            await anext(deltas)
            until_then = list(told)
    assert len(told) == len(until_then) > 1
    assert told == sorted(told)
    assert 0.0 < told[0] < told[-1] < 1.0


async def test_two_answers_run_side_by_side(launcher: ProcessLauncher) -> None:
    async with launch(launcher, "m#1", echo("step_ms=2"), quiet) as worker:
        async with asyncio.TaskGroup() as tasks:
            one = tasks.create_task(text(worker.generate(ask("first answer"))))
            two = tasks.create_task(text(worker.generate(ask("other answer"))))
        assert (one.result(), two.result()) == ("first answer", "other answer")
        assert worker.gauges.steps < 20  # one after the other would be 26 steps
        assert worker.gauges.slots_busy == 0


async def test_leaving_frees_the_slot_for_the_next(launcher: ProcessLauncher) -> None:
    async with launch(
        launcher, "m#1", echo("step_ms=1", EngineOptions(context=512, slots=1)), quiet
    ) as worker:
        for _ in range(3):
            async with aclosing(worker.generate(ask("for ever", ENDLESS))) as deltas:
                await anext(deltas)
        assert await text(worker.generate(ask("next"))) == "next"


async def test_a_cancel_during_silence_frees_the_slot(launcher: ProcessLauncher) -> None:
    async with launch(launcher, "m#1", echo("step_ms=1", LARGE), quiet) as worker:
        async with aclosing(worker.generate(ask("for ever", ENDLESS))) as deltas:
            await anext(deltas)
        await until(lambda: worker.gauges.slots_busy == 0)


async def test_embeddings_come_back(launcher: ProcessLauncher) -> None:
    async with launch(launcher, "m#1", echo(), quiet) as worker:
        answer = await worker.embed(EmbeddingRequest("e", ("one", (1, 2, 3))))
    assert len(answer.vectors) == 2
    assert len(answer.vectors[0]) == 4 * answer.dimensions == 4 * worker.facts.embedding_dimensions


async def test_a_request_that_cannot_be_served_fails_alone(launcher: ProcessLauncher) -> None:
    async with launch(launcher, "m#1", echo("step_ms=1"), quiet) as worker:
        async with aclosing(worker.generate(ask("for ever", ENDLESS))) as running:
            await anext(running)
            with pytest.raises(ContextOverflow) as caught:
                await text(worker.generate(ask("x" * 600)))
            assert (caught.value.context, caught.value.prompt_tokens) == (512, 600)
            bias = SamplingParams(logit_bias=((10**6, 1.0),))
            with pytest.raises(InvalidRequest):
                await text(worker.generate(ask("x", bias)))
            assert (await anext(running)).text


async def test_a_request_of_megabytes_reaches_the_worker(launcher: ProcessLauncher) -> None:
    async with launch(launcher, "m#1", echo("", EngineOptions(context=64, slots=1)), quiet) as worker:
        with pytest.raises((ContextOverflow, InvalidRequest)):
            await text(worker.generate(ask("x" * (8 * 2**20))))
        assert await text(worker.generate(ask("small"))) == "small"


async def crash(worker: WorkerClient) -> str:
    """Start an answer that has no end, have its first word, and wait for the error."""
    with pytest.raises(WorkerCrashed) as caught:
        async with asyncio.timeout(20):
            await text(worker.generate(ask("for ever", ENDLESS)))
    async with asyncio.timeout(20):
        await worker.wait_gone()
    return caught.value.message


@pytest.mark.parametrize(
    ("number", "words"),
    [(signal.SIGKILL, "killed by SIGKILL"), (signal.SIGSEGV, "killed by SIGSEGV")],
    ids=["kill", "segfault"],
)
async def test_a_worker_killed_mid_stream_fails_its_answers_and_says_how(
    launcher: ProcessLauncher, number: int, words: str
) -> None:
    async with launch(launcher, "m#1", echo("step_ms=1", LARGE), quiet) as worker:
        async with asyncio.TaskGroup() as tasks:
            one = tasks.create_task(crash(worker))
            two = tasks.create_task(crash(worker))
            await until(lambda: worker.gauges.completion_tokens > 4)
            os.kill(worker.pid, number)
    assert words in one.result()
    assert words in two.result()
    assert "m#1" in one.result()


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("fail=exit_decode:5", "exited with code 4"),
        ("fail=raise_decode:5", "exited with code 1; its last words: the step thread failed"),
        ("fail=hang_decode:5", "killed because it hung: no decode step for"),
        ("fail=garbage", "killed because it broke the protocol"),
    ],
)
async def test_each_way_to_die_while_decoding_is_told(
    launcher: ProcessLauncher, script: str, words: str
) -> None:
    async with launch(launcher, "m#1", echo(script), quiet) as worker:
        assert words in await crash(worker)


async def test_a_worker_that_is_stopped_by_a_signal_is_found_hung(spares: Spares) -> None:
    launcher = ProcessLauncher(spares, Metrics(), "echo", beat=0.1, deaf_seconds=0.5)
    async with launch(launcher, "m#1", echo(), quiet) as worker:
        os.kill(worker.pid, signal.SIGSTOP)
        assert "killed because it hung: no answer to a ping" in await crash(worker)


async def test_the_death_of_one_worker_is_nothing_to_another(launcher: ProcessLauncher) -> None:
    async with launch(launcher, "a#1", echo("step_ms=1", LARGE), quiet) as first:
        async with launch(launcher, "b#2", echo("step_ms=1"), quiet) as second:
            async with aclosing(second.generate(ask("for ever", ENDLESS))) as deltas:
                await anext(deltas)
                os.kill(first.pid, signal.SIGKILL)
                await first.wait_gone()
                assert (await anext(deltas)).text
            assert await text(second.generate(ask("well"))) == "well"


async def test_a_slow_reader_loses_nothing(launcher: ProcessLauncher) -> None:
    async with launch(launcher, "m#1", echo(), quiet) as worker:
        async with aclosing(worker.generate(ask("a long enough answer"))) as deltas:
            first = await anext(deltas)
            await until(lambda: worker.gauges.slots_busy == 0)
            rest = [delta async for delta in deltas]
    assert first.text + "".join(delta.text for delta in rest) == "a long enough answer"
    assert len(rest) <= 1
