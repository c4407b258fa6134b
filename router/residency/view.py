"""
What outsiders see of residency: frozen values, made on demand.

The one rule: looking changes nothing and wakes nobody.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from router.domain.memory import Bytes, plus
from router.domain.models import Footprint, LocalModel, together
from router.protocol import EngineGauges
from router.residency.estimate import expected_wait
from router.residency.state import Instance, Phase, Tables

Status = Literal["unloaded", "loading", "loaded", "failed"]


@dataclass(frozen=True, slots=True)
class WorkerView:
    """What the shell knows of an instance beside the core's tables."""

    progress: float = 0.0
    pid: int | None = None
    measured: Footprint | None = None
    gauges: EngineGauges | None = None
    sandbox: tuple[str, ...] = ()
    """The layers that hold its process."""


@dataclass(frozen=True, slots=True)
class InstanceView:
    """One worker process. Bytes, seconds; `progress` from 0 to 1."""

    id: str
    model: str
    """The name that it was started for, as long as the registry has that."""
    names: tuple[str, ...]
    """All names of the process."""
    fingerprint: str
    phase: Literal["loading", "ready", "draining", "stopping", "quarantined"]
    held: Bytes
    """By device, in the books."""
    estimated: Footprint
    measured: Footprint | None
    slots: int
    leases: int
    progress: float
    pid: int | None
    idle_seconds: float
    """Since the last request ended; 0 while one runs."""
    ttl: float | None
    """The longest of its names; None = never."""
    pinned: bool
    expires_in: float | None
    """Until it is unloaded for its ttl if nobody asks for it; None = never, or busy."""
    gauges: EngineGauges | None
    sandbox: tuple[str, ...]

    @property
    def reserved(self) -> int:
        """Bytes on all devices together."""
        return sum(self.held.values())


@dataclass(frozen=True, slots=True)
class DeviceView:
    """One device's memory in bytes. They add up to the budget."""

    budget: int = 0
    used: int = 0
    """Of models that are in memory."""
    reserved: int = 0
    """Of models that are loading or leaving, and of dry runs."""
    quarantined: int = 0
    """Of processes that were killed and do not end."""
    strangers: int = 0
    """Of the budget, what processes that are not ours have taken."""
    free: int = 0

    def kinds(self) -> dict[str, int]:
        return {
            "budget": self.budget,
            "used": self.used,
            "reserved": self.reserved,
            "quarantined": self.quarantined,
            "strangers": self.strangers,
            "free": self.free,
        }


@dataclass(frozen=True, slots=True)
class HouseView:
    """The whole house at one moment."""

    devices: Mapping[str, DeviceView]
    instances: tuple[InstanceView, ...]
    waiting: Mapping[str, int]
    """Model -> requests that wait for it; models without any are left out."""
    failed: Mapping[str, str]
    """Model -> why it is not tried again yet."""
    fingerprints: Mapping[str, str]
    """Model -> the version that the registry names now."""
    shutting_down: bool
    paces: Mapping[str, float]
    """Device -> how much of their slots models on it may use; devices without a limit are left out."""

    @property
    def memory(self) -> DeviceView:
        """All devices together."""
        sums = plus(*(device.kinds() for device in self.devices.values()))
        return DeviceView(**sums)

    def serving(self, model: str) -> InstanceView | None:
        """The instance that serves a model, or will: the version of the registry before an older one."""
        wanted = self.fingerprints.get(model)
        found = None
        for instance in self.instances:
            if instance.phase in ("stopping", "quarantined"):
                continue
            if instance.fingerprint == wanted and instance.phase in ("loading", "ready"):
                return instance
            if instance.fingerprint == wanted or model in instance.names:
                found = instance
        return found

    def status(self, model: str) -> Status:
        instance = self.serving(model)
        if instance is not None:
            return "loading" if instance.phase == "loading" else "loaded"
        return "failed" if model in self.failed else "unloaded"

    def progress(self, model: str) -> float:
        """How much of its weights is read, 0 to 1."""
        instance = self.serving(model)
        return instance.progress if instance is not None else 0.0


def house_view(tables: Tables, now: float, workers: Mapping[str, WorkerView]) -> HouseView:
    """A snapshot of the core's tables and of what the shell knows of each worker, by instance id."""
    return HouseView(
        devices=device_views(tables),
        instances=tuple(
            _instance_view(tables, i, now, workers.get(i.id, WorkerView())) for i in tables.instances.values()
        ),
        waiting=_waiting(tables),
        failed=_failed(tables, now),
        fingerprints={name: model.fingerprint for name, model in tables.desired.items()},
        shutting_down=tables.shutting_down,
        paces=dict(tables.shares),
    )


def device_views(tables: Tables) -> dict[str, DeviceView]:
    """Every device that has a budget."""
    free = tables.free
    moving = plus(tables.bytes_in(Phase.LOADING), tables.bytes_in(Phase.STOPPING), tables.dry_runs)
    resident = plus(tables.bytes_in(Phase.READY), tables.bytes_in(Phase.DRAINING))
    lost = tables.bytes_in(Phase.QUARANTINED)
    return {
        device: DeviceView(
            budget,
            resident.get(device, 0),
            moving.get(device, 0),
            lost.get(device, 0),
            budget - tables.in_force[device],
            free[device],
        )
        for device, budget in tables.budgets.items()
    }


def _instance_view(tables: Tables, instance: Instance, now: float, worker: WorkerView) -> InstanceView:
    idle = max(now - instance.last_used, 0.0) if instance.idle else 0.0
    ttl = instance.model.ttl
    expires = ttl is not None and instance.idle and not tables.protected(instance)
    return InstanceView(
        id=instance.id,
        model=instance.model.name,
        names=instance.names,
        fingerprint=instance.fingerprint,
        phase=instance.phase.value,
        held=instance.reserved,
        estimated=together(instance.placement.footprints.values()),
        measured=worker.measured,
        slots=instance.slots,
        leases=len(instance.leases),
        progress=1.0 if instance.ready_at is not None else worker.progress,
        pid=worker.pid,
        idle_seconds=idle,
        ttl=ttl,
        pinned=tables.protected(instance),
        expires_in=max(ttl - idle, 0.0) if ttl is not None and expires else None,
        gauges=worker.gauges,
        sandbox=worker.sandbox,
    )


def _waiting(tables: Tables) -> dict[str, int]:
    counts: dict[str, int] = {}
    for waiter in tables.waiting.values():
        counts[waiter.model.name] = counts.get(waiter.model.name, 0) + 1
    return counts


def describe_wait(tables: Tables, model: LocalModel, now: float, progress: Mapping[str, float]) -> str:
    """What the newest request for `model` waits for, for people. `progress` by instance id, 0 to 1."""
    instance = tables.serving(model.fingerprint)
    wait = expected_wait(tables, model, now, progress, last=True)
    about = f"about {math.ceil(wait.seconds)} s"
    if instance is not None and instance.phase is Phase.LOADING:
        return f"loading {model.name} {progress.get(instance.id, 0.0):.0%}, {about}"
    place = f"{wait.ahead} ahead" if wait.ahead else "next"
    return f"waiting for {model.name}: {place}, {about}"


def _failed(tables: Tables, now: float) -> dict[str, str]:
    failed: dict[str, str] = {}
    for name, model in tables.desired.items():
        if (record := tables.failed(model.fingerprint, now)) is not None:
            failed[name] = record.reason
        elif model.problem is not None:
            failed[name] = model.problem
    return failed
