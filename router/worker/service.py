"""
The worker's threads around one engine.

* intake reads frames, answers pings and passes orders on; requests go through two threads of `worker.intake`, which
  prepare them (template, tokenise);
* step loads the model, decodes, sends the deltas. It alone touches the engine's mutable state.

The one rule: orders travel one way, from intake to step, in the order of their frames; a request may be overtaken
by others, never by its own Cancel.
"""

from __future__ import annotations

import contextlib
import functools
import os
import queue
import threading
import time
from collections.abc import Callable
from typing import assert_never

from router import protocol
from router.domain.errors import ContextOverflow, InvalidRequest
from router.domain.generation import EmbeddingRequest, GenerationRequest
from router.engine.engine import (
    Broken,
    EmbeddingDone,
    EmbeddingJob,
    Engine,
    Finished,
    ModelRefused,
    OutOfMemory,
    Output,
    Progressed,
    Sequence,
)
from router.worker import life
from router.worker.backends import Kind
from router.worker.intake import Intake, characters
from router.worker.link import GatewayGone, Link
from router.worker.sandbox import Sandbox, SandboxMissing

_PROGRESS_EVERY = 0.05
_PROMPTS_EVERY = 0.25
"""Seconds between two looks at how far prompts have been read."""

Job = Sequence | EmbeddingJob
Order = Job | protocol.Load | protocol.DryRun | protocol.Cancel | protocol.Stop


class _LoadFailed(Exception):
    """The gateway has been told why; the process has no further use."""


