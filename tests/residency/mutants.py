"""
Faults that peers shipped, or that we nearly did, each seeded into the real core.

They prove that the simulation and the state machine bite: `test_mutants.py` wants every one of them caught.
"""

from __future__ import annotations

import dataclasses

from router.domain.memory import Bytes
from router.domain.models import LocalModel, Placement
from router.residency import events, policy
from router.residency.core import Residency
from router.residency.state import Instance, Phase, Waiter
from router.residency.steps import Refusal
from tests.residency import background_mutants


class FreesOnStopRequest(Residency):
    """Memory counts as free when the stop is ordered, not when the process is gone (ollama #12922)."""

    def _stop(self, instance: Instance, reason: str) -> None:  # type: ignore[override]
        super()._stop(instance, reason)  # type: ignore[arg-type]
        instance.reserved = {}


class AdmitsIntoStopping(Residency):
    """A victim takes new work (llama.cpp #28698, ollama #17408)."""

    def _drain(self, instance: Instance, reason: str) -> None:  # type: ignore[override]
        if not instance.leases:
            super()._drain(instance, reason)  # type: ignore[arg-type]

    def _stop(self, instance: Instance, reason: str) -> None:  # type: ignore[override]
        self._say(events.StopWorker(instance.id, reason))  # type: ignore[arg-type]


class EvictsLoading(Residency):
    """A model that loads is a victim (llama.cpp #25528)."""

    def _evictable(self) -> list[Instance]:
        tables = self.tables
        return [i for i in tables.instances.values() if i.open and not tables.protected(i)]


class EvictsPinned(Residency):
    """The promise of `pinned` is not kept."""

    def _evictable(self) -> list[Instance]:
        return [i for i in self.tables.instances.values() if i.phase is Phase.READY]

    def _evict(self, instance: Instance) -> None:
        super()._evict(instance)
        instance.victim = False


class StopsTheBusy(Residency):
    """Evicts in the middle of a generation (LM Studio)."""

    def _evict(self, instance: Instance) -> None:
        self._stop(instance, "pressure")


class LoadFailureKeepsWaiters(Residency):
    """Nobody tells who waits for a model whose load failed (llama.cpp #27351)."""

    def _hopeless(self, waiter: Waiter, now: float) -> Refusal | None:
        refusal = super()._hopeless(waiter, now)
        return None if refusal is not None and "failed too often" in refusal[1] else refusal

    def _refuse(self, waiter: Waiter, refusal: Refusal) -> None:
        if "could not be loaded" not in refusal[1]:
            super()._refuse(waiter, refusal)


class NoWakeOnStopped(Residency):
    """The end of a process wakes nobody (llama.cpp #28443, llama-swap #946)."""

    def handle(self, event: events.Event) -> list[events.Action]:
        if isinstance(event, events.WorkerExited):
            self._actions = []
            self._record(event)
            return self._actions
        return super().handle(event)


class ReleaseLeaksSlot(Residency):
    """A client who leaves keeps its slot (llama-swap's GrantServe contract)."""

    def _released(self, at: float, ticket: int) -> None:
        self.tables.waiting.pop(ticket, None)
        self.tables.holders.pop(ticket, None)


class WaiterNeverLeaves(Residency):
    """A waiter who left is still waited for, and loaded for."""

    def _released(self, at: float, ticket: int) -> None:
        if ticket not in self.tables.waiting:
            super()._released(at, ticket)


class CrashLeaksLeases(Residency):
    """The leases of a dead worker live on (helix #1315, vllm #39863)."""

    def _lost(self, at: float, name: str, cause: str, out_of_memory: bool = False) -> None:
        instance = self.tables.instances.get(name)
        if instance is not None:
            instance.leases.clear()
        super()._lost(at, name, cause, out_of_memory)


class NoFairness(Residency):
    """A busy model is never drained (llama-swap #612)."""

    def _evictable(self) -> list[Instance]:
        return [i for i in super()._evictable() if not i.leases]


class UnboundedQueue(Residency):
    """Everybody may wait (ollama #7758)."""

    def _queue_full(self, waiter: Waiter) -> Refusal | None:
        return None


class NoDeadline(Residency):
    """Nobody is told that the wait is over."""

    def _overdue(self, waiter: Waiter, now: float) -> Refusal | None:
        return None


class TwoLoadsPassTheLimit(Residency):
    """Memory is counted when a model is ready, not when its load is ordered (llama.cpp PR 22284)."""

    def _start(self, model: LocalModel, placement: Placement, reason: str, now: float) -> None:  # type: ignore[override]
        super()._start(model, placement, reason, now)  # type: ignore[arg-type]
        list(self.tables.instances.values())[-1].reserved = {}


class LoadsAnyway(Residency):
    """Loads even though nothing could be evicted (LocalAI)."""

    def _claim(self, waiter: Waiter, now: float) -> bool:
        started = super()._claim(waiter, now)
        if not started and not self.tables.bytes_in(Phase.STOPPING):
            self._start(waiter.model, waiter.model.placements[0], waiter.reason, now)
            return True
        return started


class IgnoresMeasuredBytes(Residency):
    """The estimate stays in the books whatever the worker measured."""

    def _ready(self, event: events.WorkerReady) -> None:
        instance = self.tables.instances.get(event.instance)
        size = instance.reserved if instance is not None else {}
        super()._ready(events.WorkerReady(event.at, event.instance, event.slots, size))


class ServesNobodyWhileLoading(Residency):
    """One load blocks the ready models (Ollama PR 15126)."""

    def _grant(self, waiter: Waiter, instance: Instance, now: float) -> None:
        if not self.tables.bytes_in(Phase.LOADING):
            super()._grant(waiter, instance, now)


