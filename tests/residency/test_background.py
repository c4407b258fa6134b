"""Loads for which nobody waits: what a spilled request leads to, event by event and in virtual time."""

from __future__ import annotations

import asyncio

import pytest

from router.domain.models import Limits, LocalModel
from router.residency.estimate import UNKNOWN_LOAD
from router.residency.events import (
    GrantLease,
    LeaseReleased,
    LeaseRequested,
    RequestSpilled,
    StopWorker,
    TimePassed,
    WorkerExited,
)
from tests.residency.core_scene import A, B, C, a_busy, a_ready
from tests.residency.fakes import FakeLauncher
from tests.residency.manager_scene import House
from tests.residency.manager_scene import house as running
from tests.residency.playbook import Play, changed, desired, house, model, placed, ready, start
from tests.residency.virtual_time import in_virtual_time

D = model("d", 3)


def warm(play: Play, wanted: LocalModel, at: float, number: int, size: int) -> Play:
    """It is loaded for a spilled request, and ready a second later."""
    play << RequestSpilled(at, wanted) >> [start(f"{wanted.name}#{number}", wanted, "spill")]
    return play << ready(at + 1, f"{wanted.name}#{number}", 2, size) >> []


def test_what_a_request_went_past_is_loaded_into_free_memory_for_the_next_ones() -> None:
    play = warm(house(A, B), A, 0, 1, 8)
    play << LeaseRequested(2, 1, A) >> [GrantLease(1, "a#1")]


def test_one_such_load_at_a_time_and_none_twice() -> None:
    play = house(A, C, D, budget=20) << RequestSpilled(0, C) >> [start("c#1", C, "spill")]
    play << RequestSpilled(0, C) >> [] << RequestSpilled(0, D) >> []
    play << ready(1, "c#1", 2, 3) >> [] << RequestSpilled(2, C) >> []
    play << RequestSpilled(2, D) >> [start("d#2", D, "spill")]


def test_the_load_of_a_waiting_client_is_no_load_in_the_background() -> None:
    play = house(A, C) << LeaseRequested(0, 1, A) >> [start("a#1", A, "request")]
    play << RequestSpilled(1, C) >> [start("c#2", C, "spill")]


def test_a_busy_model_is_never_evicted_for_it() -> None:
    play = a_busy()
    for _ in range(20):
        play << RequestSpilled(400, B) >> []
    play << LeaseReleased(401, 1) >> []
    play << RequestSpilled(402, B) >> [StopWorker("a#1", "pressure")]


def test_an_idle_model_gives_way_to_one_asked_for_much_more_and_the_load_waits_for_its_memory() -> None:
    play = a_ready() << RequestSpilled(10, B) >> []  # asked for as often as A
    play << RequestSpilled(11, B) >> [StopWorker("a#1", "pressure")]
    play << RequestSpilled(12, B) >> []
    play << WorkerExited(13, "a#1") >> [start("b#2", B, "spill")]


def test_an_idle_model_within_its_minimum_hold_stays() -> None:
    play = a_ready(limits=Limits(hold=5.0))
    for _ in range(5):
        play << RequestSpilled(3, B) >> []
    play << RequestSpilled(6.5, B) >> [StopWorker("a#1", "pressure")]


def test_a_pinned_model_stays_and_memory_is_kept_for_one_that_is_to_come() -> None:
    pinned = model("p", 8, pinned=True)
    play = house(budget=12) << desired(0, [pinned, B, C], 12) >> [start("p#1", pinned, "preload")]
    play << WorkerExited(1, "p#1", "boom") >> [start("p#2", pinned, "preload")]
    play << ready(2, "p#2", 2, 8) >> []
    for at in (100, 100, 100):
        play << RequestSpilled(at, B) >> []
    play << RequestSpilled(101, C) >> [start("c#3", C, "spill")]


def test_two_models_that_are_asked_for_in_turn_do_not_evict_each_other() -> None:
    play = house(A, B)
    play << RequestSpilled(0, A) >> [start("a#1", A, "spill")] << ready(1, "a#1", 2, 8) >> []
    for n in range(50):
        at = 10.0 + 20 * n
        play << RequestSpilled(at, B) >> []
        play << LeaseRequested(at + 5, n, A) >> [GrantLease(n, "a#1")] << LeaseReleased(at + 6, n) >> []


def test_several_small_models_do_not_give_way_to_one_that_is_asked_for_less_than_all_of_them() -> None:
    big = model("big", 12)
    play = warm(warm(house(C, D, big), C, 0, 1, 3), D, 2, 2, 3)
    for at in (10, 11, 12):
        play << RequestSpilled(at, big) >> []  # three times as often as each, less than four times
    play << RequestSpilled(13, big) >> [StopWorker("c#1", "pressure"), StopWorker("d#2", "pressure")]


