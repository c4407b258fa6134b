from __future__ import annotations

from router.domain.models import EngineOptions, Limits, LocalModel
from router.residency.estimate import EXIT, UNKNOWN_LEASE, UNKNOWN_LOAD, Wait, expected_wait
from router.residency.events import LeaseReleased, LeaseRequested, WorkerStuck
from tests.residency.playbook import Play, house, model, ready

A, B, C = (model(name, size, engine=EngineOptions(slots=1)) for name, size in (("a", 8), ("b", 6), ("c", 3)))
LIMITS = Limits(patience=10, hold=2, hold_factor=2)


def told(play: Play, *events: object) -> Play:
    for event in events:
        play.core.handle(event)  # type: ignore[arg-type]
    return play


def wait(play: Play, wanted: LocalModel, now: float, **options: object) -> Wait:
    return expected_wait(play.core.tables, wanted, now, **options)  # type: ignore[arg-type]


def a_loaded() -> Play:
    """A's load took 4 s and its one lease 6 s; it is idle since 10."""
    play = house(A, B, C, limits=LIMITS)
    return told(play, LeaseRequested(0, 1, A), ready(4, "a#1", 1, 8), LeaseReleased(10, 1))


def test_a_free_slot_is_no_wait() -> None:
    assert wait(a_loaded(), A, 10) == Wait(0, 0.0)


def test_a_busy_slot_is_a_lease_as_long_as_those_before() -> None:
    play = told(a_loaded(), LeaseRequested(10, 2, A))
    assert wait(play, A, 10) == Wait(0, 6.0)
    told(play, LeaseRequested(10, 3, A))
    assert wait(play, A, 10) == Wait(1, 12.0)
    assert wait(play, A, 10, last=True) == Wait(0, 6.0)  # of who waits already


def test_a_load_is_as_long_as_it_was_last_time_less_what_is_done() -> None:
    play = told(a_loaded(), LeaseRequested(11, 2, B))  # A goes
    told(play, LeaseReleased(11, 2))
    play = house(A, limits=LIMITS)
    told(play, LeaseRequested(0, 1, A))
    assert wait(play, A, 2) == Wait(1, UNKNOWN_LOAD - 2 + UNKNOWN_LEASE)
    assert wait(play, A, 2, progress={"a#1": 0.25}, last=True) == Wait(0, 6.0)  # 2 s were a quarter of it


def test_what_is_not_there_costs_its_load_and_who_has_to_go_first() -> None:
    play = a_loaded()
    assert wait(play, C, 12).seconds == UNKNOWN_LOAD  # it fits beside A
    assert wait(play, B, 12).seconds == EXIT + UNKNOWN_LOAD  # A is idle
    told(play, LeaseRequested(12, 2, A))
    assert wait(play, B, 12).seconds == LIMITS.patience + 6.0 + EXIT + UNKNOWN_LOAD
    told(play, LeaseRequested(13, 3, B))
    assert wait(play, B, 17, last=True).seconds == LIMITS.patience - 4 + 6.0 + EXIT + UNKNOWN_LOAD


def test_models_before_are_loaded_and_held_first_unless_there_is_room_beside_them() -> None:
    play = told(a_loaded(), LeaseRequested(12, 2, A), LeaseRequested(12, 3, B))
    first = LIMITS.patience + 6.0 + EXIT  # until A is gone
    assert wait(play, C, 12) == Wait(1, first + UNKNOWN_LOAD)
    d = model("d", 9)
    assert wait(play, d, 12).seconds == first + UNKNOWN_LOAD + LIMITS.patience + EXIT + UNKNOWN_LOAD


def test_a_load_that_nobody_waits_for_costs_no_more_than_its_end() -> None:
    play = told(house(A, B), LeaseRequested(0, 1, A), LeaseReleased(1, 1))
    assert wait(play, B, 2).seconds == EXIT + UNKNOWN_LOAD


def test_nobody_waits_for_a_process_that_cannot_be_killed() -> None:
    play = told(a_loaded(), WorkerStuck(11, "a#1"))
    assert wait(play, B, 12).seconds == UNKNOWN_LOAD


def test_looking_changes_nothing() -> None:
    play = a_loaded()
    before = repr(play.core.tables)
    for each in (A, B, C):
        wait(play, each, 11)
    assert repr(play.core.tables) == before
