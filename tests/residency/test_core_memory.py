"""The rules of the scheduler, one scene each, told as events and the actions that they cause."""

from __future__ import annotations

import msgspec
import pytest

from router.domain.errors import (
    DoesNotFit,
    LoadFailed,
    ShuttingDown,
    Unloaded,
    WorkerCrashed,
)
from router.domain.models import Limits
from router.residency.events import (
    DryRunsHold,
    GrantLease,
    LeaseReleased,
    LeaseRequested,
    ShutdownRequested,
    StopWorker,
    TimePassed,
    UnloadRequested,
    WorkerExited,
    WorkerLost,
)
from tests.residency.core_scene import A, B, C, a_busy, a_ready, crash
from tests.residency.playbook import Refused, changed, desired, house, model, on, ready, start


def test_a_request_in_the_very_moment_of_the_ttl_is_served() -> None:
    play = a_ready()
    play << LeaseRequested(2 + 600, 2, A) >> [GrantLease(2, "a#1")]


def test_measured_bytes_replace_the_estimate() -> None:
    play = house(A, B)
    play << LeaseRequested(0, 1, A) >> [start("a#1", A, "request")]
    play << ready(1, "a#1", 1, 5) >> [GrantLease(1, "a#1")]
    play << LeaseRequested(2, 2, B) >> [start("b#2", B, "request")]
    assert play.core.tables.free == on(1)


def test_a_worker_that_takes_more_than_there_is_stops_at_once_and_its_waiters_keep_waiting() -> None:
    play = house(A, C, budget=10)
    play << LeaseRequested(0, 1, C) >> [start("c#1", C, "request")]
    play << ready(1, "c#1", 1, 3) >> [GrantLease(1, "c#1")] << LeaseReleased(2, 1) >> []
    six = model("six", 6)
    play << LeaseRequested(3, 2, six) >> [start("six#2", six, "request")]
    play << ready(4, "six#2", 1, 8) >> [StopWorker("six#2", "oom"), StopWorker("c#1", "pressure")]
    assert play.core.tables.used == on(10)
    play << WorkerExited(5, "c#1") >> []
    play << WorkerExited(6, "six#2") >> [start("six#3", six, "request")]
    play << ready(7, "six#3", 1, 8) >> [GrantLease(2, "six#3")]


def test_a_model_that_measures_larger_than_the_budget_does_not_fit() -> None:
    play = house(A)
    play << LeaseRequested(0, 1, A) >> [start("a#1", A, "request")]
    play << ready(1, "a#1", 1, 13) >> [Refused(1, DoesNotFit), StopWorker("a#1", "oom")][::-1]
    play << WorkerExited(2, "a#1") >> []
    play << LeaseRequested(3, 2, A) >> [Refused(2, DoesNotFit)]


def test_a_worker_that_never_gets_its_estimate_right_is_a_failed_model() -> None:
    play = house(A, limits=Limits(failures=2), budget=20)
    play << LeaseRequested(0, 1, A) >> [start("a#1", A, "request")]
    play << LeaseRequested(0, 2, B) >> [start("b#2", B, "request")]
    play << ready(1, "a#1", 1, 15) >> [StopWorker("a#1", "oom")]
    play << WorkerExited(1, "b#2") >> [Refused(2, LoadFailed)]
    play << WorkerExited(2, "a#1") >> [start("a#3", A, "request")]
    play << ready(3, "a#3", 1, 21) >> [StopWorker("a#3", "oom"), Refused(1, DoesNotFit)]
    assert play.core.tables.failed(A.fingerprint, 3) is not None


def test_a_crash_refuses_its_leases_and_nobody_elses() -> None:
    play = a_busy()
    play << LeaseRequested(2, 2, C) >> [start("c#2", C, "request")]
    play << ready(3, "c#2", 1, 3) >> [GrantLease(2, "c#2")]
    play << WorkerExited(4, "a#1", "killed by signal 9") >> [Refused(1, WorkerCrashed, retry_after=1.0)]
    assert play.core.tables.holders == {2: "c#2"}


def test_a_dead_worker_that_is_not_reaped_takes_no_work_and_holds_its_memory() -> None:
    (
        a_busy()
        << WorkerLost(2, "a#1", "its socket closed") >> [Refused(1, WorkerCrashed)]
        << LeaseRequested(3, 2, A) >> []
        << ready(3, "a#1", 1, 8) >> []  # too late
        << WorkerExited(4, "a#1") >> [start("a#2", A, "request")]
    )  # fmt: skip


