"""What the gateway promises in numbers, measured from outside: slots that come back, memory that does not grow."""

from __future__ import annotations

import json
import socket
import threading
import time
from pathlib import Path

import httpx2
import psutil
import pytest

from tests.e2e.conftest import MiB, Start
from tests.e2e.gateway import Gateway

pytestmark = [pytest.mark.model, pytest.mark.timeout(240)]

LARGEST = 8 * MiB - 1024
ENDLESS = {"prompt": "Once upon a time", "max_tokens": 900, "ignore_eos": True, "stream": True}


def busy(gateway: Gateway) -> float:
    return gateway.total("router_slots_busy", model="a")


def test_g8_a_client_that_leaves_frees_its_slot_long_before_its_answer_would_have_ended(start: Start) -> None:
    gateway = start()
    gateway.openai.completions.create(model="a", prompt="Hi", max_tokens=1)
    with gateway.http.stream("POST", "/v1/completions", json={"model": "a", **ENDLESS}) as response:
        lines = response.iter_lines()
        while not next(lines).startswith("data: "):
            pass
        gateway.until(lambda: busy(gateway) == 1)
    gateway.until(lambda: busy(gateway) == 0)
    assert 1 < gateway.total("router_tokens_total", model="a", direction="completion") < 450


def test_a_client_that_leaves_while_its_prompt_is_read_frees_its_slot_after_one_micro_batch(
    start: Start, demo_models: dict[str, Path]
) -> None:
    models = {"a": {"path": str(demo_models["q4_1"]), "context": 4096, "slots": 1}}
    gateway = start(models=models, budget=900 * MiB)
    prompt = "the quick brown fox jumps over the lazy dog " * 180  # some 1,800 tokens: four micro-batches
    gateway.openai.completions.create(model="a", prompt="Hi", max_tokens=1)
    (pid,) = gateway.workers()
    began, computed = time.monotonic(), computing(pid)
    gateway.openai.completions.create(model="a", prompt="x" + prompt, max_tokens=1)
    whole, computed = time.monotonic() - began, computing(pid) - computed
    before = computing(pid)
    with pytest.raises(httpx2.TimeoutException):
        body = {"model": "a", "prompt": "y" + prompt, "max_tokens": 1}
        gateway.http.post("/v1/completions", json=body, timeout=whole / 8)
    gateway.until(lambda: busy(gateway) == 0)
    # In processor time, which does not depend on who else wants the processor.
    assert computing(pid) - before < 0.75 * computed
    assert gateway.total("router_requests_total", code="499", finish="left") == 1


def computing(pid: int) -> float:
    """Seconds of processor time that this process has used."""
    used = psutil.Process(pid).cpu_times()
    return used.user + used.system


def test_a_client_that_leaves_while_it_waits_leaves_no_trace(start: Start) -> None:
    gateway = start(limits={"patience": "60s"})
    with gateway.http.stream("POST", "/v1/completions", json={"model": "a", **ENDLESS}) as response:
        lines = response.iter_lines()  # held, else the stream would be closed with it
        next(lines)
        with pytest.raises(httpx2.TimeoutException):
            gateway.http.post("/v1/completions", json={"model": "b", "prompt": "Hi"}, timeout=0.5)
        gateway.until(lambda: gateway.total("router_waiting_requests") == 0)  # not after 60 s
        assert set(gateway.workers().values()) == {"a"}
    assert gateway.total("router_evictions_total") == 0


def peak_of(gateway: Gateway) -> int:
    """Most bytes resident since the last `forget_peak`."""
    status = Path(f"/proc/{gateway.process.pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def forget_peak(gateway: Gateway) -> int:
    """Bytes resident now, from which the peak is counted."""
    Path(f"/proc/{gateway.process.pid}/clear_refs").write_text("5")
    return psutil.Process(gateway.process.pid).memory_info().rss


def wrapped(before: str, item: str, after: str) -> bytes:
    """As many items as the largest body holds."""
    size = len(item.encode())
    return (before + item * ((LARGEST - len(before) - len(after)) // size) + after).encode()


BODIES = {
    "plain": wrapped('{"model":"a","prompt":"', "word ", '"}'),
    # One wide character makes Python keep four bytes for each of the others.
    "wide": wrapped('{"model":"a","prompt":"\U0001f600', "word ", '"}'),
    "escaped": wrapped('{"model":"a","prompt":"', r"\u4e00", '"}'),
    "lists": wrapped('{"model":"a","prompt":[', "[],", "[]]}"),
    "messages": wrapped('{"model":"a","messages":[', '{"role":"user","content":""},', "0]}"),
}


def test_g20_no_body_grows_the_gateway_by_64_mib(start: Start) -> None:
    gateway = start("--backend", "echo")
    gateway.openai.completions.create(model="a", prompt="Hi", max_tokens=1)
    grown = {}
    for name, body in BODIES.items():
        before = forget_peak(gateway)
        gateway.http.post("/v1/completions", content=body)
        grown[name] = (peak_of(gateway) - before) / MiB
    assert {name: size for name, size in grown.items() if size > 64} == {}


def test_ten_megabytes_are_refused_before_they_are_read(start: Start) -> None:
    gateway = start("--backend", "echo")
    for body in (b'{"x":' + b"[" * 10_000_000, b"[" + b"1," * 5_000_000 + b"1]"):
        before = forget_peak(gateway)
        response = gateway.http.post("/v1/completions", content=body)
        assert (response.status_code, response.json()["error"]["code"]) == (413, "request_too_large")
        assert peak_of(gateway) - before < 16 * MiB


def test_hundreds_of_half_sent_requests_cost_others_nothing(start: Start) -> None:
    gateway = start("--backend", "echo")
    address = ("127.0.0.1", int(gateway.url.rsplit(":", 1)[1]))
    half = [
        b"",
        b"POST /v1/completions HTTP/1.1\r\nHost: loc",
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n",
    ]
    whole_head = half[2] + b"Content-Length: 1000\r\n\r\n{"
    held = [socket.create_connection(address) for _ in range(300)]
    try:
        for number, connection in enumerate(held):
            connection.sendall([*half, whole_head][number % 4])
        for _ in range(5):
            answered(gateway)
    finally:
        for connection in held:
            connection.close()


def answered(gateway: Gateway) -> None:
    answer = gateway.openai.completions.create(model="a", prompt="Hi", max_tokens=1)
    assert answer.choices[0].finish_reason == "length"


def test_a_client_that_stops_reading_holds_back_nobody(start: Start) -> None:
    gateway = start()
    deaf = socket.socket()
    deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    deaf.connect(("127.0.0.1", int(gateway.url.rsplit(":", 1)[1])))
    body = json.dumps({"model": "a", **ENDLESS}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    with deaf:
        deaf.sendall(head.encode() + body)
        gateway.until(lambda: busy(gateway) == 1)
        others = [threading.Thread(target=answered, args=(gateway,)) for _ in range(3)]
        for other in others:
            other.start()
        for other in others:
            other.join(60)
            assert not other.is_alive()
