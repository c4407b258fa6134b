"""Two names of one process, in a whole gateway with a real model, by HTTP and by the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import Start
from tests.e2e.gateway import Gateway

pytestmark = [pytest.mark.model, pytest.mark.timeout(180)]


def router(gateway: Gateway, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "router", *arguments, "--url", gateway.url]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=os.environ, check=False)


def names(gateway: Gateway) -> list[list[str]]:
    return [entry["names"] for entry in gateway.http.get("/running").json()["running"]]


def test_a_process_is_loaded_shown_counted_and_unloaded_by_either_name(
    start: Start, demo_models: dict[str, Path]
) -> None:
    path = str(demo_models["q4_1"])
    models: dict[str, dict[str, object]] = {"first": {"path": path, "ttl": "1h"}, "second": {"path": path}}
    gateway = start(models=models)
    gateway.openai.completions.create(model="first", prompt="Hi", max_tokens=1)
    (worker,) = gateway.workers()
    for name in ("second", "first"):
        loaded = router(gateway, "load", name)
        assert loaded.returncode == 0, loaded.stderr
        assert gateway.total("router_model_loaded", model=name) == 1
    assert names(gateway) == [["first", "second"]]
    assert "first, second" in router(gateway, "ps").stdout
    unloaded = router(gateway, "unload", "second")
    assert unloaded.returncode == 0, unloaded.stderr
    gateway.until(lambda: not gateway.workers())
    listed = {entry["id"]: entry["status"]["value"] for entry in gateway.http.get("/models").json()["data"]}
    assert listed == {"first": "unloaded", "second": "unloaded"}
    assert router(gateway, "load", "second").returncode == 0
    assert worker not in gateway.workers() and len(gateway.workers()) == 1


def test_names_come_and_go_by_edits_and_the_process_stays(start: Start, demo_models: dict[str, Path]) -> None:
    path = str(demo_models["q4_1"])
    first: dict[str, object] = {"path": path, "ttl": "1h"}
    gateway = start(models={"first": first})
    gateway.openai.completions.create(model="first", prompt="Hi", max_tokens=1)
    (worker,) = gateway.workers()
    gateway.edit(models={"first": first, "second": {"path": path, "pinned": True, "ttl": "never"}})
    gateway.until(lambda: names(gateway) == [["first", "second"]])
    (entry,) = gateway.http.get("/running").json()["running"]
    assert (entry["ttl"], entry["pinned"], entry["pid"]) == (None, True, worker)
    gateway.edit(models={"second": {"path": path}})
    gateway.until(lambda: names(gateway) == [["second"]])
    (entry,) = gateway.http.get("/running").json()["running"]
    assert (entry["pinned"], entry["pid"]) == (False, worker)
    assert gateway.total("router_model_loaded", model="second") == 1
    assert not [labels for _, labels in gateway.metrics() if ("model", "first") in labels]
    gateway.openai.completions.create(model="second", prompt="Hi", max_tokens=1)
    assert set(gateway.workers()) == {worker}


def test_the_preload_of_the_second_name_is_done(start: Start, demo_models: dict[str, Path]) -> None:
    path = str(demo_models["q4_1"])
    gateway = start(models={"first": {"path": path}, "second": {"path": path, "preload": True}})
    gateway.until(lambda: "first, second" in router(gateway, "ps").stdout)
