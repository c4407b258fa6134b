"""
One generation meets one connection: whole or as a stream.

The one rule: every way out (answered, refused, broken, left) sets the record's `finish` once and
gives the lease back.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import assert_never

from starlette.requests import Request
from starlette.responses import Response

from router.api import errors, sse
from router.api.answers import Writer
from router.api.house import House, Record
from router.api.sse import End, EventStream, while_connected
from router.api.wire import encode
from router.domain.errors import RouterError
from router.domain.generation import FinishReason, GenerationRequest, Usage
from router.domain.models import LocalModel
from router.routing.dispatch import Answer, EmbeddingAnswer
from router.telemetry import logger

log = logger("api")

FACTS = ("x-router-served-by", "x-router-queue-ms", "x-router-load-ms", "x-router-attempts")
"""The headers that say who served a request and what it waited for."""


@dataclass(slots=True)
class Exchange:
    """The prompts of one HTTP request (nearly always one) and what became of them."""

    house: House
    record: Record
    model: LocalModel
    requests: tuple[GenerationRequest, ...]
    writer: Writer
    facts: dict[str, str] = field(default_factory=dict)
    """Response headers that say who answered, once that is known."""
    finish: FinishReason | None = None
    usage: Usage = field(default_factory=lambda: Usage(0, 0))

    async def whole(self, request: Request) -> Response:
        """The complete answer. Raises RouterError, or ClientLeft: who leaves frees its place at once."""
        texts = await while_connected(request.receive, self._collect())
        body = self.writer.whole(texts, self.usage)
        self.record.finish = texts[-1][1].value
        return Response(encode(body), headers=self.facts, media_type="application/json")

    def stream(self) -> EventStream:
        settings = self.house.settings
        return EventStream(
            self._events(),
            commit=settings.commit_seconds,
            pause=settings.comment_seconds,
            waiting=lambda: self.house.residency.view().describe_wait(self.model.name),
            refuse=lambda error: errors.response(self._noted(error), self.record.id),
            broken=lambda error: errors.event(self._noted(error), self.record.id),
            facts=lambda: self.facts,
            ended=self._ended,
        )

    async def _collect(self) -> list[tuple[str, FinishReason]]:
        texts: list[tuple[str, FinishReason]] = []
        for request in self.requests:
            parts: list[str] = []
            async with self.house.dispatcher.generate(self.model, request) as answer:
                self._served(answer)
                async for delta in answer.deltas:
                    parts.append(delta.text)
                    self._note(delta.finish_reason, delta.usage)
            texts.append(("".join(parts), self.finish or FinishReason.STOP))
        return texts

    async def _events(self) -> AsyncGenerator[bytes, None]:
        for index, request in enumerate(self.requests):
            async with self.house.dispatcher.generate(self.model, request) as answer:
                self._served(answer)
                if opening := self.writer.begin(index):
                    yield opening
                async for delta in answer.deltas:
                    self._note(delta.finish_reason, delta.usage)
                    if delta.text:
                        yield self.writer.piece(delta, index)
            # Out of the lease: a client that reads the tail slowly holds no slot.
            yield self.writer.end(self.finish or FinishReason.STOP, index)
        if self.writer.include_usage:
            yield self.writer.usage(self.usage)
        yield sse.DONE

    def _served(self, answer: Answer) -> None:
        self.facts.update(facts(answer))

    def _note(self, finish: FinishReason | None, usage: Usage | None) -> None:
        self.finish = finish or self.finish
        if usage is not None:
            self.usage = Usage(
                self.usage.prompt_tokens + usage.prompt_tokens,
                self.usage.completion_tokens + usage.completion_tokens,
                self.usage.cached_tokens + usage.cached_tokens,
            )

    def _noted(self, error: Exception) -> Exception:
        note(error, self.record)
        return error

    def _ended(self, end: End) -> None:
        match end:
            case End.DONE:
                self.record.finish = self.finish.value if self.finish else "error"
            case End.REFUSED | End.BROKEN:
                self.record.finish = "error"
            case End.LEFT:
                self.record.finish = "left"
            case _:
                assert_never(end)


def facts(answer: Answer | EmbeddingAnswer) -> Mapping[str, str]:
    """FACTS of one answer. Milliseconds."""
    values = (answer.served_by, f"{answer.queue_ms:.0f}", f"{answer.load_ms:.0f}", str(answer.attempts))
    return dict(zip(FACTS, values, strict=True))


def note(error: Exception, record: Record) -> None:
    """Log what nobody expected; what was raised on purpose is told to the client and counted."""
    if not isinstance(error, RouterError):
        log.error("unexpected error", request=record.id, exc_info=error)
