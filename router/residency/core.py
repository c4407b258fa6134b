"""
Residency: which models are in memory, and who may use them.

Rule 1: everything that changes residency goes through `handle`. Nothing here awaits, logs, reads a clock or
touches a process; time comes in with the events and effects go out as actions.

Rule 2: state is what was *decided*, not what was observed. A granted lease counts from the moment it is
granted; memory is spent from the moment a start is ordered, and comes back only when the device confirms that
it was freed or the process is seen to be gone.

Rule 3: `handle` records the event, then `_settle` looks at the whole house and does whatever is possible now.
There is no event-specific follow-up to forget.
"""

from __future__ import annotations

from typing import assert_never

from router.domain.errors import (
    DoesNotFit,
    LeaseTimeout,
    LoadFailed,
    QueueFull,
    ShuttingDown,
    WorkerCrashed,
)
from router.domain.memory import Bytes, fits, told
from router.residency import events, policy
from router.residency.claims import Claims
from router.residency.state import Failures, Instance, Phase, Waiter
from router.residency.steps import Refusal


class Residency(Claims):
    def handle(self, event: events.Event) -> list[events.Action]:
        """Everything that is to be done because of `event`, in order."""
        self._actions = []
        self._record(event)
        self._settle(event.at)
        return self._actions

    # What an event changes --------------------------------------------------------------------------------

    def _record(self, event: events.Event) -> None:
        match event:
            case events.LeaseRequested():
                self._requested(event)
            case events.LeaseReleased(at, ticket):
                self._released(at, ticket)
            case events.WorkerReady():
                self._ready(event)
            case events.WorkerLost(at, instance, reason):
                self._lost(at, instance, reason)
            case events.WorkerFreed():
                self._freed(event)
            case events.WorkerStuck(at, instance):
                self._stuck(at, instance)
            case events.WorkerExited(at, instance, reason):
                self._lost(at, instance, reason)
                self.tables.instances.pop(instance, None)
            case events.ModelsDesired():
                self._desired(event)
            case events.UnloadRequested(_, name):
                self._unload(name)
            case events.ShutdownRequested():
                self._shut_down()
            case events.TimePassed():
                pass
            case _:
                assert_never(event)

    def _requested(self, event: events.LeaseRequested) -> None:
        tables, model = self.tables, event.model
        deadline = event.at + tables.limits.max_wait if event.deadline is None else event.deadline
        waiter = Waiter(event.ticket, model, model.fingerprint, event.at, deadline, event.reason)
        if tables.shutting_down:
            self._refuse(waiter, (ShuttingDown, "The gateway is shutting down.", policy.SHORTEST_RETRY))
        elif (full := self._queue_full(waiter)) is not None:
            self._refuse(waiter, full)
        else:
            tables.waiting[waiter.ticket] = waiter

    def _queue_full(self, waiter: Waiter) -> Refusal | None:
        tables, limits = self.tables, self.tables.limits
        same = sum(1 for _ in tables.waiting_for(waiter.fingerprint))
        instance = tables.serving(waiter.fingerprint)
        if instance is not None and instance.has_room and not same:
            return None  # served at once, however long the queue for other models is
        if same >= limits.max_waiting_per_model:
            text = f"{same} requests wait for {waiter.model.name} already."
        elif len(tables.waiting) >= limits.max_waiting:
            text = f"{len(tables.waiting)} requests wait already."
        else:
            return None
        return QueueFull, text, self._retry_after(waiter.fingerprint)

    def _released(self, at: float, ticket: int) -> None:
        self.tables.waiting.pop(ticket, None)
        holder = self.tables.holders.pop(ticket, None)
        if holder is not None:
            instance = self.tables.instances[holder]
            instance.leases.discard(ticket)
            instance.last_used = at

    def _ready(self, event: events.WorkerReady) -> None:
        tables = self.tables
        instance = tables.instances.get(event.instance)
        if instance is None or instance.phase is not Phase.LOADING:
            return  # it was told to stop while it loaded
        resident = {device: max(size, 0) for device, size in event.resident.items()}
        tables.measured[instance.fingerprint, instance.placement.engine] = resident
        room = {d: instance.reserved.get(d, 0) + max(size, 0) for d, size in tables.free.items()}
        if not fits(resident, room):
            self._too_large(event.at, instance, resident, room)
            return
        instance.reserved = resident
        instance.phase = Phase.READY
        instance.slots = max(event.slots, 1)
        instance.ready_at = instance.last_used = event.at
        tables.preloaded.add(instance.fingerprint)
        tables.dismissed.discard(instance.fingerprint)

    def _too_large(self, at: float, instance: Instance, resident: Bytes, room: Bytes) -> None:
        """It took more than there is. Its waiters stay: the next try reserves what was measured."""
        reason = f"{instance.model.name} takes {told(resident)}, not the {told(instance.reserved)} reserved"
        # It holds all that there was of what it overflows, so nobody else may have that.
        instance.reserved = {d: min(size, room.get(d, size)) for d, size in resident.items()}
        self._stop(instance, "oom")
        self._failed(at, instance.fingerprint, reason)

    def _freed(self, event: events.WorkerFreed) -> None:
        instance = self.tables.instances.get(event.instance)
        if instance is not None and instance.phase in (Phase.STOPPING, Phase.QUARANTINED):
            held = instance.reserved.items()
            instance.reserved = {d: min(size, max(event.remaining.get(d, 0), 0)) for d, size in held}

    def _stuck(self, at: float, name: str) -> None:
        self._lost(at, name, "it was killed and does not end")
        instance = self.tables.instances.get(name)
        if instance is not None:
            instance.phase = Phase.QUARANTINED

    def _lost(self, at: float, name: str, cause: str) -> None:
        instance = self.tables.instances.get(name)
        if instance is None:
            return
        model = instance.model.name
        for ticket in sorted(instance.leases):
            del self.tables.holders[ticket]
            self._say(events.RefuseLease(ticket, WorkerCrashed, f"The worker of {model} died: {cause}", 1.0))
        instance.leases.clear()
        if instance.phase in (Phase.STOPPING, Phase.QUARANTINED):
            return
        if instance.ready_at is not None and at - instance.ready_at >= self.tables.limits.failure_window:
            self.tables.failures.pop(instance.fingerprint, None)
        self._failed(at, instance.fingerprint, cause)
        if instance.phase is Phase.LOADING:
            pause = self.tables.failures[instance.fingerprint].until - at
            refusal = (LoadFailed, f"{model} could not be loaded: {cause}", max(pause, policy.SHORTEST_RETRY))
            for waiter in list(self.tables.waiting_for(instance.fingerprint)):
                self._refuse(waiter, refusal)
        instance.phase = Phase.STOPPING

    def _failed(self, at: float, fingerprint: str, reason: str) -> None:
        record = self.tables.failures.get(fingerprint, Failures())
        self.tables.failures[fingerprint] = policy.after_failure(record, at, reason, self.tables.limits)

    def _desired(self, event: events.ModelsDesired) -> None:
        tables = self.tables
        tables.budgets, tables.limits = dict(event.budgets), event.limits
        tables.desired = dict(event.models)
        tables.keep = {}
        for model in tables.desired.values():
            if model.pinned or model.fingerprint not in tables.keep:
                tables.keep[model.fingerprint] = model
        tables.forget_the_gone(event.at)

    def _unload(self, name: str | None) -> None:
        tables = self.tables
        for waiter in list(tables.waiting.values()):
            if waiter.reason == "operator" and name in (None, waiter.model.name):
                self._refuse(waiter, (LoadFailed, f"{waiter.model.name} was unloaded.", None))
        for instance in tables.instances.values():
            if name not in (None, instance.model.name):
                continue
            if instance.phase is Phase.LOADING and tables.wanted(instance.fingerprint):
                continue  # it would be loaded again for them at once
            tables.dismissed.add(instance.fingerprint)
            self._drain(instance, "requested")

    def _shut_down(self) -> None:
        self.tables.shutting_down = True
        refusal = (ShuttingDown, "The gateway is shutting down.", policy.SHORTEST_RETRY)
        for waiter in list(self.tables.waiting.values()):
            self._refuse(waiter, refusal)
        for instance in self.tables.instances.values():
            self._drain(instance, "requested")

    # What is possible now ---------------------------------------------------------------------------------

    def _settle(self, now: float) -> None:
        self._spare()
        self._retire(now)
        self._shrink()
        while self._serve(now) or self._spare():
            self._spare()
        self._preload(now)
        self._wake(now)

    def _retire(self, now: float) -> None:
        """Drain what the registry no longer asks for; stop what is drained or has been idle for its ttl."""
        tables = self.tables
        for instance in tables.instances.values():
            if instance.phase in (Phase.STOPPING, Phase.QUARANTINED):
                continue
            wanted = tables.wanted(instance.fingerprint)
            if (latest := tables.keep.get(instance.fingerprint)) is not None:
                instance.model = latest  # pinned, ttl and the like change without a restart
            elif not wanted:
                self._drain(instance, "changed")
            if instance.phase is Phase.DRAINING and not instance.leases:
                self._stop(instance, instance.leaving or "requested")
            elif not wanted and self._expiry(instance) <= now:
                self._stop(instance, "idle")

    def _serve(self, now: float) -> bool:
        """
        Grant what can be granted and refuse what is hopeless; the first waiter whose model is not there gets
        memory before the rest. True when a model was started or a claim ended: then look again.
        """
        tables = self.tables
        there = {i.fingerprint: i for i in tables.instances.values() if i.open}
        hopeless: dict[str, Refusal | None] = {}
        claimant: Waiter | None = None
        for waiter in list(tables.waiting.values()):
            instance = there.get(waiter.fingerprint)
            if instance is not None and instance.has_room:
                self._grant(waiter, instance, now)
                continue
            if instance is None and waiter.fingerprint not in hopeless:
                hopeless[waiter.fingerprint] = self._hopeless(waiter, now)
            refusal = hopeless.get(waiter.fingerprint) or self._overdue(waiter, now)
            if refusal is not None:
                self._refuse(waiter, refusal)
            elif instance is None and (claimant is None or waiter.ticket == tables.claim):
                claimant = waiter
        if tables.claim is not None and tables.claim not in tables.waiting:
            return True  # whom it had drained is spared before the next claims
        return claimant is not None and self._claim(claimant, now)

    def _hopeless(self, waiter: Waiter, now: float) -> Refusal | None:
        """Why a model that is not there will not be loaded for this waiter."""
        tables, model = self.tables, waiter.model
        if not tables.ways(model, waiter.fingerprint):
            return DoesNotFit, model.problem or self._too_small(waiter), None
        if model.problem is not None:
            return LoadFailed, model.problem, None
        if (record := tables.failed(waiter.fingerprint, now)) is not None:
            text = f"{model.name} failed too often, last because: {record.reason}"
            return LoadFailed, text, record.until - now
        return None

    def _overdue(self, waiter: Waiter, now: float) -> Refusal | None:
        if waiter.deadline > now:
            return None
        text = f"{waiter.model.name} was not ready within {waiter.deadline - waiter.since:.1f} s."
        return LeaseTimeout, text, self._retry_after(waiter.fingerprint)

    def _too_small(self, waiter: Waiter) -> str:
        room = {d: max(size, 0) for d, size in self.tables.room_for(waiter.fingerprint).items()}
        need = self.tables.need(waiter.fingerprint, waiter.model.placements[0])
        return f"{waiter.model.name} needs {told(need)} and can have {told(room)} at most."

    def _wake(self, now: float) -> None:
        """Ask for the next moment at which something may change by itself."""
        tables = self.tables
        moments = [self._expiry(i) for i in tables.instances.values()]
        moments += [r.until for r in tables.failures.values()]
        moments += [w.deadline for w in tables.waiting.values()]
        if tables.claim is not None:
            claimant = tables.waiting[tables.claim]
            moments += [policy.goes_at(claimant, i, tables.limits) for i in self._evictable()]
        if (wake := min((m for m in moments if m > now), default=float("inf"))) < float("inf"):
            self._say(events.WakeAt(wake))

    def _expiry(self, instance: Instance) -> float:
        ttl = instance.model.ttl
        if ttl is None or not instance.idle or self.tables.protected(instance):
            return float("inf")
        return instance.last_used + ttl

    def _retry_after(self, fingerprint: str) -> float:
        ahead = {w.fingerprint for w in self.tables.waiting.values()} - {fingerprint}
        return policy.retry_after(len(ahead), self.tables.limits)
