"""
Do the models fit the budget? Asked once their footprints are as exact as they get.

The one rule: a model that does not fit is marked, and the others are served.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from router.domain.memory import Bytes, fits, lacking, left, plus
from router.domain.models import LocalModel
from router.registry.loader import Registry
from router.registry.memory import show


def judge(registry: Registry) -> Registry:
    """
    The registry with `problem` set on each model that cannot fit, and a warning for it.

    Of pinned models that are too large together, those that stand first in the file are held.
    Also warns of models that fit, but not as an operator would wish (split, partly in host memory).
    """
    pinned = [model for model in registry.models.values() if model.pinned and model.problem is None]
    processes = {model.fingerprint: model for model in pinned}  # names of one process need its bytes once
    held, left_over = _together(list(processes.values()), registry.budgets)
    judged: dict[str, LocalModel] = {}
    for name, model in registry.models.items():
        alone = _judged(model, registry.budgets, {} if model.fingerprint in processes else held)
        if model.fingerprint in left_over and alone.problem is None:
            reason = _too_many_pins(model, list(processes.values()), registry.budgets)
            alone = msgspec.structs.replace(model, problem=reason)
        judged[name] = alone
    new = [registry.say(name, said) for name, after in judged.items() for said in _news(registry, after)]
    return registry.with_models(judged, new)


def _news(registry: Registry, after: LocalModel) -> list[str]:
    if after.problem is not None:
        return [after.problem] if registry.models[after.name].problem is None else []
    return [after.placements[0].warning] if after.placements[0].warning else []


def _together(pinned: Sequence[LocalModel], budgets: Bytes) -> tuple[dict[str, int], set[str]]:
    """What the pinned ones hold when each takes the first place that those before it leave; whose process found none."""
    held: dict[str, int] = {}
    left_over: set[str] = set()
    for model in pinned:
        room = left(budgets, held)
        way = next((way for way in model.placements if fits(way.bytes, room)), None)
        if way is None:
            left_over.add(model.fingerprint)
        else:
            held = plus(held, way.bytes)
    return held, left_over


def _judged(model: LocalModel, budgets: Mapping[str, int], held: Bytes) -> LocalModel:
    room = left(budgets, held)
    over = [lacking(placement.bytes, room) for placement in model.placements]
    if model.problem is not None or not all(over):
        return model
    device = next(iter(over[0]))
    need, pinned = model.placements[0].bytes[device], held.get(device, 0)
    beside = f" beside what is pinned ({show(pinned)})" if pinned else ""
    problem = f"needs {show(need)}; the budget of {device} is {show(budgets[device])}{beside}"
    return msgspec.structs.replace(model, problem=problem)


def _too_many_pins(model: LocalModel, pinned: Sequence[LocalModel], budgets: Bytes) -> str:
    wanted = plus(*(other.placements[0].bytes for other in pinned))
    device = next(iter(lacking(wanted, budgets)), next(iter(model.placements[0].bytes)))
    need = model.placements[0].bytes.get(device, 0)
    return (
        f"pinned with {show(need)}, but all pinned models together need {show(wanted[device])} "
        f"and the budget of {device} is {show(budgets[device])}"
    )
