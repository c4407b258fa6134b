"""Memory on several devices: where a model goes, and who makes room."""

from __future__ import annotations

import msgspec
import pytest

from router.domain.errors import DoesNotFit, DoesNotFitNow, WorkerCrashed
from router.domain.models import LocalModel
from router.residency.core import Residency
from router.residency.events import (
    Action,
    GrantLease,
    LeaseReleased,
    LeaseRequested,
    StartWorker,
    StopWorker,
    WorkerExited,
    WorkerFreed,
    WorkerStuck,
)
from router.residency.state import Phase
from tests.residency.core_scene import A, B, a_busy, a_ready
from tests.residency.playbook import Play, Refused, desired, house, model, on, placed, ready, start

TWO = {"gpu0": 10, "gpu1": 10, "host": 20}
BIG = placed("big", {"gpu0": 8}, {"gpu1": 8}, {"gpu0": 4, "host": 6})
OTHER = placed("other", {"gpu0": 8}, {"gpu1": 8})


def big_ready() -> Play:
    """Big is on gpu0, idle since 2."""
    return (
        house(BIG, OTHER, budget=TWO)
        << LeaseRequested(0, 1, BIG) >> [start("big#1", BIG, "request")]
        << ready(1, "big#1", 1, {"gpu0": 8}) >> [GrantLease(1, "big#1")]
        << LeaseReleased(2, 1) >> []
    )  # fmt: skip


def test_the_first_placement_that_fits_now_is_taken() -> None:
    (
        big_ready()
        << LeaseRequested(3, 2, OTHER)
        >> [StartWorker("other#2", OTHER, OTHER.placements[1], "request")]
    )


def test_bytes_of_one_device_are_no_help_on_another() -> None:
    play = big_ready()
    tight = placed("tight", {"gpu0": 10, "host": 5})
    play << LeaseRequested(3, 2, OTHER)
    play._last.clear()
    play << ready(4, "other#2", 1, {"gpu1": 8}) >> [GrantLease(2, "other#2")]
    play << LeaseReleased(5, 2) >> []
    # Other is as idle, but its bytes are on gpu1.
    play << LeaseRequested(6, 3, tight) >> [StopWorker("big#1", "pressure")]
    play << WorkerExited(7, "big#1") >> [start("tight#3", tight, "request")]


def test_what_fits_nowhere_now_evicts_for_the_placement_that_it_likes_best() -> None:
    play = big_ready()
    play << LeaseRequested(3, 2, OTHER)
    play._last.clear()
    play << ready(4, "other#2", 1, {"gpu1": 8}) >> [GrantLease(2, "other#2")]
    third = placed("third", {"gpu0": 9}, {"gpu1": 9})
    play << LeaseRequested(5, 3, third) >> [StopWorker("big#1", "pressure")]
    play << WorkerExited(6, "big#1") >> [start("third#3", third, "request")]


def test_a_second_best_placement_with_an_idle_victim_is_better_than_draining_a_busy_one() -> None:
    play = big_ready()
    play << LeaseRequested(3, 1, BIG) >> [GrantLease(1, "big#1")]
    play << LeaseRequested(3, 2, OTHER)
    play._last.clear()
    play << ready(4, "other#2", 1, {"gpu1": 8}) >> [GrantLease(2, "other#2")] << LeaseReleased(5, 2) >> []
    third = placed("third", {"gpu0": 9}, {"gpu1": 9})
    play << LeaseRequested(6, 3, third) >> [StopWorker("other#2", "pressure")]


def test_only_what_fits_nowhere_is_refused() -> None:
    play = big_ready()
    huge = placed("huge", {"gpu0": 11}, {"gpu0": 4, "host": 21})
    play << LeaseRequested(3, 2, huge) >> [Refused(2, DoesNotFit, retry_after=None)]
    fair = placed("fair", {"gpu0": 11}, {"gpu0": 2, "host": 20})
    play << LeaseRequested(4, 3, fair) >> [StartWorker("fair#2", fair, fair.placements[1], "request")]


def test_a_device_without_a_budget_is_not_limited() -> None:
    spilled = placed("spilled", {"gpu0": 5, "host": 10**12})
    house(spilled) << LeaseRequested(0, 1, spilled) >> [start("spilled#1", spilled, "request")]


def test_measured_bytes_belong_to_the_placement_that_was_measured() -> None:
    play = big_ready()
    play << ready(3, "big#1", 1, {"gpu0": 9}) >> []  # too late: it is ready already
    play << LeaseRequested(3, 2, OTHER)
    play._last.clear()
    play << ready(4, "other#2", 1, {"gpu1": 9}) >> [GrantLease(2, "other#2")]
    tables = play.core.tables
    assert tables.need(OTHER.fingerprint, OTHER.placements[0]) == {"gpu0": 8}
    assert tables.need(OTHER.fingerprint, OTHER.placements[1]) == {"gpu1": 9}


