from __future__ import annotations

import typing

import pytest

from router.domain.models import Limits, Placement
from router.residency.policy import (
    HALF_LIFE,
    LINGER,
    ORDERS,
    after_failure,
    cheapest_first,
    cover,
    demand,
    goes_at,
    hold,
    least_loss,
    loss,
    oldest_first,
    rank,
    retry_after,
    spread,
    to_shrink,
)
from router.residency.state import Failures, Instance, Pace, Phase, Waiter
from tests.residency.playbook import model, on, placed

LIMITS = Limits(patience=10, hold=2, backoff=5, backoff_max=300, failures=3, failure_window=60)


def ready(
    name: str, size: int, last_used: float = 0.0, leases: int = 0, ready_at: float = 0.0, load: float = 0.5
) -> Instance:
    each = model(name, size)
    return Instance(
        name,
        each,
        each.fingerprint,
        each.placements[0],
        on(size),
        "request",
        Phase.READY,
        slots=4,
        leases=set(range(leases)),
        last_used=last_used,
        started=ready_at - load,
        ready_at=ready_at,
    )


def waiter(since: float) -> Waiter:
    wanted = model("wanted", 1)
    return Waiter(1, wanted, wanted.fingerprint, since, since + 300)


def names(instances: list[Instance] | None) -> list[str] | None:
    return None if instances is None else [i.id for i in instances]


def test_the_fewest_that_cover_the_need_are_chosen_from_the_oldest_on() -> None:
    candidates = [ready("a", 3), ready("b", 3), ready("c", 3)]
    assert names(cover(on(5), candidates)) == ["a", "b"]


def test_early_picks_that_a_larger_one_makes_unnecessary_are_dropped() -> None:
    assert names(cover(on(8), [ready("a", 2), ready("b", 3), ready("c", 8)])) == ["c"]


def test_nobody_is_evicted_in_vain() -> None:
    assert cover(on(10), [ready("a", 4), ready("b", 5)]) is None
    assert cover(on(0), [ready("a", 4)]) == []
    assert cover(on(1), []) is None


def test_idle_models_are_considered_before_busy_ones_each_by_last_use() -> None:
    order = oldest_first([ready("busy", 1, 1, leases=1), ready("new", 1, 9), ready("old", 1, 5)], {}, {})
    assert names(order) == ["old", "new", "busy"]


def test_an_idle_model_goes_at_once_for_whoever_came_after_it_fell_idle() -> None:
    assert goes_at(waiter(since=1.5), ready("a", 1, last_used=1.5), LIMITS) == 1.5


def test_an_idle_model_lingers_inside_its_hold_for_whoever_waited_while_it_worked() -> None:
    assert goes_at(waiter(since=1.0), ready("a", 1, last_used=1.5), LIMITS) == 1.5 + LINGER


def test_a_linger_ends_with_the_hold() -> None:
    assert goes_at(waiter(since=1.0), ready("a", 1, last_used=1.99), LIMITS) == 2.0
    assert goes_at(waiter(since=1.0), ready("a", 1, last_used=50.0), LIMITS) <= 50.0


@pytest.mark.parametrize(("ready_at", "expected"), [(0.0, 11.0), (30.0, 32.0)])
def test_a_busy_model_goes_after_patience_and_hold_whichever_is_later(
    ready_at: float, expected: float
) -> None:
    holder = ready("a", 1, last_used=31, leases=1, ready_at=ready_at)
    assert goes_at(waiter(since=1.0), holder, LIMITS) == expected


def test_a_rank_is_an_arrival_moved_by_priority_and_never_changes() -> None:
    limits = Limits(aging=10)
    assert [rank(100.0, points, limits) for points in (0, 2, -1)] == [100.0, 80.0, 110.0]
    assert rank(100.0, 5, Limits(aging=0)) == 100.0


@pytest.mark.parametrize(("load", "seconds"), [(0.5, 2.0), (3.0, 6.0), (400.0, 10.0)])
def test_a_hold_is_twice_the_load_within_the_least_hold_and_the_patience(load: float, seconds: float) -> None:
    assert hold(load, LIMITS) == seconds


def test_a_least_hold_over_the_patience_is_the_operators_word() -> None:
    assert hold(1.0, Limits(hold=60, patience=10)) == 60


def test_demand_halves_and_a_loss_is_demand_times_the_reload() -> None:
    pace = Pace(load=4.0, demand=3.0, at=0.0)
    assert demand(pace, HALF_LIFE) == pytest.approx(1.5)
    assert loss(pace, HALF_LIFE) == pytest.approx(6.0)
    assert loss(Pace(demand=3.0), 0.0) == 0.0


