"""`cloud: never` is checked through every route and every fallback."""

from __future__ import annotations

import itertools

import pytest

from router.domain.models import LocalModel
from router.domain.routes import CloudMode, Route
from router.registry import trust
from tests.local import local_model
from tests.registry.conftest import Folder

UPSTREAMS = {"big", "box/a"}
MODES: tuple[CloudMode, ...] = ("never", "fallback", "spill")


def model(name: str, cloud: CloudMode = "never", *fallback: str) -> LocalModel:
    return local_model(name, f"/{name}", cloud=cloud, fallback=fallback)


def told(*models: LocalModel, routes: tuple[Route, ...] = ()) -> list[str]:
    found = trust.problems({m.name: m for m in models}, {r.name: r for r in routes}, UPSTREAMS)
    return [f"{'.'.join(map(str, path))}: {reason}" for path, reason in found]


def test_a_route_with_a_way_out_holds_no_model_that_says_never() -> None:
    route = Route("r", ("open", "shut", "big"), cloud="fallback")
    assert told(model("open", "fallback"), model("shut"), routes=(route,)) == [
        "routes.r.candidates.1: 'shut' says cloud: never, which is the default; write cloud: fallback there; "
        "requests could leave through 'big'"
    ]


def test_a_peer_is_a_way_out_too() -> None:
    assert told(model("shut"), routes=(Route("r", ("box/a", "shut"), cloud="fallback"),))


def test_a_route_that_spills_holds_no_model_that_only_falls_back() -> None:
    (problem,) = told(model("a", "fallback"), routes=(Route("r", ("a", "big"), cloud="spill"),))
    assert "says cloud: fallback, and this spills" in problem


def test_a_route_that_says_never_has_no_way_out() -> None:
    (problem,) = told(model("a", "spill"), routes=(Route("r", ("a", "big"), cloud="never"),))
    assert problem == "routes.r.candidates.1: 'big' is beyond this machine, and cloud is never here"


def test_a_model_that_says_never_falls_back_to_local_models_only() -> None:
    assert told(model("a", "never", "b"), model("b")) == []
    assert told(model("a", "never", "b", "big"), model("b")) == [
        "models.a.fallback.1: 'big' is beyond this machine, and cloud is never here"
    ]


def test_a_model_that_may_leave_does_not_open_one_that_may_not() -> None:
    (problem,) = told(model("a", "fallback", "shut", "big"), model("shut"))
    assert problem.startswith("models.a.fallback.0: 'shut' says cloud: never")


@pytest.mark.parametrize("names", list(itertools.permutations(("a", "b", "big"), 3)))
@pytest.mark.parametrize("modes", list(itertools.product(MODES, MODES, MODES)))
def test_whatever_the_order_no_never_shares_a_list_with_a_way_out(
    names: tuple[str, ...], modes: tuple[CloudMode, CloudMode, CloudMode]
) -> None:
    route = Route("r", names, cloud=modes[2])
    if not told(model("a", modes[0]), model("b", modes[1]), routes=(route,)):
        assert "never" not in modes


def test_a_permission_that_nothing_uses_is_worth_a_warning() -> None:
    models = {m.name: m for m in (model("a", "fallback"), model("b", "fallback", "big"), model("c", "spill"))}
    routes = {"r": Route("r", ("c", "big"), cloud="spill")}
    ((path, reason),) = trust.warnings(models, routes, UPSTREAMS)
    assert path == ("models", "a", "cloud")
    assert reason.startswith("has no effect")


def test_the_loader_refuses_it_at_its_line_also_through_aliases(folder: Folder) -> None:
    folder.model()
    problems = folder.problems(
        "version: 1\n"
        "models: {a: {path: a.gguf, aliases: [x]}}\n"
        "cloud: {big: {base_url: 'https://x.example/v1', model: m, aliases: [z]}}\n"
        "routes: {r: {candidates: [z, x]}}\n"
    )
    assert problems == [
        "registry.yaml:4:30: routes.r.candidates[1]: 'a' says cloud: never, which is the default; "
        "write cloud: fallback there; requests could leave through 'big'"
    ]
