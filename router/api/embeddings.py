"""
/v1/embeddings.

The one rule: a large answer leaves in pieces, and other requests get their turn between them.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from router.api import dialect, field_check, wire
from router.api.answers import embedding_list
from router.api.body import receive
from router.api.exchange import COST, facts
from router.api.field_check import FieldCheck
from router.api.house import House, Record
from router.api.passing import passed_on, stays
from router.api.patience import Patience, patience
from router.api.sse import while_connected
from router.api.wishes import wishes
from router.cloud.calls import CloudCall
from router.domain.errors import InvalidRequest
from router.domain.generation import EmbeddingRequest
from router.domain.models import LocalModel
from router.domain.upstreams import usd
from router.routing.dispatch import EmbeddingAnswer
from router.routing.journey import Asked, Relayed
from router.routing.plan import Plan


async def embeddings(request: Request, house: House, record: Record) -> Response:
    asked = await _asked(request, house, record)
    waits = patience(request.headers, house.catalog.current.limits)
    return await while_connected(request.receive, _answered(house, record, asked, waits))


@dataclass(frozen=True, slots=True)
class _Question:
    plan: Plan
    body: dialect.EmbeddingBody
    fields: FieldCheck
    call: Callable[[], CloudCall]


async def _asked(request: Request, house: House, record: Record) -> _Question:
    raw = await receive(request)
    body = wire.decode(raw, dialect.EmbeddingBody)
    plan = house.plan(body.model_name(), wishes(request.headers, body), record)
    call = passed_on("embeddings", raw, body, record) if plan.leaves else stays
    return _Question(plan, body, field_check.check(raw, "embeddings"), call)


async def _answered(house: House, record: Record, question: _Question, waits: Patience) -> Response:
    @contextlib.asynccontextmanager
    async def local(model: LocalModel) -> AsyncIterator[EmbeddingAnswer]:
        house.check_fields(question.fields)
        asked = EmbeddingRequest(f"embd-{uuid.uuid4().hex}", question.body.inputs())
        yield await house.dispatcher.embed(model, asked, waits.wait, waits.priority(model))

    async with house.journeys.open(question.plan, Asked(local, question.call)) as answer:
        if isinstance(answer, Relayed):
            record.model, record.finish = answer.served_by, "stop"
            told = facts(answer, house.served_by(answer.served_by, record))
            relayed = house.relayed(answer.answer.body, answer.served_by, record)
            headers = {**told, COST: usd(answer.answer.cost or 0)}
            return Response(relayed, headers=headers, media_type="application/json")
        return _own(answer, house, record, question.body)


def _own(answer: EmbeddingAnswer, house: House, record: Record, body: dialect.EmbeddingBody) -> Response:
    record.model = answer.model.name
    have = answer.embeddings.dimensions
    if body.dimensions not in (None, have):
        words = f"The vectors of {answer.model.name!r} always have {have} dimensions."
        raise InvalidRequest(words, "dimensions")
    name = house.shown(answer.model.name, record)
    pieces = embedding_list(answer.embeddings, name, body.encoding_format or "float")
    record.finish = "stop"
    told = facts(answer, house.served_by(answer.served_by, record))
    return StreamingResponse(_told(pieces), headers=told, media_type="application/json")


async def _told(pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    """Piece by piece, other requests between them: thousands of vectors are a hundred megabytes of digits."""
    for piece in pieces:
        yield piece
        await asyncio.sleep(0)
