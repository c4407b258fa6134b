from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

import pytest

from router import protocol
from router.domain.errors import ContextOverflow, InvalidRequest
from router.domain.generation import EmbeddingRequest, GenerationRequest, TextPrompt
from router.domain.models import EngineOptions, Footprint
from router.engine.engine import ModelRefused
from router.worker import life
from router.worker.backends import Progress
from router.worker.service import failure
from tests.worker.fakes import RESIDENT, FakeEngine, Running, running

LOAD = protocol.Load("echo:", EngineOptions(), "echo")


def generate(id: str, prompt: str = "go") -> protocol.Generate:
    return protocol.Generate(GenerationRequest(id, TextPrompt(prompt)))


@contextlib.contextmanager
def loaded() -> Iterator[Running]:
    with running() as worker:
        worker.gateway.send(LOAD)
        assert isinstance(worker.gateway.next(), protocol.Loaded)
        yield worker


def pieces(events: list[protocol.WorkerEvent]) -> list[protocol.Piece]:
    return [piece for event in events if isinstance(event, protocol.Step) for piece in event.pieces]


def ends(id: str, event: protocol.WorkerEvent) -> bool:
    return any(p.id == id and p.delta.finish_reason is not None for p in pieces([event]))


def test_the_greeting_says_who_the_worker_is() -> None:
    with running() as worker:
        worker.service.greet()
        assert worker.gateway.next() == protocol.Hello(protocol.VERSION, os.getpid(), "fake build", False)


def test_a_load_ends_in_loaded_with_facts_and_bytes() -> None:
    with running() as worker:
        worker.gateway.send(LOAD)
        assert worker.gateway.next() == protocol.Loaded(
            protocol.EngineFacts(64, 2, 100, 4, False, True), RESIDENT, mapped=3
        )


def test_progress_is_told_at_most_every_50_ms_and_always_at_the_end() -> None:
    def load(engine: FakeEngine, progress: Progress) -> None:
        for percent in range(101):
            progress(percent / 100)

    with running(load) as worker:
        worker.gateway.send(LOAD)
        events = worker.gateway.until(lambda event: isinstance(event, protocol.Loaded))
    fractions = [event.fraction for event in events if isinstance(event, protocol.LoadProgress)]
    assert fractions[0] == 0.0
    assert fractions[-1] == 1.0
    assert len(fractions) < 50


def test_a_failed_load_says_why_and_ends_the_worker(capsys: pytest.CaptureFixture[str]) -> None:
    def load(engine: FakeEngine, progress: Progress) -> None:
        raise ValueError("not a model")

    with running(load) as worker:
        worker.gateway.send(LOAD)
        assert worker.gateway.next() == protocol.LoadFailed("not a model")
        assert worker.join("steps") == life.LOAD_FAILED
    assert "ValueError: not a model" in capsys.readouterr().err


def test_a_second_load_is_refused() -> None:
    with loaded() as worker:
        worker.gateway.send(LOAD)
        assert worker.gateway.next() == protocol.LoadFailed("this worker already holds a model")
        assert worker.join("steps") == life.LOAD_FAILED


def test_a_load_for_another_backend_is_refused() -> None:
    with running() as worker:
        worker.gateway.send(protocol.Load("/m.gguf", EngineOptions(), "llama"))
        event = worker.gateway.next()
    assert event == protocol.LoadFailed("this worker was started for echo, not for llama")


def test_a_stop_ends_a_load_at_once() -> None:
    begun, release = threading.Event(), threading.Event()

    def load(engine: FakeEngine, progress: Progress) -> None:
        begun.set()
        release.wait(10)

    with running(load) as worker:
        worker.gateway.send(LOAD)
        begun.wait(10)
        worker.gateway.send(protocol.Stop(), protocol.Ping(1))
        assert isinstance(
            worker.gateway.next(), protocol.Pong
        )  # the intake thread lives, the end was asked for
        assert worker.ended == [life.ORDERLY]
        release.set()


def test_the_intake_thread_answers_pings_while_a_load_hangs() -> None:
    release = threading.Event()
    with running(lambda engine, progress: release.wait(10)) as worker:  # type: ignore[arg-type]
        worker.gateway.send(LOAD, protocol.Ping(7))
        assert worker.gateway.next() == protocol.Pong(7, 0, False)
        release.set()


def test_one_frame_carries_the_deltas_of_all_sequences() -> None:
    with loaded() as worker:
        worker.gateway.send(generate("1"), generate("2"))
        events = worker.gateway.until(lambda event: ends("2", event))
    texts = {id: "".join(p.delta.text for p in pieces(events) if p.id == id) for id in ("1", "2")}
    assert texts == {"1": "abc", "2": "abc"}
    assert len(events) <= 6


