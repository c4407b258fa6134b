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
from router.domain.models import Limits, LocalModel
from router.residency import events


@dataclass(slots=True)
class _Worker:
    id: str
    model: LocalModel
    held: Bytes
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
        if not fits(_need(model), self._budgets):
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

    def _start(self, model: LocalModel) -> None:
        worker = _Worker(f"{model.name}#{next(self._numbers)}", model, _need(model))
        self._workers[worker.id] = worker
        self._actions.append(events.StartWorker(worker.id, model, model.placements[0], "request"))

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
        free = left(self._budgets, *(w.held for w in self._workers.values()))
        if fits(_need(model), free):
            self._start(model)
            return
        coming = [w.held for w in self._in("stopping")]
        for worker in self._in("ready"):
            if lacking(_need(model), plus(free, *coming)) and not worker.leases:
                coming.append(worker.held)
                self._evict(worker)


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
            if len(self._workers) < self._most:
                self._start(model)
            elif leaving > 0:
                leaving -= 1  # one that leaves already is for this one
            elif (victim := next(self._in("ready"), None)) is not None:
                self._evict(victim)


def fits_by_count(models: Mapping[str, LocalModel], budgets: Bytes) -> int:
    """How many models may be there at once if nobody counts bytes: as many as the largest ones fit."""
    alone = {m.name: _need(m) for m in models.values() if fits(_need(m), budgets)}
    free, count = dict(budgets), 0
    for need in sorted(alone.values(), key=lambda need: sum(need.values()), reverse=True):
        if not fits(need, free):
            break
        free, count = left(free, need), count + 1
    return count


def _need(model: LocalModel) -> Bytes:
    """What the best way to hold it takes of each device."""
    return model.placements[0].bytes
