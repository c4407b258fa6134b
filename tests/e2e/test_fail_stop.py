"""A gateway whose core breaks stops itself: probes say so, nobody is left waiting, and its exit status is not 0."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import DEVNULL

import httpx2
import pytest

from router.cli import FAILED
from router.residency.history import SIZE
from tests.e2e.echo import ask, registry, serving
from tests.e2e.gateway import Gateway

pytestmark = [pytest.mark.process, pytest.mark.timeout(180)]

STREAM = {"model": "slow", "prompt": "Once", "max_tokens": 1000, "ignore_eos": True, "stream": True}


def probes(gateway: Gateway, ready: threading.Event) -> list[tuple[int, int]]:
    """Statuses of /livez and /readyz, again and again until the port is closed."""
    seen: list[tuple[int, int]] = []
    with httpx2.Client(base_url=gateway.url, timeout=30, trust_env=False) as http:
        try:
            while True:
                seen.append((http.get("/livez").status_code, http.get("/readyz").status_code))
                ready.set()
        except httpx2.TransportError:
            return seen


def wait_for_slow(gateway: Gateway, **headers: str) -> httpx2.Response:
    body = {"model": "slow", "prompt": "Hi", "max_tokens": 2}
    with httpx2.Client(base_url=gateway.url, timeout=60, trust_env=False) as http:
        return http.post("/v1/completions", json=body, headers=headers)


def test_an_error_in_the_core_stops_the_gateway_and_nobody_is_left_waiting(tmp_path: Path) -> None:
    flag, log = tmp_path / "now", (tmp_path / "stderr").open("wb")
    program = ("-m", "tests.e2e.broken_core", "core", str(flag))
    served = serving(
        registry(tmp_path, defaults={"slots": 1}),
        stdout=DEVNULL,
        stderr=log,
        program=program,
        flags=("--json",),
    )
    with log, served as gateway, ThreadPoolExecutor() as pool:
        gateway.wait()
        assert [ask(gateway), ask(gateway, "slow")] == [200, 200]
        with gateway.http.stream("POST", "/v1/completions", json=STREAM) as response:
            events = (line for line in response.iter_lines() if line.startswith("data: "))
            assert "choices" in next(events)
            begun = threading.Event()
            probing = pool.submit(probes, gateway, begun)
            assert begun.wait(60)
            patient = pool.submit(wait_for_slow, gateway)
            flag.touch()
            hurried = pool.submit(wait_for_slow, gateway, **{"x-router-max-wait": "0.3"})
            refused = [hurried.result(), patient.result()]
            rest = [line.removeprefix("data: ") for line in events]
        assert [answer.status_code for answer in refused] == [503, 503]
        assert {answer.json()["error"]["code"] for answer in refused} == {"shutting_down"}
        assert json.loads(rest[-1])["error"]["code"] == "worker_stopped"
        assert "[DONE]" not in rest
        assert gateway.process.wait(60) == FAILED
        seen = probing.result()
    assert set(seen) <= {(200, 200), (200, 503), (503, 503)}
    assert seen[-1] == (503, 503)
    said = [json.loads(line) for line in (tmp_path / "stderr").read_bytes().splitlines() if line[:1] == b"{"]
    (broke,) = [line for line in said if line["event"].startswith("residency broke")]
    assert "injected into the core" in broke["exception"]
    history = [line["entry"] for line in said if line["event"] == "history"]
    assert 0 < len(history) <= SIZE
    assert history[-1].startswith("TimePassed(")
    assert any(entry.startswith("LeaseRequested(") for entry in history)


def test_a_watch_that_breaks_is_told_of_and_starts_again(tmp_path: Path) -> None:
    flag, path = tmp_path / "now", registry(tmp_path)
    program = ("-m", "tests.e2e.broken_core", "watch", str(flag))
    with (tmp_path / "gateway.log").open("wb") as log:
        with serving(path, stdout=DEVNULL, stderr=log, program=program, flags=("--json",)) as gateway:
            gateway.wait()
            flag.touch()
            gateway.eventually("injected into the watch")
            models = {"other": {"path": str(tmp_path / "quick.gguf")}}
            gateway.edit(models=models)
            gateway.eventually("registry applied")
            assert ask(gateway, "other") == 200
            assert gateway.http.get("/readyz").json()["status"] == "ok"
