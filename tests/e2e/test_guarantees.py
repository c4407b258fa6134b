"""The guarantees about edits, ends and metrics, each under its number, kept by a whole gateway under load."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.bench.hostile_edits import BROKEN
from tests.e2e.gateway import Gateway, running, write_registry
from tests.registry.conftest import Folder

pytestmark = [pytest.mark.process, pytest.mark.timeout(180)]

RELOADS = int(os.environ.get("ROUTER_RELOADS", "40"))
"""200 in `make soak`, as is promised: a quarter of a second each."""
Models = dict[str, dict[str, Any]]


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    """Two models on the echo backend, a word every 2 ms."""
    path = write_registry(tmp_path / "registry.yaml", models(tmp_path), devices={"host": {"budget": "4GiB"}})
    with running(path, tmp_path, "--backend", "echo") as found:
        yield found


def models(folder: Path) -> Models:
    return {name: {"path": str(Folder(folder).model(f"{name}?step_ms=2")), "slots": 4} for name in "ab"}


class Load:
    """Streams of every model, one after another, until it is told to stop; what went wrong is in `failures`."""

    def __init__(self, gateway: Gateway, names: str = "ab") -> None:
        self.failures: list[str] = []
        self.answers = dict.fromkeys(names, 0)
        self._gateway = gateway
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(name,)) for name in names]

    @contextlib.contextmanager
    def running(self) -> Iterator[Load]:
        for thread in self._threads:
            thread.start()
        try:
            self._gateway.until(lambda: all(self.answers.values()))
            yield self
            after = dict(self.answers)
            self._gateway.until(lambda: all(self.answers[name] > after[name] for name in after))
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join(60)

    def _run(self, model: str) -> None:
        with httpx2.Client(base_url=self._gateway.url, timeout=60, trust_env=False) as http:
            while not self._stop.is_set():
                body = {"model": model, "prompt": "one two three four five six seven", "stream": True}
                response = http.post("/v1/completions", json=body)
                data = [line for line in response.text.splitlines() if line.startswith("data: ")]
                whole = response.status_code == 200 and data[-1] == "data: [DONE]"
                if not whole or '"error"' in response.text:
                    self.failures.append(f"{model}: {response.status_code} {response.text[-300:]}")
                self.answers[model] += 1


def reloads(gateway: Gateway, outcome: str) -> float:
    return gateway.total("router_registry_reloads_total", outcome=outcome)


def saved(gateway: Gateway, text: str, outcome: str) -> None:
    """Save it and wait until the gateway has judged it; that is all the time that passes."""
    before = reloads(gateway, outcome)
    gateway.save(text)
    gateway.until(lambda: reloads(gateway, outcome) > before)


def served(gateway: Gateway) -> dict[str, Any]:
    """Name -> context of every model."""
    listed = gateway.http.get("/v1/models").json()["data"]
    return {entry["id"]: entry["meta"]["n_ctx"] for entry in listed}


def test_g14_a_bad_registry_never_takes_effect_and_fails_no_request(gateway: Gateway) -> None:
    before, good = served(gateway), gateway.registry.read_text()
    with Load(gateway).running() as load:
        workers = gateway.workers()
        for text in (*BROKEN, good.replace('"slots": 4', '"slots": 0'), good.replace("/b?", "/gone?"), ""):
            saved(gateway, text, "refused")
            assert served(gateway) == before
        assert gateway.workers() == workers
    assert load.failures == []
    assert reloads(gateway, "applied") == 0


def test_g15_a_good_registry_takes_effect_at_once_and_as_a_whole(gateway: Gateway) -> None:
    """Both models change together, many times: nobody ever sees one of them changed and the other not."""
    versions: list[Models] = []
    for context in (400, 800):
        found: Models = written(gateway)["models"]
        versions.append({f"{name}-{context}": {**entry, "context": context} for name, entry in found.items()})
    seen: list[frozenset[str]] = []
    stop = threading.Event()

    def look() -> None:
        with httpx2.Client(base_url=gateway.url, timeout=60, trust_env=False) as http:
            while not stop.is_set():
                listed = http.get("/v1/models").json()["data"]
                seen.append(frozenset(entry["id"] for entry in listed))

    watching = threading.Thread(target=look)
    watching.start()
    try:
        for number in range(10):
            saved(gateway, document(gateway, versions[number % 2]), "applied")
            assert set(served(gateway)) == set(versions[number % 2])
    finally:
        stop.set()
        watching.join(60)
    assert set(seen) <= {frozenset("ab"), *map(frozenset, versions)}


def written(gateway: Gateway) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(gateway.registry.read_text())
    return found


def document(gateway: Gateway, chosen: Models) -> str:
    return json.dumps({**written(gateway), "models": chosen})


def test_g16_in_reloads_under_load_no_request_fails_and_what_did_not_change_keeps_its_process(
    gateway: Gateway,
) -> None:
    chosen = written(gateway)["models"]
    with Load(gateway).running() as load:
        (kept,) = (pid for pid, model in gateway.workers().items() if model == "a")
        replaced = set()
        for number in range(RELOADS):
            chosen["a"]["ttl"] = f"{100 + number}s"  # adopted in place
            if number % 10 == 0:
                chosen["b"]["context"] = 300 + number  # another process: the old one is drained
            saved(gateway, document(gateway, chosen), "applied")
            replaced |= {pid for pid, model in gateway.workers().items() if model == "b"}
            assert kept in gateway.workers()
    assert load.failures == []
    assert min(load.answers.values()) > 20
    assert len(replaced) > 3
    assert reloads(gateway, "refused") == 0
    assert gateway.total("router_worker_restarts_total") == 0


def test_g21_series_are_bounded_by_the_registry_whatever_is_asked(gateway: Gateway) -> None:
    for number in range(300):
        headers = {"x-request-id": f"id-{number}", "authorization": f"Bearer {number}"}
        body = {"model": f"invented-{number}", "prompt": "Hi", "user": f"u{number}"}
        gateway.http.post("/v1/completions", json=body, headers=headers)
        gateway.http.get(f"/v1/models/invented-{number}", headers=headers)
        gateway.http.request("POST", f"/nowhere/{number}")
    for model in "ab":
        gateway.openai.completions.create(model=model, prompt="Hi", max_tokens=1)
    found = gateway.metrics()
    assert len(found) <= 40 * 2 + 200
    assert "invented" not in repr(found)
