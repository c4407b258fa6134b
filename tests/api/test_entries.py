"""One entry of a list of models, as one request may see it."""

from __future__ import annotations

import msgspec

from router.api.entries import entry
from router.api.house import Record
from router.registry.loader import Key
from router.routing.route import resolve
from tests.api.beyond import ROUTES, SHUT, split
from tests.scene import A, B, scene


def of(*models: str) -> Record:
    return Record("r1", key=Key("k", "0" * 64, models))


async def test_who_has_only_an_alias_sees_the_alias_alone() -> None:
    async with scene() as running:
        found = entry(A, running.house, running.house.residency.view(), of("default"))
        assert (found["id"], found["name"], found["display_name"]) == ("default",) * 3
        assert found["aliases"] == []
        assert A.name not in str(found)


async def test_who_has_the_name_sees_the_aliases_too() -> None:
    async with scene() as running:
        found = entry(A, running.house, running.house.residency.view(), of(A.name))
        assert (found["id"], found["aliases"]) == (A.name, ["default"])


async def test_of_a_route_only_the_candidates_are_named_that_the_key_has() -> None:
    async with split() as house:
        services = house.scene.house
        route = resolve(services.catalog.current, "chat")
        assert route == ROUTES[0]
        view = services.residency.view()
        assert entry(route, services, view, of("chat", "big"))["candidates"] == ["big"]
        assert entry(route, services, view, Record("r1"))["candidates"] == ["open", "big"]


async def test_a_reason_is_told_to_operators_only() -> None:
    broken = msgspec.structs.replace(B, problem="no such file: /b")
    async with scene(SHUT, broken) as running:
        view = running.house.residency.view()
        for record, told in ((of("b"), False), (of("*"), True), (Record("r1"), True)):
            status = entry(broken, running.house, view, record)["status"]
            assert ("/b" in status["error"]) is told
            assert status["value"] == "failed"
