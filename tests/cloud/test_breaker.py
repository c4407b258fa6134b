"""When an upstream is left alone, and how it comes back."""

from __future__ import annotations

import pytest

from router.cloud.breaker import Breaker, Pass, Refusal, State


def admitted(breaker: Breaker, now: float) -> Pass:
    given = breaker.admit(now)
    assert isinstance(given, Pass)
    return given


def fail(breaker: Breaker, now: float, times: int = 5) -> None:
    for _ in range(times):
        breaker.failed(admitted(breaker, now), now)


def test_five_failures_in_a_row_open_it_for_ten_seconds() -> None:
    breaker = Breaker()
    fail(breaker, 0.0, 4)
    assert breaker.state(0.0) is State.CLOSED
    fail(breaker, 0.0, 1)
    assert breaker.state(9.9) is State.OPEN
    assert breaker.admit(4.0) == Refusal(6.0)
    assert breaker.state(10.0) is State.HALF_OPEN


def test_a_complete_answer_between_failures_starts_the_count_anew() -> None:
    breaker = Breaker()
    fail(breaker, 0.0, 4)
    breaker.succeeded(admitted(breaker, 0.0))
    fail(breaker, 0.0, 4)
    assert breaker.state(0.0) is State.CLOSED


def test_half_open_lets_one_in_and_the_others_come_back_soon() -> None:
    breaker = Breaker()
    fail(breaker, 0.0)
    assert admitted(breaker, 10.0).probe
    assert breaker.admit(10.0) == Refusal(1.0)


def test_pauses_double_up_to_five_minutes() -> None:
    breaker = Breaker()
    fail(breaker, 0.0)
    now, pauses = 0.0, []
    for _ in range(7):
        pauses.append(breaker.retry_after(now))
        now += pauses[-1]
        breaker.failed(admitted(breaker, now), now)
    assert pauses == [10, 20, 40, 80, 160, 300, 300]


def test_a_probe_that_begins_to_answer_lets_the_others_in() -> None:
    breaker = Breaker()
    fail(breaker, 0.0)
    probe = admitted(breaker, 10.0)
    breaker.begun(probe)
    assert breaker.state(10.0) is State.CLOSED
    assert not admitted(breaker, 10.0).probe


def test_a_probe_that_breaks_off_opens_it_for_twice_as_long() -> None:
    breaker = Breaker()
    fail(breaker, 0.0)
    probe = admitted(breaker, 10.0)
    breaker.begun(probe)
    breaker.failed(probe, 11.0)
    assert breaker.retry_after(11.0) == 20.0


def test_after_a_probe_began_one_failure_of_another_is_enough() -> None:
    breaker = Breaker()
    fail(breaker, 0.0)
    breaker.begun(admitted(breaker, 10.0))
    breaker.failed(admitted(breaker, 10.0), 10.0)
    assert breaker.state(10.0) is State.OPEN


def test_a_complete_answer_of_a_probe_forgets_all() -> None:
    breaker = Breaker()
    fail(breaker, 0.0)
    breaker.succeeded(admitted(breaker, 10.0))
    fail(breaker, 10.0, 4)
    assert breaker.state(10.0) is State.CLOSED
    fail(breaker, 10.0, 1)
    assert breaker.retry_after(10.0) == 10.0


def test_a_probe_whose_client_left_makes_room_for_the_next() -> None:
    breaker = Breaker()
    fail(breaker, 0.0)
    breaker.left(admitted(breaker, 10.0))
    assert admitted(breaker, 10.0).probe


def test_what_began_before_it_opened_no_longer_counts() -> None:
    breaker = Breaker()
    early = [admitted(breaker, 0.0) for _ in range(20)]
    for given in early:
        breaker.failed(given, 1.0)
    assert breaker.retry_after(1.0) == 10.0
    late = admitted(Breaker(), 0.0)
    breaker.succeeded(late)
    assert breaker.state(1.0) is State.OPEN


@pytest.mark.parametrize(("asked", "pause"), [(3.0, 3.0), (9999.0, 300.0)])
def test_a_retry_after_is_a_pause_at_once(asked: float, pause: float) -> None:
    breaker = Breaker()
    breaker.failed(admitted(breaker, 0.0), 0.0, retry_after=asked)
    assert breaker.admit(0.0) == Refusal(pause)
    assert breaker.state(pause) is State.CLOSED


def test_a_retry_after_never_shortens_a_pause() -> None:
    breaker = Breaker()
    fail(breaker, 0.0, 4)
    breaker.failed(admitted(breaker, 0.0), 0.0, retry_after=1.0)
    assert breaker.retry_after(0.0) == 10.0
