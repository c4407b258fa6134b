from __future__ import annotations

from pathlib import Path

import msgspec

from router.domain.models import Footprint, Limits, LocalModel
from router.registry.fit import judge
from router.registry.loader import Registry
from tests.local import local_model

MiB = 2**20


def model(name: str, size: int, pinned: bool = False, problem: str | None = None) -> LocalModel:
    return local_model(name, footprint=Footprint(size * MiB), pinned=pinned, problem=problem)


def registry(budget: int, *models: LocalModel) -> Registry:
    return Registry(
        path=Path("r.yaml"),
        models={m.name: m for m in models},
        aliases={},
        budgets={"host": budget * MiB},
        keys=(),
        limits=Limits(),
        warnings=("before",),
        places={m.name: f"r.yaml:{line}:3: models.{m.name}" for line, m in enumerate(models, 3)},
    )


def test_what_fits_is_left_alone() -> None:
    whole = registry(100, model("a", 100), model("b", 60, pinned=False))
    assert judge(whole) == whole


def test_a_model_over_the_budget_is_marked_and_warned_of_at_its_line() -> None:
    judged = judge(registry(100, model("a", 101), model("b", 50)))
    assert judged.models["a"].problem == "needs 101 MiB; the budget of host is 100 MiB"
    assert judged.models["b"].problem is None
    assert judged.warnings == ("before", "r.yaml:3:3: models.a: needs 101 MiB; the budget of host is 100 MiB")


def test_room_is_what_the_pinned_ones_leave() -> None:
    judged = judge(registry(100, model("p", 60, pinned=True), model("a", 41), model("b", 40)))
    assert judged.models["a"].problem == (
        "needs 41 MiB; the budget of host is 100 MiB beside what is pinned (60 MiB)"
    )
    assert judged.models["b"].problem is None
    assert judged.models["p"].problem is None


def test_names_of_one_process_need_its_bytes_once() -> None:
    pinned = model("p", 60, pinned=True)
    twin = msgspec.structs.replace(pinned, name="twin", pinned=False)
    both = msgspec.structs.replace(pinned, name="both")
    judged = judge(registry(100, pinned, twin, both, model("a", 41)))
    problems = {name: m.problem for name, m in judged.models.items()}
    assert [problems[name] for name in ("p", "twin", "both")] == [None] * 3
    assert "beside what is pinned (60 MiB)" in (problems["a"] or "")


def test_of_pins_that_are_too_large_together_the_first_are_held_and_the_last_are_told() -> None:
    judged = judge(
        registry(100, model("p", 60, pinned=True), model("a", 1), model("q", 50, pinned=True), model("b", 41))
    )
    reason = (
        "pinned with 50 MiB, but all pinned models together need 110 MiB and the budget of host is 100 MiB"
    )
    assert {name: found.problem for name, found in judged.models.items()} == {
        "p": None,
        "a": None,
        "q": reason,
        "b": "needs 41 MiB; the budget of host is 100 MiB beside what is pinned (60 MiB)",
    }
    assert f"r.yaml:5:3: models.q: {reason}" in judged.warnings


def test_a_pin_over_the_whole_budget_is_told_of_that() -> None:
    judged = judge(registry(100, model("p", 101, pinned=True), model("q", 50, pinned=True)))
    assert judged.models["p"].problem == "needs 101 MiB; the budget of host is 100 MiB"
    assert judged.models["q"].problem is None


def test_a_broken_file_keeps_its_own_reason() -> None:
    judged = judge(registry(100, model("a", 500, pinned=True, problem="gone")))
    assert judged.models["a"].problem == "gone"
    assert judged.warnings == ("before",)