class PreloadsWhileOthersWait(Residency):
    """A preload takes the memory that the head of the queue waits for."""

    def _settle(self, now: float) -> None:
        waiting, self.tables.waiting = self.tables.waiting, {}
        self._preload(now)
        self.tables.waiting = waiting
        super()._settle(now)


class RevivesBesideItsTwin(Residency):
    """A drained model is spared after its next worker was started: our own fault, found by the simulation."""

    def _serve(self, now: float) -> bool:
        self.tables.claim = None
        return super()._serve(now)


class CrashesForEver(Residency):
    """A failing model is tried again and again (ollama #7779)."""

    def _failed(self, at: float, fingerprint: str, reason: str) -> None:
        super()._failed(at, fingerprint, reason)
        self.tables.failures[fingerprint] = policy.Failures([at])


class StartsAfterShutdown(Residency):
    """A shutdown that goes on loading."""

    def _shut_down(self) -> None:
        super()._shut_down()
        self.tables.shutting_down = False


class WaitsForTheUnkillable(Residency):
    """Memory of a process that was killed and does not end counts as on its way back."""

    def _stuck(self, at: float, name: str) -> None:
        super()._stuck(at, name)
        if (instance := self.tables.instances.get(name)) is not None:
            instance.phase = Phase.STOPPING


class FreesWhatRemains(Residency):
    """A worker that gave its model back counts as gone, its process's own memory too."""

    def _freed(self, event: events.WorkerFreed) -> None:
        super()._freed(events.WorkerFreed(event.at, event.instance, {}))


class FreesTheLiving(Residency):
    """Bytes come back from a worker that is not stopping."""

    def _freed(self, event: events.WorkerFreed) -> None:
        if (instance := self.tables.instances.get(event.instance)) is not None:
            instance.reserved = {}


class AddsDevicesUp(Residency):
    """Free bytes of one device count for another (ollama #18282's kin: a split that fits nowhere)."""

    def _claim(self, waiter: Waiter, now: float) -> bool:
        placement = waiter.model.placements[0]
        if sum(placement.bytes.values()) <= sum(self.tables.free.values()):
            self._start(waiter.model, placement, waiter.reason, now)
            return True
        return super()._claim(waiter, now)


class SeesNoStrangers(Residency):
    """The budget is believed whatever other processes take (ollama #9791 and many more)."""

    def _record(self, event: events.Event) -> None:
        if not isinstance(event, events.DeviceFree):
            super()._record(event)


class FeelsNoHeat(Residency):
    """All slots run however hot the device is."""

    def _record(self, event: events.Event) -> None:
        if not isinstance(event, events.DevicePaced):
            super()._record(event)


class StaysSlow(Residency):
    """A device that was hot once never runs all its slots again."""

    def _record(self, event: events.Event) -> None:
        before = self.tables.shares
        super()._record(event)
        slowest = {d: min(share, self.tables.shares.get(d, 1.0)) for d, share in before.items()}
        self.tables.shares = {**self.tables.shares, **slowest}


class EvictsForStrangers(Residency):
    """Models are sent away because other processes take memory."""

    def _shrink(self) -> None:
        budgets, self.tables.budgets = self.tables.budgets, self.tables.in_force
        super()._shrink()
        self.tables.budgets = budgets


class RetriesOutOfMemoryForEver(Residency):
    """A load that runs out of memory is tried again and again."""

    def _squeeze(self, fingerprint: str) -> bool:
        return self.tables.wanted(fingerprint)


class RetriesIntoTheSameMemory(Residency):
    """The second try after out of memory comes before anybody has gone."""

    def _squeezing(self, waiter: Waiter, need: Bytes) -> bool:
        return False


class PriorityStarves(Residency):
    """Who has less priority waits for ever."""

    def _join(self, waiter: Waiter) -> None:
        rank = waiter.since + 1e6 * (waiter.rank - waiter.since)
        super()._join(dataclasses.replace(waiter, rank=rank))


class FirstComeFirstServed(Residency):
    """Priority means nothing."""

    def _join(self, waiter: Waiter) -> None:
        super()._join(dataclasses.replace(waiter, rank=waiter.since))


class HoldsTooLong(Residency):
    """A minimum hold without a bound (llama-swap #834)."""

    def _evictable(self) -> list[Instance]:
        return [i for i in super()._evictable() if not i.leases or i.last_used - (i.ready_at or 0.0) > 60]


MUTANTS: tuple[type[Residency], ...] = (
    WaitsForTheUnkillable,
    FreesWhatRemains,
    FreesTheLiving,
    AddsDevicesUp,
    *background_mutants.MUTANTS,
    SeesNoStrangers,
    FeelsNoHeat,
    StaysSlow,
    EvictsForStrangers,
    RetriesOutOfMemoryForEver,
    RetriesIntoTheSameMemory,
    PriorityStarves,
    FirstComeFirstServed,
    HoldsTooLong,
    FreesOnStopRequest,
    AdmitsIntoStopping,
    EvictsLoading,
    EvictsPinned,
    StopsTheBusy,
    LoadFailureKeepsWaiters,
    NoWakeOnStopped,
    ReleaseLeaksSlot,
    WaiterNeverLeaves,
    CrashLeaksLeases,
    NoFairness,
    UnboundedQueue,
    NoDeadline,
    TwoLoadsPassTheLimit,
    LoadsAnyway,
    IgnoresMeasuredBytes,
    ServesNobodyWhileLoading,
    PreloadsWhileOthersWait,
    RevivesBesideItsTwin,
    CrashesForEver,
    StartsAfterShutdown,
)
