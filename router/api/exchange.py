"""
One generation meets one connection: whole or as a stream, from a worker here or relayed.

The one rule: every way out (answered, refused, broken, left) sets the record's `finish` once and
gives the lease, or the connection to an upstream, back.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import assert_never

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from router.api import errors, sse
from router.api.answers import Writer
from router.api.house import Finish, House, Record
from router.api.patience import ANY, Patience
from router.api.sse import End, EventStream, while_connected
from router.api.wire import encode
from router.cloud.calls import CloudAnswer, CloudCall
from router.domain.errors import RouterError
from router.domain.generation import Delta, FinishReason, GenerationRequest, Usage
from router.domain.models import LocalModel
from router.domain.upstreams import usd
from router.routing.dispatch import Answer, EmbeddingAnswer
from router.routing.journey import Asked, Relayed
from router.routing.plan import Plan
from router.routing.route import Candidate
from router.telemetry import logger

log = logger("api")

FACTS = ("x-router-served-by", "x-router-queue-ms", "x-router-load-ms", "x-router-attempts")
"""The headers that say who served a request and what it waited for; of a stream that waited, a comment (see `sse`)."""
COST = "x-router-cost-usd"
"""What an answer from beyond this machine cost; of a stream it is a comment before [DONE]."""


@dataclass(frozen=True, slots=True)
class Question:
    """What one HTTP request asks, as each kind of candidate wants it."""

    requests: Callable[[LocalModel], tuple[GenerationRequest, ...]]
    """One for each prompt, nearly always one. Raises InvalidRequest for what this model cannot do."""
    writer: Callable[[str], Writer]
    """Of an answer in the name of a local model."""
    call: Callable[[], CloudCall]


@dataclass(slots=True)
class Exchange:
    """One HTTP request and what became of it."""

    house: House
    record: Record
    plan: Plan
    question: Question
    patience: Patience = ANY
    streams: bool = False
    facts: dict[str, str] = field(default_factory=dict)
    """Response headers that say who answered, once that is known."""
    asking: Candidate | None = None
    requests: tuple[GenerationRequest, ...] = ()
    """What a local model was asked."""
    doing: str | None = None
    """What the worker does with the request; None while it waits for a lease."""
    model: LocalModel | None = None
    """The local model that answers."""
    finish: Finish | None = None
    usage: Usage = field(default_factory=lambda: Usage(0, 0))

    async def whole(self, request: Request) -> Response:
        """The complete answer. Raises RouterError, or ClientLeft: who leaves frees its place at once."""
        body = await while_connected(request.receive, self._collect())
        self.record.finish = self.finish
        return Response(body, headers=self.facts, media_type="application/json")

    def stream(self) -> EventStream:
        settings = self.house.settings
        return EventStream(
            self._events(),
            commit=settings.commit_seconds,
            pause=settings.comment_seconds,
            waiting=self._waiting,
            refuse=lambda error: errors.response(
                note(error, self.record), self.record.id, self.record.hidden
            ),
            broken=lambda error: errors.event(note(error, self.record), self.record.id, self.record.hidden),
            facts=lambda: self.facts,
            ended=self._ended,
        )

    def _open(self) -> contextlib.AbstractAsyncContextManager[Answer | Relayed]:
        return self.house.journeys.open(self.plan, Asked(self._ask, self.question.call, self._trying))

    def _ask(self, model: LocalModel) -> contextlib.AbstractAsyncContextManager[Answer]:
        self.requests = self.question.requests(model)
        return self._generate(model, self.requests[0])

    def _generate(
        self, model: LocalModel, request: GenerationRequest
    ) -> contextlib.AbstractAsyncContextManager[Answer]:
        patience = self.patience
        return self.house.dispatcher.generate(
            model, request, patience.wait, patience.priority(model), self._on_prompt
        )

    def _trying(self, candidate: Candidate) -> None:
        self.asking = candidate

    def _on_prompt(self, read: float | None) -> None:
        self.doing = None if read is None else f"reading the prompt, {int(read * 100)} %"

    def _waiting(self) -> str:
        """What the request does while its stream is silent, for people."""
        if isinstance(self.asking, LocalModel):
            name = self._name(self.asking.name)
            known = msgspec.structs.replace(self.asking, name=name)
            return self.doing or self.house.residency.describe_wait(known)
        return f"waiting for {self._name(self.plan.name if self.asking is None else self.asking.name)}"

    def _name(self, name: str) -> str:
        return self.house.shown(name, self.record)

    def _answers(self) -> Iterator[contextlib.AbstractAsyncContextManager[Answer | Relayed]]:
        """
        What to open for each prompt, in turn. Who answers the first answers all, and all of them are asked alike.

        Leaving one gives back its lease, or its connection, before the next is opened.
        """
        yield self._open()
        if self.model is not None:
            for request in self.requests[1:]:
                yield self._generate(self.model, request)

    async def _collect(self) -> bytes:
        texts = []
        for answers in self._answers():
            async with answers as answer:
                self._served(answer)
                if isinstance(answer, Relayed):
                    self._settled(answer.answer)
                    return self.house.relayed(answer.answer.body, answer.served_by, self.record)
                texts.append(await self._text(answer))
        return encode(self._writer().whole(texts, self.usage))

    async def _text(self, answer: Answer) -> tuple[str, FinishReason]:
        parts = []
        async for delta in answer.deltas:
            parts.append(delta.text)
            self._note(delta)
        return "".join(parts), self._reason()

    async def _events(self) -> AsyncGenerator[bytes, None]:
        for index, answers in enumerate(self._answers()):
            async with answers as answer:
                self._served(answer)
                events = self._relayed(answer) if isinstance(answer, Relayed) else self._local(answer, index)
                async with contextlib.aclosing(events):
                    async for event in events:
                        yield event
            # Out of the lease, or of the connection: a client that reads the tail slowly holds neither.
            if isinstance(answer, Relayed):
                self._settled(answer.answer)
                yield sse.comment(f"{COST.removeprefix('x-router-')}={self.facts[COST]}")
            else:
                yield self._writer().end(self._reason(), index)
        if self.model is not None and self._writer().include_usage:
            yield self._writer().usage(self.usage)
        yield sse.DONE

    async def _local(self, answer: Answer, index: int) -> AsyncGenerator[bytes, None]:
        writer = self._writer()
        if opening := writer.begin(index):
            yield opening
        async for delta in answer.deltas:
            self._note(delta)
            if delta.text:
                yield writer.piece(delta, index)

    async def _relayed(self, relayed: Relayed) -> AsyncGenerator[bytes, None]:
        async for event in _events_of(relayed.answer):
            if event.strip() != sse.DONE.strip():
                yield self.house.relayed_event(event, relayed.served_by, self.record)

    def _writer(self) -> Writer:
        assert self.model is not None, "a local model answers"
        return self.question.writer(self._name(self.model.name))

    def _served(self, answer: Answer | Relayed) -> None:
        """Who answers; the facts are those of the first prompt."""
        self.facts = self.facts or facts(answer, self.house.served_by(answer.served_by, self.record))
        if isinstance(answer, Relayed):
            self.record.model = answer.served_by
        else:
            self.model, self.record.model = answer.model, answer.model.name
            self.doing = "writing the answer"

    def _settled(self, answer: CloudAnswer) -> None:
        self.facts[COST] = usd(answer.cost or 0)
        self.finish = "length" if answer.finish == "length" else "stop"

    def _note(self, delta: Delta) -> None:
        if delta.finish_reason is not None:
            self.finish = delta.finish_reason.value
        if (usage := delta.usage) is not None:
            self.usage = Usage(
                self.usage.prompt_tokens + usage.prompt_tokens,
                self.usage.completion_tokens + usage.completion_tokens,
                self.usage.cached_tokens + usage.cached_tokens,
            )

    def _reason(self) -> FinishReason:
        return FinishReason.LENGTH if self.finish == "length" else FinishReason.STOP

    def _ended(self, end: End) -> None:
        match end:
            case End.DONE:
                self.record.finish = self.finish or "error"
            case End.REFUSED | End.BROKEN:
                self.record.finish = "error"
            case End.LEFT:
                self.record.finish = "left"
            case _:
                assert_never(end)


def facts(answer: Answer | EmbeddingAnswer | Relayed, served_by: str) -> dict[str, str]:
    """FACTS of one answer. Milliseconds."""
    values = (served_by, f"{answer.queue_ms:.0f}", f"{answer.load_ms:.0f}", str(answer.attempts))
    return dict(zip(FACTS, values, strict=True))


def note(error: Exception, record: Record) -> Exception:
    """
    The same error, remembered for the access log's line of the request. It gets a line of its own if nobody expected it
    or the client is not told all of it.
    """
    record.code, record.param = errors.row(error).code, getattr(error, "param", None)
    if not isinstance(error, RouterError):
        log.error("unexpected error", request=record.id, exc_info=error)
    elif reason := errors.inside(error):
        log.warning("a request failed", request=record.id, model=record.model, reason=reason)
    return error


def _events_of(answer: CloudAnswer) -> AsyncIterator[bytes]:
    if answer.events is None:
        raise RuntimeError(f"{answer.served_by} was asked for a stream and gave none")
    return answer.events
