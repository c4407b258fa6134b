"""Random lives of a house: clients, loads, crashes, edits and operators, all out of one seed."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable

import msgspec

from router.domain.memory import Bytes
from router.domain.models import EngineOptions, Footprint, Limits, LocalModel, Placement
from router.residency.core import Residency
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
from tests.residency.house_rules import Referee
from tests.residency.playbook import DEVICE, changed, model, on

BUDGET = 24
SEVERAL = {"gpu0": BUDGET, "gpu1": 16, "host": 20}
LONGEST_LEASE = 12.0
LONGEST_LOAD = 6.0
LONGEST_EXIT = 2.0
A_DAY = 86_400.0

Happening = Callable[[float], Event | None]


class Life:
    """One seed, one life. `requests` clients come; then everything runs out."""

    def __init__(self, seed: int, requests: int, core: type[Residency] = Residency) -> None:
        self.random = random.Random(seed)
        self.limits = self._limits()
        self.several = self.random.random() < 0.4
        """Several devices, and models that can be held in more than one way."""
        self.budgets: dict[str, int] = dict(SEVERAL if self.several else on(BUDGET))
        if self.several and self.random.random() < 0.5:
            self.budgets["gpu1"] = 3 * BUDGET  # room enough for a choice
        self._unkillable = self.random.random() < 0.1
        self._setbacks = 0
        """What went wrong since memory is being freed for the claimant."""
        self._pace = self.random.choice([0.3, 1.0, 3.0])
        self._contended = False
        self.models = {m.name: m for m in self._models()}
        self.referee = Referee(core(self.budgets, self.limits))
        self.stats: Counter[str] = Counter()
        self._rotten = "m1" if self.random.random() < 0.15 else None
        """A model whose loads mostly fail."""
        self._agenda: list[tuple[float, int, Happening]] = []
        self._sequence = 0
        self._alarm = 0
        self._claim: tuple[int, float] | None = None
        self._plan(4 * requests if self._contended else requests)

    # The script -------------------------------------------------------------------------------------------

    def _limits(self) -> Limits:
        draw = self.random
        return Limits(
            max_waiting=draw.choice([3, 12, 40]),
            max_waiting_per_model=draw.choice([2, 6, 20]),
            max_wait=draw.choice([5.0, 60.0, 300.0]),
            patience=draw.choice([0.0, 2.0, 10.0]),
            hold=draw.choice([0.0, 2.0, 6.0]),
            hold_factor=draw.choice([0.0, 2.0]),
            aging=draw.choice([0.0, 1.0, 10.0]),
            eviction=draw.choice(["cost", "lru"]),
            failure_window=draw.choice([10.0, 60.0]),
        )

    def _models(self) -> list[LocalModel]:
        draw = self.random
        if draw.random() < 0.2:  # two models that cannot be there together, both always wanted
            self._pace, self._contended = 3.0, True
            self.limits = msgspec.structs.replace(
                self.limits, max_wait=300.0, max_waiting=40, max_waiting_per_model=20
            )
            return [model("m0", 14, ttl=None), model("m1", 14, ttl=None)]
        found = [
            model(
                f"m{number}",
                draw.randint(2, 16),
                priority=draw.choice([0, 0, 1, -1]),
                pinned=number == 0 and draw.random() < 0.3,
                preload=draw.random() < 0.2,
                ttl=draw.choice([None, 0.0, 5.0, 60.0]),
            )
            for number in range(draw.randint(2, 6))
        ]
        if draw.random() < 0.3:  # another name of the same process
            first = msgspec.structs.replace(found[0], pinned=found[0].pinned and draw.random() < 0.5)
            options = {"ttl": draw.choice([None, 0.0, 20.0]), "priority": draw.choice([0, 1])}
            found.append(msgspec.structs.replace(first, name="twin", **options))
        if draw.random() < 0.3:
            found.append(model("huge", BUDGET + 1))
        if draw.random() < 0.2:
            found.append(model("broken", 3, problem="its file is missing", preload=True))
        return [self._placed(each) for each in found]

    def _placed(self, whole: LocalModel) -> LocalModel:
        """Where there are several devices: here, or there, or some of it in the host's memory."""
        if not self.several:
            return whole
        size, draw = whole.footprint.total, self.random
        ways = ({"gpu0": size}, {"gpu1": size}, {"gpu0": size - size // 2, "host": size // 2 + 1})
        chosen = draw.sample(ways, draw.randint(1, 3))
        placements = (
            Placement(EngineOptions(gpu_layers=n), {d: Footprint(weights=part) for d, part in way.items()})
            for n, way in enumerate(chosen)
        )
        return msgspec.structs.replace(whole, placements=tuple(placements))

    def _plan(self, requests: int) -> None:
        draw = self.random
        self._at(0.0, self._edit)
        now = 0.0
        for ticket in range(1, requests + 1):
            now += draw.expovariate(self._pace)
            self._at(now, self._request(ticket))
            if draw.random() < 0.1:  # leaves, perhaps after it was served
                self._at(now + draw.uniform(0, 20), self._release(ticket))
        for _ in range(requests // 20):
            self._at(draw.uniform(0, now), draw.choice([self._edit, self._edit, self._unload]))
        for _ in range(draw.choice([0, 0, 0, 4])):
            self._at(draw.uniform(0, now), self._strangers)
        for _ in range(draw.choice([0, 0, 0, 6])):
            self._at(draw.uniform(0, now), self._heat)
        if draw.random() < 0.05:
            self._at(draw.uniform(0, now), self._sleep)
        if draw.random() < 0.2:
            self._at(draw.uniform(0.5, 1.0) * now, lambda at: ShutdownRequested(at))
        for _ in range(draw.choice([0, 0, 4])):
            began = draw.uniform(0, now)
            self._at(began, self._dry_run({draw.choice(list(self.budgets)): 3}))
            self._at(began + draw.uniform(0.1, 5), self._dry_run({}))
        for _ in range(draw.choice([0, 0, requests // 4])):
            began = draw.uniform(0, now)
            self._at(began, self._spill)
            self._at(began + draw.uniform(0, 1), self._spill)

    def _request(self, ticket: int) -> Happening:
        name = self.random.choice([*self.models, *list(self.models)[:2]])
        patience = self.random.choice([None] * 6 + [0.0, 8.0])
        reason = "operator" if self.random.random() < 0.05 else "request"
        priority = self.random.choice([None] * 4 + [-2, 2])

        def happening(at: float) -> Event:
            deadline = None if patience is None else at + patience
            return LeaseRequested(at, ticket, self.models[name], deadline, reason, priority)  # type: ignore[arg-type]

        return happening

    def _release(self, ticket: int) -> Happening:
        return lambda at: LeaseReleased(at, ticket)

    def _dry_run(self, held: Bytes) -> Happening:
        """A process that is asked for sizes comes, or goes."""

        def happening(at: float) -> Event:
            self._setbacks += 1
            self.stats["dry runs"] += bool(held)
            return DryRunsHold(at, held)

        return happening

    def _spill(self, at: float) -> Event:
        """A request for it is answered elsewhere."""
        return RequestSpilled(at, self.models[self.random.choice(list(self.models))])

    def _edit(self, at: float) -> Event:
        draw = self.random
        name = draw.choice(list(self.models))
        if at > 0:
            match draw.randrange(4):
                case 0:
                    self.models[name] = changed(self.models[name])
                case 1 if sum(m.pinned for m in self.models.values()) == 0 or self.models[name].pinned:
                    flipped = not self.models[name].pinned and self.models[name].footprint.total < 12
                    self.models[name] = msgspec.structs.replace(self.models[name], pinned=flipped)
                case 2:
                    self._setbacks += 1
                    self.budgets[DEVICE] = draw.choice([BUDGET, BUDGET // 2, BUDGET - 3])
                case _:
                    self.models[name] = msgspec.structs.replace(
                        self.models[name], ttl=draw.choice([None, 3.0])
                    )
        shown = {n: m for n, m in self.models.items() if draw.random() < 0.95}
        return ModelsDesired(at, shown, dict(self.budgets), self.limits)

    def _unload(self, at: float) -> Event:
        return UnloadRequested(at, self.random.choice([None, *self.models]), self.random.random() < 0.3)

    def _strangers(self, at: float) -> Event:
        """Other processes take some of a device, or give it back."""
        self._setbacks += 1
        device = self.random.choice(list(self.budgets))
        return DeviceFree(at, {device: self.random.choice([2, 8, 99, 99])})

    def _heat(self, at: float) -> Event:
        """A device becomes hot, or cool again."""
        device = self.random.choice(list(self.budgets))
        return DevicePaced(at, {device: self.random.choice([0.125, 0.5, 0.75, 1.0])})

    def _sleep(self, at: float) -> Event:
        """The machine was suspended: whatever was to come comes a day later, deadlines and all."""
        self._agenda = [(when + A_DAY, number, what) for when, number, what in self._agenda]
        self._claim = None
        return TimePassed(at + A_DAY)

    # The run ----------------------------------------------------------------------------------------------

    def _at(self, when: float, what: Happening) -> None:
        self._sequence += 1
        heapq.heappush(self._agenda, (when, self._sequence, what))

    def run(self) -> Counter[str]:
        while self._agenda:
            now, _, happening = heapq.heappop(self._agenda)
            event = happening(now)
            if event is None:
                continue
            now = event.at
            self.stats["events"] += 1
            for action in self.referee.tell(event):
                self._carry_out(now, action)
            self._check_nobody_starves(now)
        referee = self.referee
        assert not referee.waiting and not referee.granted, "somebody waits for ever"
        self.stats.update(referee.outcomes.values())
        return self.stats

    def _carry_out(self, now: float, action: Action) -> None:
        draw = self.random
        match action:
            case StartWorker(name, wanted, placement, reason):
                self.stats["starts"] += 1
                self.stats["spills"] += reason == "spill"
                if draw.random() < (0.8 if wanted.name == self._rotten else 0.06):
                    self._at(now + draw.uniform(0, 3), self._exit(name, draw.random() < 0.5))
                else:
                    held = dict(self.referee.need(wanted, placement))
                    if draw.random() < 0.2:
                        device = draw.choice(list(held))
                        held[device] = max(1, held[device] + draw.randint(-1, 2))
                    self._at(now + draw.uniform(0.5, LONGEST_LOAD), self._ready(name, held))
            case StopWorker(name, reason):
                self.stats["stops"] += 1
                self.stats["abandoned"] += reason == "abandoned"
                self._end(now, name)
            case GrantLease(ticket, _):
                self._at(now + min(draw.expovariate(0.4), LONGEST_LEASE), self._release(ticket))
            case WakeAt(when):
                self._alarm += 1  # one alarm only, as in the manager
                self._at(when, self._ring(self._alarm))

    def _ring(self, number: int) -> Happening:
        return lambda at: TimePassed(at) if number == self._alarm else None

    def _end(self, now: float, name: str) -> None:
        """It frees its memory before it exits, or not, or does not end for a long time."""
        draw = self.random
        exits = now + draw.uniform(0.1, LONGEST_EXIT)
        if draw.random() < 0.5:
            self._at(draw.uniform(now, exits), self._free(name))
        if self._unkillable and draw.random() < 0.1:
            self._at(exits, self._stick(name))
            exits += draw.choice([20.0, 1e6])
        self._at(exits, self._exit(name))

    def _free(self, name: str) -> Happening:
        def happening(at: float) -> Event | None:
            process = self.referee.processes.get(name)
            if process is None or not process.dying:
                return None
            self.stats["freed"] += 1
            return WorkerFreed(at, name, {d: min(size, 1) for d, size in process.bytes.items()})

        return happening

    def _stick(self, name: str) -> Happening:
        def happening(at: float) -> Event | None:
            if name not in self.referee.processes:
                return None
            self.stats["stuck"] += 1
            self._setbacks += 1
            return WorkerStuck(at, name)

        return happening

    def _ready(self, name: str, held: Bytes) -> Happening:
        def happening(at: float) -> Event | None:
            process = self.referee.processes.get(name)
            if process is None or process.dying:
                return None
            if self.random.random() < 0.25:
                self._at(at + self.random.uniform(0, 20), self._lose(name))
            return WorkerReady(at, name, self.random.randint(1, 3), held)

        return happening

    def _lose(self, name: str) -> Happening:
        def happening(at: float) -> Event | None:
            process = self.referee.processes.get(name)
            if process is None or process.dying:
                return None
            self.stats["crashes"] += 1
            if self.random.random() < 0.5:
                return WorkerExited(at, name, "it was killed")
            self._at(at + self.random.uniform(0, 0.5), self._exit(name))
            return WorkerLost(at, name, "its socket closed")

        return happening

    def _exit(self, name: str, out_of_memory: bool = False) -> Happening:
        def happening(at: float) -> Event | None:
            process = self.referee.processes.get(name)
            if process is None:
                return None
            oom = out_of_memory and not process.up and not process.dying
            self.stats["oom"] += oom
            return WorkerExited(at, name, "it ended", oom)

        return happening

    def _check_nobody_starves(self, now: float) -> None:
        """
        G6: from when memory is freed for a request, it waits for a bounded time, however busy the others.

        Each setback (less budget, strangers, a process that cannot be killed) may cost one more round.
        """
        claim = self.referee.core.tables.claim
        if claim is None or self._claim is None or self._claim[0] != claim:
            self._claim = None if claim is None else (claim, now)
            self._setbacks = 0
            return
        waited, limits = now - self._claim[1], self.limits
        hold = max(limits.hold, limits.patience if limits.hold_factor else 0.0)
        one = max(limits.patience, LONGEST_LOAD + hold) + LONGEST_LEASE + LONGEST_EXIT
        bound = one * (1 + self._setbacks)
        self.stats["longest"] = max(self.stats["longest"], int(100 * waited / bound))
        assert waited <= bound, f"memory is being freed for one request for {waited:.0f} s"


def live(seed: int, requests: int = 60, core: type[Residency] = Residency) -> Counter[str]:
    """Run one life. Raises AssertionError where a house rule is broken."""
    return Life(seed, requests, core).run()
