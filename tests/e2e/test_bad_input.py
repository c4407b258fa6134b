"""Bad input gets a clear error and loses nothing: requests, files, flags, the registry at start."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import Start, two_models
from tests.e2e.gateway import Gateway, free_port, write_registry

pytestmark = [pytest.mark.model, pytest.mark.timeout(180)]


def ask(gateway: Gateway, model: str = "a", **body: object) -> tuple[int, dict[str, object]]:
    response = gateway.http.post(
        "/v1/completions", json={"model": model, "prompt": "Hi", "max_tokens": 1, **body}
    )
    answer = response.json()
    return response.status_code, answer.get("error", answer)


def test_bad_requests_are_refused_one_by_one_and_the_model_serves_on(start: Start) -> None:
    gateway = start()
    status, error = ask(gateway, "aa")
    assert (status, error["code"]) == (404, "model_not_found")
    assert "'a'" in str(error["message"])

    status, error = ask(gateway, prompt="word " * 3000)
    assert (status, error["code"]) == (400, "context_length_exceeded")
    assert "maximum context length is 1024 tokens" in str(error["message"])

    response = gateway.http.post("/v1/completions", content=b'{"model": "a", ')
    assert response.status_code == 400
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}

    for wrong in (
        {"temperature": "hot"},
        {"max_tokens": -1},
        {"top_p": 7},
        {"prompt": {"a": 1}},
        {"seed": 1e300},
    ):
        status, error = ask(gateway, **wrong)
        assert status == 400, wrong
        assert error["param"] == next(iter(wrong))

    status, _ = ask(gateway, max_tokens=2_000_000_000, stop=[" "])
    assert status == 200  # agents always send large numbers: clamped to what the context leaves
    assert len(gateway.workers()) == 1


def test_files_that_are_no_models_fail_alone_with_their_reason(
    start: Start, demo_models: dict[str, Path], tmp_path: Path
) -> None:
    bad = tmp_path / "bad"
    bad.mkdir()
    whole = demo_models["q4_1"].read_bytes()
    (bad / "truncated.gguf").write_bytes(whole[: len(whole) // 2])
    (bad / "empty.gguf").write_bytes(b"")
    (bad / "text.gguf").write_text("this is not a model\n" * 100)
    (bad / "folder.gguf").mkdir()
    names = {
        "missing": "no such",
        "truncated": "truncated",
        "empty": "empty",
        "text": "not a GGUF",
        "folder": "directory",
    }
    models = {name: {"path": str(bad / f"{name}.gguf")} for name in names} | two_models(demo_models)
    gateway = start(models=models)
    for name, reason in names.items():
        status, error = ask(gateway, name)
        assert status == 503, name
        assert reason.lower() in gateway.reason(str(error["message"])).lower(), error
    assert ask(gateway, "a")[0] == 200
    listed = {m["id"]: m["status"]["value"] for m in gateway.http.get("/v1/models").json()["data"]}
    assert listed["missing"] == "failed"
    assert listed["a"] == "loaded"


def test_a_model_larger_than_the_budget_is_refused_and_nobody_is_evicted_for_it(
    start: Start, demo_models: dict[str, Path]
) -> None:
    models = {
        **two_models(demo_models),
        "huge": {"path": str(demo_models["f16"]), "context": 8192, "slots": 4},
    }
    gateway = start(models=models)
    ask(gateway, "a")
    workers = gateway.workers()
    response = gateway.http.post("/v1/completions", json={"model": "huge", "prompt": "Hi"})
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "insufficient_vram"
    assert response.headers["x-should-retry"] == "false"
    assert gateway.workers() == workers


def serve(registry: Path, tmp_path: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "router", "serve", "--registry", str(registry), *flags]
    env = {**os.environ, "ROUTER_CACHE": str(tmp_path / "cache")}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=env, check=False)


def test_a_port_in_use_is_named_and_ends_with_2(tmp_path: Path, demo_models: dict[str, Path]) -> None:
    registry = write_registry(tmp_path / "registry.yaml", two_models(demo_models))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = serve(registry, tmp_path, "--port", str(port))
    assert ended.returncode == 2
    assert f"port {port}" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("version: 1\nmodels:\n  a: {path: /x.gguf, contxt: 1}\n", ":3:"),
        ("version: 1\nmodels: {}\n", "models"),
        ("version: 1\n  models: [\n", ":2:"),
    ],
)
def test_a_broken_registry_at_start_lists_its_problems_and_ends_with_2(
    tmp_path: Path, text: str, reason: str
) -> None:
    registry = tmp_path / "registry.yaml"
    registry.write_text(text)
    ended = serve(registry, tmp_path, "--port", str(free_port()))
    assert ended.returncode == 2
    assert "registry.yaml" in ended.stderr
    assert reason in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_missing_registry_is_named_and_ends_with_2(tmp_path: Path) -> None:
    ended = serve(tmp_path / "nowhere.yaml", tmp_path, "--port", str(free_port()))
    assert ended.returncode == 2
    assert "nowhere.yaml" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_an_address_beyond_loopback_needs_keys(tmp_path: Path, demo_models: dict[str, Path]) -> None:
    registry = write_registry(tmp_path / "registry.yaml", two_models(demo_models))
    ended = serve(registry, tmp_path, "--port", str(free_port()), "--host", "0.0.0.0")
    assert ended.returncode == 2
    assert "keys" in ended.stderr
