from __future__ import annotations

import pytest

from router.sizing.pacing import EVERY, SLOWEST, Pace, paced

LIMITS = {"gpu0": 84}


def after(*readings: tuple[float, int]) -> float:
    """The share after these readings of gpu0, each with its time."""
    paces: dict[str, Pace] = {}
    for at, celsius in readings:
        paces = paced(paces, LIMITS, at, {"gpu0": celsius})
    return paces["gpu0"].share


def test_a_device_below_its_limit_runs_all_its_slots() -> None:
    assert after((0, 83)) == 1.0


def test_at_its_limit_it_is_halved_until_an_eighth_is_left() -> None:
    hot = [(EVERY * n, 84 + n) for n in range(6)]
    assert [after(*hot[: n + 1]) for n in range(6)] == [0.5, 0.25, SLOWEST, SLOWEST, SLOWEST, SLOWEST]


def test_a_step_shows_before_the_next_one_is_taken() -> None:
    assert after((0, 90), (EVERY - 0.1, 99)) == 0.5
    assert after((0, 90), (EVERY - 0.1, 99), (EVERY, 99)) == 0.25
    assert after((0, 90), (EVERY - 0.1, 60)) == 0.5


def test_between_the_limit_and_five_degrees_below_nothing_changes() -> None:
    assert after((0, 84), (10, 83), (20, 80)) == 0.5


def test_five_degrees_below_it_is_restored_step_by_step() -> None:
    cooled = [(0, 84), (10, 84), (20, 79), (30, 79), (40, 79)]
    assert [after(*cooled[: n + 1]) for n in range(5)] == [0.5, 0.25, 0.5, 1.0, 1.0]


def test_a_device_that_says_nothing_for_a_moment_keeps_its_pace() -> None:
    paces = paced({}, LIMITS, 0, {"gpu0": 90})
    assert paced(paces, LIMITS, 10, {}) == paces


def test_only_devices_with_a_limit_are_paced_and_an_edit_that_takes_it_away_ends_it_at_once() -> None:
    paces = paced({}, LIMITS, 0, {"gpu0": 90, "gpu1": 99})
    assert paces.keys() == {"gpu0"}
    assert paced(paces, {}, 1, {"gpu0": 90, "gpu1": 99}) == {}


@pytest.mark.parametrize("celsius", [-40, 0, 10_000])
def test_a_reading_that_makes_no_sense_never_leaves_the_bounds(celsius: int) -> None:
    assert SLOWEST <= after(*((EVERY * n, celsius) for n in range(50))) <= 1.0