class Service:
    """One worker's life between its greeting and its exit code."""

    def __init__(
        self,
        link: Link,
        kind: Kind,
        end: Callable[[int], object] = os._exit,
        sandbox: Sandbox | None = None,
    ) -> None:
        self._sandbox = sandbox or Sandbox()
        self._link = link
        self._kind = kind
        self._end = end
        self._orders: queue.SimpleQueue[Order] = queue.SimpleQueue()
        self._intake = Intake(self._lane_failed)
        self._engine: Engine | None = None
        self._stopping = threading.Event()
        self._steps = 0
        self._busy = False
        self._loading = False
        self._progress_due = 0.0
        self._prompts_due = 0.0

    def greet(self) -> None:
        """The first frame: who we are."""
        self._link.send(
            protocol.Hello(
                protocol.VERSION,
                os.getpid(),
                self._kind.build,
                self._kind.gpu_offload,
                self._sandbox.holds,
            )
        )

    def stop(self) -> None:
        """End in good order: running generations are dropped. Signal handlers may call it."""
        if self._loading:
            self._end(life.ORDERLY)  # a load in C++ cannot be ended in any other way
        self._stopping.set()
        self._orders.put(protocol.Stop())

    # The intake thread --------------------------------------------------------------------------------

    def intake(self) -> int:
        """Read until the gateway is gone; the exit code."""
        try:
            for command in self._link.commands():
                self._take(command)
        except protocol.FrameError as error:
            life.log("error", "the gateway broke the protocol", error=str(error))
            return life.BROKEN_PROTOCOL
        except GatewayGone:
            pass
        finally:
            self._intake.stop()
        return life.ORDERLY

    def _take(self, command: protocol.Command) -> None:
        match command:
            case protocol.Ping():
                unread = self._intake.unread
                self._link.send(protocol.Pong(command.id, self._steps, self._busy, unread))
            case protocol.Generate():
                self._receive(command.request, lambda engine: engine.prepare(command.request))
            case protocol.Embed():
                self._receive(command.request, lambda engine: engine.prepare_embedding(command.request))
            case protocol.Load():
                with contextlib.suppress(SandboxMissing):  # the step thread meets the same, and says so
                    self._sandbox.confine(command.path)
                self._begin_to_read()
                self._orders.put(command)
            case protocol.Cancel():
                if not self._intake.cancel(command.id):
                    self._orders.put(command)
            case protocol.DryRun():
                self._orders.put(command)
            case protocol.Stop():
                self.stop()
            case _:
                assert_never(command)

    def _begin_to_read(self) -> None:
        """Now, since the threads inherit what confines this one. Each needs memory for its stack."""
        try:
            self._intake.start()
        except (RuntimeError, MemoryError) as error:
            self._link.send(protocol.LoadFailed(f"no thread can be started to read prompts: {error}", True))
            self._end(life.LOAD_FAILED)

    def _receive(
        self, request: GenerationRequest | EmbeddingRequest, prepare: Callable[[Engine], Job]
    ) -> None:
        engine = self._engine
        if engine is None:
            self._link.send(protocol.Failed(request.id, "engine", "no model is loaded"))
            return
        self._intake.take(
            request.id, characters(request), lambda: self._prepare(request.id, lambda: prepare(engine))
        )

    def _prepare(self, id: str, prepare: Callable[[], Job]) -> None:
        """In one of the threads of `worker.intake`."""
        end: protocol.Failed | None = None
        job: Job | None = None
        if not self._intake.cancelled(id):
            try:
                job = prepare()
            except Exception as error:
                end = failure(id, error)
        left = self._intake.finish(id, lambda: self._pass_on(job))
        if not left:
            end = _cancelled(id)
        if end is not None:
            self._link.send(end)

    def _pass_on(self, job: Job | None) -> None:
        if job is not None:
            self._orders.put(job)

    def _lane_failed(self, error: BaseException) -> None:
        if not isinstance(error, GatewayGone):  # then the thread that reads the socket ends the process
            life.log_error("a thread that reads prompts failed", error)
            self._end(life.UNEXPECTED)

    # The step thread ----------------------------------------------------------------------------------

    def steps(self) -> int:
        """Load, then decode while there is work; the exit code. Errors of the engine itself propagate."""
        try:
            while not self._stopping.is_set():
                for order in self._next_orders():
                    self._obey(order)
                if self._engine is not None and self._engine.busy:
                    self._step(self._engine)
        except _LoadFailed:
            return life.LOAD_FAILED
        except GatewayGone:
            pass
        # Free first, exit after: the device's memory is back in 7 ms instead of 400.
        if self._engine is not None:
            self._engine.close()
            with contextlib.suppress(GatewayGone):
                self._link.send(protocol.Freed())
        return life.ORDERLY

    def _next_orders(self) -> list[Order]:
        """What has arrived; sleeps until something does when the engine has nothing to decode."""
        orders: list[Order] = []
        self._busy = self._engine is not None and self._engine.busy
        if not self._busy:
            orders.append(self._orders.get())
            self._busy = self._engine is not None
        while not self._orders.empty():
            orders.append(self._orders.get())
        return orders

    def _obey(self, order: Order) -> None:
        match order:
            case protocol.Load():
                self._load(order)
            case protocol.DryRun():
                self._link.send(self._dry_run(order))
            case protocol.Cancel():
                self._cancel(order.id)
            case protocol.Stop():
                pass  # the loop looks at the flag
            case _:
                assert self._engine is not None, "a job is prepared by an engine"
                self._engine.add(order)

    def _step(self, engine: Engine) -> None:
        outputs = engine.step()
        self._steps += 1
        pieces = [protocol.Piece(o.id, o.delta) for o in outputs if isinstance(o, Progressed | Finished)]
        self._send_step(engine, pieces)
        for output in outputs:
            if (final := _final(output)) is not None:
                self._send_final(output.id, final)
        self._send_prompts(engine)

    def _send_step(self, engine: Engine, pieces: list[protocol.Piece]) -> None:
        self._link.send(protocol.Step(tuple(pieces), gauges(engine)))

    def _send_prompts(self, engine: Engine) -> None:
        now = time.monotonic()
        if now >= self._prompts_due:
            self._prompts_due = now + _PROMPTS_EVERY
            for id, read, total in engine.prompts():
                self._link.send(protocol.PromptProgress(id, read, total))

    def _send_final(self, id: str, event: protocol.Embedded | protocol.Failed) -> None:
        try:
            self._link.send(event)
        except protocol.FrameError as error:
            self._link.send(
                protocol.Failed(id, "invalid", f"too many inputs at once: {error}", param="input")
            )

    def _cancel(self, id: str) -> None:
        if self._engine is not None and self._engine.cancel(id):
            self._link.send(_cancelled(id))
            self._send_step(self._engine, [])  # else the gauges stay stale until the next request

    # Loading ------------------------------------------------------------------------------------------

    def _load(self, command: protocol.Load) -> None:
        self._loading = True
        if self._stopping.is_set():
            return
        try:
            self._refuse_wrong_load(command)
            self._sandbox.confine(command.path)
            self._sandbox.bound_memory(command.host_bytes)
            engine = self._kind.load(command.path, command.options, self._progress)
        except Exception as error:
            life.log_error("the model could not be loaded", error)
            lacked = isinstance(error, OutOfMemory | MemoryError)
            self._link.send(protocol.LoadFailed(str(error) or type(error).__name__, lacked))
            raise _LoadFailed from error
        finally:
            self._loading = False
        self._engine = engine
        self._link.send(protocol.Loaded(facts(engine), engine.resident, engine.mapped))

    def _refuse_wrong_load(self, command: protocol.Load) -> None:
        if self._engine is not None:
            raise ValueError("this worker already holds a model")
        if command.backend != self._kind.name:
            raise ValueError(f"this worker was started for {self._kind.name}, not for {command.backend}")

    def _progress(self, fraction: float) -> None:
        now = time.monotonic()
        if now >= self._progress_due or fraction >= 1.0:
            self._progress_due = now + _PROGRESS_EVERY
            with contextlib.suppress(GatewayGone):  # C++ calls us: intake will end the process
                self._link.send(protocol.LoadProgress(fraction))

    def _dry_run(self, command: protocol.DryRun) -> protocol.DryRunDone:
        if self._engine is not None:
            return protocol.DryRunDone(command.id, None, "this worker already holds a model")
        try:
            # Confined by itself, since this process will be asked about other files, too.
            dry_run = functools.partial(self._kind.dry_run, command.path, command.options)
            return protocol.DryRunDone(command.id, self._sandbox.confined(command.path, dry_run))
        except Exception as error:
            reason = str(error) or type(error).__name__
            return protocol.DryRunDone(command.id, None, reason, isinstance(error, ModelRefused))


