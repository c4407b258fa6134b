"""
OpenAI's endpoints: chat, completions, embeddings, models.

The one rule: a handler reads the body, asks one room below, and answers; it waits nowhere else.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Iterator

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from router.api import dialect, wire
from router.api.answers import ChatWriter, TextWriter, Writer, embedding_list, model_entry
from router.api.body import read
from router.api.exchange import Exchange, facts
from router.api.house import House, Record
from router.api.sse import while_connected
from router.domain.errors import InvalidRequest
from router.domain.generation import EmbeddingRequest, GenerationRequest, Prompt


async def chat(request: Request, house: House, record: Record) -> Response:
    body = await read(request, dialect.ChatBody)
    return await _generate(request, house, record, body, (body.prompt(),), ChatWriter, "chatcmpl")


async def completions(request: Request, house: House, record: Record) -> Response:
    body = await read(request, dialect.CompletionBody)
    return await _generate(request, house, record, body, body.prompts(), TextWriter, "cmpl")


async def embeddings(request: Request, house: House, record: Record) -> Response:
    body = await read(request, dialect.EmbeddingBody)
    model = house.model(body.model_name(), record)
    asked = EmbeddingRequest(_id("embd"), body.inputs())
    answer = await while_connected(request.receive, house.dispatcher.embed(model, asked))
    have = answer.embeddings.dimensions
    if body.dimensions not in (None, have):
        raise InvalidRequest(f"The vectors of {model.name!r} always have {have} dimensions.", "dimensions")
    pieces = embedding_list(answer.embeddings, model.name, body.encoding_format or "float")
    return StreamingResponse(
        _told(pieces, record), headers=dict(facts(answer)), media_type="application/json"
    )


async def _told(pieces: Iterator[bytes], record: Record) -> AsyncIterator[bytes]:
    """Piece by piece, other requests between them: thousands of vectors are a hundred megabytes of digits."""
    record.finish = "left"
    for piece in pieces:
        yield piece
        await asyncio.sleep(0)
    record.finish = "stop"


async def models(request: Request, house: House, record: Record) -> Response:
    """OpenAI's list and llama.cpp's in one. Looking wakes no model."""
    view = house.residency.view()
    entries = [model_entry(model, view) for model in house.models(record)]
    return _json({"object": "list", "data": entries})


async def model(request: Request, house: House, record: Record) -> Response:
    found = house.model(request.path_params["id"], record)
    return _json(model_entry(found, house.residency.view()))


async def _generate(
    request: Request,
    house: House,
    record: Record,
    body: wire.SamplingBody,
    prompts: tuple[Prompt, ...],
    writer: type[Writer],
    prefix: str,
) -> Response:
    model = house.model(body.model_name(), record)
    sampling = wire.sampling(body, model.params)
    # Not the client's request id: two requests may come with the same one.
    id = _id(prefix)
    asked = tuple(GenerationRequest(f"{id}-{n}", prompt, sampling) for n, prompt in enumerate(prompts))
    speaks = writer(id, int(time.time()), model.name, body.wants_usage())
    exchange = Exchange(house, record, model, asked, speaks)
    return exchange.stream() if body.stream else await exchange.whole(request)


def _id(prefix: str) -> str:
    return f"{prefix}-{uuid.uuid4().hex}"


def _json(body: object) -> Response:
    return Response(wire.encode(body), media_type="application/json")
