from __future__ import annotations

from router.simulate.policies import POLICIES, compare
from tests.simulate.scene import asks, house, model

SCENE = house([model("a"), model("b"), model("c")], 9)
TRACE = asks(*((0.9 * n, "abc"[n * 7 % 3]) for n in range(60)))


def test_every_policy_is_replayed_and_named() -> None:
    found = compare(SCENE, TRACE, list(POLICIES), 10.0)
    assert [one.policy for one in found] == list(POLICIES)
    assert all(one.requests == 60 for one in found)


def test_the_order_of_policies_changes_nothing() -> None:
    forward = compare(SCENE, TRACE, ["lru", "fifo"], 10.0)
    assert forward == compare(SCENE, TRACE, ["fifo", "lru"], 10.0)[::-1]


def test_by_cost_the_wanted_model_stays_and_by_lru_the_recent_one() -> None:
    wanted = [(float(n), "a") for n in range(10)]
    trace = asks(*wanted, (30, "b"), (60, "c"), (90, "a"))
    cost, lru = compare(SCENE, trace, ["cost", "lru"], 10.0)
    assert (cost.swaps, lru.swaps) == (3, 4)


def test_progress_is_told_by_policy() -> None:
    told: list[tuple[str, int]] = []
    compare(SCENE, TRACE, ["fifo"], 10.0, step=lambda policy, count: told.append((policy, count)))
    assert told[-1] == ("fifo", 60)


def test_lru_by_count_may_be_told_how_many() -> None:
    one, two = (compare(SCENE, TRACE, ["lru-count"], 10.0, models_max=n)[0] for n in (1, 2))
    assert one.most_bytes["gpu0"] < two.most_bytes["gpu0"]
