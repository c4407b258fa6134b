"""
The house rules, checked from outside: what the operating system and the clients would see.

The one rule: the referee keeps its own books (`house_books`) and looks into the core's tables only to compare them.
"""

from __future__ import annotations

from collections.abc import Sequence

from router.domain.errors import (
    DoesNotFit,
    DoesNotFitNow,
    LeaseTimeout,
    QueueFull,
    ShuttingDown,
    WorkerCrashed,
)
from router.domain.memory import fits, left, plus
from router.domain.models import LocalModel, Placement
from router.residency.events import (
    Action,
    DeviceFree,
    DevicePaced,
    DryRunsHold,
    Event,
    GrantLease,
    LeaseReleased,
    LeaseRequested,
    ModelsDesired,
    RefuseLease,
    RequestSpilled,
    ShutdownRequested,
    StartWorker,
    StopWorker,
    TimePassed,
    UnloadRequested,
    WakeAt,
    WorkerExited,
    WorkerFreed,
    WorkerLost,
    WorkerReady,
    WorkerStuck,
)
from router.residency.policy import LINGER
from router.residency.state import Phase
from tests.residency import background_rules
from tests.residency.house_books import Books, Process


class Referee(Books):
    """Feed events to `tell`; an AssertionError names the rule that was broken."""

    def tell(self, event: Event) -> list[Action]:
        claim = self.core.tables.claim
        self._forced = isinstance(event, UnloadRequested) and event.force
        self._claimed = None if claim is None else self.core.tables.waiting[claim].fingerprint
        crashed = self._happened(event)
        failing = self._failing()
        actions = self.core.handle(event)
        for action in actions:
            self._check_action(event.at, action, crashed)
        assert not any(w.model.fingerprint == failing for w in self.waiting.values()), (
            "a failed load kept waiters"
        )
        self._check_house(event.at, actions)
        return actions

    @property
    def granted(self) -> dict[int, str]:
        return {ticket: name for name, p in self.processes.items() for ticket in p.leases}

    # What happened outside --------------------------------------------------------------------------------

    def _happened(self, event: Event) -> set[int]:
        """Returns the tickets whose worker died just now."""
        match event:
            case LeaseRequested():
                self.waiting[event.ticket] = event
            case LeaseReleased(at, ticket):
                self._release(at, ticket)
            case RequestSpilled(_, model):
                self.spilled.add(model.fingerprint)
            case WorkerReady(_, name, slots, resident):
                process = self.processes[name]
                process.up, process.slots, process.used = True, slots, event.at
                process.load, process.since = event.at - process.since, event.at
                self.squeezed.discard(process.model.fingerprint)
                self.measured[process.model.fingerprint, process.engine] = resident
                free = {d: max(size, 0) for d, size in left(self.in_force, self._sum()).items()}
                if fits(resident, plus(free, {d: process.bytes.get(d, 0) for d in free})):
                    process.bytes = resident
            case WorkerFreed(_, name, remaining):
                process = self.processes[name]
                assert process.dying, "only who stops frees its memory"
                process.bytes = remaining
            case WorkerStuck(at, name):
                self.processes[name].stuck = True
                return self._die(at, name)
            case WorkerLost(at, name):
                return self._die(at, name)
            case WorkerExited(at, name, _, out_of_memory):
                dead = self._die(at, name, out_of_memory)
                del self.processes[name]
                return dead
            case DeviceFree(_, free_beside):
                self.free_beside = free_beside
            case DryRunsHold(_, held):
                self.dry_runs = held
            case DevicePaced(_, shares):
                self.shares = shares
            case ModelsDesired(_, models, budgets, limits):
                self.desired, self.budgets, self.limits = dict(models), budgets, limits
                known = {m.fingerprint for m in models.values()}
                known |= {p.model.fingerprint for p in self.processes.values()}
                self.measured = {key: b for key, b in self.measured.items() if key[0] in known}
            case ShutdownRequested():
                self.closed = True
            case UnloadRequested() | TimePassed():
                pass
        return set()

    def _release(self, at: float, ticket: int) -> None:
        if self.waiting.pop(ticket, None) is not None:
            self.outcomes[ticket] = "left"
        for process in self.processes.values():
            if ticket in process.leases:
                process.leases.discard(ticket)
                process.used = at
                self.outcomes[ticket] = "served"

    def _die(self, at: float, name: str, out_of_memory: bool = False) -> set[int]:
        process = self.processes[name]
        dead, process.leases = process.leases, set()
        fingerprint = process.model.fingerprint
        waited_for = any(w.model.fingerprint == fingerprint for w in self.waiting.values())
        if out_of_memory and not process.dying and fingerprint not in self.squeezed and waited_for:
            assert not process.up
            self.squeezed.add(fingerprint)
        elif not process.dying:
            self.deaths.setdefault(process.model.fingerprint, []).append(at)
            self._fell = None if process.up else process.model.fingerprint
        process.up = False
        process.dying = True
        return dead

    def _failing(self) -> str | None:
        """The version whose load failed just now."""
        fell, self._fell = self._fell, None
        return fell

    # Each action ------------------------------------------------------------------------------------------

    def _check_action(self, now: float, action: Action, crashed: set[int]) -> None:
        match action:
            case StartWorker():
                self._check_start(now, action)
            case StopWorker(name, reason):
                process = self.processes[name]
                assert not process.dying, f"{name} was told to stop twice"
                assert not process.leases, f"{name} was stopped while in use"
                if reason == "pressure":
                    assert process.up, f"{name} was evicted while it loaded"
                    excused = process.excused or not fits(self._sum(), self.budgets)
                    assert excused or not self._pinned(process), f"pinned {name} was evicted"
                    asked_for = self._claimed is not None or self.waiting
                    assert excused or asked_for or self.spilled, f"{name} was evicted for nobody"
                    if not excused and self._claimed is None and not self.absent():
                        background_rules.check_eviction(self, now, name)
                if reason == "abandoned":
                    assert not process.up, f"{name} was there already"
                    assert not self._wanted(process), f"{name} was stopped while somebody waited for its load"
                    asked_for = self._claimed is not None or self.waiting
                    assert asked_for or not fits(self._sum(), self.budgets), f"{name} was stopped for nobody"
                if reason == "idle":
                    names = [m for m in self.desired.values() if m.fingerprint == process.model.fingerprint]
                    ends = [float("inf") if m.ttl is None else process.used + m.ttl for m in names]
                    assert max(ends, default=0.0) <= now, (
                        f"{name} was stopped before the ttl of all its names"
                    )
                    assert not self._pinned(process), f"pinned {name} was stopped"
                process.dying = True
            case GrantLease(ticket, name):
                process = self.processes[name]
                assert process.up and not process.dying, f"a lease on {name}, which is not up"
                assert len(process.leases) < process.slots, f"{name} has more leases than slots"
                assert self._may_take(process), f"{name} has more leases than its hot device may run"
                waiter = self.waiting.pop(ticket)
                assert waiter.model.fingerprint == process.model.fingerprint
                same = [w for w in self.waiting.values() if w.model.fingerprint == waiter.model.fingerprint]
                assert all(self.rank(waiter) <= self.rank(w) for w in same), "a lower priority went first"
                process.leases.add(ticket)
                process.used = now
            case RefuseLease():
                self._check_refusal(now, action, crashed)
            case WakeAt(at):
                assert at > now, "an alarm in the past would ring for ever"

    def _check_start(self, now: float, action: StartWorker) -> None:
        model, name = action.model, action.instance
        assert not self.closed, "a start after the shutdown"
        assert name not in self.started, f"{name} was started twice"
        self.started.add(name)
        same = [n for n, p in self.processes.items() if p.model.fingerprint == model.fingerprint]
        busy = [n for n in same if n in self._open()]
        assert not busy, f"{name} was started beside {busy}"
        deaths = [t for t in self.deaths.get(model.fingerprint, ()) if t > now - self.limits.failure_window]
        if len(deaths) >= self.limits.failures:
            assert now >= deaths[-1] + self.limits.backoff, f"{name} is started in a crash loop"
        if action.reason == "preload":
            assert not self.waiting, "a preload while somebody waits"
            assert model.pinned or model.preload
        elif action.reason == "spill":
            background_rules.check_load(self, model)
        else:
            first = next((w for w in self.waiting.values() if w.model.fingerprint == model.fingerprint), None)
            assert first is not None, f"{name} is loaded for nobody"
            self._check_turn(model.fingerprint)
        assert action.placement in model.placements, f"{name} is placed as nobody said"
        if model.fingerprint not in self.squeezed:
            background_rules.check_spread(self, model, action.placement)
        self.processes[name] = self._process(model, action.placement)
        started = self.processes[name]
        started.unasked, started.since, started.reason = action.reason == "preload", now, action.reason
        need = [device for device, size in self.processes[name].bytes.items() if size > 0]
        free = left(self.in_force, self.dry_runs)
        room = {device: size for device, size in free.items() if device in need}
        assert fits(self._sum(), room), f"{name} does not fit: {self._sum()} of {room}"

    def _check_turn(self, fingerprint: str) -> None:
        """Memory goes to the first in the queue that needs some, unless another had begun to free it."""
        there = {i.fingerprint for i in self.core.tables.instances.values() if i.open or i.victim}
        there.discard(fingerprint)
        absent = [w for w in self.waiting.values() if w.model.fingerprint not in there]
        first = min(absent, key=lambda w: (self.rank(w), w.at))
        assert fingerprint in (first.model.fingerprint, self._claimed), "somebody jumped the queue for memory"
        if fingerprint in self.squeezed:
            left_over = [n for n, p in self.processes.items() if self._idle_or_going(p)]
            wanted = {d for p in first.model.placements for d, size in p.bytes.items() if size > 0}
            beside = [n for n in left_over if any(self.processes[n].bytes.get(d, 0) > 0 for d in wanted)]
            assert not beside or len(first.model.placements) > 1, (
                f"the last try came before {beside} had gone"
            )

    def _process(self, model: LocalModel, placement: Placement) -> Process:
        devices = frozenset(d for d, size in placement.bytes.items() if size > 0)
        return Process(model, placement.engine, devices, self.need(model, placement))

    def _may_take(self, process: Process) -> bool:
        """One more: below its slots, and below its share of them; the first one always."""
        running, share = (
            len(process.leases),
            min((self.shares.get(d, 1.0) for d in process.devices), default=1.0),
        )
        return running < process.slots and (not running or running < process.slots * share)

    def _idle_or_going(self, process: Process) -> bool:
        if process.dying:
            return not process.stuck
        return process.up and not process.leases and not self._pinned(process)

    def _check_refusal(self, now: float, action: RefuseLease, crashed: set[int]) -> None:
        ticket = action.ticket
        assert action.reason
        assert action.retry_after is None or action.retry_after > 0
        if ticket in crashed:
            assert action.error is WorkerCrashed
        else:
            waiter = self.waiting.pop(ticket)
            if action.error is LeaseTimeout:
                assert self.deadline(waiter) <= now, "refused before its time"
            if action.error is QueueFull:
                count = len(self.waiting)
                same = sum(w.model.fingerprint == waiter.model.fingerprint for w in self.waiting.values())
                limits = self.limits
                assert count >= limits.max_waiting or same >= limits.max_waiting_per_model
            if "was unloaded" in action.reason:
                assert self._forced or waiter.reason == "operator", "an unload refused a client"
            if action.error in (DoesNotFit, DoesNotFitNow):
                self._check_too_large(waiter.model, action)
            if self.closed:
                assert action.error is ShuttingDown
        assert ticket not in self.outcomes, f"ticket {ticket} has two outcomes"
        self.outcomes[ticket] = action.error.__name__
        crashed.discard(ticket)

    def _check_too_large(self, model: LocalModel, action: RefuseLease) -> None:
        """For ever only if the budgets do not hold it, else for now, and then somebody else has the memory."""
        now = action.error is DoesNotFitNow
        assert (action.retry_after is not None) == now, "a retry is promised in vain, or denied"
        alone = any(fits(self.need(model, p), self.budgets) for p in model.placements)
        if now:
            others = self.free_beside or any(p.stuck for p in self.processes.values())
            assert alone and others, "refused for now, and nobody else has the memory"
        elif not any(m.pinned for m in self.desired.values()):
            assert not alone, "refused for ever, and it fits the budgets"

    # The whole house --------------------------------------------------------------------------------------

    def _check_house(self, now: float, actions: Sequence[Action]) -> None:
        tables = self.core.tables
        total, booked = self._sum(), tables.used
        assert self._bounded(total, self.total), f"{total} of {self.budgets}"
        assert self._bounded(booked, self.booked), f"{booked} in the books, of {self.budgets}"
        self.total, self.booked = total, booked
        assert tables.holders == self.granted, "leases are not what was granted"
        assert set(tables.waiting) == set(self.waiting), "somebody was lost, or waits twice"
        assert set(tables.instances) == set(self.processes), "the books and the processes differ"
        for name, instance in tables.instances.items():
            assert instance.leases == self.processes[name].leases, f"ghost leases on {name}"
            if not fits(total, self.budgets) and instance.phase is Phase.DRAINING:
                self.processes[name].excused = True
        self._check_waiters(now, actions)
        self.squeezed &= {w.model.fingerprint for w in self.waiting.values()}

    def _check_waiters(self, now: float, actions: Sequence[Action]) -> None:
        tables = self.core.tables
        up = [(i, self.processes[i.id]) for i in tables.instances.values() if i.phase is Phase.READY]
        ready = {i.fingerprint for i, process in up if self._may_take(process)}
        for waiter in self.waiting.values():
            assert self.deadline(waiter) > now, "a waiter was not told in time"
            assert waiter.model.fingerprint not in ready, "a waiter was passed over"
        assert len(self.waiting) <= self.limits.max_waiting, "the queue has no bound"
        self._check_abandoned()
        if not self.waiting:
            return
        moving = bool(self.dry_runs) or any(
            not p.stuck and (not p.up or p.dying or p.leases) for p in self.processes.values()
        )
        wake = next((a.at for a in actions if isinstance(a, WakeAt)), float("inf"))
        assert moving or wake <= now + LINGER + 1e-6, "somebody waits and nothing moves"

    def _check_abandoned(self) -> None:
        """Whoever claims memory does not wait for the end of a load that nobody waits for."""
        claim = self.core.tables.claim
        if claim is None:
            return
        staying = [p.bytes for p in self.processes.values() if not p.dying or p.stuck]
        model, soon = self.waiting[claim].model, left(self.in_force, *staying)
        needs = [self.need(model, placement) for placement in model.placements]
        if any(fits(need, soon) for need in needs):
            return
        for name, process in self.processes.items():
            same = (m for m in self.desired.values() if m.fingerprint == process.model.fingerprint)
            if any(m.preload for m in same):
                continue  # it may be its first load, which the registry wants
            if not process.up and not process.dying and not self._wanted(process):
                helped = any(fits(need, plus(soon, process.bytes)) for need in needs)
                assert not helped, f"{name} loads for nobody, and somebody waits for its memory"
