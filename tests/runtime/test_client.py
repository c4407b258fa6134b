from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from router import protocol
from router.domain.errors import ContextOverflow, InvalidRequest, WorkerCrashed, WorkerStopped
from router.domain.generation import (
    Delta,
    EmbeddingRequest,
    Embeddings,
    FinishReason,
    GenerationRequest,
    TextPrompt,
    Usage,
)
from router.domain.models import Footprint
from router.runtime.client import WorkerClient, merge
from tests.runtime.fakes import FACTS, FakeProcess

REQUEST = GenerationRequest("client's own id", TextPrompt("x"))
LAST = Delta("!", 1, FinishReason.STOP, Usage(1, 2))
VECTORS = Embeddings((b"\0" * 4,), 1, 1)


def client(process: FakeProcess) -> WorkerClient:
    return WorkerClient(process, FACTS, {"host": Footprint(weights=9)})  # type: ignore[arg-type]


def step(id: str, *deltas: Delta) -> protocol.Step:
    return protocol.Step(tuple(protocol.Piece(id, d) for d in deltas), protocol.EngineGauges(steps=1))


async def test_a_generation_ends_with_the_delta_that_has_a_finish_reason() -> None:
    def answer(process: FakeProcess, command: protocol.Command) -> None:
        assert isinstance(command, protocol.Generate)
        process.on_event(step(command.request.id, LAST))

    process = FakeProcess(answer)
    worker = client(process)
    assert [delta async for delta in worker.generate(REQUEST)] == [LAST]
    assert worker.gauges.steps == 1
    assert len(process.sent) == 1  # no Cancel after the last word


async def test_how_far_the_prompt_is_read_reaches_its_own_request_within_bounds() -> None:
    def answer(process: FakeProcess, command: protocol.Command) -> None:
        assert isinstance(command, protocol.Generate)
        id = command.request.id
        for read, total in ((1, 4), (9, 4), (-9, 4), (0, 0)):
            process.on_event(protocol.PromptProgress(id, read, total))
        process.on_event(protocol.PromptProgress("nobody", 1, 2))
        process.on_event(step(id, LAST))

    told: list[float] = []
    assert [delta async for delta in client(FakeProcess(answer)).generate(REQUEST, told.append)] == [LAST]
    assert told == [0.25, 1.0, 0.0, 0.0]


async def test_two_requests_with_one_id_do_not_meet() -> None:
    process = FakeProcess()
    worker = client(process)
    one, two = worker.generate(REQUEST), worker.generate(REQUEST)
    async with aclosing(one), aclosing(two), asyncio.TaskGroup() as tasks:
        first = tasks.create_task(anext(one))  # type: ignore[arg-type]
        second = tasks.create_task(anext(two))  # type: ignore[arg-type]
        await process.received(2)
        ids = [command.request.id for command in process.sent if isinstance(command, protocol.Generate)]
        process.on_event(step(ids[1], Delta("two", 1)))
        process.on_event(step(ids[0], Delta("one", 1)))
    assert (first.result().text, second.result().text) == ("one", "two")


async def test_leaving_early_cancels() -> None:
    def answer(process: FakeProcess, command: protocol.Command) -> None:
        if isinstance(command, protocol.Generate):
            process.on_event(step(command.request.id, Delta("a", 1)))

    process = FakeProcess(answer)
    async with aclosing(client(process).generate(REQUEST)) as deltas:
        assert (await anext(deltas)).text == "a"
    (generate, cancel) = process.sent
    assert isinstance(generate, protocol.Generate)
    assert cancel == protocol.Cancel(generate.request.id)
    process.on_event(protocol.Failed(generate.request.id, "cancelled", ""))  # nobody listens any more


