"""
The world around a decider: clients who come, workers that load and leave, a device that works.

The one rule: time is the next thing on the agenda; nothing here decides who is in memory.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import assert_never

from router.domain.memory import Bytes, plus
from router.domain.models import Limits, LocalModel, Placement
from router.residency import events
from router.simulate.machine import Machine
from router.simulate.service import Service
from router.simulate.trace import Request

Decide = Callable[[events.Event], list[events.Action]]
"""`Residency.handle`, or a baseline's."""
NEVER = float("inf")


@dataclass(frozen=True, slots=True)
class House:
    """What is simulated: the registry's models by name and alias, the memory, the rules and the machine."""

    models: Mapping[str, LocalModel]
    budgets: Bytes
    limits: Limits
    machine: Machine


@dataclass(slots=True)
class Visit:
    """What became of one request. Seconds of the trace; None = it did not come to that."""

    request: Request
    model: LocalModel
    granted: float | None = None
    first: float | None = None
    """When its first token was there."""
    done: float | None = None
    refused: str | None = None
    """The name of the error."""


@dataclass(slots=True)
class Replay:
    """All that happened."""

    visits: list[Visit] = field(default_factory=list)
    swaps: int = 0
    evictions: Counter[str] = field(default_factory=Counter)
    """By reason."""
    load_seconds: float = 0.0
    busy_seconds: dict[str, float] = field(default_factory=dict)
    """By device."""
    end: float = 0.0
    most_bytes: dict[str, int] = field(default_factory=dict)
    """By device."""


class World:
    """One replay. `progress` is told how many requests have come."""

    def __init__(
        self, house: House, decide: Decide, progress: Callable[[int], None] = lambda _: None
    ) -> None:
        self._house = house
        self._decide = decide
        self._progress = progress
        self._devices: dict[str, Service] = {}
        self._agenda: list[tuple[float, int, events.Event]] = []
        self._order = itertools.count()
        self._loading: dict[str, float] = {}
        """Instance -> when it will be ready."""
        self._placed: dict[str, Placement] = {}
        """Instance -> how it holds its model, of every worker that is there."""
        self._held: dict[str, Bytes] = {}
        """The same -> what it holds now."""
        self._alarm: float = NEVER
        self._open = 0
        """Requests that came and have no outcome yet."""
        self._replay = Replay()

    def run(self, trace: Sequence[Request]) -> Replay:
        house, arrivals = self._house, iter(trace)
        models = {model.name: model for model in house.models.values()}
        self._post(events.ModelsDesired(0.0, models, house.budgets, house.limits))
        coming = next(arrivals, None)
        while (now := self._next(coming)) < NEVER:
            self._replay.end = now
            self._work(now)
            coming = self._arrive(now, coming, arrivals)
            self._happen(now)
        self._replay.busy_seconds = {n: device.busy_seconds for n, device in self._devices.items()}
        return self._replay

    def _next(self, coming: Request | None) -> float:
        """The next moment at which something happens; what is left after the last answer does not count."""
        if coming is None and not self._open:
            return NEVER
        agenda = self._agenda[0][0] if self._agenda else NEVER
        arrival = coming.at if coming is not None else NEVER
        return min(agenda, arrival, self._alarm, *(device.next_end() for device in self._devices.values()))

    # What happens -----------------------------------------------------------------------------------------

    def _work(self, now: float) -> None:
        ended = [end for device in self._devices.values() for end in device.advance(now)]
        for ticket, complete in ended:
            visit = self._replay.visits[ticket]
            if visit.first is None:
                visit.first = now
            if complete:
                visit.done = now
                self._open -= 1
                self._post(events.LeaseReleased(now, ticket))

    def _arrive(self, now: float, coming: Request | None, arrivals: Iterator[Request]) -> Request | None:
        while coming is not None and coming.at <= now:
            ticket = len(self._replay.visits)
            visit = Visit(coming, self._house.models[coming.model])
            self._replay.visits.append(visit)
            self._progress(ticket + 1)
            if coming.prompt >= visit.model.engine.context:
                visit.refused = "ContextOverflow"  # before it waits for anything, as in the gateway
            else:
                self._open += 1
                self._post(events.LeaseRequested(now, ticket, visit.model))
            coming = next(arrivals, None)
        return coming

    def _happen(self, now: float) -> None:
        while self._agenda and self._agenda[0][0] <= now:
            event = heapq.heappop(self._agenda)[2]
            if not isinstance(event, events.WorkerReady) or event.instance in self._loading:
                self._post(event)
        if self._alarm <= now:
            self._alarm = NEVER
            self._post(events.TimePassed(now))

    def _post(self, event: events.Event) -> None:
        match event:
            case events.WorkerReady(_, instance):
                del self._loading[instance]
                self._replay.swaps += 1
            case events.WorkerFreed(_, instance, remaining):
                self._held[instance] = remaining
            case events.WorkerExited(_, instance):
                del self._held[instance], self._placed[instance]
            case _:
                pass
        for action in self._decide(event):
            self._carry_out(action, event.at)

    # What is done about it --------------------------------------------------------------------------------

    def _carry_out(self, action: events.Action, now: float) -> None:
        match action:
            case events.StartWorker(instance, model, placement):
                self._start(instance, model, placement, now)
            case events.StopWorker(instance, reason):
                self._replay.evictions[reason] += 1
                self._stop(instance, now)
            case events.GrantLease(ticket, instance):
                self._begin(self._replay.visits[ticket], ticket, instance, now)
            case events.RefuseLease(ticket, error):
                self._replay.visits[ticket].refused = error.__name__
                self._open -= 1
            case events.WakeAt(at):
                self._alarm = at
            case _:
                assert_never(action)

    def _start(self, instance: str, model: LocalModel, placement: Placement, now: float) -> None:
        took = self._house.machine.load_seconds(model)
        self._loading[instance] = now + took
        self._placed[instance], self._held[instance] = placement, placement.bytes
        for device, size in plus(*self._held.values()).items():
            self._replay.most_bytes[device] = max(self._replay.most_bytes.get(device, 0), size)
        self._replay.load_seconds += took
        self._later(events.WorkerReady(now + took, instance, model.engine.slots, placement.bytes))

    def _stop(self, instance: str, now: float) -> None:
        """It frees its model and exits after; one that still loads can only exit."""
        machine = self._house.machine
        if instance in self._loading:
            self._replay.load_seconds -= self._loading.pop(instance) - now
        else:
            footprints = self._placed[instance].footprints
            remaining = {device: footprint.overhead for device, footprint in footprints.items()}
            self._later(events.WorkerFreed(now + min(machine.free, machine.exit), instance, remaining))
        self._later(events.WorkerExited(now + machine.exit, instance))

    def _begin(self, visit: Visit, ticket: int, instance: str, now: float) -> None:
        visit.granted = now
        request = visit.request
        output = min(request.output, visit.model.engine.context - request.prompt)
        self._device(instance, now).begin(ticket, visit.model, request.prompt, output)

    def _device(self, instance: str, now: float) -> Service:
        """Where it computes: the device that holds most of its weights."""
        footprints = self._placed[instance].footprints
        name = max(footprints, key=lambda device: footprints[device].weights)
        if name not in self._devices:
            self._devices[name] = Service(self._house.machine, now)
        return self._devices[name]

    def _later(self, event: events.Event) -> None:
        heapq.heappush(self._agenda, (event.at, next(self._order), event))
