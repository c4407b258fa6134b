"""/v1/models: models, routes and upstreams in one list."""

from __future__ import annotations

from typing import Any

from router.registry.loader import Key
from tests.api.beyond import Split, split

ALICE = "2bd806c97f0e00af1a1fc3328fa763a9269723c8db8fac4f93af71db186d6e90"


async def entries(house: Split, **headers: str) -> dict[str, Any]:
    call = await house.scene.ask("GET", "/v1/models", headers=headers)
    return {entry["id"]: entry for entry in call.json["data"]}


async def test_everything_that_can_be_asked_for_is_listed_with_the_same_fields() -> None:
    async with split() as house:
        found = await entries(house)
        assert list(found) == ["shut", "open", "eager", "chat", "smart", "inside", "big", "box/open"]
        assert all(found["shut"].keys() <= entry.keys() for entry in found.values())
        assert found["chat"]["candidates"] == ["open", "big"]
        assert found["chat"]["aliases"] == ["gpt"]
        assert found["big"]["context_length"] == 1000
        assert house.endpoint.seen == []
        assert house.launcher.workers == {}


async def test_a_status_says_whether_an_answer_has_to_wait() -> None:
    async with split() as house:
        found = await entries(house)
        status = {name: entry["status"]["value"] for name, entry in found.items()}
        assert status["big"] == status["smart"] == "loaded"
        assert status["inside"] == status["box/open"] == "unloaded"
        await house.chat("shut")
        assert (await entries(house))["inside"]["status"]["value"] == "loaded"


async def test_a_peers_status_is_what_it_said_last() -> None:
    async with split() as house:
        house.scene.house.peers._look = loaded  # type: ignore[assignment]
        await house.scene.house.peers.round()
        assert (await entries(house))["box/open"]["status"]["value"] == "loaded"


async def loaded(upstream: object) -> dict[str, str]:
    return {"open": "loaded"}


async def test_one_entry_is_found_by_name_and_alias() -> None:
    async with split() as house:
        for name, id in (("gpt", "chat"), ("box/open", "box/open"), ("private", "shut")):
            assert (await house.scene.ask("GET", f"/v1/models/{name}")).json["id"] == id
        assert (await house.scene.ask("GET", "/v1/models/none")).status == 404


async def test_a_key_sees_what_it_may_ask_for() -> None:
    async with split(keys=(Key("al", ALICE, ("chat", "big")),)) as house:
        assert list(await entries(house, authorization="Bearer alice")) == ["chat", "big"]
        call = await house.chat("open", headers={"authorization": "Bearer alice"})
        assert (call.status, call.error["code"]) == (404, "model_not_found")
        assert (await house.chat("chat", headers={"authorization": "Bearer alice"})).status == 200
