"""Who is served next, and what a waiter may count on."""

from __future__ import annotations

import msgspec
import pytest

from router.domain.errors import DoesNotFit, DoesNotFitNow, LoadFailed
from router.domain.models import Limits
from router.residency.events import (
    DeviceFree,
    DevicePaced,
    GrantLease,
    LeaseReleased,
    LeaseRequested,
    StopWorker,
    TimePassed,
    WorkerExited,
    WorkerStuck,
)
from router.residency.policy import LONGEST_RETRY
from tests.residency.core_scene import A, B, C, a_busy, a_ready
from tests.residency.playbook import DEVICE, Refused, desired, house, model, on, placed, ready, start


def test_who_has_a_higher_priority_is_served_before_who_came_shortly_earlier() -> None:
    play = a_busy(limits=Limits(aging=10))
    play << LeaseRequested(2, 2, A) >> [GrantLease(2, "a#1")]
    play << LeaseRequested(3, 3, A) >> []
    play << LeaseRequested(12, 4, A, priority=1) >> []
    play << LeaseReleased(13, 1) >> [GrantLease(4, "a#1")]


def test_priority_ages_so_that_nobody_waits_for_ever() -> None:
    play = a_busy(limits=Limits(aging=10))
    play << LeaseRequested(2, 2, A) >> [GrantLease(2, "a#1")]
    play << LeaseRequested(3, 3, A) >> []
    play << LeaseRequested(14, 4, A, priority=1) >> []  # eleven seconds later: one point is ten
    play << LeaseReleased(15, 1) >> [GrantLease(3, "a#1")]


def test_a_models_own_priority_is_what_a_request_has_that_says_nothing() -> None:
    urgent = msgspec.structs.replace(C, priority=5)
    play = a_busy()
    play << desired(1, [A, B, urgent]) >> []
    d = model("d", 6)
    play << LeaseRequested(2, 2, A) >> [GrantLease(2, "a#1")]
    play << LeaseRequested(3, 3, d, priority=-1) >> []
    play << LeaseRequested(4, 4, B) >> []
    play << LeaseRequested(5, 5, urgent) >> []
    assert list(play.core.tables.waiting) == [5, 4, 3]


def test_a_claim_is_not_taken_away_by_who_has_a_higher_priority() -> None:
    play = a_busy()
    play << LeaseRequested(2, 2, B) >> []  # memory is being freed for it
    nine = model("nine", 9)
    play << LeaseRequested(3, 3, nine, priority=9) >> []
    play << LeaseReleased(12, 1) >> [StopWorker("a#1", "pressure")]
    play << WorkerExited(13, "a#1") >> [start("b#2", B, "request")]


def test_all_who_wait_for_a_model_are_admitted_together_after_a_swap() -> None:
    play = a_ready()
    play << LeaseRequested(3, 2, B) >> [StopWorker("a#1", "pressure")]
    for ticket in (3, 4, 5):
        play << LeaseRequested(3 + ticket / 10, ticket, B) >> []
    play << WorkerExited(4, "a#1") >> [start("b#2", B, "request")]
    play << ready(5, "b#2", 3, 6) >> [GrantLease(n, "b#2") for n in (2, 3, 4)]


def test_a_hold_is_a_multiple_of_the_load_but_for_that_no_longer_than_the_patience() -> None:
    play = house(A, B, limits=Limits(hold=2, hold_factor=2, patience=7))
    play << LeaseRequested(0, 1, A) >> [start("a#1", A, "request")]
    play << LeaseRequested(0, 2, B) >> []
    play << ready(3, "a#1", 1, 8) >> [GrantLease(1, "a#1")]
    assert play.wake == 9  # 3 + 2 x 3
    other = house(A, B, limits=Limits(hold=2, hold_factor=2, patience=7))
    other << LeaseRequested(0, 1, A) >> [start("a#1", A, "request")]
    other << LeaseRequested(0, 2, B) >> []
    other << ready(100, "a#1", 1, 8) >> [GrantLease(1, "a#1")]
    assert other.wake == 107


def test_a_load_that_runs_out_of_memory_is_tried_once_more_when_the_idle_are_gone() -> None:
    play = house(A, C)
    play << LeaseRequested(0, 1, C) >> [start("c#1", C, "request")]
    play << ready(1, "c#1", 1, 3) >> [GrantLease(1, "c#1")] << LeaseReleased(2, 1) >> []
    play << LeaseRequested(3, 2, A) >> [start("a#2", A, "request")]
    oom = WorkerExited(4, "a#2", "cudaMalloc failed", out_of_memory=True)
    play << oom >> [StopWorker("c#1", "pressure")]
    play << WorkerExited(5, "c#1") >> [start("a#3", A, "request")]
    play << ready(6, "a#3", 1, 8) >> [GrantLease(2, "a#3")]
    assert play.core.tables.failures == {} and play.core.tables.squeezed == set()


def test_a_second_load_that_runs_out_of_memory_is_refused() -> None:
    play = house(A)
    play << LeaseRequested(0, 1, A) >> [start("a#1", A, "request")]
    play << WorkerExited(1, "a#1", "no memory", out_of_memory=True) >> [start("a#2", A, "request")]
    play << WorkerExited(2, "a#2", "no memory", out_of_memory=True) >> [Refused(1, LoadFailed)]
    play << LeaseRequested(3, 2, A) >> [start("a#3", A, "request")]  # a new request has a first try again
    play << WorkerExited(4, "a#3", "no memory", out_of_memory=True) >> [start("a#4", A, "request")]


