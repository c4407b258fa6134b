"""A model file changes under a loaded model: the four ways, with real files and a pinned hash."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import openai
import pytest

from tests.e2e.conftest import Start
from tests.e2e.gateway import Gateway

pytestmark = [pytest.mark.model, pytest.mark.timeout(180)]

ASK = {"model": "a", "prompt": "1, 2, 3,", "max_tokens": 4, "temperature": 0}


@pytest.fixture
def weights(tmp_path: Path, demo_models: dict[str, Path]) -> Path:
    """A copy that may be damaged."""
    path = tmp_path / "m.gguf"
    shutil.copyfile(demo_models["q4_1"], path)
    return path


def serving(start: Start, weights: Path) -> Gateway:
    """A gateway with the file pinned by its hash, and the model loaded."""
    pinned = hashlib.sha256(weights.read_bytes()).hexdigest()
    gateway = start(models={"a": {"path": str(weights), "sha256": pinned}})
    assert answered(gateway)
    return gateway


def answered(gateway: Gateway) -> bool:
    return gateway.http.post("/v1/completions", json=ASK).status_code == 200


def refusal(gateway: Gateway) -> str:
    response = gateway.http.post("/v1/completions", json=ASK)
    assert response.status_code == 503, response.text
    return str(response.json()["error"]["message"])


def test_an_unlinked_file_is_served_on_and_noted(start: Start, weights: Path) -> None:
    gateway = serving(start, weights)
    workers = gateway.workers()
    weights.unlink()
    gateway.eventually("gone")
    assert answered(gateway)
    assert gateway.workers() == workers


def test_the_same_file_renamed_over_it_is_served_without_a_failed_request(
    start: Start, weights: Path
) -> None:
    gateway = serving(start, weights)
    aside = weights.with_suffix(".new")
    shutil.copyfile(weights, aside)
    aside.replace(weights)
    for _ in range(20):
        assert answered(gateway)
    gateway.eventually("applied")
    assert answered(gateway)


def test_g18_a_file_overwritten_in_place_is_refused_until_its_hash_fits(start: Start, weights: Path) -> None:
    gateway = serving(start, weights)
    whole = weights.read_bytes()
    with weights.open("r+b") as file:
        file.seek(-1000, os.SEEK_END)
        file.write(b"\xff" * 1000)
    gateway.until(lambda: not gateway.workers())
    assert refusal(gateway)
    gateway.eventually("is not the file that the registry pins")
    with weights.open("r+b") as file:
        file.write(whole)
    gateway.until(lambda: answered(gateway), seconds=30)


def test_a_truncated_file_retires_its_model_and_the_gateway_serves_on(start: Start, weights: Path) -> None:
    gateway = serving(start, weights)
    os.truncate(weights, 2**20)
    gateway.until(lambda: not gateway.workers())
    assert refusal(gateway)
    assert gateway.http.get("/livez").status_code == 200


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
def test_a_missing_and_a_broken_file_tell_clients_not_to_ask_again_and_a_failed_load_when_to(
    start: Start, tmp_path: Path, demo_models: dict[str, Path], streamed: bool
) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"GGUF" + b"\xff" * 4096)
    fails = tmp_path / "fails.gguf?fail=load"
    fails.symlink_to(demo_models["q4_1"])
    paths = {"missing": tmp_path / "missing.gguf", "broken": tmp_path / "broken.gguf", "fails": fails}
    gateway = start("--backend", "echo", models={name: {"path": str(path)} for name, path in paths.items()})
    patient = gateway.openai.with_options(max_retries=2)
    for name in ("missing", "broken"):
        with pytest.raises(openai.InternalServerError) as refused:
            patient.completions.create(model=name, prompt="Hi", stream=streamed)
        headers = refused.value.response.headers
        assert (headers["x-should-retry"], "retry-after" in headers) == ("false", False)
        gateway.until(lambda name=name: gateway.total("router_requests_total", model=name) > 0)  # type: ignore[misc]
        assert gateway.total("router_requests_total", model=name, code="503") == 1
        load = gateway.http.post("/models/load", json={"model": name})
        assert (load.status_code, load.headers["x-should-retry"]) == (503, "false")
    with pytest.raises(openai.InternalServerError) as refused:
        gateway.openai.completions.create(model="fails", prompt="Hi", stream=streamed)
    headers = refused.value.response.headers
    assert ("x-should-retry" in headers, int(headers["retry-after"]) >= 1) == (False, True)
