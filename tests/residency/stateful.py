"""
A Hypothesis machine that drives the core as clients, operators and the operating system would.

Unlike the simulation it searches: it shrinks what it finds to the shortest story that breaks a rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from router.domain.models import Limits, LocalModel
from router.residency.core import Residency
from router.residency.events import (
    DeviceFree,
    DevicePaced,
    DryRunsHold,
    LeaseReleased,
    LeaseRequested,
    ModelsDesired,
    RequestSpilled,
    ShutdownRequested,
    TimePassed,
    UnloadRequested,
    WorkerExited,
    WorkerFreed,
    WorkerLost,
    WorkerReady,
    WorkerStuck,
)
from tests.residency.house_rules import Referee
from tests.residency.playbook import DEVICE, changed, model, on, placed

BUDGET = 10
LIMITS = Limits(
    max_waiting=8,
    max_waiting_per_model=5,
    max_wait=40.0,
    patience=6.0,
    hold=1.0,
    failures=2,
    backoff=3.0,
    failure_window=50.0,
    aging=5.0,
)
NAMES = ("a", "b", "c", "d", "p", "huge", "two")
BESIDE = {"gpu1": 8}
"""The budget of the second device."""
T = TypeVar("T")


def models() -> dict[str, LocalModel]:
    return {
        "a": model("a", 5),
        "b": model("b", 5, ttl=4.0),
        "c": model("c", 7),
        "d": model("d", 2, preload=True),
        "p": model("p", 3, pinned=True),
        "huge": model("huge", 11),
        "two": placed("two", {DEVICE: 6}, {"gpu1": 6}, {DEVICE: 3, "gpu1": 4}),
    }


def pick(things: Sequence[T], number: int) -> T:
    return things[number % len(things)]


class HouseMachine(RuleBasedStateMachine):
    """`core` is the class under test: the real one, or a mutant."""

    core: type[Residency] = Residency

    def __init__(self) -> None:
        super().__init__()
        self.referee = Referee(self.core({**on(BUDGET), **BESIDE}, LIMITS))
        self.models = models()
        self.now = 0.0
        self.tickets = 0

    # What the machine can see -----------------------------------------------------------------------------

    def loading(self) -> list[str]:
        return [n for n, p in self.referee.processes.items() if not p.up and not p.dying]

    def up(self) -> list[str]:
        return [n for n, p in self.referee.processes.items() if p.up and not p.dying]

    def dying(self) -> list[str]:
        return [n for n, p in self.referee.processes.items() if p.dying]

    def clients(self) -> list[int]:
        return [*self.referee.waiting, *self.referee.granted]

    def desire(self, budget: int = BUDGET) -> None:
        self.referee.tell(ModelsDesired(self.now, dict(self.models), {**on(budget), **BESIDE}, LIMITS))

    # What may happen --------------------------------------------------------------------------------------

    @initialize()
    def start(self) -> None:
        self.desire()

    @rule(
        name=st.sampled_from(NAMES),
        count=st.integers(1, 6),
        wait=st.sampled_from([None, None, 0.0, 3.0]),
        priority=st.sampled_from([None, None, -1, 2]),
    )
    def ask(self, name: str, count: int, wait: float | None, priority: int | None) -> None:
        for _ in range(count):
            self.tickets += 1
            deadline = None if wait is None else self.now + wait
            wanted = self.models[name]
            self.referee.tell(LeaseRequested(self.now, self.tickets, wanted, deadline, priority=priority))

    @rule(name=st.sampled_from(NAMES), count=st.integers(1, 4))
    def spill(self, name: str, count: int) -> None:
        for _ in range(count):
            self.referee.tell(RequestSpilled(self.now, self.models[name]))

    @precondition(lambda self: self.clients())
    @rule(number=st.integers(0, 99))
    def finish_or_leave(self, number: int) -> None:
        self.referee.tell(LeaseReleased(self.now, pick(self.clients(), number)))

    @precondition(lambda self: self.loading())
    @rule(number=st.integers(0, 99), more=st.sampled_from([0, 0, 0, -1, 2, 6]), slots=st.integers(1, 3))
    def come_up(self, number: int, more: int, slots: int) -> None:
        name = pick(self.loading(), number)
        held = dict(self.referee.processes[name].bytes)
        first = min(held)
        held[first] = max(1, held[first] + more)
        self.referee.tell(WorkerReady(self.now, name, slots, held))

    @precondition(lambda self: self.loading())
    @rule(number=st.integers(0, 99), out_of_memory=st.booleans())
    def fail_to_load(self, number: int, out_of_memory: bool) -> None:
        name = pick(self.loading(), number)
        self.referee.tell(WorkerExited(self.now, name, "bad file", out_of_memory))

    @precondition(lambda self: self.up())
    @rule(number=st.integers(0, 99), reaped=st.booleans())
    def crash(self, number: int, reaped: bool) -> None:
        name = pick(self.up(), number)
        lost = WorkerExited(self.now, name, "killed") if reaped else WorkerLost(self.now, name, "killed")
        self.referee.tell(lost)

    @precondition(lambda self: self.dying())
    @rule(number=st.integers(0, 99))
    def exit(self, number: int) -> None:
        self.referee.tell(WorkerExited(self.now, pick(self.dying(), number), "stopped"))

    @precondition(lambda self: self.dying())
    @rule(number=st.integers(0, 99))
    def free(self, number: int) -> None:
        name = pick(self.dying(), number)
        held = self.referee.processes[name].bytes
        self.referee.tell(WorkerFreed(self.now, name, {d: min(size, 1) for d, size in held.items()}))

    @precondition(lambda self: self.dying())
    @rule(number=st.integers(0, 99))
    def stick(self, number: int) -> None:
        self.referee.tell(WorkerStuck(self.now, pick(self.dying(), number)))

    @rule(device=st.sampled_from([DEVICE, "gpu1"]), size=st.sampled_from([3, 99, 99]))
    def strangers(self, device: str, size: int) -> None:
        self.referee.tell(DeviceFree(self.now, {device: size}))

    @rule(device=st.sampled_from([DEVICE, "gpu1"]), size=st.sampled_from([0, 0, 2]))
    def dry_run(self, device: str, size: int) -> None:
        self.referee.tell(DryRunsHold(self.now, {device: size} if size else {}))

    @rule(device=st.sampled_from([DEVICE, "gpu1"]), share=st.sampled_from([0.125, 0.5, 1.0]))
    def heat(self, device: str, share: float) -> None:
        self.referee.tell(DevicePaced(self.now, {device: share}))

    @rule(seconds=st.sampled_from([0.01, 0.5, 3.0, 7.0, 86_400.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.referee.tell(TimePassed(self.now))

    @rule(name=st.sampled_from(NAMES), budget=st.sampled_from([BUDGET, BUDGET, 6]))
    def edit(self, name: str, budget: int) -> None:
        self.models[name] = changed(self.models[name])
        self.desire(budget)

    @rule(name=st.sampled_from([None, *NAMES]), force=st.booleans())
    def unload(self, name: str | None, force: bool) -> None:
        self.referee.tell(UnloadRequested(self.now, name, force))

    @precondition(lambda self: self.tickets > 30)
    @rule()
    def shut_down(self) -> None:
        self.referee.tell(ShutdownRequested(self.now))

    def teardown(self) -> None:
        """Under steady traffic to whatever is up, who waits now still has an outcome after bounded steps."""
        self.referee.tell(DryRunsHold(self.now, {}))
        here = set(self.referee.waiting)
        for _ in range(60):
            if not here & set(self.referee.waiting):
                return
            self._a_busy_round()
        raise AssertionError(f"requests {sorted(here & set(self.referee.waiting))} were never served")

    def _a_busy_round(self) -> None:
        self.now += 0.2
        for name in self.up():
            if self.referee.processes[name].leases:
                self.tickets += 1
                wanted = self.referee.processes[name].model
                self.referee.tell(LeaseRequested(self.now, self.tickets, wanted, self.now))
        for name in self.dying():
            self.referee.tell(WorkerExited(self.now, name, "stopped"))
        for name in self.loading():
            process = self.referee.processes[name]
            self.referee.tell(WorkerReady(self.now, name, 2, process.bytes))
        if granted := sorted(self.referee.granted):
            self.referee.tell(LeaseReleased(self.now, granted[0]))
        self.referee.tell(TimePassed(self.now))
