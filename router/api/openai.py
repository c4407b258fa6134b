"""
OpenAI's endpoints that generate: chat and completions.

The one rule: a handler reads the body, asks one room below, and answers; it waits nowhere else.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from starlette.requests import Request
from starlette.responses import Response

from router.api import dialect, field_check, wire
from router.api.answers import ChatWriter, TextWriter, Writer
from router.api.body import receive
from router.api.exchange import Exchange, Question
from router.api.field_kinds import Endpoint
from router.api.house import House, Record
from router.api.passing import passed_on, stays
from router.api.patience import patience
from router.api.wishes import wishes
from router.cloud.calls import CloudCall
from router.domain.generation import GenerationRequest
from router.domain.models import LocalModel


@dataclass(frozen=True, slots=True)
class Kind:
    """One of the endpoints that generate."""

    body: type[dialect.ChatBody | dialect.CompletionBody]
    endpoint: Endpoint
    path: Literal["chat/completions", "completions"]
    writer: type[Writer]
    prefix: str


CHAT = Kind(dialect.ChatBody, "chat", "chat/completions", ChatWriter, "chatcmpl")
COMPLETIONS = Kind(dialect.CompletionBody, "completions", "completions", TextWriter, "cmpl")


async def chat(request: Request, house: House, record: Record) -> Response:
    exchange = await _exchange(request, house, record, CHAT)
    return exchange.stream() if exchange.streams else await exchange.whole(request)


async def completions(request: Request, house: House, record: Record) -> Response:
    exchange = await _exchange(request, house, record, COMPLETIONS)
    return exchange.stream() if exchange.streams else await exchange.whole(request)


async def _exchange(request: Request, house: House, record: Record, kind: Kind) -> Exchange:
    """The bytes of the body live on only if they may have to be passed on."""
    raw = await receive(request)
    body = wire.decode(raw, kind.body)
    fields = field_check.check(raw, kind.endpoint)
    plan = house.plan(body.model_name(), wishes(request.headers, body), record)
    waits = patience(request.headers, house.catalog.current.limits)
    call = passed_on(kind.path, raw, body, record) if plan.leaves else stays
    question = _question(body, kind, call, lambda: house.check_fields(fields), record.tenant)
    return Exchange(house, record, plan, question, waits, bool(body.stream))


def _question(
    body: dialect.ChatBody | dialect.CompletionBody,
    kind: Kind,
    call: Callable[[], CloudCall],
    check: Callable[[], None],
    tenant: str,
) -> Question:
    # Not the client's request id: two requests may come with the same one.
    id = f"{kind.prefix}-{uuid.uuid4().hex}"
    created = int(time.time())

    def requests(model: LocalModel) -> tuple[GenerationRequest, ...]:
        check()
        prompts, sampling = body.prompts(), wire.sampling(body, model.params)
        fields = _fields(kind, len(prompts))
        caches = body.cache_prompt is not False
        return tuple(
            GenerationRequest(f"{id}-{n}", prompt, sampling, field, caches, tenant)
            for n, (prompt, field) in enumerate(zip(prompts, fields, strict=True))
        )

    return Question(requests, lambda name: kind.writer(id, created, name, body.wants_usage()), call)


def _fields(kind: Kind, prompts: int) -> list[str]:
    """Where each prompt stands in the body."""
    name = "messages" if kind is CHAT else "prompt"
    return [name] if prompts == 1 else [f"{name}[{number}]" for number in range(prompts)]