def test_the_gauges_after_the_last_delta_show_a_free_slot() -> None:
    with loaded() as worker:
        worker.gateway.send(generate("1"))
        last = worker.gateway.until(lambda event: ends("1", event))[-1]
    assert isinstance(last, protocol.Step)
    assert last.gauges == protocol.EngineGauges(slots_busy=0, steps=3)


def test_a_cancel_ends_the_generation_and_frees_the_slot() -> None:
    with loaded() as worker:
        worker.gateway.send(generate("1", "endless"))
        worker.gateway.until(lambda event: bool(pieces([event])))
        worker.gateway.send(protocol.Cancel("1"))
        events = worker.gateway.until(lambda event: isinstance(event, protocol.Failed))
        after = worker.gateway.next()
    assert events[-1] == protocol.Failed("1", "cancelled", "cancelled by the gateway")
    assert isinstance(after, protocol.Step)
    assert after.gauges.slots_busy == 0


def test_how_far_prompts_are_read_is_told_a_few_times_a_second() -> None:
    with loaded() as worker:
        worker.engine.reading = [("1", 2, 8)]
        worker.gateway.send(generate("1", "endless"))
        events = worker.gateway.until(
            lambda event: isinstance(event, protocol.Step) and event.gauges.steps > 50
        )
        told = [event for event in events if isinstance(event, protocol.PromptProgress)]
        assert told[0] == protocol.PromptProgress("1", 2, 8)
        worker.gateway.until(lambda event: isinstance(event, protocol.PromptProgress))
    assert len(told) < 50


def test_a_cancel_of_an_unknown_id_has_no_answer() -> None:
    with loaded() as worker:
        worker.gateway.send(protocol.Cancel("nobody"), protocol.Ping(1))
        assert isinstance(worker.gateway.next(), protocol.Pong)


def test_a_request_that_cannot_be_prepared_fails_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with loaded() as worker:
        worker.engine.error = InvalidRequest("no such token", "prompt")
        worker.gateway.send(generate("1"))
        assert worker.gateway.next() == protocol.Failed("1", "invalid", "no such token", "prompt")
        worker.engine.error = ZeroDivisionError("secret of the prompt")
        worker.gateway.send(protocol.Embed(EmbeddingRequest("2", ("x",))))
        failed = worker.gateway.next()
        worker.engine.error = None
        worker.gateway.send(generate("3"))
        worker.gateway.until(lambda event: ends("3", event))
    assert failed == protocol.Failed("2", "engine", "the request could not be prepared: ZeroDivisionError")
    assert "a request could not be prepared" in capsys.readouterr().err


def test_an_overflow_travels_with_its_numbers() -> None:
    failed = failure("1", ContextOverflow(10, 20))
    assert (failed.kind, failed.context, failed.prompt_tokens) == ("context_overflow", 10, 20)


def test_a_request_before_the_load_fails() -> None:
    with running() as worker:
        worker.gateway.send(generate("1"))
        assert worker.gateway.next() == protocol.Failed("1", "engine", "no model is loaded")


def test_a_broken_sequence_fails_alone() -> None:
    with loaded() as worker:
        worker.gateway.send(generate("1"), generate("2", "broken"))
        events = worker.gateway.until(lambda event: isinstance(event, protocol.Failed))
        if not any(ends("1", event) for event in events):
            worker.gateway.until(lambda event: ends("1", event))
    assert events[-1] == protocol.Failed("2", "engine", "it broke")


def test_embeddings_come_in_a_frame_of_their_own() -> None:
    with loaded() as worker:
        worker.gateway.send(protocol.Embed(EmbeddingRequest("1", ("x",))))
        event = worker.gateway.until(lambda event: isinstance(event, protocol.Embedded))[-1]
    assert isinstance(event, protocol.Embedded)
    assert event.embeddings.vectors == (b"\0" * 4,)


def test_embeddings_too_large_for_a_frame_fail_the_request_and_not_the_worker() -> None:
    with loaded() as worker:
        worker.engine.vector = bytes(protocol.MAX_FRAME)
        worker.gateway.send(protocol.Embed(EmbeddingRequest("1", ("x",))))
        event = worker.gateway.until(lambda event: isinstance(event, protocol.Failed))[-1]
    assert isinstance(event, protocol.Failed)
    assert (event.kind, event.param) == ("invalid", "input")


