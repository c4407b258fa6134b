"""The referee's own books: which processes there are, who waits, and what follows from that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from router.domain.memory import Bytes, plus
from router.domain.models import EngineOptions, LocalModel, Placement
from router.residency.core import Residency
from router.residency.events import LeaseRequested


@dataclass
class Process:
    """What the operating system runs."""

    model: LocalModel
    engine: EngineOptions
    """As it was placed."""
    devices: frozenset[str]
    bytes: Bytes
    up: bool = False
    dying: bool = False
    stuck: bool = False
    slots: int = 0
    unasked: bool = False
    """It was started because the registry says so."""
    excused: bool = False
    """It drains because an edit lowered the budget: then even a pinned one may go."""
    used: float = 0.0
    """When it was ready, or a lease began or ended there last."""
    leases: set[int] = field(default_factory=set)
    reason: str = "request"
    since: float = 0.0
    """When its load was ordered; once it is up, when that was."""
    load: float = 0.0
    """Seconds that it took."""


class Books:
    def __init__(self, core: Residency) -> None:
        self.core = core
        self.limits = core.tables.limits
        self.budgets = core.tables.budgets
        self.processes: dict[str, Process] = {}
        self.waiting: dict[int, LeaseRequested] = {}
        self.outcomes: dict[int, str] = {}
        self.measured: dict[tuple[str, EngineOptions], Bytes] = {}
        self.desired: dict[str, LocalModel] = {}
        self.closed = False
        self.started: set[str] = set()
        self.total: Bytes = {}
        self.booked: Bytes = {}
        self.deaths: dict[str, list[float]] = {}
        self.free_beside: Bytes = {}
        self.shares: Mapping[str, float] = {}
        self.dry_runs: Bytes = {}
        self.squeezed: set[str] = set()
        """Their last load ran out of memory while somebody waited: one more try."""
        self.spilled: set[str] = set()
        """Versions that requests went past since they were last loaded."""
        self._fell: str | None = None
        self._claimed: str | None = None
        self._forced = False
        """An operator sends away what clients wait for, and them."""

    def _wanted(self, process: Process) -> bool:
        """Somebody waits for this load, or the registry wants it."""
        same = [m for m in self.desired.values() if m.fingerprint == process.model.fingerprint]
        if any(m.pinned or (m.preload and process.unasked) for m in same):
            return True
        return any(w.model.fingerprint == process.model.fingerprint for w in self.waiting.values())

    def deadline(self, waiter: LeaseRequested) -> float:
        if waiter.deadline is not None:
            return waiter.deadline
        return (
            self.core.tables.waiting[waiter.ticket].deadline
            if waiter.ticket in self.core.tables.waiting
            else 0.0
        )

    def absent(self) -> list[LeaseRequested]:
        """Who waits for a model that is not there."""
        there = {self.processes[name].model.fingerprint for name in self._open()}
        return [w for w in self.waiting.values() if w.model.fingerprint not in there]

    def _open(self) -> set[str]:
        return {i.id for i in self.core.tables.instances.values() if i.open} & self.processes.keys()

    def _pinned(self, process: Process) -> bool:
        fingerprint = process.model.fingerprint
        return any(m.pinned and m.fingerprint == fingerprint for m in self.desired.values())

    @property
    def in_force(self) -> Bytes:
        return {d: min(size, self.free_beside.get(d, size)) for d, size in self.budgets.items()}

    def rank(self, waiter: LeaseRequested) -> float:
        priority = waiter.model.priority if waiter.priority is None else waiter.priority
        return waiter.at - priority * self.limits.aging

    def need(self, model: LocalModel, placement: Placement) -> Bytes:
        return self.measured.get((model.fingerprint, placement.engine), placement.bytes)

    def _bounded(self, now: Bytes, before: Bytes) -> bool:
        """G3: within the budget, or falling after an edit lowered it."""
        return all(now.get(d, 0) <= max(size, before.get(d, 0)) for d, size in self.budgets.items())

    def _sum(self) -> Bytes:
        return plus(*(p.bytes for p in self.processes.values()))
