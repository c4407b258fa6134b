"""What dies, and who notices: workers killed at every moment, the gateway killed outright, orderly ends."""

from __future__ import annotations

import json
import os
import signal
import time

import httpx2
import psutil
import pytest

from tests.e2e.conftest import Start
from tests.e2e.gateway import Gateway

pytestmark = [pytest.mark.model, pytest.mark.timeout(180)]

LONG = {"prompt": "Once upon a time", "max_tokens": 400, "ignore_eos": True, "stream": True}


def the_worker(gateway: Gateway) -> int:
    (pid,) = gateway.workers()
    return pid


def events(response: httpx2.Response) -> list[str]:
    return [line.removeprefix("data: ") for line in response.iter_lines() if line.startswith("data: ")]


def gone(pids: set[int], seconds: float = 5) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in pids):
            return True
        time.sleep(0.05)
    return False


def test_g2_a_worker_killed_mid_stream_ends_in_an_error_event_and_the_next_request_is_served(
    start: Start,
) -> None:
    gateway = start()
    with gateway.http.stream("POST", "/v1/completions", json={"model": "a", **LONG}) as response:
        lines = (line for line in response.iter_lines() if line.startswith("data: "))
        assert "choices" in next(lines)
        os.kill(the_worker(gateway), signal.SIGKILL)
        rest = [line.removeprefix("data: ") for line in lines]
    error = json.loads(rest[-1])["error"]
    assert error["code"] == "worker_crashed"
    assert "[DONE]" not in rest
    assert gateway.total("router_worker_restarts_total", model="a") == 1
    answer = gateway.openai.completions.create(model="a", prompt="Hi", max_tokens=2)
    assert answer.choices[0].finish_reason == "length"


def test_g10_a_worker_killed_before_the_first_token_is_not_seen_by_the_client(start: Start) -> None:
    gateway = start()
    gateway.openai.completions.create(model="a", prompt="Hi", max_tokens=1)
    worker = the_worker(gateway)
    os.kill(worker, signal.SIGSTOP)  # it takes the request and says nothing
    with gateway.http.stream(
        "POST", "/v1/completions", json={"model": "a", **LONG, "max_tokens": 4}
    ) as response:
        os.kill(worker, signal.SIGKILL)
        data = events(response)
    assert data[-1] == "[DONE]"
    assert "error" not in "".join(data)
    assert gateway.total("router_worker_restarts_total", model="a") == 1
    assert the_worker(gateway) != worker


def test_g8_a_client_that_leaves_frees_its_slot(start: Start) -> None:
    gateway = start()
    with gateway.http.stream(
        "POST", "/v1/completions", json={"model": "a", **LONG, "max_tokens": 900}
    ) as response:
        lines = response.iter_lines()
        while not next(lines).startswith("data: "):
            pass
        assert gateway.total("router_slots_busy", model="a") == 1
    gateway.until(lambda: gateway.total("router_slots_busy", model="a") == 0, seconds=5)
    gateway.until(lambda: gateway.total("router_requests_total", finish="left") == 1, seconds=5)
    answer = gateway.openai.completions.create(model="a", prompt="Hi", max_tokens=1)
    assert answer.choices[0].finish_reason == "length"


def test_g12_no_worker_outlives_a_gateway_that_is_killed_outright(start: Start) -> None:
    gateway = start()
    gateway.openai.completions.create(model="a", prompt="Hi", max_tokens=1)
    family = gateway.children()
    assert len(family) >= 2  # the worker and a warm spare
    gateway.process.kill()
    gateway.process.wait(5)
    assert gone(family)


def test_g17_after_sigterm_readiness_says_503_the_running_answer_finishes_and_new_ones_are_refused(
    start: Start,
) -> None:
    gateway = start()
    family = gateway.children()
    with gateway.http.stream(
        "POST", "/v1/completions", json={"model": "a", **LONG, "max_tokens": 100}
    ) as response:
        lines = response.iter_lines()
        next(lines)
        gateway.process.send_signal(signal.SIGTERM)
        gateway.wait("/readyz", 503, 5)
        assert gateway.http.get("/livez").status_code == 200
        refused = gateway.http.post("/v1/completions", json={"model": "a", "prompt": "Hi", "max_tokens": 1})
        assert refused.status_code == 503
        assert [line for line in lines if line][-1] == "data: [DONE]"
    assert gateway.process.wait(20) == 0
    assert gone(family)


def test_g17_a_second_signal_ends_at_once(start: Start) -> None:
    gateway = start()
    with gateway.http.stream(
        "POST", "/v1/completions", json={"model": "a", **LONG, "max_tokens": 900}
    ) as response:
        lines = response.iter_lines()
        next(lines)
        gateway.process.send_signal(signal.SIGTERM)
        gateway.wait("/readyz", 503, 5)
        gateway.process.send_signal(signal.SIGTERM)
        assert gateway.process.wait(10) == 0
