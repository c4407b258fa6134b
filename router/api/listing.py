"""
/v1/models: what a client may ask for, of this machine and beyond it.

The one rule: looking wakes no model, asks no upstream and costs nothing.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from router.api.entries import entry
from router.api.house import House, Record
from router.api.wire import encode


async def models(request: Request, house: House, record: Record) -> Response:
    """OpenAI's list and llama.cpp's in one. Looking wakes no model."""
    view = house.residency.view()
    entries = [entry(target, house, view, record) for target in house.targets(record)]
    return _json({"object": "list", "data": entries})


async def model(request: Request, house: House, record: Record) -> Response:
    found = house.target(request.path_params["id"], record)
    return _json(entry(found, house, house.residency.view(), record))


def _json(body: object) -> Response:
    return Response(encode(body), media_type="application/json")
