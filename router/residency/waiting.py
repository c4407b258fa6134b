"""
The waiting room: who may wait, in which order, who is served next, and who is sent away with which word.

The one rule: a waiter costs nothing but its place; what it leads to is undone when it leaves.
"""

from __future__ import annotations

from router.domain.errors import DoesNotFit, DoesNotFitNow, LeaseTimeout, LoadFailed, QueueFull, ShuttingDown
from router.domain.memory import Bytes, fits, told
from router.residency import events, policy
from router.residency.background import BackgroundLoads
from router.residency.estimate import expected_wait
from router.residency.state import Waiter
from router.residency.steps import Refusal

AVERAGE = 0.3
"""The weight of the newest lease in the moving average of their lengths."""


class WaitingRoom(BackgroundLoads):
    def _requested(self, event: events.LeaseRequested) -> None:
        tables, model = self.tables, event.model
        deadline = event.at + tables.limits.max_wait if event.deadline is None else event.deadline
        priority = model.priority if event.priority is None else event.priority
        rank = policy.rank(event.at, priority, tables.limits)
        waiter = Waiter(event.ticket, model, model.fingerprint, event.at, deadline, event.reason, rank)
        if tables.shutting_down:
            self._refuse(waiter, (ShuttingDown, "The gateway is shutting down.", policy.SHORTEST_RETRY))
        elif (full := self._queue_full(waiter)) is not None:
            self._refuse(waiter, full)
        else:
            self._join(waiter)

    def _join(self, waiter: Waiter) -> None:
        tables = self.tables
        self._count(waiter.fingerprint, waiter.since)
        behind = [w for w in tables.waiting.values() if w.rank > waiter.rank]
        tables.waiting[waiter.ticket] = waiter
        for other in behind:  # back to the end, one after the other
            tables.waiting[other.ticket] = tables.waiting.pop(other.ticket)

    def _queue_full(self, waiter: Waiter) -> Refusal | None:
        tables, limits = self.tables, self.tables.limits
        same = sum(1 for _ in tables.waiting_for(waiter.fingerprint))
        instance = tables.serving(waiter.fingerprint)
        if instance is not None and tables.has_room(instance) and not same:
            return None  # served at once, however long the queue for other models is
        if same >= limits.max_waiting_per_model:
            text = f"{same} requests wait for {waiter.model.name} already."
        elif len(tables.waiting) >= limits.max_waiting:
            text = f"{len(tables.waiting)} requests wait already."
        else:
            return None
        return QueueFull, text, self._retry_after(waiter, waiter.since)

    def _released(self, at: float, ticket: int) -> None:
        self.tables.waiting.pop(ticket, None)
        holder = self.tables.holders.pop(ticket, None)
        if holder is not None:
            instance = self.tables.instances[holder]
            instance.leases.discard(ticket)
            instance.last_used = at
            pace = self.tables.pace(instance.fingerprint)
            took = at - self.tables.granted.pop(ticket)
            pace.lease = took if pace.lease is None else pace.lease + AVERAGE * (took - pace.lease)

    # Who is served ----------------------------------------------------------------------------------------

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
            if instance is not None and tables.has_room(instance):
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
        if not self._may_ever_fit(waiter):
            room = tables.room_alone(waiter.fingerprint)
            return DoesNotFit, model.problem or self._too_small(waiter, room, "at most"), None
        if model.problem is not None:
            return LoadFailed, model.problem, None
        if not tables.ways(model, waiter.fingerprint):
            room = tables.room_for(waiter.fingerprint)
            text = self._too_small(waiter, room, "now; other processes hold the rest")
            return DoesNotFitNow, text, policy.LONGEST_RETRY
        if (record := tables.failed(waiter.fingerprint, now)) is not None:
            text = f"{model.name} failed too often, last because: {record.reason}"
            return LoadFailed, text, record.until - now
        return None

    def _may_ever_fit(self, waiter: Waiter) -> bool:
        """Strangers may go and quarantined processes may end yet; what the operator decided stays."""
        tables = self.tables
        needs = (tables.need(waiter.fingerprint, placement) for placement in waiter.model.placements)
        return any(fits(need, tables.room_alone(waiter.fingerprint)) for need in needs)

    def _too_small(self, waiter: Waiter, room: Bytes, when: str) -> str:
        need = self.tables.need(waiter.fingerprint, waiter.model.placements[0])
        had = {device: max(size, 0) for device, size in room.items()}
        return f"{waiter.model.name} needs {told(need)} and can have {told(had)} {when}."

    def _overdue(self, waiter: Waiter, now: float) -> Refusal | None:
        if waiter.deadline > now:
            return None
        text = f"{waiter.model.name} was not ready within {waiter.deadline - waiter.since:.1f} s."
        return LeaseTimeout, text, self._retry_after(waiter, now)

    def _retry_after(self, waiter: Waiter, now: float) -> float:
        return policy.retry_after(expected_wait(self.tables, waiter.model, now).seconds)
