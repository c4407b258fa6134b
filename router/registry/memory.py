"""
Whose memory the models share and how much of it: the devices and their budgets.

The one rule: what was detected is a fact, what was declared is the operator's word, and a share needs a fact.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from router.registry import quantities, schema
from router.registry.quantities import Share
from router.sizing.devices import Device

AUTO = "auto"
HOST = "host"
_SHARES = {"cuda": Share(0.8), "cpu": Share(0.5)}
_GPU = re.compile(r"gpu(0|[1-9][0-9]{0,2})")


@dataclass(frozen=True, slots=True)
class Memory:
    """
    `budgets`: bytes of each device that models may hold, GPUs first. `max_temperatures`: degrees Celsius, of
    those that have a limit. `warnings` are for the operator.
    """

    budgets: Mapping[str, int]
    linked: bool = False
    """The GPUs are connected by NVLink."""
    warnings: tuple[str, ...] = ()
    max_temperatures: Mapping[str, int] = field(default_factory=dict)

    @property
    def has_gpu(self) -> bool:
        return any(device != HOST for device in self.budgets)


def choose(found: Sequence[Device], declared: Mapping[str, schema.Device] | None) -> Memory:
    """
    The declared devices, else all that were found. Raises ValueError with the reason.

    Beside a GPU the host always has a budget: a model that is partly or wholly offloaded takes some of it.
    """
    if not found and not declared:
        raise ValueError("no device was found: declare one with a budget in bytes")
    named = _named(found, declared) if declared else {}
    wanted = {name: d.budget for name, d in named.items()} or {d.name: _SHARES[d.kind] for d in found}
    budgets: dict[str, int] = {}
    warnings: list[str] = []
    for name, budget in wanted.items():
        device = next((d for d in found if d.name == name), None)
        budgets[name] = _bytes(found, name, budget)
        warnings += _doubts(found, device, name, budgets[name])
    host = next((d for d in found if d.name == HOST), None)
    if HOST not in budgets and host is not None:
        budgets[HOST] = _bytes(found, HOST, _SHARES["cpu"])
    linked = all(d.linked for d in found if d.name in budgets and d.kind == "cuda")
    hot = {name: d.max_temperature for name, d in named.items() if name != HOST and d.max_temperature}
    return Memory(dict(sorted(budgets.items(), key=_gpus_first)), linked, tuple(warnings), hot)


def assumed(declared: Mapping[str, schema.Device] | None) -> tuple[Device, ...]:
    """Every device that a registry may be about, as large as can be: for reading it where there is none of them."""
    gpus = [name for name in declared or () if _GPU.fullmatch(name)] or ["gpu0"]
    found = [Device(name, "cuda", quantities.MAX_SIZE, quantities.MAX_SIZE) for name in gpus]
    return (*found, Device(HOST, "cpu", quantities.MAX_SIZE, quantities.MAX_SIZE))


def show(size: int) -> str:
    """Bytes for people: 9.0 GiB, 812 MiB."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def _named(found: Sequence[Device], declared: Mapping[str, schema.Device]) -> dict[str, schema.Device]:
    """`auto` is the first GPU; without one it is the host, and nothing where the host is declared as well."""
    if HOST in declared and declared[HOST].max_temperature is not None:
        raise ValueError("the host takes no max_temperature: only GPUs say how hot they are")
    wanted = {name: device for name, device in declared.items() if name != AUTO}
    if AUTO in declared:
        gpu = next((device.name for device in found if device.kind == "cuda"), None)
        if gpu in wanted:
            raise ValueError(f"auto is {gpu} here, which has a budget of its own")
        if gpu is not None or HOST not in wanted:
            wanted[gpu or HOST] = declared[AUTO]
    strange = [name for name in wanted if name != HOST and not _GPU.fullmatch(name)]
    if strange:
        raise ValueError(f"expected gpu0, gpu1, ..., host or auto, got {strange[0]}")
    return wanted


def _bytes(found: Sequence[Device], name: str, budget: int | Share) -> int:
    if not isinstance(budget, Share):
        return budget
    device = next((d for d in found if d.name == name), None)
    if device is None:
        names = ", ".join(d.name for d in found) or "none"
        raise ValueError(f"a share needs a device that was found; there is no {name} here, only: {names}")
    return int(device.total * budget.of_total)


def _doubts(found: Sequence[Device], device: Device | None, name: str, budget: int) -> list[str]:
    if device is not None:
        over = f"the budget ({show(budget)}) is more than {name} has ({show(device.total)})"
        return [over] if budget > device.total else []
    if name == HOST:  # there always is one, whether or not it was looked for
        return []
    names = ", ".join(d.name for d in found) or "none"
    return [f"{name} was not found here (only: {names}); its budget is taken on trust"]


def _gpus_first(item: tuple[str, int]) -> tuple[bool, int]:
    name, _ = item
    return (name == HOST, 0 if name == HOST else int(name[3:]))
