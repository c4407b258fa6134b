"""The rules of the scheduler, one scene each, told as events and the actions that they cause."""

from __future__ import annotations

import msgspec

from router.domain.errors import (
    DoesNotFit,
    LeaseTimeout,
    LoadFailed,
    QueueFull,
)
from router.domain.models import Limits
from router.residency.events import (
    GrantLease,
    LeaseReleased,
    LeaseRequested,
    StopWorker,
    TimePassed,
    WorkerExited,
)
from router.residency.policy import LINGER
from router.residency.state import Phase
from tests.residency.core_scene import A, B, C, a_busy, a_ready
from tests.residency.playbook import LIMITS, Refused, desired, house, model, ready, start


def test_a_request_for_a_second_model_evicts_the_idle_first() -> None:
    (
        a_ready()
        << LeaseRequested(4, 2, B) >> [StopWorker("a#1", "pressure")]
        << LeaseRequested(5, 3, B) >> []  # joins; nothing is started twice
        << WorkerExited(6, "a#1") >> [start("b#2", B, "request")]
        << ready(7, "b#2", slots=2, resident=6) >> [GrantLease(2, "b#2"), GrantLease(3, "b#2")]
    )  # fmt: skip


def test_one_client_who_alternates_never_waits_for_a_hold() -> None:
    play = a_ready(limits=Limits(hold=1000, patience=1000))
    play << LeaseRequested(2, 2, B) >> [StopWorker("a#1", "pressure")]


def test_two_alternating_clients_get_more_than_one_request_out_of_a_swap() -> None:
    (
        a_busy()
        << LeaseRequested(1.5, 2, B) >> []
        << LeaseReleased(2, 1) >> []  # its client may be about to ask again
        << LeaseRequested(2 + LINGER / 2, 3, A) >> [GrantLease(3, "a#1")]
        << LeaseReleased(2.5, 3) >> []
        << TimePassed(2.5 + LINGER) >> [StopWorker("a#1", "pressure")]
    )  # fmt: skip


def test_after_its_minimum_hold_an_idle_model_goes_in_the_moment_it_is_idle() -> None:
    play = a_busy(limits=Limits(hold=2))
    play << LeaseRequested(1.5, 2, B) >> []
    play << LeaseReleased(3, 1) >> [StopWorker("a#1", "pressure")]


def test_the_alarm_is_set_for_the_end_of_the_linger() -> None:
    play = a_busy()
    play << LeaseRequested(1.5, 2, B) >> [] << LeaseReleased(2, 1) >> []
    assert play.wake == 2 + LINGER


def test_models_that_fit_side_by_side_stay_side_by_side() -> None:
    (
        a_busy()
        << LeaseRequested(2, 2, C) >> [start("c#2", C, "request")]
        << ready(3, "c#2", slots=1, resident=3) >> [GrantLease(2, "c#2")]
    )  # fmt: skip


def test_a_resident_ready_model_is_served_at_once_whatever_else_loads() -> None:
    (
        a_busy()
        << LeaseRequested(2, 2, C) >> [start("c#2", C, "request")]
        << LeaseRequested(3, 3, B) >> []  # waits for memory
        << LeaseRequested(4, 4, A) >> [GrantLease(4, "a#1")]
    )  # fmt: skip


def test_nobody_overtakes_the_head_of_the_queue_for_memory() -> None:
    small = model("small", 1)
    play = a_busy()
    play << desired(1, [A, B, C, small]) >> []
    play << LeaseRequested(2, 2, B) >> []  # needs A's memory
    play << LeaseRequested(3, 3, small) >> []  # would fit, but B came first
    play << LeaseReleased(4, 1) >> [StopWorker("a#1", "pressure")]
    (
        play
        << WorkerExited(5, "a#1")
        >> [
            start("b#2", B, "request"),
            start("small#3", small, "request"),
        ]
    )


