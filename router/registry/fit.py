"""
Do the models fit the budget? Asked once their footprints are as exact as they get.

The one rule: a model that is too large marks itself; pins that are too large together void the file.
"""

from __future__ import annotations

import msgspec

from router.domain.errors import RegistryInvalid
from router.domain.models import LocalModel
from router.registry.loader import Registry
from router.registry.memory import show


def judge(registry: Registry) -> Registry:
    """
    The registry with `problem` set on each model that cannot fit, and a warning for it.

    Raises RegistryInvalid when the pinned models together pass the budget.
    """
    pinned = [model for model in registry.models.values() if model.pinned and model.problem is None]
    held = sum(model.footprint.total for model in pinned)
    if held > registry.budget:
        raise RegistryInvalid(
            [registry.say(m.name, _too_many_pins(m, held, registry.budget)) for m in pinned]
        )
    judged = {name: _judged(model, registry, held) for name, model in registry.models.items()}
    new = [
        registry.say(name, after.problem)
        for name, after in judged.items()
        if after.problem and registry.models[name].problem is None
    ]
    return registry.with_models(judged, new)


def _judged(model: LocalModel, registry: Registry, held: int) -> LocalModel:
    need = model.footprint.total
    room = registry.budget if model.pinned else registry.budget - held
    if model.problem is not None or need <= room:
        return model
    beside = f" beside what is pinned ({show(held)})" if room < registry.budget and held else ""
    problem = f"needs {show(need)}; the budget of {registry.device.name} is {show(registry.budget)}{beside}"
    return msgspec.structs.replace(model, problem=problem)


def _too_many_pins(model: LocalModel, held: int, budget: int) -> str:
    return (
        f"pinned with {show(model.footprint.total)}, but all pinned models together need {show(held)} "
        f"and the budget is {show(budget)}"
    )
