"""
Loads for which nobody waits: a model that requests went past is loaded for the next ones.

The one rule: it costs nobody anything. Memory that is free is taken, idle models that are asked for much less give
way, and as soon as a waiter needs memory the plan is dropped.
"""

from __future__ import annotations

from router.domain.memory import fits, lacking, left
from router.domain.models import LocalModel, Placement
from router.residency import events, policy
from router.residency.claims import Claims
from router.residency.state import Instance, Phase


class BackgroundLoads(Claims):
    def _spilled(self, event: events.RequestSpilled) -> None:
        """It counts as demand like a request that waits. One such load at a time."""
        tables, fingerprint = self.tables, event.model.fingerprint
        if fingerprint not in tables.keep:
            return
        if not event.waited:
            self._count(fingerprint, event.at)
        if tables.spilled is None and not any(self._is_background(i) for i in tables.instances.values()):
            tables.spilled = fingerprint

    def _load_spilled(self, now: float) -> None:
        """Start it if memory is free; else let idle models go, and look again when they are gone; else forget it."""
        tables, fingerprint = self.tables, self.tables.spilled
        if fingerprint is None:
            return
        model = self._loadable(fingerprint, now)
        if model is None:
            tables.spilled = None
            return
        ways = self._ways(model, fingerprint)
        kept = tables.kept_for_pinned(fingerprint)
        for placement in ways:
            if fits(tables.need(fingerprint, placement), left(tables.free, *kept)):
                self._start(model, placement, "spill", now)
                tables.spilled = None
                return
        victims = self._idle_victims(fingerprint, ways, now)
        if victims is None:
            tables.spilled = None
            return
        for victim in victims:
            self._evict(victim)

    def _loadable(self, fingerprint: str, now: float) -> LocalModel | None:
        """The model as the registry has it, if it is not there, may be tried, and nobody needs memory for another."""
        tables = self.tables
        model = tables.keep.get(fingerprint)
        if model is None or model.problem is not None or tables.shutting_down or tables.claim is not None:
            return None
        if model.ttl == 0.0 or tables.failed(fingerprint, now) is not None:
            return None  # it would be gone before the next request; or it fails
        return None if tables.serving(fingerprint) is not None else model

    def _idle_victims(self, fingerprint: str, ways: list[Placement], now: float) -> list[Instance] | None:
        """Nobody if what is leaving is enough; None if not even all who give way are."""
        tables, limits, wanted = self.tables, self.tables.limits, self.tables.pace(fingerprint)
        soon = left(tables.free_after(Phase.STOPPING), *tables.kept_for_pinned(fingerprint))
        idle = [
            i
            for i in self._evictable()
            if policy.gives_way(i, tables.pace(i.fingerprint), wanted, now, limits)
        ]
        losses = {i.fingerprint: policy.loss(tables.pace(i.fingerprint), now) for i in idle}
        options = []
        for placement in ways:
            missing = lacking(tables.need(fingerprint, placement), soon)
            order = policy.ORDERS[limits.eviction](idle, losses, missing)
            if (chosen := policy.cover(missing, order)) is not None and self._worth(fingerprint, chosen, now):
                options.append((placement, chosen))
        return policy.least_loss(options, losses, limits.eviction) if options else None

    def _worth(self, fingerprint: str, victims: list[Instance], now: float) -> bool:
        """Whether it was asked for much more of late than all of them together."""
        lost = sum(policy.demand(self.tables.pace(i.fingerprint), now) for i in victims)
        return not victims or policy.demand(self.tables.pace(fingerprint), now) > policy.GIVES_WAY * lost

    @staticmethod
    def _is_background(instance: Instance) -> bool:
        return instance.phase is Phase.LOADING and instance.reason == "spill"
