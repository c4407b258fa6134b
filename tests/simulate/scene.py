"""What the tests of the simulation start from: small models, a slow machine with round figures."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from router.domain.models import EngineOptions, Footprint, Limits, LocalModel, Placement
from router.simulate.machine import GiB, Machine
from router.simulate.trace import Request
from router.simulate.world import House
from tests.local import local_model

MACHINE = Machine(
    read=1 * GiB, load_overhead=1.0, free=0.1, exit=0.5, prefill=1000.0, decode=100.0, batching=0.5
)


def model(name: str, gib: float = 4, slots: int = 2, context: int = 4096, overhead: float = 0) -> LocalModel:
    engine = EngineOptions(context=context, slots=slots)
    footprint = Footprint(weights=int(gib * GiB), overhead=int(overhead * GiB))
    return local_model(name, footprint=footprint, engine=engine, device="gpu0", ttl=None)


def house(models: Iterable[LocalModel], gib: float, limits: Limits | None = None) -> House:
    return House({m.name: m for m in models}, {"gpu0": int(gib * GiB)}, limits or Limits(), MACHINE)


def on_each(models: Iterable[LocalModel], budgets: dict[str, float]) -> House:
    """Each of the models may be held whole by each of the devices; budgets in GiB."""
    found = {}
    for each in models:
        footprint = each.footprint
        ways = (Placement(EngineOptions(slots=2, devices=(gpu,)), {gpu: footprint}) for gpu in budgets)
        found[each.name] = msgspec.structs.replace(each, placements=tuple(ways))
    return House(found, {gpu: int(gib * GiB) for gpu, gib in budgets.items()}, Limits(), MACHINE)


def asks(*rows: tuple[float, str], prompt: int = 1000, output: int = 100) -> list[Request]:
    return [Request(at, name, prompt, output) for at, name in rows]
