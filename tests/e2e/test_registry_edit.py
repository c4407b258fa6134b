"""The registry is edited while real streams run."""

from __future__ import annotations

import pytest

from tests.e2e.conftest import Start, two_models

pytestmark = [pytest.mark.model, pytest.mark.timeout(180)]

LONG = {"prompt": "Once upon a time", "max_tokens": 300, "ignore_eos": True, "stream": True}


def test_an_edit_while_a_stream_runs_ends_no_stream(start: Start, demo_models: dict[str, object]) -> None:
    gateway = start()
    with gateway.http.stream("POST", "/v1/completions", json={"model": "a", **LONG}) as response:
        lines = response.iter_lines()
        next(lines)
        (worker,) = gateway.workers()
        models = two_models(demo_models)
        models["a"] = {**models["a"], "ttl": "1h", "aliases": ["default", "fresh"]}
        models["c"] = {"path": str(demo_models["f16"]), "context": 256}
        gateway.edit(models=models)
        gateway.eventually("applied")
        assert set(gateway.workers()) == {worker}  # ttl and aliases are adopted in place
        names = {entry["id"] for entry in gateway.http.get("/v1/models").json()["data"]}
        assert "c" in names
        models["a"] = {**models["a"], "context": 768}
        gateway.edit(models=models)  # a new fingerprint: the old instance drains
        rest = [line for line in lines if line.startswith("data: ")]
    assert rest[-1] == "data: [DONE]"
    assert not any('"error"' in line for line in rest)
    answer = gateway.openai.completions.create(model="fresh", prompt="Hi", max_tokens=1)
    assert answer.choices[0].finish_reason == "length"
    assert worker not in gateway.workers()


def test_a_broken_edit_is_reported_with_its_line_and_changes_nothing(start: Start) -> None:
    gateway = start()
    gateway.openai.completions.create(model="a", prompt="Hi", max_tokens=1)
    workers = gateway.workers()
    good = gateway.registry.read_text()
    gateway.save(good.replace('"slots": 2', '"slots": "two"'))
    gateway.eventually("expected an integer")
    gateway.eventually("registry.yaml:")
    assert gateway.workers() == workers
    assert gateway.http.get("/readyz").status_code == 200
    answer = gateway.openai.completions.create(model="b", prompt="Hi", max_tokens=1)
    assert answer.choices[0].finish_reason == "length"
    assert gateway.total("router_registry_reloads_total", outcome="refused") == 1
    gateway.save(good)
    assert gateway.http.get("/readyz").status_code == 200