def test_the_fewest_least_recently_used_idle_models_go() -> None:
    one, two, three = model("one", 2), model("two", 4), model("three", 4)
    play = house(one, two, three, A)
    for number, each in enumerate((one, two, three), start=1):
        name = f"{each.name}#{number}"
        play << LeaseRequested(number, number, each) >> [start(name, each, "request")]
        play << ready(number, name, 1, each.footprint.total) >> [GrantLease(number, name)]
        play << LeaseReleased(number, number) >> []
    # 8 are needed, 2 are free: the two oldest hold 6 between them.
    play << LeaseRequested(9, 9, A) >> [StopWorker("one#1", "pressure"), StopWorker("two#2", "pressure")]


def test_memory_on_its_way_back_is_not_given_away_twice() -> None:
    (
        a_ready()
        << LeaseRequested(4, 2, B) >> [StopWorker("a#1", "pressure")]
        << TimePassed(5) >> []
        << LeaseRequested(6, 3, A) >> []  # gone from here on: it waits its turn
        << WorkerExited(7, "a#1") >> [start("b#2", B, "request")]
    )  # fmt: skip


def test_a_model_that_loads_for_somebody_is_no_victim() -> None:
    (
        house(A, B)
        << LeaseRequested(0, 1, A) >> [start("a#1", A, "request")]
        << LeaseRequested(1, 2, B) >> []
        << TimePassed(60) >> []
        << ready(61, "a#1", 1, 8) >> [GrantLease(1, "a#1")]
    )  # fmt: skip


def test_a_busy_model_is_drained_only_after_the_waiter_lost_patience() -> None:
    (
        a_busy()
        << LeaseRequested(2, 2, B) >> []
        << LeaseRequested(3, 3, A) >> [GrantLease(3, "a#1")]
        << TimePassed(12) >> []  # A is draining now
        << LeaseRequested(13, 4, A) >> []  # and takes no more
        << LeaseReleased(14, 1) >> []
        << LeaseReleased(15, 3) >> [StopWorker("a#1", "pressure")]
        << WorkerExited(16, "a#1") >> [start("b#2", B, "request")]
        << ready(17, "b#2", 1, 6) >> [GrantLease(2, "b#2")]
        << LeaseReleased(18, 2) >> []  # 4 was there meanwhile: B gets its linger
        << TimePassed(18 + LINGER) >> [StopWorker("b#2", "pressure")]
        << WorkerExited(20, "b#2") >> [start("a#3", A, "request")]
    )  # fmt: skip


def test_a_minimum_hold_outlasts_the_patience_of_a_waiter() -> None:
    play = house(A, B, limits=Limits(hold=20, patience=5))
    play << LeaseRequested(0, 1, A) >> [start("a#1", A, "request")]
    play << LeaseRequested(0, 2, B) >> []
    play << ready(10, "a#1", 1, 8) >> [GrantLease(1, "a#1")]
    assert play.wake == 30
    play << TimePassed(29) >> []
    assert play.core.tables.instances["a#1"].phase is Phase.READY
    play << TimePassed(30) >> []
    assert play.core.tables.instances["a#1"].phase is Phase.DRAINING


def test_steady_traffic_to_the_resident_model_cannot_starve_a_waiter() -> None:
    play = a_busy()
    play << LeaseRequested(1.5, 1000, B) >> []
    running, now, ticket, granted = {1: 1.0}, 1.5, 1, True
    while granted:  # one request of two seconds each second: A is never idle
        now, ticket = now + 1, ticket + 1
        for done in [t for t, began in running.items() if now - began >= 1.5]:
            del running[done]
            play.core.handle(LeaseReleased(now, done))
        granted = GrantLease(ticket, "a#1") in play.core.handle(LeaseRequested(now, ticket, A))
        running |= {ticket: now} if granted else {}
    assert now <= 1.5 + LIMITS.patience + 1
    for done in sorted(running)[:-1]:
        play.core.handle(LeaseReleased(now, done))
    play << LeaseReleased(now + 2.5, max(running)) >> [StopWorker("a#1", "pressure")]


def test_who_waited_for_a_slot_longer_does_not_undo_the_drain_that_another_caused() -> None:
    (
        house(A, B)
        << LeaseRequested(0, 1, A) >> [start("a#1", A, "request")]
        << ready(1, "a#1", 1, 8) >> [GrantLease(1, "a#1")]
        << LeaseRequested(2, 2, A) >> []  # waits for the only slot
        << LeaseRequested(3, 3, B) >> []
        << TimePassed(13) >> []  # drained for B
        << LeaseReleased(14, 1) >> [StopWorker("a#1", "pressure")]
        << WorkerExited(15, "a#1") >> [start("b#2", B, "request")]
    )  # fmt: skip


