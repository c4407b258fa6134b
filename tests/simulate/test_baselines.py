from __future__ import annotations

from router.domain.models import Limits
from router.simulate.baselines import Baseline, LruByCount, StrictFifo, fits_by_count
from router.simulate.trace import Request
from router.simulate.world import House, Replay, World
from tests.simulate.scene import asks, house, model

A, B, C = model("a"), model("b"), model("c")


def replay(scene: House, idea: Baseline, trace: list[Request]) -> Replay:
    return World(scene, idea.handle).run(trace)


def test_fifo_serves_nobody_before_the_head_of_the_queue() -> None:
    scene = house([A, B, C], 8)
    found = replay(scene, StrictFifo(), asks((0, "a"), (20, "b"), (40, "c"), (40.1, "b")))
    assert found.visits[3].granted == found.visits[2].granted
    assert found.visits[3].granted is not None and found.visits[3].granted > 45


def test_fifo_swaps_for_every_change_of_model() -> None:
    trace = asks(*((0.1 * n, "ab"[n % 2]) for n in range(10)))
    assert replay(house([A, B], 7), StrictFifo(), trace).swaps == 10


def test_fifo_serves_neighbours_in_the_queue_together() -> None:
    trace = asks((0, "a"), (0, "a"), (0, "b"), (0, "b"))
    assert replay(house([A, B], 7), StrictFifo(), trace).swaps == 2


def test_lru_by_count_serves_a_model_that_is_there_while_another_loads() -> None:
    found = replay(house([A, B, C], 8), LruByCount(2), asks((0, "a"), (20, "b"), (40, "c"), (40.1, "b")))
    assert found.visits[3].granted == 40.1


def test_lru_by_count_drains_a_busy_model_at_once_and_lets_it_finish() -> None:
    found = replay(house([A, B], 8), LruByCount(1), asks((0, "a"), (5.5, "b"), (5.6, "a")))
    first, second, third = found.visits
    assert (first.done, second.granted) == (7.0, 12.5)
    assert third.granted is not None and third.granted > 13
    assert found.swaps == 3


def test_lru_by_count_never_has_more_models_than_it_may() -> None:
    trace = asks(*((0.3 * n, "abc"[n * n % 3]) for n in range(100)))
    found = replay(house([A, B, C], 12), LruByCount(2), trace)
    assert found.most_bytes == {"gpu0": 8 * 2**30}
    assert all(v.done is not None for v in found.visits)


def test_both_refuse_what_can_never_fit_what_is_too_much_and_who_waits_too_long() -> None:
    huge = model("huge", 9)
    scene = house([model("a", slots=1), huge], 8, Limits(max_wait=6.0, max_waiting_per_model=2))
    trace = asks((0, "a"), (0, "a"), (0, "a"), (0, "huge"), output=1000)
    for idea in (StrictFifo(), LruByCount(1)):
        found = replay(scene, idea, trace)
        assert [v.refused for v in found.visits] == [None, "LeaseTimeout", "QueueFull", "DoesNotFit"]


def test_as_many_models_fit_by_count_as_the_largest_ones_allow() -> None:
    models = {m.name: m for m in (model("s", 1), model("m", 3), model("l", 5), model("huge", 20))}
    assert fits_by_count(models, {"gpu0": 10 * 2**30}) == 3
    assert fits_by_count(models, {"gpu0": 8 * 2**30}) == 2
    assert fits_by_count(models, {"gpu0": 2**30 // 2}) == 0
