"""
Memory: who gets some, where, and who has to give it back.

The one rule: bytes are counted by device, and free is what nobody holds and nobody is about to hold.
"""

from __future__ import annotations

from router.domain.memory import Bytes, fits, lacking, left
from router.domain.models import LocalModel, Placement
from router.residency import policy
from router.residency.state import Instance, Phase, Waiter
from router.residency.steps import Steps


class Claims(Steps):
    def _spare(self) -> bool:
        """A waiter who left costs nothing: who was drained for it and still runs, stays. True if any."""
        tables = self.tables
        claimant = tables.waiting.get(tables.claim) if tables.claim is not None else None
        claimed = claimant is not None and tables.serving(claimant.fingerprint) is None
        tables.claim = tables.claim if claimed else None
        victims = [i for i in tables.instances.values() if i.victim and i.phase is Phase.DRAINING]
        spared = [i for i in victims if not claimed or tables.protected(i)]
        for instance in spared:
            instance.phase, instance.leaving, instance.victim = Phase.READY, None, False
        return bool(spared)

    def _shrink(self) -> None:
        """
        After an edit lowered a budget: send away until it holds. Pinned models go last.

        Strangers who take memory send nobody away: that would not bring theirs back.
        """
        tables = self.tables
        staying = (i.reserved for i in tables.instances.values() if i.phase not in policy.LEAVING)
        soon = left(tables.budgets, *staying)
        over = {device: -size for device, size in soon.items() if size < 0}
        if not over:
            return
        ready = [i for i in tables.instances.values() if i.phase is Phase.READY]
        pinned = {i.id for i in ready if tables.protected(i)}
        abandoned = self._abandoned()
        loading = left(tables.bytes_in(Phase.LOADING), *(i.reserved for i in abandoned))
        for instance in policy.to_shrink(over, loading, [*abandoned, *ready], pinned):
            self._evict(instance)
            instance.victim = False  # nobody's leaving brings the budget back

    def _claim(self, waiter: Waiter, now: float) -> bool:
        """Start the waiter's model if memory allows, else free some. True when it was started."""
        tables = self.tables
        ways = self._ways(waiter.model, waiter.fingerprint)
        for placement in ways:
            need = tables.need(waiter.fingerprint, placement)
            if fits(need, tables.free) and not self._squeezing(waiter, need):
                self._start(waiter.model, placement, waiter.reason, now)
                return True
        tables.claim = waiter.ticket
        for victim in self._victims(waiter, ways, now):
            self._evict(victim)
        return False

    def _ways(self, model: LocalModel, fingerprint: str) -> list[Placement]:
        """The placements that can ever fit, in the order in which they are tried."""
        tables = self.tables
        return policy.spread(tables.ways(model, fingerprint), tables.busy_slots(), tables.free)

    def _victims(self, waiter: Waiter, ways: list[Placement], now: float) -> list[Instance]:
        """
        Whose going makes one of `ways` fit, the first that can: loads that nobody waits for if they are enough,
        else idle models too, else the least recently used of those whose time is up.
        """
        tables = self.tables
        needs = [tables.need(waiter.fingerprint, placement) for placement in ways]
        ready = [i for i in self._evictable() if policy.goes_at(waiter, i, tables.limits) <= now]
        soon = tables.free_after(Phase.STOPPING)
        later = tables.free_after(Phase.STOPPING, Phase.DRAINING)
        idle = [i for i in ready if i.idle]
        abandoned = self._abandoned()
        beside = [i for i in (*abandoned, *idle) if any(_shares(i, need) for need in needs)]
        if waiter.fingerprint in tables.squeezed and beside:
            return beside
        order = policy.ORDERS[tables.limits.eviction]
        losses = {i.fingerprint: policy.loss(tables.pace(i.fingerprint), now) for i in ready}
        for room, loads, candidates in (
            (soon, [], []),
            (soon, abandoned, []),
            (soon, abandoned, idle),
            (later, abandoned, []),
            (later, abandoned, ready),
        ):
            options = []
            for placement, need in zip(ways, needs, strict=True):
                missing = lacking(need, room)
                ordered = [*loads, *order(candidates, losses, missing)]
                if (chosen := policy.cover(missing, ordered)) is not None:
                    options.append((placement, chosen))
            if options:
                return policy.least_loss(options, losses, tables.limits.eviction)
        return []

    def _squeezing(self, waiter: Waiter, need: Bytes) -> bool:
        """Whether the last try of a model that ran out of memory has to wait for idle models to go."""
        if waiter.fingerprint not in self.tables.squeezed:
            return False
        idle = [i for i in self._evictable() if i.idle]
        leaving = [i for i in self.tables.instances.values() if i.phase is Phase.STOPPING]
        return any(_shares(i, need) for i in (*idle, *leaving, *self._abandoned()))

    def _evictable(self) -> list[Instance]:
        """A model that loads for somebody is no victim, nor is a pinned one."""
        tables = self.tables
        return [i for i in tables.instances.values() if i.phase is Phase.READY and not tables.protected(i)]

    def _abandoned(self) -> list[Instance]:
        """Worth less than any model that is there: they have served nobody and must still read their weights."""
        return [i for i in self.tables.instances.values() if self.tables.abandoned(i)]

    def _preload(self, now: float) -> None:
        """Load unasked what is pinned or to be preloaded, but never at anybody's expense."""
        tables = self.tables
        if tables.waiting or tables.shutting_down:
            return
        for fingerprint, model in sorted(tables.keep.items(), key=lambda item: not item[1].pinned):
            if tables.unasked(fingerprint) and not (
                tables.serving(fingerprint) or tables.failed(fingerprint, now)
            ):
                for placement in self._ways(model, fingerprint):
                    if fits(tables.need(fingerprint, placement), tables.free):
                        self._start(model, placement, "preload", now)
                        break


def _shares(instance: Instance, need: Bytes) -> bool:
    """Whether it holds memory of a device that is needed."""
    return any(size > 0 and instance.reserved.get(device, 0) > 0 for device, size in need.items())
