"""Who answers, and in which order: decisions as values."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from decimal import Decimal

import pytest

from router.domain.routes import Route, Spill
from router.domain.upstreams import Price, Upstream
from router.registry.loader import Registry
from router.routing.plan import Now, Plan, Skipped, Wishes, must_stay, plan
from router.routing.route import Target
from tests.local import local_model
from tests.scene import registry

SHUT = local_model("shut")
A = local_model("a", cloud="spill", fallback=("big",), spill=Spill(5))
B = local_model("b", cloud="spill")
BIG = Upstream("big", "https://big.example/v1", "gpt", price=Price(Decimal(2), Decimal(10)))
CHEAP = Upstream("cheap", "https://cheap.example/v1", "m", price=Price(Decimal(1), Decimal(1)), retains=False)
BOX = Upstream("box/a", "http://10.0.0.2/v1", "a", peer=True)
BOX2 = Upstream("box2/a", "http://10.0.0.3/v1", "a", peer=True)


def house(*routes: Route) -> Registry:
    upstreams = {u.name: u for u in (BIG, CHEAP, BOX, BOX2)}
    return registry(SHUT, A, B, upstreams=upstreams, routes={r.name: r for r in routes})


def route(*names: str, spill: Spill | None = None, **facts: object) -> Route:
    cloud = "spill" if spill else "never" if set(names) <= {"a", "b", "shut"} else "fallback"
    return Route("r", names, spill=spill, **{"cloud": cloud, **facts})  # type: ignore[arg-type]


def now(resident: str = "a b", **waits: float) -> Now:
    return Now(lambda model: waits.get(model.name, 0.0), lambda c: c.name in resident.split())


def order(
    target: Target, wishes: Wishes | None = None, at: Now | None = None, *routes: Route, **facts: bool
) -> list[str]:
    return [c.name for c in planned(target, wishes, at, *routes, **facts).candidates]


def planned(
    target: Target, wishes: Wishes | None = None, at: Now | None = None, *routes: Route, **facts: bool
) -> Plan:
    return plan(house(*routes), target, wishes or Wishes(), at or now(), **facts)  # type: ignore[arg-type]


def test_a_model_that_says_nothing_answers_alone_and_may_not_leave() -> None:
    assert planned(SHUT) == Plan("shut", (SHUT,), (), private=True)
    assert not planned(SHUT).leaves


def test_a_cloud_model_picked_by_name_answers_alone() -> None:
    assert planned(BIG) == Plan("big", (BIG,), (), private=False)


def test_a_route_asks_its_candidates_in_the_operators_order() -> None:
    assert order(route("a", "b", "big")) == ["a", "b", "big"]
    assert order(route("big", "a")) == ["big", "a"]


def test_a_model_with_fallbacks_is_asked_before_them() -> None:
    assert order(A) == ["a", "big"]


# Spill -----------------------------------------------------------------------------------------------------


def test_a_model_whose_wait_is_too_long_goes_behind_the_cloud_and_is_not_given_up() -> None:
    assert order(A, at=now(a=5.0)) == ["a", "big"]
    assert order(A, at=now(a=5.1)) == ["big", "a"]


def test_without_spill_a_long_wait_changes_nothing() -> None:
    assert order(route("a", "big"), at=now(a=1e9)) == ["a", "big"]


def test_it_spills_to_another_local_model_that_is_free() -> None:
    assert order(route("a", "b", "big", spill=Spill(5)), at=now(a=10)) == ["b", "big", "a"]
    assert order(route("a", "b", "big", spill=Spill(5)), at=now(a=10, b=10)) == ["big", "a", "b"]


def test_it_does_not_spill_to_an_upstream_over_the_price() -> None:
    most = Price(Decimal(1), Decimal(5))
    assert order(route("a", "big", spill=Spill(5, most)), at=now(a=10)) == ["a", "big"]
    assert order(route("a", "big", "cheap", spill=Spill(5, most)), at=now(a=10)) == ["a", "big", "cheap"]
    assert order(route("a", "cheap", "big", spill=Spill(5, most)), at=now(a=10)) == ["cheap", "a", "big"]


def test_both_prices_count_and_a_free_upstream_is_never_too_dear() -> None:
    for most in (Price(Decimal(2), Decimal(1)), Price(Decimal(1), Decimal(10))):
        assert order(route("a", "big", spill=Spill(5, most)), at=now(a=10)) == ["a", "big"]
    free = route("a", "box/a", spill=Spill(5, Price(Decimal(0), Decimal(0))))
    assert order(free, at=now("a", a=10)) == ["box/a", "a"]


# Peers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("resident", "expected"),
    [
        ("", ["a", "box/a", "box2/a", "big"]),
        ("a", ["a", "box/a", "box2/a", "big"]),
        ("box2/a", ["box2/a", "a", "box/a", "big"]),
        ("a box2/a", ["a", "box2/a", "box/a", "big"]),
        ("box/a box2/a", ["box/a", "box2/a", "a", "big"]),
    ],
)
def test_a_request_goes_where_its_model_is_in_memory(resident: str, expected: list[str]) -> None:
    assert order(route("a", "box/a", "box2/a", "big"), at=now(resident)) == expected


def test_a_peer_that_comes_first_waits_behind_a_local_model_only_if_that_is_in_memory() -> None:
    assert order(route("box/a", "a"), at=now("")) == ["box/a", "a"]
    assert order(route("box/a", "a"), at=now("a")) == ["a", "box/a"]


def test_of_a_peer_and_a_local_model_that_are_both_in_memory_the_one_written_first_answers() -> None:
    """They need not be the same model: a large one over there may be preferred to a small one here."""
    assert order(route("box/a", "a"), at=now("a box/a")) == ["box/a", "a"]
    assert order(route("big", "box/a", "a", "box2/a"), at=now("a box/a box2/a")) == [
        "big",
        "box/a",
        "a",
        "box2/a",
    ]


def test_among_peers_alone_the_one_that_has_it_comes_first_and_the_cloud_keeps_its_place() -> None:
    assert order(route("box/a", "box2/a", "big"), at=now("box2/a")) == ["box2/a", "box/a", "big"]
    assert order(route("big", "box/a", "box2/a"), at=now("box2/a")) == ["big", "box2/a", "box/a"]


def test_without_peers_what_is_in_memory_changes_no_order() -> None:
    assert order(route("a", "b", "big"), at=now("b")) == ["a", "b", "big"]


def test_peers_never_reorder_the_local_models() -> None:
    assert order(route("a", "b", "box/a"), at=now("b box/a")) == ["box/a", "a", "b"]


# Accuracy --------------------------------------------------------------------------------------------------

SMART = Route("smart", ("big", "a"), cloud="fallback", accuracy="high")
LISTENS = Route("listens", ("big", "b"), cloud="fallback", accuracy="high", reasoning_effort="high")
INSIDE = Route("inside", ("b", "shut"), accuracy="high")


def test_accuracy_sends_a_request_on_to_the_route_that_shares_a_candidate() -> None:
    assert planned(A, Wishes(accuracy=True), None, SMART).name == "smart"
    assert order(route("a", "b"), Wishes(accuracy=True), None, INSIDE) == ["b", "shut"]
    assert planned(BIG, Wishes(accuracy=True), None, SMART).name == "smart"


def test_effort_counts_only_where_the_route_says_so() -> None:
    assert planned(B, Wishes(effort=True), None, SMART, LISTENS).name == "listens"
    assert planned(A, Wishes(effort=True), None, SMART).name == "a"


def test_without_such_a_route_or_the_right_to_use_it_the_request_goes_on_as_it_is() -> None:
    assert planned(B, Wishes(accuracy=True), None, SMART).name == "b"
    found = plan(house(SMART), A, Wishes(accuracy=True), now(), may_use=lambda r: r.name != "smart")
    assert found.name == "a"


def test_accuracy_never_opens_a_way_out() -> None:
    stays = Route("stays", ("shut", "b"))
    assert planned(stays, Wishes(accuracy=True), None, LISTENS).name == "stays"
    assert planned(stays, Wishes(accuracy=True), None, LISTENS, INSIDE).name == "inside"


# What a client forbids ---------------------------------------------------------------------------------------


def test_local_only_and_a_key_without_cloud_leave_local_candidates() -> None:
    why = (Skipped("big", "the request may not leave this machine"),)
    for found in (planned(A, Wishes(local_only=True)), planned(A, cloud=False)):
        assert found == Plan("a", (A,), why, private=True)
    assert planned(BIG, Wishes(local_only=True)).candidates == ()
    assert planned(BOX, cloud=False).candidates == ()


def test_no_fallbacks_means_the_first_candidate_as_the_operator_wrote_it() -> None:
    found = planned(A, Wishes(fallbacks=False), now(a=100))
    assert [c.name for c in found.candidates] == ["a"]
    assert found.skipped == (Skipped("big", "the request allows no fallback"),)


def test_denied_data_collection_leaves_who_keeps_nothing() -> None:
    assert order(route("big", "cheap", "a", "box/a"), Wishes(retention=False)) == ["cheap", "a"]


def test_a_client_may_set_a_price() -> None:
    most = Price(Decimal(1), Decimal(1))
    assert order(route("big", "cheap", "a", "box/a"), Wishes(max_price=most), now("")) == [
        "cheap",
        "a",
        "box/a",
    ]


# What holds always -------------------------------------------------------------------------------------------

EVERYTHING = ("a", "b", "shut", "big", "cheap", "box/a")
ALL_WISHES = [
    Wishes(*flags)
    for flags in itertools.product((False, True), (False, True), (False, True), (False, True), (False, True))
]
MOMENTS: Mapping[str, Callable[[], Now]] = {
    "idle": now,
    "busy": lambda: now("", a=1e9, b=1e9, shut=1e9),
    "peer": lambda: now("box/a"),
}


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("names", list(itertools.permutations(EVERYTHING, 2)), ids="-".join)
def test_no_wish_and_no_moment_adds_a_candidate_or_opens_what_is_shut(
    names: tuple[str, ...], moment: str
) -> None:
    routes = (SMART, LISTENS, INSIDE)
    for cloud, wishes in itertools.product(("never", "fallback", "spill"), ALL_WISHES):
        asked = Route("r", names, cloud=cloud, spill=Spill(1) if cloud == "spill" else None)  # type: ignore[arg-type]
        found = plan(house(asked, *routes), asked, wishes, MOMENTS[moment]())
        allowed = {asked.name: names, **{r.name: r.candidates for r in routes}}[found.name]
        assert {c.name for c in found.candidates} <= set(allowed)
        assert len(found.candidates) + len(found.skipped) == len(allowed)
        if must_stay(house(), asked) or wishes.local_only:
            assert not found.leaves
            assert found.private


# Who was gone past -------------------------------------------------------------------------------------------


def spilled(target: Target, at: Now) -> list[tuple[str, str]]:
    return [(one.model.name, one.reason) for one in planned(target, at=at).spilled]


def test_a_plan_tells_which_models_others_come_before_and_why() -> None:
    assert spilled(A, now(a=4)) == []
    assert spilled(A, now("", a=10)) == [("a", "cold")]
    assert spilled(A, now("a", a=10)) == [("a", "busy")]
    both = route("a", "b", "big", spill=Spill(5))
    assert spilled(both, now("a", a=10, b=10)) == [("a", "busy"), ("b", "cold")]
    assert spilled(both, now("b", a=10)) == [("a", "cold")]


def test_a_model_is_not_gone_past_where_nobody_comes_before_it_after_all() -> None:
    most = Price(Decimal(1), Decimal(5))
    assert spilled(route("a", "big", spill=Spill(5, most)), now("", a=10)) == []
    assert spilled(route("big", "a", spill=Spill(5)), now("", a=10)) == []
    assert spilled(route("a", spill=Spill(5)), now("", a=10)) == []
    assert spilled(route("a", "big"), now("", a=10)) == []
