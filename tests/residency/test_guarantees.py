"""
The guarantees (G1 to G24) that are the core's to keep, each under its number.

Stories show one case of each; the lives at the end show the same whatever happens.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import msgspec
import pytest

import router.residency
from router.domain.errors import LeaseTimeout, LoadFailed, QueueFull, WorkerCrashed
from router.domain.memory import plus
from router.domain.models import Limits
from router.residency.core import Residency
from router.residency.events import (
    Action,
    Event,
    GrantLease,
    LeaseReleased,
    LeaseRequested,
    ModelsDesired,
    StopWorker,
    TimePassed,
    WorkerExited,
    WorkerLost,
    WorkerStuck,
)
from router.residency.state import Phase
from router.residency.view import house_view
from tests.residency.core_scene import A, B, C, a_busy, a_ready, crash
from tests.residency.playbook import LIMITS, Play, Refused, desired, house, model, ready, start
from tests.residency.simulation import A_DAY, Life

SEEDS = range(40)


def test_g1_every_request_has_one_outcome_and_the_sum_is_exact() -> None:
    for seed in SEEDS:
        life = Life(seed, 60)
        asked: set[int] = set()
        life.referee.core.handle = _noting(life.referee.core, asked)  # type: ignore[method-assign]
        life.run()
        assert set(life.referee.outcomes) == asked, f"seed {seed}"
        assert sum(Counter(life.referee.outcomes.values()).values()) == len(asked)


def _noting(core: Residency, asked: set[int]):  # type: ignore[no-untyped-def]
    handle = core.handle

    def noted(event: Event) -> list[Action]:
        if isinstance(event, LeaseRequested):
            asked.add(event.ticket)
        return handle(event)

    return noted


class _Counting(Residency):
    """Adds up each phase's bytes after every event, by itself."""

    def handle(self, event: Event) -> list[Action]:
        before = getattr(self, "_before", {})
        actions = super().handle(event)
        phases = (Phase.LOADING, Phase.READY, Phase.DRAINING, Phase.STOPPING, Phase.QUARANTINED)
        held = plus(*(self.tables.bytes_in(phase) for phase in phases))
        for device, budget in self.tables.budgets.items():
            assert held.get(device, 0) <= max(budget, before.get(device, 0)), f"{device} after {event}"
        self._before = held
        return actions


def test_g3_bytes_of_all_five_phases_stay_within_every_devices_budget() -> None:
    assert len(Phase) == 5
    for seed in SEEDS:
        Life(seed, 60, _Counting).run()


def test_g4_a_model_in_use_or_pinned_is_never_evicted() -> None:
    pinned = model("p", 4, pinned=True)
    play = house(A, C, pinned) >> [start("p#1", pinned, "preload")]
    play << ready(1, "p#1", 1, 4) >> []
    play << LeaseRequested(2, 1, A) >> [start("a#2", A, "request")]
    play << ready(3, "a#2", 1, 8) >> [GrantLease(1, "a#2")]
    play << LeaseRequested(4, 2, C) >> [] << TimePassed(100) >> []  # A drains, and nothing is stopped
    play << LeaseReleased(101, 1) >> [StopWorker("a#2", "pressure")]
    play << TimePassed(10_000) >> [Refused(2, LeaseTimeout)]


def test_g5_whoever_waits_something_moves_or_an_alarm_is_set() -> None:
    play = a_busy()
    play << LeaseRequested(1, 2, B) >> []
    tables = play.core.tables
    assert tables.instances["a#1"].leases and play.wake is not None
    play << LeaseReleased(2, 1) >> []
    assert play.wake is not None and play.wake <= 2.05  # idle, and lingers for a moment


def test_g6_the_head_of_the_queue_waits_for_patience_and_the_longest_request_and_no_more() -> None:
    limits = Limits(patience=10, hold=2, hold_factor=2)
    play = a_busy(limits=limits)
    core, lease, now, ticket = play.core, 7.0, 1.0, 100
    core.handle(LeaseRequested(now, 2, B))
    ends = {1: now + lease}

    def told(event: Event) -> None:
        ends.update({a.ticket: now + lease for a in core.handle(event) if isinstance(a, GrantLease)})

    while core.tables.instances["a#1"].phase is not Phase.STOPPING:  # as busy as it can be, all the time
        now = round(now + 0.25, 2)
        for done in [t for t, end in ends.items() if end <= now]:
            del ends[done]
            told(LeaseReleased(now, done))
        ticket += 1
        told(LeaseRequested(now, ticket, A))
        assert now <= 1 + limits.patience + lease + 0.25
    assert now > 1 + limits.patience


def test_g7_the_queue_is_bounded_in_all_and_for_each_model_and_says_when_to_come_back() -> None:
    play = a_busy(limits=Limits(max_waiting=3, max_waiting_per_model=2))
    for ticket in (2, 3):
        play << LeaseRequested(2, ticket, B) >> []
    play << LeaseRequested(2, 4, B) >> [Refused(4, QueueFull)]
    play << LeaseRequested(2, 5, C) >> []
    play << LeaseRequested(2, 6, C) >> [Refused(6, QueueFull)]


