"""
A ready worker: requests in, deltas out, and a watch over its pulse.

The one rule: every open request ends, whatever the worker does: in its last delta, an error, or our leaving.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Callable
from typing import assert_never

import msgspec

from router import protocol
from router.domain.errors import ContextOverflow, InvalidRequest, RouterError, WorkerCrashed, WorkerStopped
from router.domain.generation import (
    Delta,
    EmbeddingRequest,
    Embeddings,
    GenerationRequest,
    OnPrompt,
    ignore_prompt,
)
from router.domain.models import Footprint
from router.protocol import EngineFacts, EngineGauges
from router.runtime.process import WorkerProcess
from router.runtime.pulse import DEAF, Pulse, Watch

RETRY_AFTER = 1.0


class WorkerClient:
    """One loaded worker. Made by the launcher once `Loaded` has come; it takes over the process's events."""

    def __init__(
        self, process: WorkerProcess, facts: EngineFacts, resident: dict[str, Footprint], mapped: int = 0
    ) -> None:
        self.facts = facts
        self.resident = resident
        self.mapped = mapped
        self.pid = process.pid
        self.gauges = EngineGauges()
        self.sandbox = process.hello.sandbox if process.hello is not None else ()
        """The layers that were seen to hold."""
        self._process = process
        self._numbers = itertools.count(1)
        self._streams: dict[str, _Stream] = {}
        self._embeddings: dict[str, asyncio.Future[Embeddings]] = {}
        self._on_pong: Callable[[protocol.Pong], None] = _ignore
        self._hung_over: Callable[[], tuple[str, ...]] = tuple
        self.on_freed: Callable[[], None] = _nothing
        """Called when the worker has given back context and model and is about to exit."""
        process.on_event = self._on_event
        process.on_gone = self._on_gone

    async def generate(
        self, request: GenerationRequest, on_prompt: OnPrompt = ignore_prompt
    ) -> AsyncGenerator[Delta, None]:
        """
        The deltas of one generation; the last has a finish reason. Closing it early cancels.

        A consumer that is slower than the worker gets fewer, longer deltas. `on_prompt` hears a few times a second
        how far a long prompt has been read, until the first delta.
        Raises InvalidRequest, ContextOverflow, WorkerCrashed.
        """
        id = self._new_id()
        stream = self._streams[id] = _Stream(on_prompt)
        try:
            self._send(id, protocol.Generate(msgspec.structs.replace(request, id=id)))
            while True:
                delta = await stream.next()
                yield delta
                if delta.finish_reason is not None:
                    return
        finally:
            del self._streams[id]
            if not stream.ended:
                self._process.send(protocol.Cancel(id))

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """Vectors of all inputs. Raises InvalidRequest, ContextOverflow, WorkerCrashed."""
        id = self._new_id()
        answer: asyncio.Future[Embeddings] = asyncio.get_running_loop().create_future()
        self._embeddings[id] = answer
        try:
            self._send(id, protocol.Embed(msgspec.structs.replace(request, id=id)))
            return await answer
        finally:
            del self._embeddings[id]
            if answer.cancelled():
                self._process.send(protocol.Cancel(id))
            elif answer.done():
                answer.exception()  # else asyncio complains when we leave in the tick of the failure

    async def wait_gone(self) -> None:
        """Returns when it serves no more: the process has been reaped, or was killed and does not end."""
        await self._process.lost.wait()

    async def watch(self, hang_seconds: float, every: float = 1.0, deaf_seconds: float = DEAF) -> None:
        """Kill the worker when it hangs; `pulse` says what that is (G11)."""
        pulse = Pulse(every, hang_seconds, deaf_seconds, on_device=set(self.resident) - {"host"} != set())
        watch = Watch(self._process, pulse, every)
        self._on_pong = watch.heard
        self._hung_over = lambda: watch.hung_over
        await watch.run()

    def _new_id(self) -> str:
        # Not the request's own id: a client may choose that, and two clients may choose the same.
        return str(next(self._numbers))

    def _send(self, id: str, command: protocol.Generate | protocol.Embed) -> None:
        if self._process.doomed:
            self._fail(id, self._crash(id))
            return
        try:
            self._process.send(command)
        except protocol.FrameError as error:
            self._fail(id, InvalidRequest(f"The request cannot be passed on: {error}"))

    def _on_event(self, event: protocol.WorkerEvent) -> None:
        match event:
            case protocol.Step():
                self.gauges = event.gauges
                for piece in event.pieces:
                    if stream := self._streams.get(piece.id):
                        stream.push(piece.delta)
            case protocol.PromptProgress():
                if stream := self._streams.get(event.id):
                    stream.on_prompt(min(max(event.read / max(event.total, 1), 0.0), 1.0))
            case protocol.Failed():
                self._fail(event.id, _error(event))
            case protocol.Embedded():
                answer = self._embeddings.get(event.id)
                if answer is not None and not answer.done():
                    answer.set_result(event.embeddings)
            case protocol.Pong():
                self._on_pong(event)
            case protocol.Freed():
                self.on_freed()
            case (
                protocol.Hello()
                | protocol.LoadProgress()
                | protocol.Loaded()
                | protocol.LoadFailed()
                | protocol.DryRunDone()
            ):
                self._process.kill(f"killed because it sent {type(event).__name__} out of turn")
            case _:
                assert_never(event)

    def _on_gone(self) -> None:
        for id in [*self._streams, *self._embeddings]:
            self._fail(id, self._crash(id))

    def _fail(self, id: str, error: RouterError) -> None:
        if stream := self._streams.get(id):
            stream.fail(error)
        answer = self._embeddings.get(id)
        if answer is not None and not answer.done():
            answer.set_exception(error)

    def _crash(self, id: str) -> WorkerCrashed:
        process = self._process
        if process.stopped:
            return WorkerStopped(f"The worker {process.instance} was stopped by the gateway.", RETRY_AFTER)
        words = f"The worker {process.instance} died: {process.end()}"
        return WorkerCrashed(words, RETRY_AFTER, repeatable=id not in self._hung_over())


