from __future__ import annotations

import pytest

from router.simulate.machine import GiB
from router.simulate.policies import POLICIES, compare
from tests.simulate.scene import asks, house, model, on_each

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


@pytest.mark.parametrize("policy", POLICIES)
def test_models_are_spread_over_the_devices_that_hold_them_whole(policy: str) -> None:
    several = on_each([model("a"), model("b"), model("c")], {"gpu0": 5, "gpu1": 5})
    (found,) = compare(several, asks(*((10.0 * n, "ab"[n % 2]) for n in range(10))), [policy], 10.0)
    assert found.swaps == 2
    assert found.most_bytes == {"gpu0": 4 * GiB, "gpu1": 4 * GiB}


@pytest.mark.parametrize("policy", POLICIES)
def test_a_third_model_takes_the_place_of_one_on_either_device(policy: str) -> None:
    several = on_each([model("a"), model("b"), model("c")], {"gpu0": 5, "gpu1": 5})
    trace = asks((0, "a"), (10, "b"), (20, "a"), (30, "c"), (40, "a"), (50, "c"), (60, "a"))
    (found,) = compare(several, trace, [policy], 10.0)
    assert (found.swaps, found.refused) == (3, {})
