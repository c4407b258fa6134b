"""
What operators, probes and other routers' clients ask: health, metrics, who is in memory, load and unload.

The one rule: looking wakes no model and changes nothing; only load and unload do.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from router import __version__
from router.api import errors, sse, wire
from router.api.body import read
from router.api.entries import entry
from router.api.errors import NotAllowed
from router.api.exchange import note
from router.api.house import House, Record
from router.api.naming import Names
from router.api.sse import EventStream
from router.cloud.report import UpstreamView
from router.domain.errors import InvalidRequest, LoadFailed, RouterError
from router.domain.models import LocalModel
from router.domain.upstreams import usd
from router.residency.view import InstanceView
from router.telemetry import CONTENT_TYPE, logger

log = logger("api")

_LLAMA_SWAP_STATES = {
    "loading": "starting",
    "ready": "ready",
    "draining": "stopping",
    "stopping": "stopping",
    "quarantined": "stopping",
}


# Health ----------------------------------------------------------------------------------------------------


async def root(request: Request, house: House, record: Record) -> Response:
    return _json({"name": "router", "version": __version__})


async def livez(request: Request, house: House, record: Record) -> Response:
    """200 as long as the gateway can answer at all; 503 when it has failed and has to be started anew."""
    if house.residency.failed.is_set():
        return _json({"status": "failed"}, 503)
    return _json({"status": "ok"})


async def readyz(request: Request, house: House, record: Record) -> Response:
    """200 while requests are taken, 503 once the gateway is stopping or has failed. Counts only: anyone may ask."""
    if house.residency.failed.is_set():
        return await livez(request, house, record)
    view = house.residency.view()
    registry = house.catalog.current
    body = {
        "status": "stopping" if view.shutting_down else "ok",
        "version": __version__,
        "models": len(registry.models),
        "broken_models": registry.broken,
        "failed_models": len(view.failed),
        "loaded_instances": sum(i.phase == "ready" for i in view.instances),
        "waiting_requests": sum(view.waiting.values()),
        "registry_edit_refused": bool(house.catalog.refused),
    }
    return _json(body, 503 if view.shutting_down else 200)


async def metrics(request: Request, house: House, record: Record) -> Response:
    """Of a key that may not use every model: only the series of those that it may, by the names that it has."""
    # Thousands of series take a while to print; only the bringing up to date needs this thread.
    house.metrics.refresh()
    names = house.names(record)
    text = await asyncio.to_thread(house.metrics.text, None if names.all else names.of)
    return Response(text, headers={"content-type": CONTENT_TYPE})


# llama.cpp's router protocol -------------------------------------------------------------------------------


async def load(request: Request, house: House, record: Record) -> Response:
    """Answers at once; the loading goes on behind it, and /models/sse tells how."""
    body = await read(request, wire.Body)
    model = await house.dispatcher.latest(house.model(body.model_name(), record))
    if model.problem is not None:
        raise LoadFailed(f"{model.name} cannot be loaded: {model.problem}")
    house.background.start(f"load {model.fingerprint}", _load(house, model))  # the same by any of its names
    return _json({"success": True})


async def _load(house: House, model: LocalModel) -> None:
    try:
        await house.dispatcher.load(model)
    except RouterError as error:
        log.warning("an operator's load failed", model=model.name, reason=str(error))


async def unload(request: Request, house: House, record: Record) -> Response:
    """Busy models drain first. What clients wait for is a conflict, unless `force`: then they are refused."""
    body = await read(request, wire.UnloadBody)
    model = house.model(body.model_name(), record)
    if not house.residency.unload(model.name, bool(body.force)):
        raise InvalidRequest(f"The model {model.name!r} is not running.", "model", names_model=True)
    return _json({"success": True})


async def changes(request: Request, house: House, record: Record) -> Response:
    """llama.cpp's events: one for each change of a model's state, with the progress of a load."""
    settings = house.settings
    return EventStream(
        _changes(house, record),
        commit=0,
        pause=settings.comment_seconds,
        waiting=lambda: "no change",
        refuse=lambda error: errors.response(note(error, record), record.id, record.hidden),
        broken=lambda error: errors.event(note(error, record), record.id, record.hidden),
    )


async def _changes(house: House, record: Record) -> AsyncGenerator[bytes, None]:
    stream = house.residency.changes()
    try:
        async for change in stream:
            model = house.catalog.current.models.get(change.model)
            if name := house.names(record).of(change.model):
                data = _data(change.status, change.progress, model, house, record)
                yield sse.data({"model": name, "event": "model_status", "data": data})
    finally:
        await stream.aclose()


def _data(
    status: str, progress: float, model: LocalModel | None, house: House, record: Record
) -> dict[str, Any]:
    view = house.residency.view()
    data: dict[str, Any] = {"status": status}
    match status:
        case "loading":
            data["progress"] = {"stages": ["text_model"], "current": "text_model", "value": progress}
        case "loaded" if model is not None:
            data["info"] = entry(model, house, view, record)
        case "failed":
            data["failed"] = True
            data["error"] = house.names(record).reason(view.failed.get(model.name) if model else None)
        case _:
            pass
    return data


async def props(request: Request, house: House, record: Record) -> Response:
    """llama.cpp's properties: of the router, or with ?model= of one model, which it does not load."""
    name = request.query_params.get("model")
    if not name:
        return _json(
            {
                "role": "router",
                "models_autoload": True,
                "max_instances": len(house.catalog.current.models),
                "model_alias": "router",
                "default_generation_settings": {"n_ctx": 0},
                "build_info": f"router {__version__}",
            }
        )
    model = house.model(name, record)
    status = house.residency.view().status(model.name)
    return _json(
        {
            "model_alias": house.shown(model.name, record),
            "total_slots": model.engine.slots,
            "default_generation_settings": {"n_ctx": model.engine.context},
            "modalities": {"vision": False, "audio": False},
            "is_sleeping": status != "loaded",
            "build_info": f"router {__version__}",
        }
    )


