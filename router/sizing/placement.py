"""
Where a model's layers go: whole on one GPU if that holds it, split over several only if it must be, and what
is left over in host memory only if the registry says `auto`.

The one rule: pure. `plan` asks for the sizes of a candidate by yielding it, so that the same decisions run on
the formula (`settle`) and on llama.cpp's dry runs (`registry.refine`).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence

import msgspec

from router.domain.memory import Bytes, fits
from router.domain.models import ALL_LAYERS, AUTO_LAYERS, EngineOptions, Footprint, Placement

HOST = "host"
Sizes = Mapping[str, Footprint]
"""Footprints by device name."""
Plan = Generator[EngineOptions, Sizes, tuple[Placement, ...]]

_BALANCINGS = 3
"""How often a split that does not fit is corrected by what its sizes turned out to be."""


def plan(options: EngineOptions, layers: int, budgets: Bytes, linked: bool = False) -> Plan:
    """
    The ways to hold a model, best first; never empty, and not sure to fit (`registry.fit` judges).

    `options` as the registry means them; `layers`: the model's blocks. `linked`: the GPUs have NVLink.
    """
    gpus = tuple(device for device in budgets if device != HOST)
    if not gpus or options.gpu_layers == 0:
        return ((yield from _one(_placed(options, 0, (HOST,)))),)
    count = ALL_LAYERS if options.gpu_layers == AUTO_LAYERS else options.gpu_layers
    whole = yield from _on_each(options, count, gpus)
    if fitting := tuple(way for way in whole if fits(way.bytes, budgets)):
        return fitting
    if len(gpus) > 1 and (split := (yield from _split(options, count, budgets, linked))):
        return (split,)
    if options.gpu_layers != AUTO_LAYERS:
        return whole
    return ((yield from _partial(options, layers, budgets)),)


def settle(decisions: Plan, size: Callable[[EngineOptions], Sizes]) -> tuple[Placement, ...]:
    """Run a plan on sizes that are there at once."""
    try:
        candidate = next(decisions)
        while True:
            candidate = decisions.send(size(candidate))
    except StopIteration as done:
        ways: tuple[Placement, ...] = done.value
        return ways


def _one(engine: EngineOptions) -> Generator[EngineOptions, Sizes, Placement]:
    sizes = yield engine
    return Placement(engine, dict(sizes))


def _on_each(options: EngineOptions, count: int, gpus: tuple[str, ...]) -> Plan:
    """One candidate is sized; on another GPU the same model takes the same."""
    first = yield from _one(_placed(options, count, gpus[:1]))
    return tuple(_moved(first, gpus[0], gpu) for gpu in gpus)


def _moved(way: Placement, here: str, there: str) -> Placement:
    footprints = {there if device == here else device: held for device, held in way.footprints.items()}
    return Placement(_placed(way.engine, way.engine.gpu_layers, (there,)), footprints)


def _split(
    options: EngineOptions, count: int, budgets: Bytes, linked: bool
) -> Generator[EngineOptions, Sizes, Placement | None]:
    """On as few GPUs as hold it, the largest first; None when all of them do not."""
    largest = _by_budget(budgets)
    for number in range(2, len(largest) + 1):
        devices = tuple(sorted(largest[:number], key=list(budgets).index))
        shares = tuple(float(budgets[device]) for device in devices)
        for _ in range(_BALANCINGS):
            way = yield from _one(_placed(options, count, devices, _normal(shares)))
            if fits(way.bytes, budgets):
                return msgspec.structs.replace(way, warning=_why_split(devices, linked))
            shares = tuple(
                share * _stretch(way.footprints.get(device, Footprint()), budgets[device])
                for device, share in zip(devices, shares, strict=True)
            )
    return None


def _stretch(held: Footprint, budget: int) -> float:
    """How many times the layers that are there would fit."""
    layers = held.weights + held.kv_cache
    room = budget - held.compute - held.overhead
    return max(room, 1) / layers if layers else 1.0


def _why_split(devices: Sequence[str], linked: bool) -> str:
    link = "" if linked else " and there is no NVLink between them"
    return (
        f"no single device's budget holds it: its layers are split over {' and '.join(devices)}, which is slower "
        f"than one card, since each token passes through them one after the other{link}"
    )


def _partial(
    options: EngineOptions, layers: int, budgets: Bytes
) -> Generator[EngineOptions, Sizes, Placement]:
    """The most layers that the GPUs hold, by a binary search: their footprints grow with every layer."""
    gpus = tuple(device for device in budgets if device != HOST)
    shares = _normal(tuple(float(budgets[gpu]) for gpu in gpus)) if len(gpus) > 1 else ()
    room = {gpu: budgets[gpu] for gpu in gpus}
    best: Placement | None = None
    low, high = 0, layers + 1
    while low < high - 1:
        middle = (low + high) // 2
        way = yield from _one(_placed(options, middle, gpus, shares))
        if fits(way.bytes, room):
            low, best = middle, way
        else:
            high = middle
    if best is None:
        best = yield from _one(_placed(options, 0, (HOST,)))
    return msgspec.structs.replace(best, warning=_why_partial(low, layers, gpus))


def _why_partial(count: int, layers: int, gpus: Sequence[str]) -> str:
    where = " and ".join(gpus)
    return (
        f"{count or 'none'} of {layers + 1} layers fit the budget of {where}; the others are computed from host "
        "memory, which is much slower"
    )


def _by_budget(budgets: Bytes) -> list[str]:
    return sorted((device for device in budgets if device != HOST), key=lambda device: -budgets[device])


def _normal(shares: tuple[float, ...]) -> tuple[float, ...]:
    """Adding up to 1, rounded so that equal plans have equal keys in the ledger."""
    total = sum(shares)
    return tuple(round(share / total, 4) for share in shares)


def _placed(
    options: EngineOptions, gpu_layers: int, devices: tuple[str, ...], split: tuple[float, ...] = ()
) -> EngineOptions:
    return msgspec.structs.replace(options, gpu_layers=gpu_layers, devices=devices, split=split)