async def test_a_slow_reader_gets_fewer_and_longer_deltas() -> None:
    def answer(process: FakeProcess, command: protocol.Command) -> None:
        assert isinstance(command, protocol.Generate)
        process.on_event(step(command.request.id, Delta("a", 1)))
        process.on_event(step(command.request.id, Delta("b", 2)))
        process.on_event(step(command.request.id, LAST))

    deltas = [delta async for delta in client(FakeProcess(answer)).generate(REQUEST)]
    assert deltas == [Delta("ab!", 4, FinishReason.STOP, Usage(1, 2))]


def test_merged_deltas_keep_the_last_words_of_the_last() -> None:
    assert merge([Delta("a", 1), LAST]) == Delta("a!", 2, FinishReason.STOP, Usage(1, 2))
    assert merge([LAST]) is LAST


@pytest.mark.parametrize(
    ("failed", "error", "words"),
    [
        (protocol.Failed("", "invalid", "no such token", "logit_bias"), InvalidRequest, "no such token"),
        (protocol.Failed("", "context_overflow", "", None, 10, 20), ContextOverflow, "10 tokens.*20 tokens"),
        (
            protocol.Failed("", "context_overflow", "", "input[1]", 10, 20, 9),
            ContextOverflow,
            "input.1.*At most 9",
        ),
        (protocol.Failed("", "engine", "it broke"), WorkerCrashed, "it broke"),
        (protocol.Failed("", "cancelled", "not by us"), WorkerCrashed, "not by us"),
    ],
    ids=["invalid", "overflow", "overflow of an input", "engine", "cancelled"],
)
async def test_each_kind_of_failure_becomes_its_error(
    failed: protocol.Failed, error: type[Exception], words: str
) -> None:
    def answer(process: FakeProcess, command: protocol.Command) -> None:
        assert isinstance(command, protocol.Generate | protocol.Embed)
        process.on_event(protocol.Failed(command.request.id, *_rest(failed)))

    worker = client(FakeProcess(answer))
    with pytest.raises(error, match=words):
        await anext(worker.generate(REQUEST))
    with pytest.raises(error, match=words):
        await worker.embed(EmbeddingRequest("e", ("x",)))


def _rest(failed: protocol.Failed) -> tuple[object, ...]:
    return failed.kind, failed.message, failed.param, failed.context, failed.prompt_tokens, failed.most  # type: ignore[return-value]


async def test_an_error_waits_behind_the_text_before_it() -> None:
    def answer(process: FakeProcess, command: protocol.Command) -> None:
        assert isinstance(command, protocol.Generate)
        process.on_event(step(command.request.id, Delta("said", 1)))
        process.die("killed by SIGKILL")

    deltas = client(FakeProcess(answer)).generate(REQUEST)
    assert (await anext(deltas)).text == "said"
    with pytest.raises(WorkerCrashed, match="spare died: killed by SIGKILL") as caught:
        await anext(deltas)
    assert caught.value.retry_after is not None


async def test_a_request_that_a_stop_cuts_off_was_stopped() -> None:
    process = FakeProcess(lambda process, command: process.die("stopped by the gateway"))
    with pytest.raises(WorkerStopped) as caught:
        await anext(client(process).generate(REQUEST))
    assert "died" not in caught.value.message


async def test_a_death_fails_every_open_request() -> None:
    process = FakeProcess()
    worker = client(process)
    async with asyncio.TaskGroup() as tasks:
        embedding = tasks.create_task(_outcome(worker.embed(EmbeddingRequest("e", ("x",)))))
        delta = tasks.create_task(_outcome(anext(worker.generate(REQUEST))))
        await process.received(2)
        process.die("exited with code 1")
    assert isinstance(embedding.result(), WorkerCrashed)
    assert isinstance(delta.result(), WorkerCrashed)
    await worker.wait_gone()


async def _outcome(awaitable: object) -> object:
    try:
        return await awaitable  # type: ignore[misc]
    except WorkerCrashed as error:
        return error


