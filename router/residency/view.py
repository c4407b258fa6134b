"""
What outsiders see of residency: frozen values, made on demand.

The one rule: looking changes nothing and wakes nobody.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from router.domain.models import Footprint
from router.protocol import EngineGauges
from router.residency.state import Instance, Phase, Tables

Status = Literal["unloaded", "loading", "loaded", "failed"]


@dataclass(frozen=True, slots=True)
class WorkerView:
    """What the shell knows of an instance beside the core's tables."""

    progress: float = 0.0
    pid: int | None = None
    measured: Footprint | None = None
    gauges: EngineGauges | None = None


@dataclass(frozen=True, slots=True)
class InstanceView:
    """One worker process. Bytes, seconds; `progress` from 0 to 1."""

    id: str
    model: str
    fingerprint: str
    phase: Literal["loading", "ready", "draining", "stopping"]
    reserved: int
    estimated: Footprint
    measured: Footprint | None
    slots: int
    leases: int
    progress: float
    pid: int | None
    idle_seconds: float
    """Since the last request ended; 0 while one runs."""
    expires_in: float | None
    """Until it is unloaded for its ttl if nobody asks for it; None = never, or busy."""
    gauges: EngineGauges | None


@dataclass(frozen=True, slots=True)
class HouseView:
    """The whole house at one moment. `used + reserved + free` is the budget; all in bytes."""

    budget: int
    used: int
    """Of models that are in memory."""
    reserved: int
    """Of models that are loading or leaving."""
    free: int
    instances: tuple[InstanceView, ...]
    waiting: Mapping[str, int]
    """Model -> requests that wait for it; models without any are left out."""
    ahead: Mapping[str, int]
    """Model -> requests that are served before its newest waiter."""
    failed: Mapping[str, str]
    """Model -> why it is not tried again yet."""
    fingerprints: Mapping[str, str]
    """Model -> the version that the registry names now."""
    shutting_down: bool

    def serving(self, model: str) -> InstanceView | None:
        """The instance that serves a model, or will: the version of the registry before an older one."""
        wanted = self.fingerprints.get(model)
        found = None
        for instance in self.instances:
            if instance.phase == "stopping":
                continue
            if instance.fingerprint == wanted and instance.phase in ("loading", "ready"):
                return instance
            if instance.fingerprint == wanted or instance.model == model:
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

    def describe_wait(self, model: str) -> str:
        """What a request for `model` waits for, for people: the text of an SSE comment."""
        instance = self.serving(model)
        if instance is not None and instance.phase == "loading":
            return f"loading {model} {instance.progress:.0%}"
        ahead = self.ahead.get(model, 0)
        return f"waiting for {model}: {ahead} ahead" if ahead else f"waiting for {model}: next"


def house_view(tables: Tables, now: float, workers: Mapping[str, WorkerView]) -> HouseView:
    """A snapshot of the core's tables and of what the shell knows of each worker, by instance id."""
    leaving = tables.bytes_in(Phase.LOADING) + tables.bytes_in(Phase.STOPPING)
    return HouseView(
        budget=tables.budget,
        used=tables.used - leaving,
        reserved=leaving,
        free=tables.free,
        instances=tuple(
            _instance_view(tables, i, now, workers.get(i.id, WorkerView())) for i in tables.instances.values()
        ),
        waiting=_waiting(tables),
        ahead=_ahead(tables),
        failed=_failed(tables, now),
        fingerprints={name: model.fingerprint for name, model in tables.desired.items()},
        shutting_down=tables.shutting_down,
    )


def _instance_view(tables: Tables, instance: Instance, now: float, worker: WorkerView) -> InstanceView:
    idle = max(now - instance.last_used, 0.0) if instance.idle else 0.0
    ttl = instance.model.ttl
    expires = ttl is not None and instance.idle and not tables.protected(instance)
    return InstanceView(
        id=instance.id,
        model=instance.model.name,
        fingerprint=instance.fingerprint,
        phase=instance.phase.value,
        reserved=instance.reserved,
        estimated=instance.model.footprint,
        measured=worker.measured,
        slots=instance.slots,
        leases=len(instance.leases),
        progress=1.0 if instance.ready_at is not None else worker.progress,
        pid=worker.pid,
        idle_seconds=idle,
        expires_in=max(ttl - idle, 0.0) if ttl is not None and expires else None,
        gauges=worker.gauges,
    )


def _waiting(tables: Tables) -> dict[str, int]:
    counts: dict[str, int] = {}
    for waiter in tables.waiting.values():
        counts[waiter.model.name] = counts.get(waiter.model.name, 0) + 1
    return counts


def _ahead(tables: Tables) -> dict[str, int]:
    """For a model in memory only its own queue counts; for one that needs memory everybody before it does."""
    own = _waiting(tables)
    ahead: dict[str, int] = {}
    for position, waiter in enumerate(tables.waiting.values()):
        name = waiter.model.name
        ahead[name] = own[name] - 1 if tables.serving(waiter.fingerprint) is not None else position
    return ahead


def _failed(tables: Tables, now: float) -> dict[str, str]:
    failed: dict[str, str] = {}
    for name, model in tables.desired.items():
        if (record := tables.failed(model.fingerprint, now)) is not None:
            failed[name] = record.reason
        elif model.problem is not None:
            failed[name] = model.problem
    return failed