def test_after_a_crash_the_next_request_is_served_by_a_new_worker_at_once() -> None:
    (
        a_busy()
        << WorkerExited(2, "a#1", "boom") >> [Refused(1, WorkerCrashed)]
        << LeaseRequested(2, 2, A) >> [start("a#2", A, "request")]
        << ready(3, "a#2", 1, 8) >> [GrantLease(2, "a#2")]
    )  # fmt: skip


def test_a_failed_load_refuses_all_its_waiters_with_the_reason() -> None:
    play = house(A)
    play << LeaseRequested(0, 1, A) >> [start("a#1", A, "request")]
    play << LeaseRequested(0, 2, A) >> []
    actions = play.core.handle(WorkerExited(1, "a#1", "not a GGUF file"))
    assert actions == [Refused(1, LoadFailed, retry_after=1.0), Refused(2, LoadFailed, retry_after=1.0)]
    assert all("not a GGUF file" in str(action) for action in actions)


def test_a_crash_loop_makes_a_model_failed_and_each_pause_is_twice_as_long() -> None:
    play = house(C, limits=Limits(failures=3, backoff=5, backoff_max=15, failure_window=60))
    for number in (1, 2, 3):
        crash(play, number, number, number)
    play << LeaseRequested(4, 4, C) >> [Refused(4, LoadFailed, retry_after=4.0)]
    assert play.wake == 8
    crash(play, 8, 4, 5)  # the pause is over: one probe
    play << LeaseRequested(9, 6, C) >> [Refused(6, LoadFailed, retry_after=9.0)]
    crash(play, 18, 5, 7)
    play << LeaseRequested(18, 8, C) >> [Refused(8, LoadFailed, retry_after=15.0)]


def test_failures_far_apart_are_not_a_crash_loop() -> None:
    play = house(C, limits=Limits(failures=2, failure_window=60))
    for number in (1, 2, 3, 4):
        crash(play, 100.0 * number, number, number)


def test_a_crash_loop_of_one_model_leaves_the_others_alone() -> None:
    play = house(A, C, limits=Limits(failures=1))
    crash(play, 1, 1, 1)
    play << LeaseRequested(2, 2, A) >> [start("a#2", A, "request")]


def test_crashes_of_ready_workers_count_as_well() -> None:
    play = house(C, limits=Limits(failures=2))
    for number in (1, 2):
        play << LeaseRequested(number, number, C) >> [start(f"c#{number}", C, "request")]
        play << ready(number, f"c#{number}", 1, 3) >> [GrantLease(number, f"c#{number}")]
        play << WorkerExited(number, f"c#{number}", "boom") >> [Refused(number, WorkerCrashed)]
    play << LeaseRequested(3, 3, C) >> [Refused(3, LoadFailed, retry_after=4.0)]


def test_a_worker_that_stayed_up_for_a_while_clears_the_record() -> None:
    play = house(C, limits=Limits(failures=1, backoff=5, failure_window=60))
    crash(play, 0, 1, 1)
    play << LeaseRequested(5, 2, C) >> [start("c#2", C, "request")]
    play << ready(6, "c#2", 1, 3) >> [GrantLease(2, "c#2")]
    play << WorkerExited(66, "c#2", "boom") >> [Refused(2, WorkerCrashed)]
    play << LeaseRequested(67, 3, C) >> [Refused(3, LoadFailed, retry_after=4.0)]  # 5 s again, not 10


def test_waiters_for_a_slot_of_a_crashed_worker_get_the_next_one() -> None:
    (
        house(A)
        << LeaseRequested(0, 1, A) >> [start("a#1", A, "request")]
        << ready(1, "a#1", 1, 8) >> [GrantLease(1, "a#1")]
        << LeaseRequested(2, 2, A) >> []
        << WorkerExited(3, "a#1", "boom") >> [Refused(1, WorkerCrashed), start("a#2", A, "request")]
    )  # fmt: skip


def test_an_edit_of_what_needs_no_restart_is_adopted_in_place() -> None:
    play = a_ready()
    pinned = msgspec.structs.replace(A, pinned=True, ttl=1.0, name="renamed")
    play << desired(3, [pinned, B]) >> []
    assert play.core.tables.instances["a#1"].model == pinned
    play << LeaseRequested(4, 2, pinned) >> [GrantLease(2, "a#1")]