def test_the_last_try_after_out_of_memory_drains_the_busy_like_any_other() -> None:
    play = house(A, B, C, limits=Limits(patience=5, hold=0, hold_factor=0))
    play << LeaseRequested(0, 1, A) >> [start("a#1", A, "request")]
    play << LeaseRequested(0, 2, B) >> []
    play << WorkerExited(1, "a#1", "no memory", out_of_memory=True) >> [start("b#2", B, "request")]
    play << ready(2, "b#2", 1, 6) >> [GrantLease(2, "b#2")]
    play << LeaseRequested(3, 3, B) >> []
    play << TimePassed(5) >> []  # B drains for A
    play << LeaseReleased(6, 2) >> [StopWorker("b#2", "pressure")]
    play << WorkerExited(7, "b#2") >> [start("a#3", A, "request")]


def test_a_load_that_ran_out_of_memory_and_that_nobody_waits_for_any_more_is_not_tried_again() -> None:
    play = house(A)
    play << LeaseRequested(0, 1, A) >> [start("a#1", A, "request")] << LeaseReleased(1, 1) >> []
    play << WorkerExited(2, "a#1", "no memory", out_of_memory=True) >> []


def test_memory_that_strangers_take_blocks_loads_and_evicts_nobody() -> None:
    play = a_busy()
    play << DeviceFree(2, on(9)) >> []
    play << LeaseRequested(3, 2, C) >> []  # 3 would fit the operator's 12, not beside strangers
    play << DeviceFree(4, on(0)) >> [Refused(2, DoesNotFitNow, retry_after=LONGEST_RETRY)]
    play << LeaseReleased(5, 1) >> []
    play << LeaseRequested(6, 3, A) >> [GrantLease(3, "a#1")]  # what is there serves on
    play << DeviceFree(7, on(99)) >> []
    play << LeaseRequested(8, 4, C) >> [start("c#2", C, "request")]


def test_a_refusal_for_memory_that_may_come_back_says_when_to_try_again() -> None:
    play = a_ready()
    play << LeaseRequested(3, 2, B) >> [StopWorker("a#1", "pressure")]
    play << WorkerStuck(4, "a#1") >> [Refused(2, DoesNotFitNow, retry_after=LONGEST_RETRY)]
    play << LeaseRequested(5, 3, model("huge", 13)) >> [Refused(3, DoesNotFit, retry_after=None)]


def test_a_missing_file_is_no_lack_of_memory_whatever_strangers_hold() -> None:
    missing = model("missing", 3, problem="its file is missing")
    play = house(A, missing)
    play << DeviceFree(1, on(2)) >> []
    play << LeaseRequested(2, 1, missing) >> [Refused(1, LoadFailed, retry_after=None)]


def test_the_cheapest_to_do_without_goes_and_lru_can_be_chosen() -> None:
    slow, quick, wanted = model("slow", 5), model("quick", 5), model("wanted", 6)

    def settled(limits: Limits) -> list[str]:
        play = house(slow, quick, wanted, limits=limits)
        core = play.core
        for name, each, load in (("slow#1", slow, 60.0), ("quick#2", quick, 1.0)):
            at = 0.0 if each is slow else 100.0
            core.handle(LeaseRequested(at, int(at) + 1, each))
            core.handle(ready(at + load, name, 1, 5))
            core.handle(LeaseReleased(at + load, int(at) + 1))
        actions = core.handle(LeaseRequested(200, 7, wanted))
        return [a.instance for a in actions if isinstance(a, StopWorker)]

    assert settled(Limits(eviction="lru")) == ["slow#1"]
    assert settled(Limits(eviction="cost")) == ["quick#2"]


@pytest.mark.parametrize("leave", [LeaseReleased(4, 2), TimePassed(5)])
def test_a_waiter_who_leaves_or_whose_time_is_up_has_nothing_loaded_for_it(leave: object) -> None:
    play = a_ready()
    play << LeaseRequested(3, 2, B, deadline=5) >> [StopWorker("a#1", "pressure")]
    play.core.handle(leave)  # type: ignore[arg-type]
    play << WorkerExited(6, "a#1") >> []


def test_demand_is_what_was_let_in_and_fades() -> None:
    from router.residency.policy import HALF_LIFE, demand

    play = a_busy()
    play << LeaseRequested(2, 2, A) >> [GrantLease(2, "a#1")]
    pace = play.core.tables.paces[A.fingerprint]
    assert demand(pace, 2) == pytest.approx(2.0, abs=0.01)
    assert demand(pace, 2 + HALF_LIFE) == pytest.approx(1.0, abs=0.01)


def test_on_a_hot_device_fewer_run_nothing_is_cut_and_who_waits_is_served_once_it_is_cool() -> None:
    play = a_busy()
    play << LeaseRequested(2, 2, A) >> [GrantLease(2, "a#1")]
    play << DevicePaced(3, {DEVICE: 0.5}) >> []
    play << LeaseRequested(4, 3, A) >> []
    play << LeaseReleased(5, 1) >> []  # one of two runs still, and one is as many as may
    play << LeaseReleased(6, 2) >> [GrantLease(3, "a#1")]
    play << LeaseRequested(7, 4, A) >> []
    play << DevicePaced(8, {DEVICE: 1.0}) >> [GrantLease(4, "a#1")]


def test_on_a_hot_device_one_runs_always_and_a_model_elsewhere_does_not_notice() -> None:
    elsewhere = placed("e", {"gpu1": 2})
    play = a_ready()
    play << desired(3, [A, elsewhere]) >> []
    play << DevicePaced(4, {DEVICE: 0.0}) >> []
    play << LeaseRequested(5, 2, A) >> [GrantLease(2, "a#1")]
    play << LeaseRequested(6, 3, elsewhere) >> [start("e#2", elsewhere, "request")]
    play << LeaseRequested(7, 4, elsewhere) >> []
    play << ready(8, "e#2", 2, {"gpu1": 2}) >> [GrantLease(3, "e#2"), GrantLease(4, "e#2")]
