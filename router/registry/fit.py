"""
Do the models fit the budget? Asked once their footprints are as exact as they get.

The one rule: a model that is too large marks itself; pins that are too large together void the file.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from router.domain.errors import RegistryInvalid
from router.domain.memory import Bytes, lacking, left, plus
from router.domain.models import LocalModel
from router.registry.loader import Registry
from router.registry.memory import show


def judge(registry: Registry) -> Registry:
    """
    The registry with `problem` set on each model that cannot fit, and a warning for it.

    Raises RegistryInvalid when the pinned models together pass a budget.
    """
    pinned = [model for model in registry.models.values() if model.pinned and model.problem is None]
    held = plus(*(model.placements[0].bytes for model in pinned))
    if over := lacking(held, registry.budgets):
        device = next(iter(over))
        raise RegistryInvalid(
            [registry.say(m.name, _too_many_pins(m, device, held, registry.budgets)) for m in pinned]
        )
    judged = {name: _judged(model, registry.budgets, held) for name, model in registry.models.items()}
    new = [
        registry.say(name, after.problem)
        for name, after in judged.items()
        if after.problem and registry.models[name].problem is None
    ]
    return registry.with_models(judged, new)


def _judged(model: LocalModel, budgets: Mapping[str, int], held: Bytes) -> LocalModel:
    room = budgets if model.pinned else left(budgets, held)
    over = [lacking(placement.bytes, room) for placement in model.placements]
    if model.problem is not None or not all(over):
        return model
    device = next(iter(over[0]))
    need, pinned = model.placements[0].bytes[device], 0 if model.pinned else held.get(device, 0)
    beside = f" beside what is pinned ({show(pinned)})" if pinned else ""
    problem = f"needs {show(need)}; the budget of {device} is {show(budgets[device])}{beside}"
    return msgspec.structs.replace(model, problem=problem)


def _too_many_pins(model: LocalModel, device: str, held: Bytes, budgets: Bytes) -> str:
    need = model.placements[0].bytes.get(device, 0)
    return (
        f"pinned with {show(need)}, but all pinned models together need {show(held[device])} "
        f"and the budget is {show(budgets[device])}"
    )
