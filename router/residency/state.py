"""
The nouns of residency: an instance of a model, a waiter for one, and the tables they live in.

The one rule: tables answer questions about themselves and decide nothing.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from router.domain.memory import Bytes, fits, left, plus
from router.domain.models import EngineOptions, Limits, LocalModel, Placement

StartReason = Literal["request", "preload", "operator", "spill"]
StopReason = Literal["idle", "requested", "pressure", "abandoned", "changed", "oom"]
"""abandoned: it loaded, nobody waited for it any more, and another needed the memory."""


class Phase(enum.Enum):
    """
    The life of one worker process::

        LOADING --> READY <-> DRAINING --> STOPPING --> (gone)
           |          |                     ^   |         ^
           +----------+---------------------+   +--> QUARANTINED

    Any phase may end in (gone) without warning: processes crash. DRAINING goes back to READY only when the
    waiter for whom it was drained has left. Memory is held from LOADING until (gone), never a moment less,
    but for what a stopping worker freed and the device confirmed.
    """

    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    """Finishes its leases, takes no new ones."""
    STOPPING = "stopping"
    """Told to exit, or dead and not yet reaped; its memory is on the way back."""
    QUARANTINED = "quarantined"
    """Killed and not reaped: its memory may never come back, so nobody waits for it."""


@dataclass(slots=True)
class Instance:
    """One worker process that holds, or will hold, one version of a model. Times are the events' seconds."""

    id: str
    """The model's name and a number that is never used again: "qwen3-8b#3"."""
    model: LocalModel
    fingerprint: str
    placement: Placement
    reserved: Bytes
    """What it holds in the books: the estimate while it loads, the measured bytes after."""
    reason: StartReason
    phase: Phase = Phase.LOADING
    started: float = 0.0
    slots: int = 0
    leases: set[int] = field(default_factory=set)
    last_used: float = 0.0
    ready_at: float | None = None
    leaving: StopReason | None = None
    """Why it drains or stops; None while it may stay."""
    victim: bool = False
    """Drained for the head of the queue, and spared again if that waiter leaves."""
    names: tuple[str, ...] = ()
    """Every name that the registry has for it, or had last; `model` bears one of them."""

    @property
    def open(self) -> bool:
        """Whether leases may be granted here, now or once it is ready."""
        return self.phase is Phase.LOADING or self.phase is Phase.READY

    @property
    def idle(self) -> bool:
        return self.phase is Phase.READY and not self.leases


@dataclass(frozen=True, slots=True)
class Waiter:
    ticket: int
    model: LocalModel
    fingerprint: str
    since: float
    deadline: float
    reason: StartReason = "request"
    rank: float = 0.0
    """When it would have come without its priority: the lower, the earlier it is served."""


@dataclass(slots=True)
class Failures:
    """What went wrong with one version of a model lately. It is *failed* until `until`."""

    times: list[float] = field(default_factory=list)
    strikes: int = 0
    """How many pauses there were in a row; the next is twice as long."""
    until: float = float("-inf")
    reason: str = ""


@dataclass(slots=True)
class Pace:
    """What was seen of one version of a model: how often it is asked for, how long it takes. Seconds."""

    load: float | None = None
    """Its last load; None = it was never loaded."""
    lease: float | None = None
    """How long its leases last: a moving average; None = none has ended."""
    demand: float = 0.0
    """Requests at `at`, each counting half as much after every `policy.HALF_LIFE`."""
    at: float = 0.0