def _cancelled(id: str) -> protocol.Failed:
    return protocol.Failed(id, "cancelled", "cancelled by the gateway")


def failure(id: str, error: Exception) -> protocol.Failed:
    """The frame that ends a request which could not be prepared. An unexpected error is logged."""
    match error:
        case ContextOverflow():
            numbers = (error.context, error.prompt_tokens, error.most)
            return protocol.Failed(id, "context_overflow", error.message, error.param, *numbers)
        case InvalidRequest():
            return protocol.Failed(id, "invalid", error.message, error.param)
        case _:
            life.log_error("a request could not be prepared", error)
            return protocol.Failed(id, "engine", f"the request could not be prepared: {type(error).__name__}")


def facts(engine: Engine) -> protocol.EngineFacts:
    """The engine's facts as the protocol says them."""
    known = engine.facts
    return protocol.EngineFacts(
        context=known.context,
        slots=known.slots,
        vocabulary=known.vocabulary,
        embedding_dimensions=known.embedding_dimensions,
        has_chat_template=known.has_chat_template,
        can_generate=known.can_generate,
    )


def gauges(engine: Engine) -> protocol.EngineGauges:
    """The engine's gauges as the protocol says them."""
    now = engine.gauges()
    return protocol.EngineGauges(
        slots_busy=now.slots_busy,
        kv_cells_used=now.kv_cells_used,
        steps=now.steps,
        prompt_tokens=now.prompt_tokens,
        cached_tokens=now.cached_tokens,
        completion_tokens=now.completion_tokens,
    )


def _final(output: Output) -> protocol.Embedded | protocol.Failed | None:
    """The frame of its own that an output needs; deltas travel together in the Step."""
    match output:
        case EmbeddingDone():
            return protocol.Embedded(output.id, output.embeddings)
        case Broken():
            return protocol.Failed(output.id, "engine", output.message)
        case Progressed() | Finished():
            return None
        case _:
            assert_never(output)
