"""
The single steps of residency: grant, refuse, start, drain, stop. Each changes the tables and says one action.

The one rule: a step is done where it is called; whether it is wise was decided before.
"""

from __future__ import annotations

import itertools

import msgspec

from router.domain.errors import Unavailable
from router.domain.memory import Bytes
from router.domain.models import Limits, LocalModel, Placement
from router.residency import events, policy
from router.residency.state import Instance, Phase, StartReason, StopReason, Tables, Waiter

Refusal = tuple[type[Unavailable], str, float | None]
"""Error, reason, seconds after which to try again."""


class Steps:
    """`budgets` in bytes by device. Read `tables` at will; only the core writes them."""

    def __init__(self, budgets: Bytes, limits: Limits | None = None) -> None:
        self.tables = Tables(budgets, limits or Limits())
        self._numbers = itertools.count(1)
        self._actions: list[events.Action] = []

    def _say(self, action: events.Action) -> None:
        self._actions.append(action)

    def _grant(self, waiter: Waiter, instance: Instance, now: float) -> None:
        self.tables.waiting.pop(waiter.ticket)
        self.tables.holders[waiter.ticket] = instance.id
        self.tables.granted[waiter.ticket] = now
        instance.leases.add(waiter.ticket)
        instance.last_used = now
        self._say(events.GrantLease(waiter.ticket, instance.id))

    def _count(self, fingerprint: str, now: float) -> None:
        """One more request for this version of a model."""
        pace = self.tables.pace(fingerprint)
        pace.demand, pace.at = policy.demand(pace, now) + 1.0, now

    def _refuse(self, waiter: Waiter, refusal: Refusal) -> None:
        self.tables.waiting.pop(waiter.ticket, None)
        self._say(events.RefuseLease(waiter.ticket, *refusal))

    def _start(self, model: LocalModel, placement: Placement, reason: StartReason, now: float) -> None:
        fingerprint = model.fingerprint
        name = f"{model.name}#{next(self._numbers)}"
        reserved = self.tables.need(fingerprint, placement)
        self.tables.instances[name] = Instance(
            name, model, fingerprint, placement, reserved, reason, started=now, names=(model.name,)
        )
        self._follow_registry(self.tables.instances[name])
        self._say(events.StartWorker(name, model, placement, reason))

    def _follow_registry(self, instance: Instance) -> None:
        """Pinned, ttl, names and the like change without a restart; what left the registry keeps what it had."""
        tables = self.tables
        if (common := tables.keep.get(instance.fingerprint)) is None:
            return
        instance.names = tables.names[instance.fingerprint]
        name = instance.model.name if instance.model.name in instance.names else common.name
        instance.model = msgspec.structs.replace(
            tables.desired[name], pinned=common.pinned, preload=common.preload, ttl=common.ttl
        )

    def _evict(self, instance: Instance) -> None:
        reason: StopReason = "abandoned" if instance.phase is Phase.LOADING else "pressure"
        self._drain(instance, reason)
        instance.victim = True
        if not instance.leases:
            self._stop(instance, reason)

    def _drain(self, instance: Instance, reason: StopReason) -> None:
        """No new leases. It is stopped when the last one ends, which is now if it has none."""
        if instance.phase not in (Phase.STOPPING, Phase.QUARANTINED):
            instance.phase, instance.leaving, instance.victim = Phase.DRAINING, reason, False

    def _stop(self, instance: Instance, reason: StopReason) -> None:
        instance.phase, instance.leaving = Phase.STOPPING, reason
        self._say(events.StopWorker(instance.id, reason))