def test_the_next_load_starts_when_it_fits_beside_what_remains_of_the_leaving_process() -> None:
    (
        a_ready()
        << LeaseRequested(4, 2, B) >> [StopWorker("a#1", "pressure")]
        << WorkerFreed(5, "a#1", on(7)) >> []  # 7 of 12 are held, 6 are needed
        << WorkerFreed(5, "a#1", on(2)) >> [start("b#2", B, "request")]
        << WorkerExited(6, "a#1") >> []
    )  # fmt: skip


def test_a_load_that_nobody_waits_for_gives_way_before_an_idle_model_does() -> None:
    play = big_ready()
    play << LeaseRequested(3, 2, OTHER)
    play._last.clear()
    third = placed("third", {"gpu0": 9}, {"gpu1": 9})
    play << LeaseReleased(4, 2) >> []  # it may finish, as long as nobody needs its memory
    play << LeaseRequested(5, 3, third) >> [StopWorker("other#2", "abandoned")]
    play << WorkerExited(6, "other#2", "it was told to stop")
    play >> [StartWorker("third#3", third, third.placements[1], "request")]
    assert play.core.tables.failures == {}


def test_a_load_that_the_registry_wants_is_finished_although_nobody_waits() -> None:
    early = model("early", 8, preload=True)
    play = house(early, B) >> [start("early#1", early, "preload")]
    play << LeaseRequested(1, 1, B) >> [] << LeaseRequested(2, 2, early) >> [] << LeaseReleased(3, 2) >> []
    play << ready(4, "early#1", 1, 8) >> []
    edited = model("early", 8)
    play << desired(5, [edited, B]) >> [StopWorker("early#1", "pressure")]


def test_a_load_that_an_edit_no_longer_wants_early_gives_way() -> None:
    early = model("early", 8, preload=True)
    play = house(early, B) >> [start("early#1", early, "preload")]
    play << LeaseRequested(1, 1, B) >> []
    play << desired(2, [model("early", 8), B]) >> [StopWorker("early#1", "abandoned")]


def test_a_lowered_budget_takes_loads_that_nobody_waits_for_first() -> None:
    play, small = a_ready(), model("small", 4)
    play << desired(3, [A, small]) >> []
    play << LeaseRequested(3, 2, small) >> [start("small#2", small, "request")] << LeaseReleased(4, 2) >> []
    play << desired(5, [A, small], budget=8) >> [StopWorker("small#2", "abandoned")]


def test_a_worker_that_frees_cannot_hold_more_than_before() -> None:
    play = a_ready()
    play << LeaseRequested(4, 2, B) >> [StopWorker("a#1", "pressure")]
    play << WorkerFreed(5, "a#1", on(99)) >> []
    assert play.core.tables.used == on(8)


def test_only_a_worker_that_stops_can_free() -> None:
    play = a_busy()
    play << WorkerFreed(5, "a#1", on(0)) >> [] << WorkerFreed(5, "nobody", on(0)) >> []
    assert play.core.tables.used == on(8)


def test_a_process_that_cannot_be_killed_holds_its_bytes_and_is_not_waited_for() -> None:
    play = a_ready()
    play << LeaseRequested(4, 2, B) >> [StopWorker("a#1", "pressure")]
    play << WorkerStuck(5, "a#1") >> [Refused(2, DoesNotFitNow)]
    assert play.core.tables.instances["a#1"].phase is Phase.QUARANTINED
    assert play.core.tables.free == on(4)
    play << LeaseRequested(6, 3, model("small", 4)) >> [start("small#2", model("small", 4), "request")]


def test_a_quarantined_process_that_exits_after_all_gives_its_bytes_back() -> None:
    play = a_ready()
    play << LeaseRequested(4, 2, B) >> [StopWorker("a#1", "pressure")]
    play << WorkerStuck(5, "a#1") >> [Refused(2, DoesNotFitNow)]
    play << WorkerExited(60, "a#1") >> []
    play << LeaseRequested(61, 3, B) >> [start("b#2", B, "request")]


@pytest.mark.parametrize("event", [WorkerStuck(3, "a#1"), WorkerStuck(3, "nobody")])
def test_a_busy_worker_that_hangs_and_cannot_be_killed_fails_its_leases(event: WorkerStuck) -> None:
    play = a_busy()
    play << event >> ([Refused(1, WorkerCrashed)] if event.instance == "a#1" else [])


def test_a_lowered_budget_of_one_device_takes_models_of_that_device_only() -> None:
    play = big_ready()
    play << LeaseRequested(3, 2, OTHER)
    play._last.clear()
    play << ready(4, "other#2", 1, {"gpu1": 8}) >> [GrantLease(2, "other#2")] << LeaseReleased(5, 2) >> []
    play << desired(6, [BIG, OTHER], budget={**TWO, "gpu1": 5}) >> [StopWorker("other#2", "pressure")]


