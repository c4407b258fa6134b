"""A model's file is replaced while it is not in memory, and the model is asked for before any poll could see it."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from tests.e2e.conftest import MiB, Start
from tests.e2e.gateway import Gateway
from tests.engine import refused, tiny

pytestmark = [pytest.mark.model, pytest.mark.timeout(180)]

ROOM = 200 * MiB
TIMES = 3
"""Each time before the poll of the second after: one lucky poll would not hide the fault."""


def ask(gateway: Gateway, path: str = "/v1/completions") -> tuple[int, str]:
    response = gateway.http.post(path, json={"model": "m", "prompt": "Hi", "input": "Hi", "max_tokens": 2})
    body = response.json()
    return response.status_code, body["error"]["message"] if "error" in body else ""


def unload(gateway: Gateway) -> None:
    gateway.http.post("/models/unload", json={"model": "m"})
    gateway.until(lambda: not gateway.workers())


def size(gateway: Gateway) -> int:
    (model,) = gateway.http.get("/v1/models").json()["data"]
    found: int = model["meta"]["size"]
    return found


def moved(fresh: Path, over: Path) -> None:
    fresh.replace(over)


def test_another_quantisation_moved_over_it_is_loaded_at_once(
    start: Start, tmp_path: Path, demo_models: dict[str, Path]
) -> None:
    path = tmp_path / "m.gguf"
    shutil.copyfile(demo_models["q4_1"], path)
    shutil.copyfile(demo_models["q8_0"], tmp_path / "q8.gguf")
    gateway = start(models={"m": {"path": str(path)}}, budget="2GiB")
    moved(tmp_path / "q8.gguf", path)
    assert ask(gateway) == (200, "")
    assert size(gateway) == path.stat().st_size
    assert gateway.total("router_registry_reloads_total", outcome="applied") >= 1


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/embeddings"])
def test_it_is_read_again_as_often_as_it_is_replaced(start: Start, tmp_path: Path, path: str) -> None:
    file = tiny.llama(tmp_path / "m.gguf")
    gateway = start(models={"m": {"path": str(file)}}, budget=ROOM)
    for turn in range(TIMES):
        moved(tiny.llama(tmp_path / "new.gguf", context=1024 + turn * 256), file)
        assert ask(gateway, path) == (200, "")
        unload(gateway)


def test_an_operators_load_reads_it_again(start: Start, tmp_path: Path) -> None:
    file = tiny.llama(tmp_path / "m.gguf")
    gateway = start(models={"m": {"path": str(file)}}, budget=ROOM)
    for _ in range(TIMES):
        moved(tiny.llama(tmp_path / "new.gguf"), file)
        assert gateway.http.post("/models/load", json={"model": "m"}).status_code == 200
        gateway.until(lambda: bool(gateway.workers()))
        unload(gateway)
    assert "load failed" not in gateway.log.read_text()


def test_all_parts_of_a_split_model_are_read_again(start: Start, tmp_path: Path) -> None:
    tiny.llama(tmp_path / "m.gguf", split=8)
    parts = sorted(tmp_path.glob("m-*.gguf"))
    gateway = start(models={"m": {"path": str(parts[0])}}, budget=ROOM)
    aside = tmp_path / "aside"
    aside.mkdir()
    tiny.llama(aside / "m.gguf", split=8, context=1024)
    for part in parts:
        moved(aside / part.name, part)
    assert ask(gateway) == (200, "")


def test_a_broken_file_moved_over_it_is_a_clear_error_and_a_good_one_over_that_is_served(
    start: Start, tmp_path: Path
) -> None:
    file = tiny.llama(tmp_path / "m.gguf")
    gateway = start(models={"m": {"path": str(file)}}, budget=ROOM)
    for make, reason in refused.EVERY.values():
        moved(make(tmp_path / "new.gguf"), file)
        status, message = ask(gateway)
        assert (status, reason in gateway.reason(message)) == (503, True), message
        moved(tiny.llama(tmp_path / "new.gguf"), file)
        assert ask(gateway) == (200, "")
        unload(gateway)
    file.unlink()
    why = gateway.reason(ask(gateway)[1])
    assert "cannot be read" in why or "no such file" in why
    tiny.llama(file)
    assert ask(gateway) == (200, "")


def test_a_pinned_hash_holds_for_what_was_moved_over_it(start: Start, tmp_path: Path) -> None:
    file = tiny.llama(tmp_path / "m.gguf")
    right = file.read_bytes()
    pinned = hashlib.sha256(right).hexdigest()
    gateway = start(models={"m": {"path": str(file), "sha256": pinned}}, budget=ROOM)
    moved(tiny.llama(tmp_path / "new.gguf", context=1024), file)
    status, message = ask(gateway)
    assert (status, "is not the file that the registry pins" in gateway.reason(message)) == (503, True)
    (tmp_path / "new.gguf").write_bytes(right)
    moved(tmp_path / "new.gguf", file)
    assert ask(gateway) == (200, "")


def test_a_file_that_failed_too_often_is_tried_again_once_it_is_another(start: Start, tmp_path: Path) -> None:
    file = tiny.llama(tmp_path / "m.gguf")
    pinned = hashlib.sha256(file.read_bytes()).hexdigest()
    wrong = tiny.llama(tmp_path / "wrong.gguf", context=1024)
    right = file.read_bytes()
    moved(wrong, file)
    gateway = start(
        models={"m": {"path": str(file), "sha256": pinned}},
        budget=ROOM,
        limits={"failures": 1, "backoff": "5m", "backoff_max": "5m"},
    )
    assert ask(gateway)[0] == 503
    assert "failed too often" in gateway.reason(ask(gateway)[1])
    (tmp_path / "right.gguf").write_bytes(right)
    moved(tmp_path / "right.gguf", file)
    assert ask(gateway) == (200, "")
