from __future__ import annotations

import json

from router.simulate.figures import Spread, figures, spread
from router.simulate.trace import Request
from router.simulate.world import Replay, Visit
from tests.simulate.scene import model

A, B = model("a"), model("b")


def visit(at: float, granted: float | None, refused: str | None = None) -> Visit:
    ends = (None, None) if granted is None else (granted + 1, granted + 2)
    return Visit(Request(at, "a", 1, 1), A, granted, *ends, refused)


def test_a_percentile_is_a_value_that_occurred() -> None:
    assert spread([float(n) for n in range(1, 101)]) == Spread(50, 95, 99, 100)
    assert spread([7.0]) == Spread(7, 7, 7, 7)
    assert spread([]) == Spread(0, 0, 0, 0)


def test_an_answer_is_good_when_its_first_token_comes_in_time() -> None:
    replay = Replay([visit(0, 0), visit(0, 2), visit(10, 19)], end=21)
    assert figures("x", replay, objective=3.0).goodput == 2 / 10
    assert figures("x", replay, objective=10.0).goodput == 3 / 10


def test_refused_requests_are_counted_by_reason_and_wait_for_nothing() -> None:
    replay = Replay([visit(0, 1), visit(0, None, "QueueFull"), visit(1, None, "QueueFull")], end=3)
    found = figures("x", replay, 10.0)
    assert (found.requests, found.answered, dict(found.refused)) == (3, 1, {"QueueFull": 2})
    assert (found.wait.max, found.service.max) == (1, 2)


def test_shares_are_of_the_whole_time() -> None:
    found = figures("x", Replay([visit(0, 1)], load_seconds=1, busy_seconds={"gpu0": 2}, end=4), 10.0)
    assert (found.loading, found.busy) == (0.25, {"gpu0": 0.5})


def test_each_model_has_its_own_waits() -> None:
    other = Visit(Request(0, "b", 1, 1), B, 9.0, 10.0, 11.0)
    found = figures("x", Replay([visit(0, 1), other], end=11), 10.0)
    assert {name: m.wait.max for name, m in found.by_model.items()} == {"a": 1, "b": 9}


def test_the_facts_are_json_and_nothing_came_of_nothing() -> None:
    found = figures("x", Replay(), 10.0)
    assert json.loads(json.dumps(found.facts()))["goodput"] == 0
