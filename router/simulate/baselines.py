"""
What residency is compared with: two simple deciders that take the core's events and answer with its actions.

The one rule: each is as good as its idea allows, bounded queue and deadlines included, and no better.
"""

from __future__ import annotations

import abc
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from router.domain.errors import DoesNotFit, LeaseTimeout, QueueFull, Unavailable
from router.domain.memory import Bytes, fits, lacking, left, plus
from router.domain.models import Limits, LocalModel, Placement
from router.residency import events, policy


@dataclass(slots=True)
class _Worker:
    id: str
    model: LocalModel
    held: Bytes
    """What is left of it while it stops."""
    phase: Literal["loading", "ready", "draining", "stopping"] = "loading"
    leases: set[int] = field(default_factory=set)
    last_used: float = 0.0

    @property
    def has_room(self) -> bool:
        return self.phase == "ready" and len(self.leases) < self.model.engine.slots


@dataclass(frozen=True, slots=True)
class _Waiter:
    ticket: int
    model: LocalModel
    deadline: float


class Baseline(abc.ABC):
    """The queue and the workers of both; `_serve` is the idea."""

    def __init__(self) -> None:
        self._limits = Limits()
        self._budgets: Bytes = {}
        self._models: Mapping[str, LocalModel] = {}
        self._queue: dict[int, _Waiter] = {}
        self._workers: dict[str, _Worker] = {}
        self._numbers = itertools.count(1)
        self._actions: list[events.Action] = []

    def handle(self, event: events.Event) -> list[events.Action]:
        self._actions = []
        self._record(event)
        self._expire(event.at)
        self._serve(event.at)
        wake = min((w.deadline for w in self._queue.values()), default=None)
        return [*self._actions, *([] if wake is None else [events.WakeAt(wake)])]

    @abc.abstractmethod
    def _serve(self, now: float) -> None:
        """Grant, load and evict whatever is possible now."""

    def _record(self, event: events.Event) -> None:
        match event:
            case events.ModelsDesired(_, models, budgets, limits):
                self._models, self._budgets, self._limits = models, budgets, limits
            case events.LeaseRequested():
                self._requested(event)
            case events.LeaseReleased(at, ticket):
                self._released(at, ticket)
            case events.WorkerReady(at, instance):
                self._workers[instance].phase, self._workers[instance].last_used = "ready", at
            case events.WorkerFreed(_, instance, remaining):
                self._workers[instance].held = remaining
            case events.WorkerExited(_, instance):
                self._workers.pop(instance, None)
            case _:
                pass

    def _requested(self, event: events.LeaseRequested) -> None:
        limits, model = self._limits, event.model
        same = sum(1 for w in self._queue.values() if w.model.name == model.name)
        if not any(fits(way.bytes, self._budgets) for way in model.placements):
            self._refuse(event.ticket, DoesNotFit)
        elif same >= limits.max_waiting_per_model or len(self._queue) >= limits.max_waiting:
            self._refuse(event.ticket, QueueFull)
        else:
            deadline = event.at + limits.max_wait if event.deadline is None else event.deadline
            self._queue[event.ticket] = _Waiter(event.ticket, model, deadline)

    def _released(self, at: float, ticket: int) -> None:
        self._queue.pop(ticket, None)
        for worker in self._workers.values():
            if ticket in worker.leases:
                worker.leases.remove(ticket)
                worker.last_used = at
                if worker.phase == "draining" and not worker.leases:
                    self._stop(worker)

    def _expire(self, now: float) -> None:
        for waiter in [w for w in self._queue.values() if w.deadline <= now]:
            self._refuse(waiter.ticket, LeaseTimeout)

    # Single steps -----------------------------------------------------------------------------------------

    def _there(self, model: LocalModel) -> _Worker | None:
        alive = (w for w in self._workers.values() if w.phase in ("loading", "ready"))
        return next((w for w in alive if w.model.name == model.name), None)

    def _in(self, *phases: str) -> Iterator[_Worker]:
        """Workers in these phases, least recently used first."""
        found = (w for w in self._workers.values() if w.phase in phases)
        return iter(sorted(found, key=lambda w: w.last_used))

    def _grant(self, waiter: _Waiter, worker: _Worker, now: float) -> None:
        del self._queue[waiter.ticket]
        worker.leases.add(waiter.ticket)
        worker.last_used = now
        self._actions.append(events.GrantLease(waiter.ticket, worker.id))

    def _refuse(self, ticket: int, error: type[Unavailable]) -> None:
        self._queue.pop(ticket, None)
        self._actions.append(events.RefuseLease(ticket, error, error.__name__))

    def _free(self) -> dict[str, int]:
        return left(self._budgets, *(w.held for w in self._workers.values()))

    def _ways(self, model: LocalModel) -> list[Placement]:
        """Those that fit into the empty machine, in the order in which the core tries them."""
        busy: dict[str, int] = {}
        for worker in self._workers.values():
            for device in worker.held:
                busy[device] = busy.get(device, 0) + len(worker.leases)
        ways = [way for way in model.placements if fits(way.bytes, self._budgets)]
        return policy.spread(ways, busy, self._free())

    def _fitting(self, model: LocalModel) -> Placement | None:
        free = self._free()
        return next((way for way in self._ways(model) if fits(way.bytes, free)), None)

    def _start(self, model: LocalModel, way: Placement) -> None:
        worker = _Worker(f"{model.name}#{next(self._numbers)}", model, way.bytes)
        self._workers[worker.id] = worker
        self._actions.append(events.StartWorker(worker.id, model, way, "request"))

    def _evict(self, worker: _Worker) -> None:
        worker.phase = "draining"
        if not worker.leases:
            self._stop(worker)

    def _stop(self, worker: _Worker) -> None:
        worker.phase = "stopping"
        self._actions.append(events.StopWorker(worker.id, "pressure"))


