"""Names to what the registry has under them."""

from __future__ import annotations

import pytest

from router.domain.errors import InvalidRequest, UnknownModel
from router.domain.routes import Route, Spill
from router.domain.upstreams import Upstream
from router.routing.route import as_route, candidates, local, resolve
from tests.local import local_model
from tests.scene import A, B, registry

BIG = Upstream("big", "https://api.example.com/v1", "gpt")
ROUTE = Route("best", ("big", B.name), aliases=("top",), cloud="fallback")
REGISTRY = registry(A, B, upstreams={"big": BIG}, routes={"best": ROUTE})


def test_models_routes_and_upstreams_are_found_by_name_and_by_alias() -> None:
    assert resolve(REGISTRY, A.name) == A
    assert resolve(REGISTRY, "default") == A
    assert resolve(REGISTRY, "big") == BIG
    assert resolve(REGISTRY, "best") == resolve(REGISTRY, "top") == ROUTE


def test_an_unknown_name_is_answered_with_the_nearest_ones() -> None:
    with pytest.raises(UnknownModel) as unknown:
        resolve(REGISTRY, "DEFAULTS")
    assert unknown.value.close == ("default",)
    assert "'default'" in unknown.value.message


def test_a_name_like_no_other_gets_no_hint() -> None:
    with pytest.raises(UnknownModel) as unknown:
        resolve(REGISTRY, "zzzzzzzzzz")
    assert unknown.value.close == ()


def test_an_endless_name_is_cut_in_the_answer_and_compared_with_none() -> None:
    with pytest.raises(UnknownModel) as unknown:
        resolve(REGISTRY, "default" * 100_000)
    assert len(unknown.value.message) < 300
    assert unknown.value.close == ()


def test_only_a_local_model_can_be_loaded() -> None:
    assert local(A) == A
    for target, kind in ((ROUTE, "a route"), (BIG, "beyond this machine")):
        with pytest.raises(InvalidRequest, match=kind):
            local(target)


def test_a_model_and_its_fallbacks_make_a_route_and_an_upstream_stands_alone() -> None:
    model = local_model("m", cloud="spill", fallback=("big",), spill=Spill(1))
    assert as_route(model) == Route("m", ("m", "big"), (), "spill", Spill(1))
    assert as_route(BIG) == Route("big", ("big",), cloud="fallback")
    assert as_route(ROUTE) is ROUTE


def test_candidates_come_in_the_operators_order() -> None:
    assert candidates(REGISTRY, ROUTE) == (BIG, B)