# llama-swap's endpoints ------------------------------------------------------------------------------------


async def running(request: Request, house: House, record: Record) -> Response:
    """Every process that holds a model, and what the house has left."""
    view, names = house.residency.view(), house.names(record)
    shown = [(instance, names.of_instance(instance)) for instance in view.instances]
    body = {
        "running": [
            _instance(instance, known, names.of(instance.model)) for instance, known in shown if known
        ],
        "memory": view.memory.kinds(),
        "devices": {device: memory.kinds() for device, memory in view.devices.items()},
        "paces": dict(view.paces),
        "waiting": {name: count for n, count in view.waiting.items() if (name := names.of(n))},
        "failed": {name: names.reason(why) for n, why in view.failed.items() if (name := names.of(n))},
        "cloud": [_upstream(v, house, names) for v in house.cloud.views() if names.of(v.upstream.name)],
    }
    return _json(body)


def _upstream(view: UpstreamView, house: House, names: Names) -> dict[str, Any]:
    """Money in US dollars as text, so that no reader rounds it."""
    budget, name = view.upstream.budget, names.of(view.upstream.name)
    return {
        "id": name,
        "model": view.upstream.model if name == view.upstream.name else name,
        "breaker": view.breaker.value,
        "retry_after": round(view.retry_after, 1),
        "in_flight": view.in_flight,
        "peer_status": house.peers.status(view.upstream) or None if view.upstream.peer else None,
        "spent_usd": {"day": usd(view.spent.day), "month": usd(view.spent.month)},
        "reserved_usd": usd(view.spent.reserved),
        "budget_usd": {
            "day": None if budget.day is None else usd(budget.day),
            "month": None if budget.month is None else usd(budget.month),
        },
    }


def _instance(instance: InstanceView, names: list[str], started_as: str | None) -> dict[str, Any]:
    """`names`: those that the key has; the one that it was started for stands first if it is one of them."""
    name = started_as if started_as in names else names[0]
    return {
        "id": f"{name}#{instance.id.rpartition('#')[2]}",
        "model": name,
        "names": names,
        "state": _LLAMA_SWAP_STATES[instance.phase],
        "phase": instance.phase,
        "progress": instance.progress,
        "pid": instance.pid,
        "sandbox": list(instance.sandbox),
        "bytes": instance.reserved,
        "estimated": instance.estimated.total,
        "measured": instance.measured.total if instance.measured else None,
        "slots": instance.slots,
        "leases": instance.leases,
        "idle_seconds": instance.idle_seconds,
        "expires_in": instance.expires_in,
        "ttl": instance.ttl,
        "pinned": instance.pinned,
    }


async def unload_all(request: Request, house: House, record: Record) -> Response:
    """
    Busy models drain first; what clients wait for stays, unless ?force. Only for a key that may use every model.

    HEAD changes nothing.
    """
    if record.key is not None and "*" not in record.key.models:
        raise NotAllowed("This key may not unload every model.")
    force = request.query_params.get("force", "false")
    if force not in ("", "true", "false"):
        raise InvalidRequest("'force' must be true or false.", "force")
    if request.method != "HEAD":
        house.residency.unload(None, force != "false")
    return Response("OK", media_type="text/plain")


def _json(body: object, status: int = 200) -> Response:
    return Response(wire.encode(body), status, media_type="application/json")