class _Stream:
    """Deltas of one generation that nobody has taken yet, kept as one: bounded by the answer's own length."""

    def __init__(self, on_prompt: OnPrompt) -> None:
        self.on_prompt = on_prompt
        self._pending: list[Delta] = []
        self._error: RouterError | None = None
        self._news = asyncio.Event()
        self.ended = False
        """True once the worker has said its last word about it: no Cancel is due."""

    def push(self, delta: Delta) -> None:
        self._pending.append(delta)
        self.ended = self.ended or delta.finish_reason is not None
        self._news.set()

    def fail(self, error: RouterError) -> None:
        self._error = error
        self.ended = True
        self._news.set()

    async def next(self) -> Delta:
        """All that has come since the last call, as one delta. An error waits behind the text before it."""
        await self._news.wait()
        if self._pending:
            pending, self._pending = self._pending, []
            if self._error is None:
                self._news.clear()
            return merge(pending)
        assert self._error is not None
        raise self._error


def merge(deltas: list[Delta]) -> Delta:
    """Deltas that follow each other, as one."""
    if len(deltas) == 1:
        return deltas[0]
    last = deltas[-1]
    text = "".join(delta.text for delta in deltas)
    tokens = sum(delta.tokens for delta in deltas)
    return Delta(text, tokens, last.finish_reason, last.usage)


def _ignore(pong: protocol.Pong) -> None:
    """Nobody watches."""


def _nothing() -> None:
    """Nobody waits for its memory."""


def _error(failed: protocol.Failed) -> RouterError:
    match failed.kind:
        case "invalid":
            return InvalidRequest(failed.message, failed.param)
        case "context_overflow":
            param = failed.param or "messages"
            return ContextOverflow(failed.context, failed.prompt_tokens, param, failed.most)
        case "engine" | "cancelled":
            return WorkerCrashed(failed.message, RETRY_AFTER)
        case _:
            assert_never(failed.kind)
