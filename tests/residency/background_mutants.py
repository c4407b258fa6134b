"""Faults of where a model goes and of loads that nobody waits for, seeded into the real core like those of `mutants`."""

from __future__ import annotations

from router.domain.models import LocalModel, Placement
from router.residency import events
from router.residency.core import Residency
from router.residency.state import Instance


class PilesUp(Residency):
    """Everything goes to the first device while the others are idle (seen on two cards)."""

    def _ways(self, model: LocalModel, fingerprint: str) -> list[Placement]:
        return self.tables.ways(model, fingerprint)


class LoadsAllThatSpills(Residency):
    """Each model that requests go past is loaded, however many load already."""

    def _spilled(self, event: events.RequestSpilled) -> None:
        self.tables.spilled = event.model.fingerprint


class SpillsBeforeWaiters(Residency):
    """A load for which nobody waits takes the memory that is being freed for a waiter."""

    def _loadable(self, fingerprint: str, now: float) -> LocalModel | None:
        claim, self.tables.claim = self.tables.claim, None
        found = super()._loadable(fingerprint, now)
        self.tables.claim = claim
        return found


class SpillsEvictWithinTheHold(Residency):
    """Two models that requests go past in turn evict each other each time."""

    def _idle_victims(self, fingerprint: str, ways: list[Placement], now: float) -> list[Instance] | None:
        idle = [i for i in self._evictable() if i.idle]
        return idle or super()._idle_victims(fingerprint, ways, now)


class SeesNoDryRuns(Residency):
    """A load starts into memory that a dry run's process holds."""

    def _record(self, event: events.Event) -> None:
        if not isinstance(event, events.DryRunsHold):
            super()._record(event)


MUTANTS: tuple[type[Residency], ...] = (
    PilesUp,
    LoadsAllThatSpills,
    SpillsBeforeWaiters,
    SpillsEvictWithinTheHold,
    SeesNoDryRuns,
)
