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

from router.domain.errors import LoadFailed, ShuttingDown, Unloaded, WorkerCrashed
from router.domain.memory import Bytes, fits, left, told
from router.domain.models import LocalModel
from router.residency import events, policy
from router.residency.state import Failures, Instance, Phase
from router.residency.waiting import WaitingRoom


class Residency(WaitingRoom):
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
            case events.RequestSpilled():
                self._spilled(event)
            case events.WorkerReady():
                self._ready(event)
            case events.WorkerLost(at, instance, reason):
                self._lost(at, instance, reason)
            case events.WorkerFreed():
                self._freed(event)
            case events.WorkerStuck(at, instance):
                self._stuck(at, instance)
            case events.WorkerExited(at, instance, reason, out_of_memory):
                self._lost(at, instance, reason, out_of_memory)
                self.tables.instances.pop(instance, None)
            case events.DeviceFree():
                self.tables.free_beside = dict(event.free_beside)
            case events.DryRunsHold():
                self.tables.dry_runs = dict(event.held)
            case events.DevicePaced():
                self.tables.shares = dict(event.shares)
            case events.ModelsDesired():
                self._desired(event)
            case events.UnloadRequested(_, name, force):
                self._unload(name, force)
            case events.ShutdownRequested():
                self._shut_down()
            case events.TimePassed():
                pass
            case _:
                assert_never(event)

    def _ready(self, event: events.WorkerReady) -> None:
        tables = self.tables
        instance = tables.instances.get(event.instance)
        if instance is None or instance.phase is not Phase.LOADING:
            return  # it was told to stop while it loaded
        resident = {device: max(size, 0) for device, size in event.resident.items()}
        tables.measured[instance.fingerprint, instance.placement.engine] = resident
        free = left(tables.free, {d: -size for d, size in tables.dry_runs.items()})  # they give it back
        room = {d: instance.reserved.get(d, 0) + max(size, 0) for d, size in free.items()}
        if not fits(resident, room):
            self._too_large(event.at, instance, resident, room)
            return
        instance.reserved = resident
        instance.phase = Phase.READY
        instance.slots = max(event.slots, 1)
        instance.ready_at = instance.last_used = event.at
        tables.pace(instance.fingerprint).load = event.at - instance.started
        tables.squeezed.discard(instance.fingerprint)
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

    def _lost(self, at: float, name: str, cause: str, out_of_memory: bool = False) -> None:
        instance = self.tables.instances.get(name)
        if instance is None:
            return
        model = instance.model.name
        for ticket in sorted(instance.leases):
            del self.tables.holders[ticket], self.tables.granted[ticket]
            self._say(events.RefuseLease(ticket, WorkerCrashed, f"The worker of {model} died: {cause}", 1.0))
        instance.leases.clear()
        phase, instance.phase = instance.phase, Phase.STOPPING
        if phase is Phase.LOADING and out_of_memory and self._squeeze(instance.fingerprint):
            return
        if phase in (Phase.STOPPING, Phase.QUARANTINED):
            instance.phase = phase
            return
        if instance.ready_at is not None and at - instance.ready_at >= self.tables.limits.failure_window:
            self.tables.failures.pop(instance.fingerprint, None)
        self._failed(at, instance.fingerprint, cause)
        if phase is Phase.LOADING:
            pause = self.tables.failures[instance.fingerprint].until - at
            refusal = (LoadFailed, f"{model} could not be loaded: {cause}", max(pause, policy.SHORTEST_RETRY))
            for waiter in list(self.tables.waiting_for(instance.fingerprint)):
                self._refuse(waiter, refusal)

    def _squeeze(self, fingerprint: str) -> bool:
        """Whether a load that ran out of memory is tried once more for those who wait, with idle models gone."""
        if fingerprint in self.tables.squeezed or not self.tables.wanted(fingerprint):
            return False
        self.tables.squeezed.add(fingerprint)
        return True

    def _failed(self, at: float, fingerprint: str, reason: str) -> None:
        record = self.tables.failures.get(fingerprint, Failures())
        self.tables.failures[fingerprint] = policy.after_failure(record, at, reason, self.tables.limits)

    def _desired(self, event: events.ModelsDesired) -> None:
        tables = self.tables
        tables.budgets, tables.limits = dict(event.budgets), event.limits
        tables.desired = dict(event.models)
        same: dict[str, list[LocalModel]] = {}
        for model in tables.desired.values():
            same.setdefault(model.fingerprint, []).append(model)
        tables.keep = {fingerprint: policy.common(models) for fingerprint, models in same.items()}
        tables.names = {fingerprint: tuple(m.name for m in models) for fingerprint, models in same.items()}
        for instance in tables.instances.values():
            self._follow_registry(instance)
        tables.forget_the_gone(event.at)

    def _unload(self, name: str | None, force: bool) -> None:
        """What clients wait for would be loaded again for them at once: only `force` sends it, and them, away."""
        tables = self.tables
        meant = tables.versions_of(name)
        if not force:
            meant -= {w.fingerprint for w in tables.waiting.values() if w.reason == "request"}
        for waiter in list(tables.waiting.values()):
            if waiter.fingerprint in meant:
                text = f"{waiter.model.name} was unloaded by an operator."
                self._refuse(waiter, (Unloaded, text, policy.SHORTEST_RETRY))
        if tables.spilled in meant:
            tables.spilled = None
        for instance in tables.instances.values():
            if instance.fingerprint in meant:
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
        self.tables.squeezed &= {w.fingerprint for w in self.tables.waiting.values()}
        self._spare()
        self._retire(now)
        self._shrink()
        while self._serve(now) or self._spare():
            self._spare()
        self._preload(now)
        self._load_spilled(now)
        self._wake(now)

    def _retire(self, now: float) -> None:
        """Drain what the registry no longer asks for; stop what is drained or has been idle for its ttl."""
        tables = self.tables
        for instance in tables.instances.values():
            if instance.phase in (Phase.STOPPING, Phase.QUARANTINED):
                continue
            wanted = tables.wanted(instance.fingerprint)
            if instance.fingerprint not in tables.keep and not wanted:
                self._drain(instance, "changed")
            if instance.phase is Phase.DRAINING and not instance.leases:
                self._stop(instance, instance.leaving or "requested")
            elif not wanted and self._expiry(instance) <= now:
                self._stop(instance, "idle")

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
