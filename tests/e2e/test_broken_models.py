"""Models that cannot be loaded as the registry names them: alone in that, told with their reason, evicting nobody."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import MiB, Start
from tests.e2e.gateway import Gateway
from tests.engine import refused, tiny

pytestmark = [pytest.mark.model, pytest.mark.timeout(180)]

ONE_MODEL = 90 * MiB
"""Holds one tiny model, and never two."""


def good(tmp_path: Path, name: str = "good") -> dict[str, object]:
    return {"path": str(tiny.llama(tmp_path / f"{name}.gguf"))}


def every(tmp_path: Path) -> dict[str, dict[str, object]]:
    return {name: {"path": str(make(tmp_path / f"{name}.gguf"))} for name, (make, _) in refused.EVERY.items()}


def ask(gateway: Gateway, model: str) -> tuple[int, str]:
    response = gateway.http.post("/v1/completions", json={"model": model, "prompt": "Hi", "max_tokens": 2})
    body = response.json()
    return response.status_code, body["error"]["message"] if "error" in body else ""


def statuses(gateway: Gateway) -> dict[str, str]:
    return {m["id"]: m["status"]["value"] for m in gateway.http.get("/v1/models").json()["data"]}


def test_what_llama_cpp_refuses_is_failed_at_start_and_evicts_nobody(start: Start, tmp_path: Path) -> None:
    gateway = start(models={"good": good(tmp_path), **every(tmp_path)}, budget=ONE_MODEL)
    assert ask(gateway, "good")[0] == 200
    (worker,) = gateway.workers()
    for name, (_, reason) in refused.EVERY.items():
        status, message = ask(gateway, name)
        assert (status, reason in gateway.reason(message)) == (503, True), message
        assert statuses(gateway)[name] == "failed"
    assert set(gateway.workers()) == {worker}
    assert gateway.total("router_evictions_total") == 0
    assert gateway.total("router_broken_models") == len(refused.EVERY)
    gateway.eventually(f"models.{list(refused.EVERY)[-1]}: llama.cpp could not load")
    log = gateway.log.read_text()
    assert all(f"models.{name}: llama.cpp could not load" in log for name in refused.EVERY)


def test_a_refusal_is_remembered_by_the_next_start(start: Start, tmp_path: Path) -> None:
    models = {"good": good(tmp_path), "unknown": every(tmp_path)["unknown"]}
    told = []
    for _ in range(2):
        gateway = start("--log-level", "debug", models=models, budget=ONE_MODEL)
        assert statuses(gateway) == {"good": "unloaded", "unknown": "failed"}
        told.append(gateway.log.read_text().count("error loading model: unknown model architecture"))
        gateway.process.terminate()
        gateway.process.wait(30)
    assert told == [1, 0]  # nobody asked llama.cpp again


@pytest.mark.parametrize("kind", refused.EVERY)
def test_an_edit_that_adds_what_llama_cpp_refuses_is_refused_at_its_line(
    start: Start, tmp_path: Path, kind: str
) -> None:
    models = {"good": good(tmp_path)}
    gateway = start(models=models, budget=ONE_MODEL)
    make, reason = refused.EVERY[kind]
    gateway.edit(models={**models, "new": {"path": str(make(tmp_path / "new.gguf"))}})
    gateway.eventually("registry edit refused")
    answer = gateway.http.post("/admin/reload")
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "registry_invalid")
    message = answer.json()["error"]["message"]
    assert "registry.yaml:" in message
    assert f"models.new: llama.cpp could not load {tmp_path}/new.gguf: " in message
    assert reason in message
    assert statuses(gateway) == {"good": "unloaded"}


def test_an_option_that_llama_cpp_refuses_is_told_too(start: Start, tmp_path: Path) -> None:
    gateway = start(models={"q8": {**good(tmp_path), "kv_type": "q8_0"}}, budget=ONE_MODEL)
    assert statuses(gateway) == {"q8": "failed"}  # known before anybody asks
    status, message = ask(gateway, "q8")
    assert status == 503
    assert "does not divide n_embd_head_k" in gateway.reason(message)


def test_a_context_over_the_files_own_breaks_that_model_alone(start: Start, tmp_path: Path) -> None:
    long = {**good(tmp_path, "long"), "context": 100_000}
    gateway = start(models={"good": good(tmp_path), "long": long}, budget=ONE_MODEL)
    assert ask(gateway, "good")[0] == 200
    assert ask(gateway, "long") == (503, "the model was made for 2048 tokens at most, got 100000")
    gateway.eventually("models.long.context: the model was made for 2048 tokens")


def test_a_budget_that_takes_everything_down_is_refused_and_may_be_forced(
    start: Start, tmp_path: Path
) -> None:
    gateway = start(models={"good": good(tmp_path)}, budget=ONE_MODEL)
    gateway.edit(devices={"host": {"budget": 80}})
    gateway.eventually("80 bytes? write 80%")
    assert ask(gateway, "good")[0] == 200
    gateway.edit(devices={"host": {"budget": "2MiB"}})
    gateway.eventually("makes things worse")
    assert ask(gateway, "good")[0] == 200
    assert gateway.total("router_broken_models") == 0
    assert router(gateway, "reload").returncode == 1
    forced = router(gateway, "reload", "--force")
    assert (forced.returncode, forced.stdout.splitlines()[0]) == (0, "the registry is applied")
    assert "cannot be loaded: good: needs" in forced.stdout
    assert gateway.total("router_broken_models") == 1
    gateway.until(lambda: ask(gateway, "good")[0] == 503)
    gateway.edit(devices={"host": {"budget": ONE_MODEL}})
    gateway.until(lambda: gateway.total("router_broken_models") == 0)
    assert ask(gateway, "good")[0] == 200


def test_a_start_with_a_budget_for_nobody_serves_what_it_can(start: Start, tmp_path: Path) -> None:
    pinned = {**good(tmp_path), "pinned": True, "preload": True}
    gateway = start(models={"good": pinned}, budget="2MiB")
    assert gateway.http.get("/readyz").json()["broken_models"] == 1
    assert "the budget of host is 2 MiB" in ask(gateway, "good")[1]


def test_check_and_the_gateway_agree(start: Start, tmp_path: Path) -> None:
    """45 MiB hold what llama.cpp says of the model, and not what the formula says."""
    small = {**good(tmp_path), "context": 256, "slots": 1}
    gateway = start(models={"good": small}, budget="45MiB")
    assert ask(gateway, "good")[0] == 200
    checked = check(gateway, tmp_path)
    assert (checked.returncode, "good" in checked.stdout) == (0, True), checked.stdout + checked.stderr
    gateway.edit(models={"good": small, **every(tmp_path)})
    gateway.eventually("registry edit refused")
    refusal = gateway.http.post("/admin/reload").json()["error"]["message"].splitlines()
    checked = check(gateway, tmp_path)
    assert checked.returncode == 2
    assert [line for line in refusal if f"warning: {line}" not in checked.stderr] == []


def test_a_ttl_of_zero_unloads_after_each_request_as_the_hint_says(start: Start, tmp_path: Path) -> None:
    gateway = start(models={"good": {**good(tmp_path), "ttl": "0s"}}, budget=ONE_MODEL)
    assert ask(gateway, "good")[0] == 200
    gateway.until(lambda: not gateway.workers())
    assert gateway.total("router_evictions_total", reason="idle") == 1
    gateway.edit(models={"good": {**good(tmp_path), "ttl": -1}})
    gateway.eventually("write never: it stays until its memory is needed")


def check(gateway: Gateway, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    return router(gateway, "check", str(gateway.registry), cache=tmp_path / "cache")


def router(gateway: Gateway, *words: str, cache: Path = Path("cache")) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "ROUTER_URL": gateway.url, "ROUTER_CACHE": str(cache)}
    return subprocess.run(
        [sys.executable, "-m", "router", *words],
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
