"""Requests at the edges of HTTP, over plain sockets and with ordinary clients, against a real gateway."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import pty
import re
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from openai import APIStatusError

from tests.e2e import echo
from tests.e2e.gateway import Gateway, running

pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]
GET = b"GET /livez HTTP/1.1\r\nhost: localhost\r\n"
POST = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\n"
BIG = json.dumps({"model": "quick", "prompt": "a" * 16_000_000}).encode()
CHUNKED = b"transfer-encoding: chunked\r\n"
EMPTY = b"0\r\n\r\n"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("edges")
    with running(echo.registry(folder), folder, "--backend", "echo") as started:
        yield started


def connected(gateway: Gateway) -> socket.socket:
    host, port = gateway.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)))
    connection.settimeout(30)
    return connection


def read(connection: socket.socket) -> bytes:
    """Until the gateway closes."""
    found = b""
    while piece := connection.recv(2**16):
        found += piece
    return found


def said(gateway: Gateway, data: bytes, half: bool = False) -> bytes:
    with connected(gateway) as connection:
        connection.sendall(data)
        if half:
            connection.shutdown(socket.SHUT_WR)
        return read(connection)


def completion(model: str, *headers: str, version: str = "1.1", **more: object) -> bytes:
    body = json.dumps({"model": model, "prompt": "Hi", "max_tokens": 4, **more}).encode()
    lines = [
        f"POST /v1/completions HTTP/{version}",
        "host: localhost",
        f"content-length: {len(body)}",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


@pytest.mark.parametrize(
    "request_",
    [
        POST + CHUNKED + b"content-length: 5\r\n\r\n" + EMPTY,
        POST + b"content-length: 5\r\n" + CHUNKED + b"\r\n" + EMPTY,
        POST.replace(b"1.1", b"1.0") + CHUNKED + b"\r\n" + EMPTY,
        POST + CHUNKED.replace(b"chunked", b"gzip, chunked") + b"\r\n" + EMPTY,
        POST + b"content-length: 5\r\ncontent-length: 6\r\n\r\nhello",
    ],
)
def test_a_body_of_two_lengths_is_refused_and_the_connection_closed(
    gateway: Gateway, request_: bytes
) -> None:
    answer = said(gateway, request_ + GET + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 400")
    assert len(re.findall(rb"HTTP/1.1 \d", answer)) == 1, "nothing behind it is a request"
    assert b'"code":"bad_http"' in answer


@pytest.mark.parametrize("size", [66_000, 70_000, 200_000])
def test_a_large_head_is_refused_in_words(gateway: Gateway, size: int) -> None:
    answer = said(gateway, GET + b"x-big: " + b"a" * size + b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 431")
    assert b'"code":"headers_too_large"' in answer


def test_a_target_with_its_host_is_served_and_held_to_that_host(gateway: Gateway) -> None:
    line = b"GET http://%s/v1/models HTTP/1.1\r\nhost: %s\r\nconnection: close\r\n\r\n"
    served = said(gateway, line % (b"localhost:1", b"localhost"))
    assert served.startswith(b"HTTP/1.1 200")
    assert b'"id":"quick"' in served
    assert said(gateway, line % (b"evil.example", b"localhost")).startswith(b"HTTP/1.1 421")


def test_bytes_behind_a_finished_answer_are_refused_and_logged_as_one_line(gateway: Gateway) -> None:
    answer = said(gateway, GET + b"\r\n\x00authorization: Bearer hush\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"HTTP/1.1 400" in answer
    assert said(gateway, GET + b"connection: close\r\n\r\ngarbage").count(b"HTTP/1.1") == 1
    said(gateway, GET + b"authorization : Bearer hush\r\n\r\n")
    gateway.eventually("refused before it was a request")
    log = gateway.log.read_text()
    assert "Traceback" not in log and "Invalid HTTP" not in log and "hush" not in log


@pytest.mark.parametrize(
    "request_",
    [
        completion("quick"),
        completion("slow"),
        completion("slow", "connection: close"),
        completion("slow", stream=True),
        GET + b"\r\n" + completion("slow") + completion("quick"),
        b"GET /v1/models HTTP/1.0\r\n\r\n",
    ],
    ids=["quick", "slow", "close", "stream", "pipelined", "old"],
)
def test_a_client_that_has_stopped_sending_is_answered(gateway: Gateway, request_: bytes) -> None:
    answer = said(gateway, request_, half=True)
    assert answer.count(b"200 OK") == request_.count(b"HTTP/1"), answer
    assert answer.rstrip().endswith((b"}", b"0")), "it is whole"


LONG = {"prompt": "x" * 400, "max_tokens": 400}
"""20 seconds of the slow model."""


@pytest.mark.parametrize(
    "request_",
    [
        completion("slow", **LONG),
        completion("slow", "connection: close", **LONG),
        completion("slow", version="1.0", **LONG),
        completion("slow", stream=True, **LONG),
    ],
    ids=["whole", "close", "old", "stream"],
)
@pytest.mark.parametrize("first", ["close", "shutdown"])
def test_a_client_that_is_gone_frees_its_slot(gateway: Gateway, request_: bytes, first: str) -> None:
    left = gateway.log.read_text().count('"finish": "left"')
    with connected(gateway) as connection:
        connection.sendall(request_)
        gateway.until(lambda: gateway.total("router_slots_busy", model="slow") == 1)
        if first == "shutdown":
            connection.shutdown(socket.SHUT_WR)
    gateway.until(lambda: gateway.total("router_slots_busy", model="slow") == 0, seconds=10)
    gateway.until(lambda: gateway.log.read_text().count('"finish": "left"') == left + 1)


@pytest.mark.parametrize(
    "client", ["http.client", "urllib", "httpx", "openai", "curl", "curl-chunked", "plain"]
)
def test_a_body_that_is_too_large_is_refused_in_words_that_clients_read(
    gateway: Gateway, client: str, tmp_path: Path
) -> None:
    url = f"{gateway.url}/v1/completions"
    status = 0
    if client == "http.client":
        with contextlib.closing(http.client.HTTPConnection(gateway.url[7:], timeout=60)) as connection:
            connection.request("POST", "/v1/completions", body=BIG)
            status = connection.getresponse().status
    elif client == "urllib":
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(urllib.request.Request(url, data=BIG), timeout=60)
        with refused.value:
            status = refused.value.code
    elif client == "httpx":
        status = httpx2.post(url, content=BIG, timeout=60, trust_env=False).status_code
    elif client == "openai":
        with pytest.raises(APIStatusError) as error:
            gateway.openai.completions.create(model="quick", prompt="a" * 16_000_000)
        status = error.value.status_code
    elif client == "plain":
        head = POST + b"content-length: %d\r\n\r\n" % len(BIG)
        status = int(said(gateway, head + BIG).split()[1])
    else:
        body = tmp_path / "body"
        body.write_bytes(BIG)
        more = ["-H", "Transfer-Encoding: chunked"] if client == "curl-chunked" else []
        told = ["curl", "-sS", "-o", str(tmp_path / "out"), "-w", "%{http_code}", "-H", "Expect:", *more]
        done = subprocess.run(
            [*told, "--data-binary", f"@{body}", url], capture_output=True, text=True, timeout=60
        )
        status = int(done.stdout)
    assert status == 413


def test_no_client_writes_to_the_terminal_of_the_operator(tmp_path: Path) -> None:
    master, slave = pty.openpty()
    seen = bytearray()

    def collect() -> None:
        with contextlib.suppress(OSError):
            while piece := os.read(master, 2**16):
                seen.extend(piece)

    reader = threading.Thread(target=collect, daemon=True)
    reader.start()
    try:
        with echo.serving(echo.registry(tmp_path), stdout=subprocess.DEVNULL, stderr=slave) as gateway:
            gateway.wait()
            end = b" HTTP/1.1\r\nhost: a\x1b[5m\r\nconnection: close\r\n\r\n"
            for path in (b"/%1b]0;owned%07%c2%9b5m", b"/a%0aforged", b"/\x1b]0;owned"):
                said(gateway, b"GET " + path + end)
            limit = time.monotonic() + 30
            while b"forged" not in seen and time.monotonic() < limit:
                time.sleep(0.02)
    finally:
        os.close(slave)
        reader.join(10)
        os.close(master)
    text = seen.decode()
    assert "\\x1b]0;owned\\x07\\x9b5m" in text
    assert "\x1b]" not in text and "\x07" not in text and "\x9b" not in text and "\nforged" not in text