# Where, of several devices that hold it whole ----------------------------------------------------------------

THREE = {"gpu0": 10, "gpu1": 12, "gpu2": 12, "host": 50}


def whole(name: str, size: int, on: int = 2, **options: object) -> LocalModel:
    """On any of the first devices, with a byte of host memory, as a real process has."""
    found = placed(name, *({f"gpu{n}": size, "host": 1} for n in range(on)))
    return msgspec.structs.replace(found, **options)


def devices(actions: list[Action]) -> list[str]:
    return [next(iter(a.placement.bytes)) for a in actions if isinstance(a, StartWorker)]


def test_two_models_go_to_two_devices() -> None:
    core = house(a := whole("a", 3), b := whole("b", 3), budget=TWO).core
    assert devices(core.handle(LeaseRequested(0, 1, a))) == ["gpu0"]
    assert devices(core.handle(LeaseRequested(0, 2, b))) == ["gpu1"]


def test_of_idle_devices_the_one_with_the_most_free_bytes_is_taken() -> None:
    core = house(a := whole("a", 3, 3), b := whole("b", 2, 3), c := whole("c", 3, 3), budget=THREE).core
    assert devices(core.handle(LeaseRequested(0, 1, a))) == ["gpu1"]
    assert devices(core.handle(LeaseRequested(0, 2, b))) == ["gpu2"]
    assert devices(core.handle(LeaseRequested(0, 3, c))) == ["gpu0"]


def test_a_device_with_fewer_busy_slots_comes_before_one_with_more_free_bytes() -> None:
    core = house(a := whole("a", 2), b := whole("b", 8), c := whole("c", 2), budget=TWO).core
    assert devices(core.handle(LeaseRequested(0, 1, a))) == ["gpu0"]
    assert devices(core.handle(LeaseRequested(0, 2, b))) == ["gpu1"]
    core.handle(ready(1, "a#1", 2, {"gpu0": 2, "host": 1}))
    core.handle(ready(1, "b#2", 2, {"gpu1": 8, "host": 1}))
    core.handle(LeaseReleased(2, 2))
    assert devices(core.handle(LeaseRequested(3, 3, c))) == ["gpu1"]


def test_who_waits_for_a_model_that_loads_counts_as_busy() -> None:
    core = house(a := whole("a", 2), b := whole("b", 7), c := whole("c", 2), budget=TWO).core
    for ticket in (1, 2):
        core.handle(LeaseRequested(0, ticket, a))
    assert devices(core.handle(LeaseRequested(0, 3, b))) == ["gpu1"]
    assert devices(core.handle(LeaseRequested(0, 4, c))) == ["gpu1"]


def test_preloads_are_spread_too() -> None:
    core = Residency(TWO)
    told = desired(0, [whole("a", 3, preload=True), whole("b", 3, preload=True)], TWO)
    assert devices(core.handle(told)) == ["gpu0", "gpu1"]


def test_a_split_comes_only_after_every_device_that_holds_it_whole() -> None:
    wanted = placed("w", {"gpu0": 8}, {"gpu1": 8}, {"gpu0": 4, "gpu1": 4})
    core = house(whole("a", 3), wanted, budget=TWO).core
    core.handle(LeaseRequested(0, 1, whole("a", 3)))
    assert devices(core.handle(LeaseRequested(0, 2, wanted))) == ["gpu1"]
    third = placed("t", {"gpu0": 9}, {"gpu1": 9}, {"gpu0": 2, "gpu1": 2})
    (started,) = (a for a in core.handle(LeaseRequested(0, 3, third)) if isinstance(a, StartWorker))
    assert started.placement is third.placements[2]


def test_who_is_missed_least_goes_wherever_it_is() -> None:
    """Else the first device would be fought for while an unused model keeps the second."""
    core = house(
        hot := whole("hot", 9), cold := whole("cold", 9), third := whole("third", 9), budget=TWO
    ).core
    core.handle(LeaseRequested(0, 1, hot))
    core.handle(LeaseRequested(0, 2, cold))
    for name, device in (("hot#1", "gpu0"), ("cold#2", "gpu1")):
        core.handle(ready(1, name, 2, {device: 9, "host": 1}))
    for ticket in (1, 2):
        core.handle(LeaseReleased(2, ticket))
    for ticket in (3, 4, 5):
        core.handle(LeaseRequested(3, ticket, hot))
        core.handle(LeaseReleased(4, ticket))
    assert core.handle(LeaseRequested(5, 6, third))[:1] == [StopWorker("cold#2", "pressure")]