def test_the_cheapest_for_each_byte_that_helps_goes_first_and_the_busy_last() -> None:
    small, large, busy = ready("small", 2, 1), ready("large", 8, 2), ready("busy", 8, 0, leases=1)
    losses = {small.fingerprint: 1.0, large.fingerprint: 2.0}
    assert names(cheapest_first([busy, small, large], losses, on(8))) == ["large", "small", "busy"]
    assert names(cheapest_first([busy, small, large], losses, on(2))) == ["small", "large", "busy"]
    assert names(oldest_first([busy, large, small], losses, on(8))) == ["small", "large", "busy"]


def test_among_equals_the_least_recently_used_goes_first() -> None:
    new, old = ready("new", 2, 9), ready("old", 2, 1)
    assert names(cheapest_first([new, old], {}, on(2))) == ["old", "new"]


def test_both_orders_have_names_in_the_registry() -> None:
    assert set(ORDERS) == set(typing.get_args(typing.get_type_hints(Limits)["eviction"]))


def test_a_smaller_budget_takes_what_covers_it_and_pinned_models_last() -> None:
    house = [ready("pinned", 4), ready("old", 3, 1), ready("new", 3, 2)]
    assert names(to_shrink(on(3), on(0), house, {"pinned"})) == ["old"]
    assert names(to_shrink(on(7), on(0), house, {"pinned"})) == ["old", "new", "pinned"]
    assert names(to_shrink(on(7), on(1), house, {"pinned"})) == [
        "old",
        "new",
    ]  # the load may be enough, later
    assert names(to_shrink(on(99), on(0), house, {"pinned"})) == ["old", "new", "pinned"]


def test_pauses_begin_with_the_third_failure_and_double_up_to_their_bound() -> None:
    record, pauses = Failures(), []
    for number in range(10):
        record = after_failure(record, float(number), "boom", LIMITS)
        pauses.append(record.until - number)
    assert pauses[:2] == [float("-inf")] * 2
    assert pauses[2:] == [5, 10, 20, 40, 80, 160, 300, 300]
    assert len(record.times) <= LIMITS.failures


def test_failures_outside_the_window_do_not_count() -> None:
    record = Failures()
    for number in range(5):
        record = after_failure(record, number * 31.0, "boom", LIMITS)
    assert record.strikes == 0


def test_ten_thousand_failures_do_not_overflow() -> None:
    record = after_failure(Failures(strikes=10_000), 0.0, "boom", LIMITS)
    assert record.until == 300


@pytest.mark.parametrize(("estimate", "seconds"), [(0.0, 1.0), (12.5, 12.5), (9999.0, 120.0)])
def test_a_retry_time_is_the_estimate_within_bounds(estimate: float, seconds: float) -> None:
    assert retry_after(estimate) == seconds


# Where ----------------------------------------------------------------------------------------------------


def order(ways: tuple[Placement, ...], busy: dict[str, int], free: dict[str, int]) -> list[int]:
    return [ways.index(way) for way in spread(ways, busy, free)]


def test_among_equals_the_device_with_the_fewest_busy_slots_then_the_most_free_bytes_is_first() -> None:
    ways = placed("w", {"gpu0": 8, "host": 1}, {"gpu1": 8, "host": 1}, {"gpu2": 8, "host": 1}).placements
    assert order(ways, {}, {}) == [0, 1, 2]
    assert order(ways, {}, {"gpu0": 9, "gpu1": 20, "gpu2": 10}) == [1, 2, 0]
    assert order(ways, {"gpu1": 1, "gpu2": 1}, {"gpu0": 9, "gpu1": 20, "gpu2": 10}) == [0, 1, 2]


def test_placements_that_are_no_equals_keep_their_order() -> None:
    ways = placed("w", {"gpu0": 8}, {"gpu1": 8}, {"gpu0": 4, "gpu1": 4}, {"gpu1": 4, "host": 4}, {"host": 8})
    assert order(ways.placements, {"gpu0": 3, "gpu1": 2}, {"host": 99}) == [1, 0, 2, 3, 4]


@pytest.mark.parametrize(("eviction", "gone"), [("cost", "recent"), ("lru", "wanted")])
def test_of_several_ways_to_make_room_the_one_whose_victims_are_missed_least(
    eviction: str, gone: str
) -> None:
    first, second = placed("w", {"gpu0": 8}, {"gpu1": 8}).placements
    wanted, recent = ready("wanted", 8, last_used=1), ready("recent", 8, last_used=2)
    losses = {wanted.fingerprint: 5.0, recent.fingerprint: 1.0}
    chosen = least_loss([(first, [wanted]), (second, [recent])], losses, eviction)  # type: ignore[arg-type]
    assert names(chosen) == [gone]


def test_a_worse_placement_spares_nobody_and_who_goes_already_is_enough() -> None:
    whole, split = placed("w", {"gpu0": 8}, {"gpu0": 4, "gpu1": 4}).placements
    victim = ready("victim", 8)
    assert names(least_loss([(whole, [victim]), (split, [])], {}, "cost")) == ["victim"]
    first, second = placed("w", {"gpu0": 8}, {"gpu1": 8}).placements
    assert names(least_loss([(first, [victim]), (second, [])], {}, "cost")) == []