def test_a_dry_run_is_answered_before_a_load_and_refused_after_it() -> None:
    ask = protocol.DryRun("d", "/m.gguf", EngineOptions())
    with running() as worker:
        worker.gateway.send(ask)
        assert worker.gateway.next() == protocol.DryRunDone("d", {"host": Footprint(weights=7)})
        worker.gateway.send(LOAD, ask)
        assert isinstance(worker.gateway.next(), protocol.Loaded)
        assert worker.gateway.next() == protocol.DryRunDone("d", None, "this worker already holds a model")


def test_a_dry_run_that_fails_says_why_and_the_worker_goes_on() -> None:
    def dry_run(path: str, options: EngineOptions) -> dict[str, Footprint]:
        raise ValueError("odd file")

    with running(dry_run=dry_run) as worker:
        worker.gateway.send(protocol.DryRun("d", "/m.gguf", EngineOptions()), LOAD)
        assert worker.gateway.next() == protocol.DryRunDone("d", None, "odd file")
        assert isinstance(worker.gateway.next(), protocol.Loaded)


def test_a_stop_frees_the_engine_and_exits_0_with_generations_running() -> None:
    with loaded() as worker:
        worker.gateway.send(generate("1", "endless"), protocol.Stop())
        assert worker.join("steps") == life.ORDERLY
        assert worker.engine.closed
        assert worker.gateway.until(lambda event: isinstance(event, protocol.Freed))


def test_the_end_of_the_socket_ends_the_intake_thread_in_good_order() -> None:
    with loaded() as worker:
        worker.gateway.sock.shutdown(1)
        assert worker.join("intake") == life.ORDERLY


def test_garbage_ends_the_worker(capsys: pytest.CaptureFixture[str]) -> None:
    with loaded() as worker:
        worker.gateway.sock.sendall(b"\xff" * 64)
        assert worker.join("intake") == life.BROKEN_PROTOCOL
    assert "broke the protocol" in capsys.readouterr().err


def test_an_error_of_the_engine_itself_ends_the_step_thread() -> None:
    with loaded() as worker:
        worker.gateway.send(generate("1", "crash"))
        assert worker.join("steps") == -1  # propagated: __main__ logs it and exits 1


def test_a_pong_tells_whether_the_engine_is_busy_and_how_far_it_is() -> None:
    with loaded() as worker:
        worker.gateway.send(generate("1", "endless"))
        worker.gateway.until(lambda event: bool(pieces([event])))
        worker.gateway.send(protocol.Ping(1))
        pong = worker.gateway.until(lambda event: isinstance(event, protocol.Pong))[-1]
    assert isinstance(pong, protocol.Pong)
    assert pong.busy
    assert pong.steps >= 1


def test_a_refusal_by_the_engine_is_told_from_a_dry_run_that_failed() -> None:
    def dry_run(path: str, options: EngineOptions) -> dict[str, Footprint]:
        raise ModelRefused("unknown architecture")

    with running(dry_run=dry_run) as worker:
        worker.gateway.send(protocol.DryRun("d", "/m.gguf", EngineOptions()))
        assert worker.gateway.next() == protocol.DryRunDone("d", None, "unknown architecture", refused=True)


def test_pings_are_answered_and_short_prompts_served_while_a_long_one_is_read() -> None:
    with loaded() as worker:
        gate = worker.engine.gates["1"] = threading.Event()
        worker.gateway.send(generate("1", "x" * 100_000), generate("2"), protocol.Ping(1))
        seen = worker.gateway.until(lambda event: ends("2", event))
        if not any(isinstance(event, protocol.Pong) for event in seen):
            seen = worker.gateway.until(lambda event: isinstance(event, protocol.Pong))
        (pong,) = [event for event in seen if isinstance(event, protocol.Pong)]
        assert pong.unread[0] == "1"
        gate.set()
        worker.gateway.until(lambda event: ends("1", event))
        worker.gateway.send(protocol.Ping(2))
        last = worker.gateway.until(lambda event: isinstance(event, protocol.Pong))[-1]
    assert isinstance(last, protocol.Pong)
    assert last.unread == ()


def test_a_request_that_is_cancelled_while_its_prompt_is_read_ends_as_cancelled_and_never_runs() -> None:
    with loaded() as worker:
        gate = worker.engine.gates["1"] = threading.Event()
        worker.gateway.send(generate("1"), protocol.Cancel("1"), protocol.Ping(1))
        seen = worker.gateway.until(lambda event: isinstance(event, protocol.Pong))
        gate.set()
        if len(seen) == 1:  # else it was not begun yet
            seen += worker.gateway.until(lambda event: isinstance(event, protocol.Failed))
        assert protocol.Failed("1", "cancelled", "cancelled by the gateway") in seen
        worker.gateway.send(generate("2"))
        worker.gateway.until(lambda event: ends("2", event))
        assert worker.engine.steps == 3
