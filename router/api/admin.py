"""
What an operator asks of the registry: to be read again.

The one rule: only for a key that may use every model; what is refused changes nothing.
"""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from router.api import wire
from router.api.errors import NotAllowed
from router.api.house import House, Record
from router.domain.errors import InvalidRequest
from router.domain.models import LocalModel
from router.registry.loader import Registry

_FORCE = {"": True, "1": True, "true": True, "0": False, "false": False}


async def reload(request: Request, house: House, record: Record) -> Response:
    """Read the registry again; with ?force also what makes things worse takes effect. 422 when it is refused."""
    if record.key is not None and "*" not in record.key.models:
        raise NotAllowed("This key may not reload the registry.")
    before = house.catalog.current
    after = await house.catalog.reload(force=_forced(request))
    return Response(wire.encode(_outcome(before, after)), media_type="application/json")


def _forced(request: Request) -> bool:
    said = request.query_params.get("force", "false")
    if said not in _FORCE:
        raise InvalidRequest(f"force is {' or '.join(word for word in _FORCE if word)}.", "force")
    return _FORCE[said]


def _outcome(before: Registry, after: Registry) -> dict[str, Any]:
    """What changed, by names of models. What was measured since the last reading is no change."""
    before, after = _as_written(before), _as_written(after)
    return {
        "outcome": "unchanged" if after == before else "applied",
        "added": [name for name in after.models if name not in before.models],
        "removed": [name for name in before.models if name not in after.models],
        "changed": [n for n, model in after.models.items() if before.models.get(n, model) != model],
        "broken": {n: model.problem for n, model in after.models.items() if model.problem is not None},
        "warnings": list(after.warnings),
    }


def _as_written(registry: Registry) -> Registry:
    def unmeasured(model: LocalModel) -> LocalModel:
        placements = tuple(msgspec.structs.replace(way, measured={}) for way in model.placements)
        return msgspec.structs.replace(model, placements=placements)

    return registry.with_models({name: unmeasured(model) for name, model in registry.models.items()})
