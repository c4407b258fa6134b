"""
Whose memory the models share and how much of it: the device and its budget.

The one rule: what was detected is a fact, what was declared is the operator's word, and a share needs a fact.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from router.registry import schema
from router.registry.quantities import Share
from router.sizing.devices import Device

AUTO = "auto"
HOST = "host"
_SHARES = {"cuda": Share(0.8), "cpu": Share(0.5)}


@dataclass(frozen=True, slots=True)
class Memory:
    """`budget` is bytes of `device` that models may hold. `warning` is for the operator."""

    device: Device
    budget: int
    warning: str | None = None


def choose(found: Sequence[Device], declared: Mapping[str, schema.Device] | None) -> Memory:
    """The declared device, else the first GPU, else the host. Raises ValueError with the reason."""
    for name, device in (declared or {}).items():
        return _declared(found, name, device.budget)
    return _default(found)


def show(size: int) -> str:
    """Bytes for people: 9.0 GiB, 812 MiB."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def _default(found: Sequence[Device]) -> Memory:
    device = _first(found)
    return Memory(device, _bytes(device, _SHARES[device.kind]))


def _declared(found: Sequence[Device], name: str, budget: int | Share) -> Memory:
    device = _first(found) if name == AUTO else next((d for d in found if d.name == name), None)
    if device is not None:
        size = _bytes(device, budget)
        over = f"the budget ({show(size)}) is more than {device.name} has ({show(device.total)})"
        return Memory(device, size, over if size > device.total else None)
    names = ", ".join(d.name for d in found) or "none"
    if isinstance(budget, Share):
        raise ValueError(f"a share needs a device that was found; there is no {name} here, only: {names}")
    gpu = re.fullmatch(r"(gpu|cuda)[0-9]*", name)
    if name == HOST:  # there always is one; beside a GPU it is not detected
        return Memory(Device(name, "cpu", budget, budget), budget)
    unseen = f"{name} was not found here (only: {names}); its budget is taken on trust"
    return Memory(Device(name, "cuda" if gpu else "cpu", budget, budget), budget, unseen)


def _first(found: Sequence[Device]) -> Device:
    if not found:
        raise ValueError("no device was found: declare one with a budget in bytes")
    return next((device for device in found if device.kind == "cuda"), found[0])


def _bytes(device: Device, budget: int | Share) -> int:
    return int(device.total * budget.of_total) if isinstance(budget, Share) else budget
