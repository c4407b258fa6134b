"""More seeded faults, as in `mutants.py`: about loads without waiters, names that share a process, and refusals."""

from __future__ import annotations

from router.domain.errors import DoesNotFit, DoesNotFitNow
from router.residency.core import Residency
from router.residency.state import Instance, Phase, Waiter
from router.residency.steps import Refusal


class NowIsNever(Residency):
    """Memory that other processes hold is taken for memory that there is not: "never retry"."""

    def _hopeless(self, waiter: Waiter, now: float) -> Refusal | None:
        refusal = super()._hopeless(waiter, now)
        if refusal is not None and refusal[0] is DoesNotFitNow:
            return DoesNotFit, refusal[1], None
        return refusal


class FinishesAbandonedLoads(Residency):
    """Who claims memory waits for the end of a load that nobody waits for."""

    def _abandoned(self) -> list[Instance]:
        return []


class StopsAwaitedLoads(Residency):
    """A load is stopped for a claim although somebody waits for it."""

    def _abandoned(self) -> list[Instance]:
        tables = self.tables
        loading = [i for i in tables.instances.values() if i.phase is Phase.LOADING]
        return [i for i in loading if not tables.protected(i)]


class StopsPreloads(Residency):
    """A preload counts as a load that nobody wants."""

    def _abandoned(self) -> list[Instance]:
        tables = self.tables
        loading = [i for i in tables.instances.values() if i.phase is Phase.LOADING]
        return [i for i in loading if not tables.protected(i) and not tables.wanted(i.fingerprint)]


class HearsOneName(Residency):
    """Of two names of one process, only the first one's ttl and pin count."""

    def _follow_registry(self, instance: Instance) -> None:
        super()._follow_registry(instance)
        if (names := self.tables.names.get(instance.fingerprint)) is not None:
            instance.model = self.tables.keep[instance.fingerprint] = self.tables.desired[names[0]]


class UnloadsFromUnderClients(Residency):
    """An operator's unload refuses the clients who wait, without being forced to."""

    def _unload(self, name: str | None, force: bool) -> None:
        super()._unload(name, True)


MUTANTS: tuple[type[Residency], ...] = (
    NowIsNever,
    FinishesAbandonedLoads,
    StopsAwaitedLoads,
    StopsPreloads,
    HearsOneName,
    UnloadsFromUnderClients,
)