def test_a_changed_model_drains_and_its_new_version_loads_beside_it_or_after() -> None:
    new = changed(A)
    (
        a_busy()
        << desired(2, [new, B]) >> []
        << LeaseRequested(3, 2, new) >> []  # both do not fit
        << LeaseReleased(4, 1) >> [StopWorker("a#1", "changed")]
        << WorkerExited(5, "a#1") >> [start("a#2", new, "request")]
    )  # fmt: skip


def test_a_removed_model_goes_when_its_last_request_ends() -> None:
    (
        a_busy()
        << desired(2, [B]) >> []
        << LeaseReleased(3, 1) >> [StopWorker("a#1", "changed")]
    )  # fmt: skip


def test_who_waits_for_a_removed_model_is_still_served() -> None:
    (
        house(A)
        << LeaseRequested(0, 1, A) >> [start("a#1", A, "request")]
        << desired(1, [B]) >> []
        << ready(2, "a#1", 1, 8) >> [GrantLease(1, "a#1")]
        << LeaseReleased(3, 1) >> [StopWorker("a#1", "changed")]
    )  # fmt: skip


def test_a_load_that_nobody_wants_any_more_is_given_up() -> None:
    early = model("e", 5, preload=True)
    play = house(early) >> [start("e#1", early, "preload")]
    play << desired(1, [A]) >> [StopWorker("e#1", "changed")]


def test_a_lowered_budget_sends_away_the_idle_then_drains_the_busy_and_starts_nothing() -> None:
    play = a_busy()
    play << LeaseRequested(2, 2, C) >> [start("c#2", C, "request")]
    play << ready(3, "c#2", 1, 3) >> [GrantLease(2, "c#2")] << LeaseReleased(4, 2) >> []
    play << desired(5, [A, B, C], budget=9) >> [StopWorker("c#2", "pressure")]
    play << desired(6, [A, B, C], budget=7) >> []  # A drains
    play << LeaseRequested(7, 3, C) >> []
    play << WorkerExited(8, "c#2") >> []  # 8 of 7 bytes are held
    play << LeaseReleased(9, 1) >> [StopWorker("a#1", "pressure")]
    play << WorkerExited(10, "a#1") >> [start("c#3", C, "request")]


def test_a_lowered_budget_takes_pinned_models_last() -> None:
    pinned = model("p", 5, pinned=True)
    play = house(C, pinned) >> [start("p#1", pinned, "preload")]
    play << ready(1, "p#1", 1, 5) >> []
    play << LeaseRequested(2, 1, C) >> [start("c#2", C, "request")]
    play << ready(3, "c#2", 1, 3) >> [GrantLease(1, "c#2")] << LeaseReleased(4, 1) >> []
    play << desired(5, [C, pinned], budget=6) >> [StopWorker("c#2", "pressure")]
    play << desired(6, [C, pinned], budget=4) >> [StopWorker("p#1", "pressure")]


def test_a_waiter_that_an_edit_leaves_without_room_is_refused() -> None:
    play = a_busy()
    play << LeaseRequested(2, 2, B) >> []
    play << desired(3, [A, B], budget=5) >> [Refused(2, DoesNotFit)]


def test_a_draining_model_that_an_edit_pins_is_spared() -> None:
    pinned = msgspec.structs.replace(A, pinned=True)
    play = a_busy()
    play << LeaseRequested(2, 2, C) >> [start("c#2", C, "request")]
    play << ready(3, "c#2", 1, 3) >> [GrantLease(2, "c#2")]
    nine = model("nine", 9)
    play << LeaseRequested(4, 3, nine) >> [] << TimePassed(14) >> []
    play << desired(15, [pinned, C, nine]) >> [Refused(3, DoesNotFit)]
    play << LeaseRequested(16, 4, pinned) >> [GrantLease(4, "a#1")]


def test_what_is_remembered_of_models_that_left_the_registry_is_forgotten() -> None:
    play = a_ready(limits=Limits(failures=1))
    crash(play, 3, 2, 2)
    play << desired(4, [B]) >> [StopWorker("a#1", "changed")]
    play << WorkerExited(5, "a#1") >> []
    play << desired(1000, [B]) >> []
    tables = play.core.tables
    assert (tables.measured, tables.failures, tables.preloaded, tables.dismissed) == ({}, {}, set(), set())