def test_a_waiter_who_leaves_costs_the_model_that_was_drained_for_it_nothing() -> None:
    (
        a_busy()
        << LeaseRequested(2, 2, B) >> []
        << TimePassed(12) >> []
        << LeaseRequested(13, 3, A) >> []
        << LeaseReleased(14, 2) >> [GrantLease(3, "a#1")]
    )  # fmt: skip


def test_a_waiter_who_is_refused_gives_back_what_was_drained_for_it() -> None:
    (
        a_busy()
        << LeaseRequested(2, 2, B, deadline=20) >> []
        << TimePassed(12) >> []
        << LeaseRequested(13, 3, A) >> []
        << TimePassed(20) >> [Refused(2, LeaseTimeout), GrantLease(3, "a#1")]
    )  # fmt: skip


def test_only_as_many_busy_models_are_drained_as_are_needed() -> None:
    one, two = model("one", 6), model("two", 6)
    play = house(one, two, B)
    for number, each in enumerate((one, two), start=1):
        name = f"{each.name}#{number}"
        play << LeaseRequested(number, number, each) >> [start(name, each, "request")]
        play << ready(number, name, 1, 6) >> [GrantLease(number, name)]
    play << LeaseRequested(3, 3, B) >> []
    for now in (13, 14, 15):
        play << TimePassed(now) >> []
    phases = [i.phase for i in play.core.tables.instances.values()]
    assert phases == [Phase.DRAINING, Phase.READY]


def test_a_waiter_is_refused_at_its_own_deadline() -> None:
    play = a_busy()
    play << LeaseRequested(2, 2, B, deadline=5) >> []
    assert play.wake == 5
    play << TimePassed(5) >> [Refused(2, LeaseTimeout, retry_after=22.5)]


def test_a_waiter_without_a_deadline_is_refused_after_the_longest_wait() -> None:
    play = a_busy(limits=Limits(max_wait=7, patience=100))
    play << LeaseRequested(2, 2, B) >> [] << TimePassed(8.9) >> []
    play << TimePassed(9) >> [Refused(2, LeaseTimeout)]


def test_a_request_that_may_not_wait_is_served_or_refused_at_once_and_loads_nothing() -> None:
    (
        a_ready()
        << LeaseRequested(3, 2, C, deadline=3) >> [Refused(2, LeaseTimeout)]
        << LeaseRequested(3, 3, A, deadline=3) >> [GrantLease(3, "a#1")]
    )  # fmt: skip


def test_the_queue_is_bounded_and_says_when_to_come_back() -> None:
    play = a_busy(limits=Limits(max_waiting=2))
    play << LeaseRequested(2, 2, B) >> [] << LeaseRequested(2, 3, C) >> []
    play << LeaseRequested(2, 4, C) >> [Refused(4, QueueFull, retry_after=25.5)]
    play << LeaseRequested(2, 5, A) >> [GrantLease(5, "a#1")]  # it does not have to wait
    play << LeaseRequested(2, 6, A) >> [Refused(6, QueueFull)]  # both slots are taken: it would


def test_one_model_cannot_fill_the_queue_for_the_others() -> None:
    play = a_busy(limits=Limits(max_waiting=10, max_waiting_per_model=1))
    play << LeaseRequested(2, 2, B) >> []
    play << LeaseRequested(2, 3, B) >> [Refused(3, QueueFull, retry_after=25.5)]
    play << LeaseRequested(2, 4, C) >> []


def test_what_cannot_fit_even_alone_is_refused_and_nobody_is_evicted_for_it() -> None:
    play = a_ready()
    play << LeaseRequested(3, 2, model("huge", 13)) >> [Refused(2, DoesNotFit, retry_after=None)]