def test_g8_a_client_that_leaves_frees_its_place_and_its_slot_in_the_same_moment() -> None:
    play = house(A)
    play << LeaseRequested(0, 1, A) >> [start("a#1", A, "request")]
    play << ready(1, "a#1", 1, 8) >> [GrantLease(1, "a#1")]
    play << LeaseRequested(2, 2, A) >> [] << LeaseRequested(2, 3, A) >> []
    play << LeaseReleased(3, 2) >> []  # it waited
    play << LeaseReleased(3, 1) >> [GrantLease(3, "a#1")]  # it was served


def test_g9_a_dead_workers_leases_fail_and_other_models_notice_nothing() -> None:
    play = a_busy()
    play << LeaseRequested(2, 2, C) >> [start("c#2", C, "request")]
    play << ready(3, "c#2", 1, 3) >> [GrantLease(2, "c#2")]
    play << WorkerLost(4, "a#1", "killed") >> [Refused(1, WorkerCrashed)]
    assert play.core.tables.instances["c#2"].phase is Phase.READY
    assert play.core.tables.holders == {2: "c#2"}


def test_g10_after_a_crash_the_second_try_gets_a_new_worker_at_once() -> None:
    play = a_busy()
    play << WorkerExited(2, "a#1", "boom") >> [Refused(1, WorkerCrashed)]
    play << LeaseRequested(2, 2, A) >> [start("a#2", A, "request")]


def test_g11_a_hung_worker_that_cannot_even_be_killed_is_replaced_beside_it() -> None:
    play = house(C)
    play << LeaseRequested(0, 1, C) >> [start("c#1", C, "request")]
    play << ready(1, "c#1", 1, 3) >> [GrantLease(1, "c#1")]
    play << WorkerLost(2, "c#1", "killed because it hung") >> [Refused(1, WorkerCrashed)]
    play << WorkerStuck(3, "c#1") >> []
    play << LeaseRequested(3, 2, C) >> [start("c#2", C, "request")]


def test_g13_a_crash_loop_is_refused_at_once_with_a_growing_pause_and_others_are_served() -> None:
    play = house(A, C, limits=LIMITS)
    for number in (1, 2, 3):
        crash(play, number, number, number)
    play << LeaseRequested(4, 4, C) >> [Refused(4, LoadFailed, retry_after=4.0)]
    play << LeaseRequested(4, 5, A) >> [start("a#4", A, "request")]


def test_g18_a_model_pinned_to_another_hash_is_never_served_by_the_process_of_the_old_one() -> None:
    new = msgspec.structs.replace(A, sha256="0" * 64)
    play = a_busy()
    play << desired(2, [new, B, C]) >> []
    play << LeaseRequested(3, 2, new) >> []
    play << LeaseReleased(4, 1) >> [StopWorker("a#1", "changed")]
    play << WorkerExited(5, "a#1") >> [start("a#2", new, "request")]


def test_g22_a_thousand_swaps_and_edits_leave_the_tables_as_they_were() -> None:
    core = Residency({"gpu0": 12}, Limits(hold=0, hold_factor=0))
    sizes = set()
    for number in range(1000):
        now, each = 10.0 * number, model(f"m{number % 7}", 8)
        core.handle(ModelsDesired(now, {each.name: each}, {"gpu0": 12}, core.tables.limits))
        started = core.handle(LeaseRequested(now + 1, number, each))
        name = f"{each.name}#{number + 1}"
        assert start(name, each, "request") in started
        core.handle(ready(now + 2, name, 1, 8))
        core.handle(LeaseReleased(now + 3, number))
        core.handle(ModelsDesired(now + 4, {}, {"gpu0": 12}, core.tables.limits))
        core.handle(WorkerExited(now + 5, name))
        core.handle(ModelsDesired(now + 6, {}, {"gpu0": 12}, core.tables.limits))
        tables = core.tables
        kept = (tables.instances, tables.waiting, tables.holders, tables.granted, tables.paces)
        sizes.add(sum(map(len, (*kept, tables.measured, tables.failures, tables.preloaded, tables.squeezed))))
    assert sizes == {0}


def test_g23_a_day_that_passes_in_one_step_loses_nobody_and_is_followed_by_service() -> None:
    play = a_busy()
    play << LeaseRequested(2, 2, B) >> []
    play << TimePassed(2 + A_DAY) >> [Refused(2, LeaseTimeout)]
    play << LeaseReleased(3 + A_DAY, 1) >> []
    play << LeaseRequested(4 + A_DAY, 3, B) >> [StopWorker("a#1", "pressure")]
    play << WorkerExited(5 + A_DAY, "a#1") >> [start("b#2", B, "request")]


def test_g23_residency_reads_no_clock_that_can_be_set() -> None:
    folder = Path(router.residency.__file__).parent
    for path in folder.glob("*.py"):
        text = path.read_text()
        assert "time.time(" not in text and "datetime" not in text, path.name


@pytest.mark.parametrize("event", [WorkerLost(3, "a#1", "x"), WorkerExited(3, "a#1"), WorkerStuck(3, "a#1")])
def test_g24_a_dead_worker_is_never_shown_as_loaded(event: Event) -> None:
    play: Play = a_ready()
    assert house_view(play.core.tables, 3, {}).status("a") == "loaded"
    play.core.handle(event)
    assert house_view(play.core.tables, 3, {}).status("a") == "unloaded"
