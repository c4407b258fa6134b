"""
Do the models fit the budget? Asked once their footprints are as exact as they get.

The one rule: a model that is too large marks itself; pins that are too large together void the file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from router.domain.errors import RegistryInvalid
from router.domain.memory import Bytes, fits, lacking, left, plus
from router.domain.models import LocalModel
from router.registry.loader import Registry
from router.registry.memory import show


def judge(registry: Registry) -> Registry:
    """
    The registry with `problem` set on each model that cannot fit, and a warning for it.

    Also warns of models that fit, but not as an operator would wish (split, partly in host memory).
    Raises RegistryInvalid when the pinned models together pass a budget.
    """
    pinned = [model for model in registry.models.values() if model.pinned and model.problem is None]
    processes = {model.fingerprint: model for model in pinned}  # names of one process need its bytes once
    held = _together(list(processes.values()), registry.budgets)
    if over := lacking(held, registry.budgets):
        device = next(iter(over))
        raise RegistryInvalid(
            [registry.say(m.name, _too_many_pins(m, device, held, registry.budgets)) for m in pinned]
        )
    judged = {
        name: _judged(model, registry.budgets, held, model.fingerprint in processes)
        for name, model in registry.models.items()
    }
    new = [registry.say(name, said) for name, after in judged.items() for said in _news(registry, after)]
    return registry.with_models(judged, new)


def _news(registry: Registry, after: LocalModel) -> list[str]:
    if after.problem is not None:
        return [after.problem] if registry.models[after.name].problem is None else []
    return [after.placements[0].warning] if after.placements[0].warning else []


def _together(pinned: Sequence[LocalModel], budgets: Bytes) -> dict[str, int]:
    """What the pinned ones hold when each takes the first place that the others leave."""
    held: dict[str, int] = {}
    for model in pinned:
        room = left(budgets, held)
        way = next((way for way in model.placements if fits(way.bytes, room)), model.placements[0])
        held = plus(held, way.bytes)
    return held


def _judged(model: LocalModel, budgets: Mapping[str, int], held: Bytes, pinned: bool) -> LocalModel:
    """`pinned`: it is one of those that hold `held`, by this name or by another one of its process."""
    room = budgets if pinned else left(budgets, held)
    over = [lacking(placement.bytes, room) for placement in model.placements]
    if model.problem is not None or not all(over):
        return model
    device = next(iter(over[0]))
    need, others = model.placements[0].bytes[device], 0 if pinned else held.get(device, 0)
    beside = f" beside what is pinned ({show(others)})" if others else ""
    problem = f"needs {show(need)}; the budget of {device} is {show(budgets[device])}{beside}"
    return msgspec.structs.replace(model, problem=problem)


def _too_many_pins(model: LocalModel, device: str, held: Bytes, budgets: Bytes) -> str:
    need = model.placements[0].bytes.get(device, 0)
    return (
        f"pinned with {show(need)}, but all pinned models together need {show(held[device])} "
        f"and the budget is {show(budgets[device])}"
    )
