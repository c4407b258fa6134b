"""
One entry of a list of models: of this machine or beyond it, as one request may see it.

The one rule: looking wakes no model, asks no upstream and costs nothing.
"""

from __future__ import annotations

from typing import Any

from router.api.answers import model_entry
from router.api.house import House, Record
from router.domain.models import LocalModel
from router.domain.routes import Route
from router.domain.upstreams import Upstream
from router.residency.view import HouseView
from router.routing.route import Target


def entry(target: Target, house: House, view: HouseView, record: Record) -> dict[str, Any]:
    """Under the name that the request knows, with the names and reasons that it may know."""
    found, names = _entry(target, house, view), house.names(record)
    name = names.of(target.name) or target.name
    if name != target.name:
        found |= {"id": name, "name": name, "display_name": name}
    found["aliases"] = [alias for alias in found["aliases"] if alias != name and names.knows(alias)]
    if "candidates" in found:
        found["candidates"] = [shown for n in found["candidates"] if (shown := names.of(n))]
    if "error" in found["status"]:
        found["status"]["error"] = names.reason(found["status"]["error"])
    return found


def _entry(target: Target, house: House, view: HouseView) -> dict[str, Any]:
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