async def test_a_request_to_a_dead_worker_crashes_at_once() -> None:
    process = FakeProcess()
    worker = client(process)
    process.die("killed by SIGSEGV")
    with pytest.raises(WorkerCrashed, match="SIGSEGV"):
        await anext(worker.generate(REQUEST))
    with pytest.raises(WorkerCrashed, match="SIGSEGV"):
        await worker.embed(EmbeddingRequest("e", ("x",)))
    assert process.sent == []


async def test_a_request_that_no_frame_can_carry_is_the_callers_fault() -> None:
    worker = client(FakeProcess())
    with pytest.raises(InvalidRequest, match="not Unicode"):
        await anext(worker.generate(GenerationRequest("1", TextPrompt("\ud800"))))
    with pytest.raises(InvalidRequest, match="limit"):
        await anext(worker.generate(GenerationRequest("1", TextPrompt("x" * protocol.MAX_FRAME))))


async def test_embeddings_are_returned_and_an_abandoned_embedding_is_cancelled() -> None:
    process = FakeProcess()
    worker = client(process)
    async with asyncio.TaskGroup() as tasks:
        kept = tasks.create_task(worker.embed(EmbeddingRequest("e", ("x",))))
        left = tasks.create_task(worker.embed(EmbeddingRequest("e", ("y",))))
        await process.received(2)
        first, second = (
            command.request.id for command in process.sent if isinstance(command, protocol.Embed)
        )
        left.cancel()
        process.on_event(protocol.Embedded(first, VECTORS))
    assert kept.result() == VECTORS
    assert process.sent[-1] == protocol.Cancel(second)
    process.on_event(protocol.Embedded(second, VECTORS))  # too late, no harm


async def test_a_worker_that_speaks_out_of_turn_is_killed() -> None:
    process = FakeProcess()
    client(process)
    process.on_event(protocol.LoadFailed("again?"))
    assert process.killed == ["killed because it sent LoadFailed out of turn"]


async def test_a_worker_that_hangs_is_killed_and_its_requests_end() -> None:
    process = FakeProcess()
    worker = client(process)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(worker.watch(hang_seconds=9, every=0.001, deaf_seconds=0.003))
        with pytest.raises(WorkerCrashed, match="hung: no answer to a ping"):
            await anext(worker.generate(REQUEST))


async def test_a_request_over_which_a_worker_hung_is_not_to_be_tried_again() -> None:
    def answer(process: FakeProcess, command: protocol.Command) -> None:
        if isinstance(command, protocol.Ping):
            process.on_event(protocol.Pong(command.id, 1, False, ("1",)))

    process = FakeProcess(answer)
    worker = client(process)
    async with asyncio.TaskGroup() as tasks:
        read, unread = (tasks.create_task(crashed(worker, id)) for id in ("long", "short"))
        await asyncio.sleep(0)
        await worker.watch(hang_seconds=0.003, every=0.001, deaf_seconds=9)
    assert "the same prompt has been read for 0.003 s" in str(read.result())
    assert (read.result().repeatable, unread.result().repeatable) == (False, True)


async def crashed(worker: WorkerClient, id: str) -> WorkerCrashed:
    with pytest.raises(WorkerCrashed) as caught:
        await anext(worker.generate(GenerationRequest(id, TextPrompt("x"))))
    return caught.value


async def test_a_worker_that_was_killed_and_does_not_end_serves_nobody_and_keeps_nobody_waiting() -> None:
    process = FakeProcess()
    worker = client(process)
    async with asyncio.TaskGroup() as tasks:
        crash = tasks.create_task(expect_crash(worker))
        await process.received(1)
        process.lose()
    assert isinstance(crash.result(), WorkerCrashed)
    await worker.wait_gone()
    assert not process.gone.is_set()
    process.die("after all")  # its end, hours later, ends nothing twice


async def expect_crash(worker: WorkerClient) -> WorkerCrashed:
    with pytest.raises(WorkerCrashed) as caught:
        await anext(worker.generate(REQUEST))
    return caught.value
