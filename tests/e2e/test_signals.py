"""SIGHUP reads the registry again and ends nothing, at whatever moment it comes."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from subprocess import DEVNULL

import httpx2
import pytest

from tests.e2e.echo import ROUTER, ask, registry, serving
from tests.e2e.gateway import Gateway

pytestmark = [pytest.mark.process, pytest.mark.timeout(180)]

STREAM = {"model": "slow", "prompt": "Once", "max_tokens": 100, "ignore_eos": True, "stream": True}
BLIND = ("-m", "tests.e2e.broken_core", "blind", "unused")
"""A gateway that does not look at its registry by itself."""


def hang_up(gateway: Gateway) -> None:
    gateway.process.send_signal(signal.SIGHUP)


def test_sighup_reads_the_registry_again_and_nothing_that_runs_ends(tmp_path: Path) -> None:
    path = registry(tmp_path)
    with (tmp_path / "gateway.log").open("wb") as log:
        served = serving(path, stdout=DEVNULL, stderr=log, program=BLIND, flags=("--json",))
        with served as gateway:
            gateway.wait()
            assert ask(gateway, "slow") == 200
            workers = gateway.workers()
            with gateway.http.stream("POST", "/v1/completions", json=STREAM) as response:
                events = (line for line in response.iter_lines() if line.startswith("data: "))
                assert "choices" in next(events)
                models = json.loads(path.read_text())["models"]
                gateway.edit(models={**models, "new": {"path": str(tmp_path / "quick.gguf")}})
                assert ask(gateway, "new") == 404
                hang_up(gateway)
                gateway.until(lambda: ask(gateway, "new") == 200)
                assert list(events)[-1] == "data: [DONE]"
            assert workers.items() <= gateway.workers().items()
            gateway.eventually("the registry that is served is the file's")


def test_sighup_tells_what_is_wrong_with_an_edit_and_serves_on(tmp_path: Path) -> None:
    path = registry(tmp_path)
    with (tmp_path / "gateway.log").open("wb") as log:
        served = serving(path, stdout=DEVNULL, stderr=log, program=BLIND, flags=("--json",))
        with served as gateway:
            gateway.wait()
            gateway.save("version: 1\nmodels: {a: {pth: x}}\n")
            hang_up(gateway)
            gateway.eventually("registry edit refused")
            assert ask(gateway) == 200
            assert gateway.http.get("/readyz").json()["registry_edit_refused"] is True
            assert gateway.total("router_registry_reloads_total", outcome="refused") == 1


def test_sighup_during_the_start_does_not_end_it(tmp_path: Path) -> None:
    with (tmp_path / "gateway.log").open("wb") as log:
        path = registry(tmp_path)
        with serving(path, stdout=DEVNULL, stderr=log, program=ROUTER, flags=("--json",)) as gateway:
            _ignores_hang_ups(gateway)
            ready = False
            while not ready:
                hang_up(gateway)
                assert gateway.process.poll() is None
                try:
                    ready = gateway.http.get("/readyz").status_code == 200
                except httpx2.TransportError:
                    time.sleep(0.02)
            gateway.eventually("SIGHUP: reading the registry again")
            assert ask(gateway) == 200


def _ignores_hang_ups(gateway: Gateway) -> None:
    """Before Python runs its first line no program can do anything about it."""
    status = Path(f"/proc/{gateway.process.pid}/status")

    def ignored() -> bool:
        masks = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return bool(int(masks["SigIgn"], 16) & 1 << signal.SIGHUP - 1)

    gateway.until(ignored)


def test_sighup_while_it_drains_does_not_cut_the_streams(tmp_path: Path) -> None:
    with (tmp_path / "gateway.log").open("wb") as log:
        path = registry(tmp_path)
        with serving(path, stdout=DEVNULL, stderr=log, flags=("--json",)) as gateway:
            gateway.wait()
            with gateway.http.stream("POST", "/v1/completions", json=STREAM) as response:
                events = (line for line in response.iter_lines() if line.startswith("data: "))
                assert "choices" in next(events)
                gateway.process.send_signal(signal.SIGTERM)
                gateway.eventually("stopping")
                hang_up(gateway)
                assert list(events)[-1] == "data: [DONE]"
            while gateway.process.poll() is None:
                hang_up(gateway)  # also in its last moments
                time.sleep(0.01)
            assert gateway.process.returncode == 0


def test_a_worker_is_not_reached_by_the_terminals_hang_up(tmp_path: Path) -> None:
    """A closed terminal tells every process of its session; workers have sessions of their own."""
    with (tmp_path / "gateway.log").open("wb") as log:
        path = registry(tmp_path)
        with serving(path, stdout=DEVNULL, stderr=log, start_new_session=True) as gateway:
            gateway.wait()
            assert ask(gateway) == 200
            workers = gateway.workers()
            os.killpg(gateway.process.pid, signal.SIGHUP)
            gateway.eventually("SIGHUP: reading the registry again")
            assert gateway.workers() == workers
