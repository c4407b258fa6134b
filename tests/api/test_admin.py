"""The registry is read again when an operator asks."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator

import msgspec
import pytest

from router.domain.errors import RegistryInvalid
from router.domain.models import Footprint
from router.registry.loader import Key
from tests.scene import A, B, Scene, registry, scene


@pytest.fixture
async def house() -> AsyncIterator[Scene]:
    async with scene() as running:
        yield running


async def test_a_reading_says_what_changed(house: Scene) -> None:
    catalog = house.house.catalog
    call = await house.ask("POST", "/admin/reload")
    nothing: dict[str, object] = {"added": [], "removed": [], "changed": [], "broken": {}, "warnings": []}
    assert call.json == {"outcome": "unchanged", **nothing}
    slow = msgspec.structs.replace(A, ttl=5.0)
    broken = msgspec.structs.replace(B, name="c", problem="no such file")
    catalog.next = registry(slow, broken)  # type: ignore[attr-defined]
    call = await house.ask("POST", "/admin/reload")
    assert call.json == {
        "outcome": "applied",
        "added": ["c"],
        "removed": ["b"],
        "changed": [A.name],
        "broken": {"c": "no such file"},
        "warnings": [],
    }


async def test_what_was_measured_meanwhile_is_no_change(house: Scene) -> None:
    (way,) = A.placements
    measured = msgspec.structs.replace(way, measured={"host": Footprint(weights=5)})
    known = msgspec.structs.replace(A, placements=(measured,))
    house.house.catalog.next = registry(known, B)  # type: ignore[attr-defined]
    call = await house.ask("POST", "/admin/reload")
    assert (call.json["outcome"], call.json["changed"]) == ("unchanged", [])


async def test_what_is_refused_is_told_with_its_lines(house: Scene) -> None:
    house.house.catalog.next = RegistryInvalid(["r.yaml:3:1: no", "r.yaml:4:1: nor this"])  # type: ignore[attr-defined]
    call = await house.ask("POST", "/admin/reload")
    assert (call.status, call.error["code"]) == (422, "registry_invalid")
    assert call.error["message"] == "r.yaml:3:1: no\nr.yaml:4:1: nor this"


async def test_force_is_a_word_of_the_query(house: Scene) -> None:
    for query in ("", "force", "force=1", "force=true", "force=false"):
        assert (await house.ask("POST", "/admin/reload", query=query)).status == 200
    assert house.house.catalog.forced == [False, True, True, True, False]  # type: ignore[attr-defined]
    refused = await house.ask("POST", "/admin/reload", query="force=maybe")
    assert (refused.status, refused.error["param"]) == (400, "force")


async def test_a_reading_needs_a_key_for_every_model() -> None:
    keys = tuple(
        Key(name, hashlib.sha256(name.encode()).hexdigest(), models)
        for name, models in (("all", ("*",)), ("some", (A.name,)))
    )
    async with scene(keys=keys) as house:
        statuses = [
            (await house.ask("POST", "/admin/reload", headers={"x-api-key": key})).status
            for key in ("all", "some", "none")
        ]
    assert statuses == [200, 403, 401]