def test_an_operators_unload_stops_the_idle_and_drains_the_busy() -> None:
    (
        a_busy()
        << UnloadRequested(2, "b") >> []
        << UnloadRequested(3, "a") >> []
        << LeaseRequested(4, 2, A) >> []
        << LeaseReleased(5, 1) >> [StopWorker("a#1", "requested")]
        << WorkerExited(6, "a#1") >> [start("a#2", A, "request")]
    )  # fmt: skip


def test_an_operators_unload_of_a_pinned_model_lasts_until_somebody_asks_for_it() -> None:
    pinned = model("p", 5, pinned=True)
    play = house(pinned) >> [start("p#1", pinned, "preload")]
    play << ready(1, "p#1", 1, 5) >> []
    play << UnloadRequested(2, None) >> [StopWorker("p#1", "requested")]
    play << WorkerExited(3, "p#1") >> [] << TimePassed(100) >> []
    play << LeaseRequested(101, 1, pinned) >> [start("p#2", pinned, "request")]
    play << ready(102, "p#2", 1, 5) >> [GrantLease(1, "p#2")]
    (play << WorkerExited(103, "p#2", "boom") >> [Refused(1, WorkerCrashed), start("p#3", pinned, "preload")])


def test_an_operators_unload_gives_up_an_operators_load_but_not_a_clients() -> None:
    (
        house(A, C)
        << LeaseRequested(0, 1, A, reason="operator") >> [start("a#1", A, "operator")]
        << LeaseRequested(0, 2, C) >> [start("c#2", C, "request")]
        << UnloadRequested(1, None) >> [Refused(1, Unloaded), StopWorker("a#1", "requested")]
    )  # fmt: skip


def test_shutdown_refuses_who_waits_and_who_comes_and_lets_leases_run_on() -> None:
    early = model("e", 1, preload=True)
    (
        a_busy()
        << LeaseRequested(2, 2, C) >> [start("c#2", C, "request")]
        << LeaseRequested(2, 3, B) >> []
        << ShutdownRequested(3)
        >> [Refused(2, ShuttingDown), Refused(3, ShuttingDown), StopWorker("c#2", "requested")]
        << LeaseRequested(4, 4, A) >> [Refused(4, ShuttingDown)]
        << desired(5, [A, early]) >> []
        << LeaseReleased(6, 1) >> [StopWorker("a#1", "requested")]
        << WorkerExited(7, "a#1") >> [] << WorkerExited(7, "c#2") >> []
    )  # fmt: skip


@pytest.mark.parametrize("ticket", [1, 2, 99])
def test_a_release_may_be_sent_twice_and_for_a_ticket_that_nobody_knows(ticket: int) -> None:
    a_ready() << LeaseReleased(3, ticket) >> [] << LeaseReleased(4, ticket) >> []


def test_news_of_an_unknown_worker_is_no_error() -> None:
    play = a_ready()
    (play << ready(3, "x#9", 1, 1) >> [] << WorkerExited(3, "x#9") >> [] << WorkerLost(3, "x#9", "") >> [])


# Dry runs --------------------------------------------------------------------------------------------------


def test_a_load_waits_for_the_memory_of_a_dry_run_and_nobody_is_evicted_or_refused_for_it() -> None:
    play = a_ready(budget=20) << DryRunsHold(3, on(7)) >> []
    play << LeaseRequested(4, 2, B) >> []  # 8 of A, 7 of the dry run, and B's 6
    play << LeaseRequested(4, 3, model("large", 20)) >> []
    play << DryRunsHold(5, {}) >> [start("b#2", B, "request")]


def test_what_fits_beside_a_dry_run_is_loaded_at_once() -> None:
    play = a_ready(budget=20) << DryRunsHold(3, on(4)) >> []
    play << LeaseRequested(4, 2, B) >> [start("b#2", B, "request")]


def test_a_dry_run_that_takes_what_is_held_already_sends_nobody_away() -> None:
    play = a_busy() << DryRunsHold(2, on(11)) >> [] << LeaseReleased(3, 1) >> []
    assert play.core.tables.free == on(-7)


def test_a_model_that_turns_out_a_little_larger_during_a_dry_run_stays() -> None:
    play = house(A, budget=12) << LeaseRequested(0, 1, A) >> [start("a#1", A, "request")]
    play << DryRunsHold(1, on(4)) >> [] << ready(2, "a#1", 2, 9) >> [GrantLease(1, "a#1")]