@dataclass(slots=True)
class Tables:
    """All that residency knows. Fingerprints are the keys, so that a changed model is another one."""

    budgets: Bytes
    """Bytes that models may hold, by device: the operator's word."""
    limits: Limits
    free_beside: Bytes = field(default_factory=dict)
    """Bytes that other processes leave; a device that is not named has no strangers."""
    dry_runs: Bytes = field(default_factory=dict)
    """Bytes that dry-run processes hold for the moment."""
    shares: Mapping[str, float] = field(default_factory=dict)
    """Of its slots that a model on a hot device may use; a device that is not named slows nobody."""
    instances: dict[str, Instance] = field(default_factory=dict)
    waiting: dict[int, Waiter] = field(default_factory=dict)
    """By ticket, lowest rank first."""
    holders: dict[int, str] = field(default_factory=dict)
    """Ticket -> instance id, from the grant to the release."""
    granted: dict[int, float] = field(default_factory=dict)
    """Ticket -> when, of the holders."""
    failures: dict[str, Failures] = field(default_factory=dict)
    measured: dict[tuple[str, EngineOptions], Bytes] = field(default_factory=dict)
    """What a version really took, placed like this, when it was last loaded."""
    squeezed: set[str] = field(default_factory=set)
    """Their last load ran out of memory: the next one is the last try, with idle models gone."""
    paces: dict[str, Pace] = field(default_factory=dict)
    desired: dict[str, LocalModel] = field(default_factory=dict)
    """By name: the registry."""
    keep: dict[str, LocalModel] = field(default_factory=dict)
    """The same by fingerprint: what all names of one process want together (`policy.common`)."""
    names: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """By fingerprint, in the registry's order."""
    preloaded: set[str] = field(default_factory=set)
    """Was in memory once: `preload` has done its work."""
    dismissed: set[str] = field(default_factory=set)
    """Sent away by an operator: not loaded unasked, even when pinned."""
    claim: int | None = None
    """The waiter for whom memory is being freed."""
    spilled: str | None = None
    """Fingerprint of a model that requests went past: to be loaded for the next ones if that costs nobody anything."""
    shutting_down: bool = False

    @property
    def used(self) -> dict[str, int]:
        return plus(*(i.reserved for i in self.instances.values()))

    @property
    def free(self) -> dict[str, int]:
        """Negative only after an edit lowered a budget, or strangers or a dry run came, until enough is gone."""
        return self.free_after()

    def free_after(self, *phases: Phase) -> dict[str, int]:
        """What is free once everybody in these phases is gone. Dry runs go by themselves, like who is stopping."""
        staying = [i.reserved for i in self.instances.values() if i.phase not in phases]
        going = {} if Phase.STOPPING in phases else self.dry_runs
        return left(self.in_force, going, *staying)

    @property
    def in_force(self) -> dict[str, int]:
        """The operator's budgets, and never more than what strangers leave."""
        return {
            device: min(size, self.free_beside.get(device, size)) for device, size in self.budgets.items()
        }

    def bytes_in(self, phase: Phase) -> dict[str, int]:
        return plus(*(i.reserved for i in self.instances.values() if i.phase is phase))

    def need(self, fingerprint: str, placement: Placement) -> Bytes:
        """What a load must reserve: what was measured last time, else the estimate."""
        return self.measured.get((fingerprint, placement.engine), placement.bytes)

    def ways(self, model: LocalModel, fingerprint: str) -> list[Placement]:
        """The placements that can ever fit, best first."""
        room = self.room_for(fingerprint)
        return [p for p in model.placements if fits(self.need(fingerprint, p), room)]

    def serving(self, fingerprint: str) -> Instance | None:
        return next((i for i in self.instances.values() if i.open and i.fingerprint == fingerprint), None)

    def places(self, instance: Instance) -> int:
        """How many may run there: its slots, fewer while a device that it is on is hot, and always one."""
        on = (device for device, size in instance.placement.bytes.items() if size > 0)
        share = min((self.shares.get(device, 1.0) for device in on), default=1.0)
        return max(1, math.ceil(instance.slots * share))

    def busy_slots(self) -> dict[str, int]:
        """By device: slots of the models there that are in use, or will be as soon as a model that loads is there."""
        busy: dict[str, int] = {}
        for instance in self.instances.values():
            count = len(instance.leases)
            if instance.phase is Phase.LOADING:
                waiting = sum(1 for _ in self.waiting_for(instance.fingerprint))
                count = min(waiting, instance.model.engine.slots)
            for device in (d for d, size in instance.placement.bytes.items() if size > 0):
                busy[device] = busy.get(device, 0) + count
        return busy

    def has_room(self, instance: Instance) -> bool:
        return instance.phase is Phase.READY and len(instance.leases) < self.places(instance)

    def waiting_for(self, fingerprint: str) -> Iterator[Waiter]:
        return (w for w in self.waiting.values() if w.fingerprint == fingerprint)

    def wanted(self, fingerprint: str) -> bool:
        return any(True for _ in self.waiting_for(fingerprint))

    def pace(self, fingerprint: str) -> Pace:
        return self.paces.setdefault(fingerprint, Pace())

    def protected(self, instance: Instance) -> bool:
        """Pinned by the registry as it is now: never evicted for another model."""
        latest = self.keep.get(instance.fingerprint)
        return latest is not None and latest.pinned

    def versions_of(self, name: str | None) -> set[str]:
        """The fingerprints that a name stands for, in the registry, in memory and in the queue; of None, all."""
        every = [(names, f) for f, names in self.names.items()]
        every += [(i.names, i.fingerprint) for i in self.instances.values()]
        every += [((w.model.name,), w.fingerprint) for w in self.waiting.values()]
        return {fingerprint for names, fingerprint in every if name is None or name in names}

    def unasked(self, fingerprint: str) -> bool:
        """Whether the registry wants it in memory although nobody asks: pinned, or preloaded for the first time."""
        model = self.keep.get(fingerprint)
        if model is None or model.problem is not None or fingerprint in self.dismissed:
            return False
        return model.pinned or (model.preload and fingerprint not in self.preloaded)

    def abandoned(self, instance: Instance) -> bool:
        """It loads, and neither a waiter nor the registry wants it any more."""
        if instance.phase is not Phase.LOADING or self.protected(instance):
            return False
        return not self.wanted(instance.fingerprint) and not self.unasked(instance.fingerprint)

    def room_for(self, fingerprint: str) -> dict[str, int]:
        """The most that this model could have: the budgets in force less what is pinned or quarantined."""
        return left(self.in_force, self.bytes_in(Phase.QUARANTINED), *self._pinned_beside(fingerprint))

    def room_alone(self, fingerprint: str) -> dict[str, int]:
        """The same if no stranger and no quarantined process took anything."""
        return left(self.budgets, *self._pinned_beside(fingerprint))

    def kept_for_pinned(self, fingerprint: str) -> list[Bytes]:
        """What pinned models will take that are not there, but for this one and those an operator sent away."""
        return [
            self.need(other, model.placements[0])
            for other, model in self.keep.items()
            if model.pinned
            and model.problem is None
            and other != fingerprint
            and other not in self.dismissed
            and self.serving(other) is None
        ]

    def _pinned_beside(self, fingerprint: str) -> Iterator[Bytes]:
        for other, model in self.keep.items():
            if not model.pinned or other == fingerprint:
                continue
            instance = self.serving(other)
            if instance is not None:
                yield instance.reserved
            elif model.problem is None:
                yield self.need(other, model.placements[0])

    def failed(self, fingerprint: str, now: float) -> Failures | None:
        """The record of a model that may not be tried again yet."""
        record = self.failures.get(fingerprint)
        return record if record is not None and record.until > now else None

    def forget_the_gone(self, now: float) -> None:
        """Drop what is remembered of versions that are neither in the registry nor in memory."""
        known = self.keep.keys() | {i.fingerprint for i in self.instances.values()}
        recent = now - self.limits.failure_window  # an edit and its undoing do not end a crash loop
        self.failures = {
            f: r for f, r in self.failures.items() if f in known or r.until > now or r.times[-1] > recent
        }
        self.measured = {key: held for key, held in self.measured.items() if key[0] in known}
        self.paces = {f: pace for f, pace in self.paces.items() if f in known}
        self.preloaded &= known
        self.dismissed &= known