class StrictFifo(Baseline):
    """
    In order of arrival and no other: the head of the queue gets its model loaded in place of the least recently
    used idle ones, and nobody behind it is served before it, even if its model is in memory.
    """

    def _serve(self, now: float) -> None:
        for waiter in list(self._queue.values()):
            worker = self._there(waiter.model)
            if worker is None:
                self._make_room(waiter.model)
                return
            if not worker.has_room:
                return
            self._grant(waiter, worker, now)

    def _make_room(self, model: LocalModel) -> None:
        if (way := self._fitting(model)) is not None:
            self._start(model, way)
            return
        options = [self._victims(way) for way in self._ways(model)]
        for worker in min(options, key=lambda option: option[:2], default=(False, 0.0, []))[2]:
            self._evict(worker)

    def _victims(self, way: Placement) -> tuple[bool, float, list[_Worker]]:
        """Whether they are too few, when the last of them was used, and the idle ones that go for this placement."""
        room = plus(self._free(), *(w.held for w in self._in("stopping")))
        chosen: list[_Worker] = []
        for worker in self._in("ready"):
            lack = lacking(way.bytes, room)
            if not worker.leases and not lack.keys().isdisjoint(worker.held):
                chosen.append(worker)
                room = plus(room, worker.held)
        return not fits(way.bytes, room), max((w.last_used for w in chosen), default=0.0), chosen


class LruByCount(Baseline):
    """
    As llama-server's router mode: so many models at once, whatever their bytes; whoever needs another one sends
    away the least recently used at once, without hold or patience. Kinder than the original: a victim that is
    busy finishes its requests.
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most

    def _serve(self, now: float) -> None:
        absent: dict[str, LocalModel] = {}
        for waiter in list(self._queue.values()):
            worker = self._there(waiter.model)
            if worker is None:
                absent.setdefault(waiter.model.name, waiter.model)
            elif worker.has_room:
                self._grant(waiter, worker, now)
        leaving = sum(1 for _ in self._in("draining", "stopping"))
        for model in absent.values():
            way = self._fitting(model)
            if len(self._workers) < self._most and way is not None:
                self._start(model, way)
            elif leaving > 0:
                leaving -= 1  # one that leaves already is for this one
            elif (victim := next(self._in("ready"), None)) is not None:
                self._evict(victim)


def fits_by_count(models: Mapping[str, LocalModel], budgets: Bytes) -> int:
    """How many models may be there at once if nobody counts bytes: as many as the largest ones fit."""
    sizes = {m.name: m for m in models.values() if any(fits(way.bytes, budgets) for way in m.placements)}
    free, count = dict(budgets), 0
    for model in sorted(sizes.values(), key=lambda m: sum(m.placements[0].bytes.values()), reverse=True):
        ways = policy.spread(model.placements, {}, free)
        if (way := next((way for way in ways if fits(way.bytes, free)), None)) is None:
            break
        free, count = left(free, way.bytes), count + 1
    return count
