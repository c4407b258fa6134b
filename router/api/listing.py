"""
/v1/models: what a client may ask for, of this machine and beyond it.

The one rule: looking wakes no model, asks no upstream and costs nothing.
"""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from router.api.answers import model_entry
from router.api.house import House, Record
from router.api.wire import encode
from router.domain.models import LocalModel
from router.domain.routes import Route
from router.domain.upstreams import Upstream
from router.residency.view import HouseView
from router.routing.route import Target


async def models(request: Request, house: House, record: Record) -> Response:
    """OpenAI's list and llama.cpp's in one. Looking wakes no model."""
    view = house.residency.view()
    entries = [entry(target, house, view) for target in house.targets(record)]
    return _json({"object": "list", "data": entries})


async def model(request: Request, house: House, record: Record) -> Response:
    found = house.target(request.path_params["id"], record)
    return _json(entry(found, house, house.residency.view()))


def entry(target: Target, house: House, view: HouseView) -> dict[str, Any]:
    match target:
        case LocalModel():
            return model_entry(target, view)
        case Route():
            return _route(target, house, view)
        case Upstream():
            return _upstream(target, house)


def _route(route: Route, house: House, view: HouseView) -> dict[str, Any]:
    """Loaded as soon as one candidate is: then it answers without a wait."""
    models = house.catalog.current.models
    statuses = [view.status(n) if n in models else "loaded" for n in route.candidates]
    best = next((s for s in ("loaded", "loading", "unloaded") if s in statuses), "failed")
    known = [models[n].engine.context for n in route.candidates if n in models]
    found = _beyond(route.name, route.aliases, min(known, default=None), best)
    return {**found, "candidates": list(route.candidates)}


def _upstream(upstream: Upstream, house: House) -> dict[str, Any]:
    status = (house.peers.status(upstream) or "unloaded") if upstream.peer else "loaded"
    registry = house.catalog.current
    aliases = tuple(alias for alias, name in registry.aliases.items() if name == upstream.name)
    return _beyond(upstream.name, aliases, upstream.context, status)


def _beyond(name: str, aliases: tuple[str, ...], context: int | None, status: str) -> dict[str, Any]:
    """The fields that readers of `model_entry` count on."""
    return {
        "id": name,
        "object": "model",
        "created": 0,
        "owned_by": "router",
        "name": name,
        "display_name": name,
        "type": "model",
        "status": {"value": status},
        "meta": {"n_ctx": context, "n_ctx_train": context, "n_params": None, "size": None},
        "architecture": {"input_modalities": ["text"], "output_modalities": ["text"]},
        "aliases": list(aliases),
        "context_length": context,
    }


def _json(body: object) -> Response:
    return Response(encode(body), media_type="application/json")
