from __future__ import annotations

import pytest

from router.domain.models import Limits
from router.residency.core import Residency
from router.simulate.trace import Request
from router.simulate.world import House, Replay, World
from tests.simulate.scene import asks, house, model


def replay(scene: House, trace: list[Request]) -> Replay:
    return World(scene, Residency(scene.budgets, scene.limits).handle).run(trace)


def test_a_request_waits_for_its_load_and_then_for_its_own_tokens() -> None:
    visit = replay(house([model("a")], 10), asks((0, "a"))).visits[0]
    assert (visit.granted, visit.first, visit.done) == (5.0, 6.0, 7.0)


def test_a_swap_takes_the_freeing_of_one_and_the_load_of_the_other() -> None:
    found = replay(house([model("a"), model("b")], 7), asks((0, "a"), (20, "b")))
    assert found.visits[1].granted == pytest.approx(20 + 0.1 + 5.0)
    assert (found.swaps, dict(found.evictions)) == (2, {"pressure": 1})


def test_what_a_leaving_process_keeps_is_waited_for_only_if_it_is_needed() -> None:
    models = [model("a", overhead=1), model("b", overhead=1)]
    for gib, memory_back in ((6, 0.1), (5.5, 0.5)):
        found = replay(house(models, gib), asks((0, "a"), (20, "b")))
        assert found.visits[1].granted == pytest.approx(20 + memory_back + 5.0)


def test_a_load_that_nobody_waits_for_any_more_is_stopped_and_counts_as_long_as_it_took() -> None:
    scene = house([model("a"), model("b")], 7, Limits(max_wait=3.0))
    found = replay(scene, asks((0, "a"), (2, "b")))
    assert (found.visits[0].refused, dict(found.evictions)) == ("LeaseTimeout", {"abandoned": 1})
    assert found.load_seconds == pytest.approx(3.0 + 5.0)  # b's was ordered in full


def test_two_models_that_fit_do_not_swap() -> None:
    found = replay(house([model("a"), model("b")], 8), asks((0, "a"), (20, "b"), (40, "a")))
    assert (found.swaps, found.evictions.total()) == (2, 0)
    assert found.visits[2].granted == 40


def test_the_budget_is_never_exceeded() -> None:
    models = [model("a", 3), model("b", 4), model("c", 5)]
    trace = asks(*((0.7 * n, "abc"[n * n % 3]) for n in range(200)))
    found = replay(house(models, 8), trace)
    assert found.most_bytes["gpu0"] <= 8 * 2**30
    assert all(v.done is not None or v.refused is not None for v in found.visits)


def test_a_prompt_that_exceeds_the_context_is_refused_and_loads_nothing() -> None:
    found = replay(house([model("a", context=512)], 8), asks((0, "a"), prompt=512))
    assert found.visits[0].refused == "ContextOverflow"
    assert found.swaps == 0


def test_an_answer_ends_where_the_context_does() -> None:
    found = replay(house([model("a", context=1050)], 8), asks((0, "a")))
    assert found.visits[0].done == pytest.approx(5 + 1 + 0.5)


def test_who_waits_too_long_is_refused_with_the_error_of_the_gateway() -> None:
    scene = house([model("a", slots=1)], 8, Limits(max_wait=6.0, max_waiting_per_model=2))
    found = replay(scene, asks((0, "a"), (0, "a"), (0, "a"), output=1000))
    assert sorted(v.refused or "" for v in found.visits) == ["", "LeaseTimeout", "QueueFull"]


def test_the_same_trace_gives_the_same_replay() -> None:
    scene = house([model("a"), model("b"), model("c")], 9)
    trace = asks(*((0.9 * n, "abc"[n * 7 % 3]) for n in range(100)))
    assert replay(scene, trace) == replay(scene, trace)


def test_loading_and_working_are_measured() -> None:
    found = replay(house([model("a")], 10), asks((0, "a")))
    assert (found.load_seconds, found.busy_seconds, found.end) == (5.0, {"gpu0": pytest.approx(2.0)}, 7.0)


def test_an_idle_stretch_costs_no_steps() -> None:
    told: list[int] = []
    scene = house([model("a")], 10)
    World(scene, Residency(scene.budgets).handle, told.append).run(asks((0, "a"), (1e6, "a")))
    assert told == [1, 2]
