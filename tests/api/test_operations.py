"""Health, metrics, who is in memory, load and unload."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator

import httpx2
import msgspec
import pytest
from structlog.testing import capture_logs
from typer.testing import CliRunner, Result

from router.cli import app as command_line
from router.domain.upstreams import Budget
from router.registry.loader import Key
from tests.api.beyond import split
from tests.api.door import served
from tests.scene import A, B, Scene, chat_body, scene, until


@pytest.fixture
async def house() -> AsyncIterator[Scene]:
    async with scene() as running:
        yield running


async def loaded(house: Scene, name: str = A.name) -> None:
    await until(lambda: house.house.residency.view().status(name) == "loaded")


async def test_probes_say_ready_until_the_gateway_stops(house: Scene) -> None:
    for path in ("/readyz", "/health"):
        call = await house.ask("GET", path)
        assert call.status == 200
        assert call.json["status"] == "ok"
        assert call.json["models"] == 2
    await house.house.residency.shut_down(0)
    for path in ("/readyz", "/health"):
        call = await house.ask("GET", path)
        assert (call.status, call.json["status"]) == (503, "stopping")
    assert (await house.ask("GET", "/livez")).status == 200
    refused = await house.chat()
    assert (refused.status, refused.error["code"]) == (503, "shutting_down")


async def test_readiness_counts_what_is_wrong_and_names_no_file(house: Scene) -> None:
    house.house.catalog.refused = ("/etc/registry.yaml:1:1: broken",)  # type: ignore[misc]
    call = await house.ask("GET", "/readyz")
    assert call.json["registry_edit_refused"] is True
    assert "/etc" not in call.text


@pytest.mark.parametrize("path", ["/", "/health", "/livez", "/readyz", "/metrics"])
async def test_head_is_get_without_a_body(house: Scene, path: str) -> None:
    call = await house.ask("HEAD", path)
    assert (call.status, call.text) == (200, "")


async def test_a_scrape_shows_the_names_and_wakes_nobody(house: Scene) -> None:
    call = await house.ask("GET", "/metrics")
    assert call.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert 'router_device_bytes{device="host",kind="budget"} 100.0' in call.text
    assert house.launcher.workers == {}


async def test_the_pace_of_a_hot_device_is_shown(house: Scene) -> None:
    assert (await house.ask("GET", "/running")).json["paces"] == {}
    house.house.residency.device_paced({"host": 0.5})
    assert (await house.ask("GET", "/running")).json["paces"] == {"host": 0.5}


async def test_a_load_answers_at_once_and_goes_on_behind(house: Scene) -> None:
    house.launcher.gates[A.name] = asyncio.Event()
    for _ in range(3):  # asking again is no error and starts nothing twice
        assert (await house.ask("POST", "/models/load", {"model": "default"})).json == {"success": True}
    assert house.launcher.workers == {}
    house.launcher.gates[A.name].set()
    await loaded(house)
    assert len(house.launcher.workers[A.name]) == 1
    assert (await house.ask("POST", "/models/load", {"model": A.name})).json == {"success": True}


async def test_a_load_of_what_cannot_be_loaded_says_so_at_once() -> None:
    broken = msgspec.structs.replace(B, problem="no such file: /b")
    async with scene(A, broken) as house:
        call = await house.ask("POST", "/models/load", {"model": "b"})
        assert (call.status, call.error["code"]) == (503, "model_load_failed")
        assert (await house.ask("POST", "/models/load", {"model": "nobody"})).status == 404
        assert (await house.ask("POST", "/models/load", {})).error["param"] == "model"


async def test_a_load_that_fails_later_is_logged(house: Scene) -> None:
    house.launcher.broken[A.name] = "the file is cut off"
    with capture_logs() as lines:
        await house.ask("POST", "/models/load", {"model": A.name})
        await until(lambda: any(line["event"] == "an operator's load failed" for line in lines))
    assert (await house.ask("GET", "/readyz")).status == 200


async def test_unload_is_for_models_that_run(house: Scene) -> None:
    call = await house.ask("POST", "/models/unload", {"model": A.name})
    assert (call.status, call.error["param"]) == (400, "model")
    await house.chat()
    assert (await house.ask("POST", "/models/unload", {"model": "default"})).json == {"success": True}
    await until(lambda: not house.house.residency.view().instances)


async def test_an_unload_of_what_a_client_waits_for_needs_force(house: Scene) -> None:
    house.launcher.gates[A.name] = asyncio.Event()  # never opened

    async def unload(*flags: str) -> Result:
        arguments = ["unload", *flags, "--url", url]
        return await asyncio.to_thread(CliRunner().invoke, command_line, arguments)

    async with (
        served(house) as url,
        httpx2.AsyncClient(base_url=url, trust_env=False, timeout=30) as http,
        asyncio.TaskGroup() as tasks,
    ):
        waiting = tasks.create_task(http.post("/v1/chat/completions", json=chat_body()))
        await until(lambda: house.house.residency.view().waiting)
        busy = await http.post("/models/unload", json={"model": A.name})
        assert (busy.status_code, busy.json()["error"]["code"]) == (409, "model_busy")
        assert "1 request waits" in busy.json()["error"]["message"]
        refused = await unload("default")
        assert (refused.exit_code, "1 request waits" in refused.stderr) == (1, True)
        assert (await http.get("/unload?force=maybe")).status_code == 400
        assert (await unload("--all")).exit_code == 0
        assert not waiting.done()
        assert (await unload("default", "--force")).exit_code == 0
        answer = await waiting
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_load_failed")
        assert "was unloaded by an operator" in answer.json()["error"]["message"]
        await until(lambda: not house.house.residency.view().instances)
        assert (await http.post("/models/unload", json={"model": A.name})).status_code == 400


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_forced_unload_of_all_refuses_who_waits(house: Scene, method: str) -> None:
    house.launcher.gates[A.name] = asyncio.Event()
    waiting = house.call("POST", "/v1/chat/completions", chat_body())
    await until(lambda: house.house.residency.view().waiting)
    assert (await house.ask(method, "/unload", query="force")).status == 200
    await waiting.done()
    assert waiting.error["code"] == "model_load_failed"


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_llama_swaps_unload_takes_all(house: Scene, method: str) -> None:
    await house.chat()
    call = await house.ask(method, "/unload")
    assert (call.status, call.text) == (200, "OK")
    await until(lambda: not house.house.residency.view().instances)


async def test_unload_of_all_needs_a_key_for_all() -> None:
    bob = Key("bob", hashlib.sha256(b"b").hexdigest(), ("b",))
    async with scene(keys=(bob,)) as house:
        assert (await house.ask("POST", "/unload", headers={"x-api-key": "b"})).status == 403


async def test_running_tells_who_holds_what(house: Scene) -> None:
    await house.chat()
    body = (await house.ask("GET", "/running")).json
    (entry,) = body["running"]
    assert (entry["model"], entry["state"], entry["pid"], entry["bytes"]) == (A.name, "ready", 4711, 60)
    assert entry["sandbox"] == ["seccomp"]
    memory = {"budget": 100, "used": 60, "reserved": 0, "quarantined": 0, "strangers": 0, "free": 40}
    assert (body["memory"], body["devices"]) == (memory, {"host": memory})
    assert body["waiting"] == {}


TWIN = msgspec.structs.replace(A, name="twin", aliases=(), pinned=True, ttl=None)


async def test_running_lists_every_name_of_a_process_that_the_key_may_use() -> None:
    keys = tuple(
        Key(name, hashlib.sha256(name.encode()).hexdigest(), models)
        for name, models in (("all", ("*",)), ("one", ("twin",)), ("none", ("b",)))
    )
    async with scene(A, TWIN, B, keys=keys) as house:
        await until(lambda: house.house.residency.view().status(A.name) == "loaded")  # pinned by its twin

        async def entries(key: str) -> list[dict[str, object]]:
            call = await house.ask("GET", "/running", headers={"x-api-key": key})
            found: list[dict[str, object]] = call.json["running"]
            return found

        (entry,) = await entries("all")
        assert (entry["names"], entry["ttl"], entry["pinned"]) == ([A.name, "twin"], None, True)
        (entry,) = await entries("one")
        assert (entry["model"], entry["names"]) == ("twin", ["twin"])
        assert await entries("none") == []


async def test_a_process_is_unloaded_by_any_of_its_names() -> None:
    async with scene(A, TWIN) as house:
        await until(lambda: house.house.residency.view().status("twin") == "loaded")
        call = await house.ask("POST", "/models/unload", {"model": A.name})
        assert (call.status, call.json) == (200, {"success": True})
        await until(lambda: not house.house.residency.view().instances)


async def test_changes_follow_llama_cpps_format(house: Scene) -> None:
    house.launcher.gates[A.name] = asyncio.Event()
    call = house.call("GET", "/models/sse")
    await until(lambda: call.messages)
    await house.ask("POST", "/models/load", {"model": A.name})
    await call.until('"loading"')
    house.launcher.gates[A.name].set()
    await call.until('"loaded"')
    await house.ask("GET", "/unload")
    await call.until('"unloaded"')
    call.leave()
    await call.done()
    events = call.data
    assert all((e["model"], e["event"]) == (A.name, "model_status") for e in events)
    states = [e["data"]["status"] for e in events]
    assert [s for n, s in enumerate(states) if s not in states[:n]] == ["loading", "loaded", "unloaded"]
    progress = [e["data"]["progress"] for e in events if e["data"]["status"] == "loading"]
    assert progress[-1] == {"stages": ["text_model"], "current": "text_model", "value": 0.4}
    ready = next(e for e in events if e["data"]["status"] == "loaded")
    assert ready["data"]["info"]["id"] == A.name


async def test_changes_that_do_not_come_are_filled_with_comments() -> None:
    async with scene(comment_seconds=0.001) as house:
        call = house.call("GET", "/models/sse")
        await call.until(": no change")
        call.leave()
        await call.done()


async def test_a_listener_that_leaves_is_forgotten_and_not_counted(house: Scene) -> None:
    call = house.call("GET", "/models/sse")
    await until(lambda: call.messages)
    call.leave()
    await call.done()
    assert house.total("router_requests_total") == 0


async def test_props_are_the_routers_or_one_models(house: Scene) -> None:
    assert (await house.ask("GET", "/props")).json["role"] == "router"
    props = (await house.ask("GET", "/props", query="model=default")).json
    assert props["model_alias"] == A.name
    assert props["default_generation_settings"]["n_ctx"] == A.engine.context
    assert props["total_slots"] == A.engine.slots
    assert props["is_sleeping"] is True
    assert (await house.ask("GET", "/props", query="model=nobody")).status == 404
    assert house.launcher.workers == {}


async def test_running_shows_breakers_and_money_of_the_upstreams_that_a_key_may_use() -> None:
    async with split(budget=Budget(day=5_000_000)) as house:
        await house.chat("big")
        cloud = {entry["id"]: entry for entry in (await house.scene.ask("GET", "/running")).json["cloud"]}
        assert cloud["big"]["breaker"] == "closed"
        assert cloud["big"]["spent_usd"] == {"day": "0.000030", "month": "0.000030"}
        assert cloud["big"]["budget_usd"] == {"day": "5.000000", "month": None}
        assert (cloud["big"]["in_flight"], cloud["big"]["peer_status"]) == (0, None)
        assert cloud["box/open"]["spent_usd"]["day"] == "0.000000"