def test_who_waits_for_memory_goes_first() -> None:
    play = a_busy() << LeaseRequested(2, 2, B) >> []  # it waits until A may be drained
    play << RequestSpilled(3, C) >> []
    play << LeaseReleased(4, 1)
    play._last.clear()
    assert play.core.tables.spilled is None


def test_a_waiter_who_comes_while_memory_is_freed_takes_it() -> None:
    play = a_ready() << RequestSpilled(400, B) >> [StopWorker("a#1", "pressure")]
    play << LeaseRequested(401, 9, A) >> []
    play << WorkerExited(402, "a#1") >> [start("a#2", A, "request")]


@pytest.mark.parametrize(
    "spoilt",
    [
        model("b", 6, problem="its file is missing"),
        model("b", 6, ttl=0.0),
        model("b", 13),
    ],
    ids=["broken", "unloaded after each request", "too large"],
)
def test_what_could_not_stay_is_not_loaded(spoilt: LocalModel) -> None:
    play = house(A, spoilt) << RequestSpilled(0, spoilt) >> []
    assert play.core.tables.spilled is None


def test_what_fails_is_paused_like_any_load() -> None:
    play = house(A, limits=Limits(failures=2, failure_window=60, backoff=30))
    for number in (1, 2):
        play << RequestSpilled(number, A) >> [start(f"a#{number}", A, "spill")]
        play << WorkerExited(number, f"a#{number}", "boom") >> []
    play << RequestSpilled(3, A) >> []
    play << RequestSpilled(40, A) >> [start("a#3", A, "spill")]


def test_a_model_that_is_no_longer_in_the_registry_is_not_loaded_and_leaves_nothing_behind() -> None:
    play = house(A) << RequestSpilled(0, changed(A)) >> [] << RequestSpilled(0, B) >> []
    assert play.core.tables.paces == {}


def test_an_operators_unload_lasts_until_somebody_asks_again() -> None:
    play = warm(house(A), A, 0, 1, 8)
    play.core.tables.dismissed.add(A.fingerprint)
    play << WorkerExited(2, "a#1") >> [] << TimePassed(3) >> []
    play << RequestSpilled(4, A) >> [start("a#2", A, "spill")]


def test_it_goes_to_the_device_with_the_most_room() -> None:
    wanted = placed("w", {"gpu0": 3}, {"gpu1": 3})
    play = house(wanted, budget={"gpu0": 5, "gpu1": 9}) << RequestSpilled(0, wanted)
    assert [a.placement for a in play._last] == [wanted.placements[1]]  # type: ignore[union-attr]
    play._last.clear()


def test_a_request_that_waited_first_counts_once() -> None:
    play = a_ready() << RequestSpilled(3, A, waited=True) >> []
    assert play.core.tables.pace(A.fingerprint).demand == pytest.approx(1.0, abs=0.01)
    play << RequestSpilled(3, A) >> []
    assert play.core.tables.pace(A.fingerprint).demand == pytest.approx(2.0, abs=0.01)


# In virtual time ----------------------------------------------------------------------------------------------

MAX_WAIT = 5.0


async def ask(home: House, wanted: LocalModel) -> str:
    """As routing does under `spill: {max_wait: 5s}`: who answers."""
    if home.manager.expected_wait(wanted) > MAX_WAIT:
        home.manager.spilled(wanted)
        return "cloud"
    return await home.use(wanted, 0.5)


@in_virtual_time
async def test_of_five_requests_for_a_cold_model_only_those_before_its_load_are_paid_for() -> None:
    async with running(FakeLauncher(load_seconds=8.0)) as home:
        a, _ = home.core.tables.desired.values()
        answered = []
        for _ in range(5):
            answered.append(await ask(home, a))
            await asyncio.sleep(UNKNOWN_LOAD)
        assert answered == ["cloud", "a#1", "a#1", "a#1", "a#1"]
        assert home.value("router_swaps_total", model="a", reason="spill") == 1


@in_virtual_time
async def test_two_cold_models_in_turn_cost_two_loads_at_most_in_ten_minutes() -> None:
    async with running(FakeLauncher(load_seconds=8.0)) as home:
        a, b = home.core.tables.desired.values()
        for _ in range(30):
            for wanted in (a, b):
                await ask(home, wanted)
                await asyncio.sleep(10)
        assert sum(home.value("router_swaps_total", model=m, reason="spill") or 0 for m in "ab") <= 2


@in_virtual_time
async def test_the_model_that_is_asked_for_now_takes_the_place_of_one_that_was_long_ago() -> None:
    async with running(FakeLauncher(load_seconds=8.0)) as home:
        a, b = home.core.tables.desired.values()
        for _ in range(20):
            await ask(home, a)
            await asyncio.sleep(5)
        await asyncio.sleep(590)  # A's ttl is 600 s
        answered = []
        for _ in range(5):
            answered.append(await ask(home, b))
            await asyncio.sleep(60)
        assert answered[-1].startswith("b#")