def test_what_cannot_fit_beside_the_pinned_is_refused_even_while_the_pinned_is_not_loaded() -> None:
    pinned = model("p", 5, pinned=True)
    play = house(A)
    play << desired(1, [A, pinned]) >> [start("p#1", pinned, "preload")]
    play << LeaseRequested(2, 1, A) >> [Refused(1, DoesNotFit, retry_after=None)]
    play << WorkerExited(3, "p#1", "boom") >> [start("p#2", pinned, "preload")]
    play << LeaseRequested(4, 2, A) >> [Refused(2, DoesNotFit, retry_after=None)]


def test_a_model_with_a_problem_is_refused_with_it_at_once() -> None:
    broken = model("broken", 3, problem="/broken.gguf: no such file", preload=True)
    play = house(A, broken)
    (action,) = play.core.handle(LeaseRequested(0, 1, broken))
    assert action == Refused(1, LoadFailed, retry_after=None)
    assert "no such file" in str(action)


def test_a_model_whose_problem_is_its_size_does_not_fit() -> None:
    large = model("large", 13, problem="needs more than the budget")
    house(A) << LeaseRequested(0, 1, large) >> [Refused(1, DoesNotFit, retry_after=None)]


def test_a_problem_that_appears_while_a_model_is_in_memory_does_not_stop_it_serving() -> None:
    play = a_ready()
    missing = msgspec.structs.replace(A, problem="its file is gone")
    play << desired(3, [missing, B]) >> []
    play << LeaseRequested(4, 2, missing) >> [GrantLease(2, "a#1")]


def test_a_pinned_model_is_loaded_unasked_and_never_evicted() -> None:
    pinned = model("p", 5, pinned=True, ttl=1.0)
    play = house(A, B, pinned) >> [start("p#1", pinned, "preload")]
    play << ready(1, "p#1", 1, 5) >> []
    play << TimePassed(1000) >> []
    play << LeaseRequested(1001, 1, B) >> [start("b#2", B, "request")]
    play << LeaseRequested(1002, 2, C) >> []  # 1 byte is free, and the other 11 are pinned or loading
    play << TimePassed(1200) >> []


def test_a_preloaded_model_is_loaded_once_and_not_again_after_its_ttl() -> None:
    early = model("e", 4, preload=True, ttl=5.0)
    play = house(A, early) >> [start("e#1", early, "preload")]
    play << ready(1, "e#1", 1, 4) >> []
    assert play.wake == 6
    play << TimePassed(6) >> [StopWorker("e#1", "idle")]
    play << WorkerExited(7, "e#1") >> []


def test_nothing_is_preloaded_while_somebody_waits_nor_at_anybodys_expense() -> None:
    early = model("e", 5, preload=True)
    play = a_busy()
    play << LeaseRequested(2, 2, B) >> []
    play << desired(3, [A, B, early]) >> []
    play << LeaseReleased(4, 2) >> []  # A holds 8 of 12: E does not fit
    play << desired(5, [A, B, early], budget=13) >> [start("e#2", early, "preload")]


def test_pinned_models_are_preloaded_before_the_others() -> None:
    early, pinned = model("e", 7, preload=True), model("p", 7, pinned=True)
    house(early, pinned) >> [start("p#1", pinned, "preload")]


def test_a_pinned_model_that_crashed_comes_back_by_itself() -> None:
    pinned = model("p", 5, pinned=True)
    play = house(pinned) >> [start("p#1", pinned, "preload")]
    play << ready(1, "p#1", 1, 5) >> []
    play << WorkerExited(2, "p#1", "boom") >> [start("p#2", pinned, "preload")]


def test_a_ttl_counts_from_the_end_of_the_last_request_and_never_means_never() -> None:
    brief, lasting = model("brief", 2, ttl=5.0), model("lasting", 2, ttl=None)
    play = house(brief, lasting)
    for number, each in enumerate((brief, lasting), start=1):
        name = f"{each.name}#{number}"
        play << LeaseRequested(0, number, each) >> [start(name, each, "request")]
        play << ready(1, name, 1, 2) >> [GrantLease(number, name)]
    play << TimePassed(50) >> []  # both are in use
    play << LeaseReleased(51, 1) >> [] << LeaseReleased(51, 2) >> []
    play << TimePassed(55.9) >> []
    play << TimePassed(56) >> [StopWorker("brief#1", "idle")]
    play << WorkerExited(57, "brief#1") >> []
    assert play.wake is None
