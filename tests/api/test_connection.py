"""What a client can send and hold open before there is a request."""

from __future__ import annotations

import asyncio
import json
import resource
import socket
import urllib.parse
from typing import Any

import pytest

from router.api import connection
from tests.api.door import served
from tests.scene import A, Scene, chat_body, scene

GET = b"GET /livez HTTP/1.1\r\nhost: localhost\r\n"


async def talk(url: str, *pieces: bytes) -> tuple[int, Any]:
    """Send pieces one after the other, read one answer whole: status, and its JSON."""
    address = urllib.parse.urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        async with asyncio.timeout(20):
            return await answer(reader)
    finally:
        writer.close()


async def answer(reader: asyncio.StreamReader) -> tuple[int, Any]:
    head = await reader.readuntil(b"\r\n\r\n")
    length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    body = await reader.readexactly(int(length[0].split(b":")[1]))
    return int(head.split()[1]), json.loads(body)


async def asked(*pieces: bytes, **limits: Any) -> tuple[int, Any]:
    async with scene() as house, served(house, **limits) as url:
        return await talk(url, *pieces)


async def test_headers_that_stop_halfway_are_answered_and_closed() -> None:
    status, body = await asked(GET + b"x-half: ", head_seconds=0.2)
    assert (status, body["error"]["code"]) == (408, "request_timeout")


async def test_headers_that_drip_are_not_waited_for_either() -> None:
    async with scene() as house, served(house, head_seconds=0.3) as url:
        address = urllib.parse.urlsplit(url)
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
            dripping = tasks.create_task(drip(writer))
            status, _ = await answer(reader)
            dripping.cancel()
        writer.close()
    assert status == 408


async def drip(writer: asyncio.StreamWriter) -> None:
    writer.write(GET)
    while True:
        writer.write(b"x: y\r\n")
        await asyncio.sleep(0.05)


async def test_a_connection_that_says_nothing_is_closed() -> None:
    async with scene() as house, served(house, head_seconds=0.2) as url:
        address = urllib.parse.urlsplit(url)
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        async with asyncio.timeout(10):
            assert await reader.read() == b""
        writer.close()


async def test_a_second_request_on_a_connection_has_its_own_time_for_headers() -> None:
    async with scene() as house, served(house, head_seconds=0.4) as url:
        address = urllib.parse.urlsplit(url)
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        async with asyncio.timeout(10):
            for _ in range(3):
                writer.write(GET + b"\r\n")
                assert (await answer(reader))[0] == 200
                await asyncio.sleep(0.25)  # idle between requests is no crime
            writer.write(GET)
            assert (await answer(reader))[0] == 408
        writer.close()


async def test_an_answer_that_takes_long_is_no_late_header() -> None:
    async with scene() as house, served(house, head_seconds=0.2) as url:
        gate = asyncio.Event()
        house.launcher.scripts[A.name] = [[gate, "Hello"]]
        async with asyncio.TaskGroup() as tasks:
            asking = tasks.create_task(talk(url, post(chat_body())))
            await asyncio.sleep(0.6)
            gate.set()
        assert asking.result()[0] == 200


def post(body: object, *headers: str) -> bytes:
    raw = json.dumps(body).encode()
    lines = [
        "POST /v1/chat/completions HTTP/1.1",
        "host: localhost",
        f"content-length: {len(raw)}",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode() + raw


@pytest.mark.parametrize("stays", [True, False])
async def test_who_stops_sending_is_answered_and_who_goes_is_found(stays: bool) -> None:
    async with scene() as house, served(house) as url, asyncio.timeout(20):
        gate = asyncio.Event()
        house.launcher.scripts[A.name] = [[gate, "Hello"]]
        address = urllib.parse.urlsplit(url)
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        writer.write(post(chat_body()))
        while not any(w.running for w in house.launcher.workers.get(A.name, ())):
            await asyncio.sleep(0.01)
        writer.write_eof()
        if stays:
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            gate.set()
            assert b"Hello" in await reader.read()
        else:
            writer.close()
            while not house.total("router_requests_total", finish="left"):
                await asyncio.sleep(0.01)
        writer.close()


async def test_headers_of_any_size_are_not_kept() -> None:
    status, body = await asked(GET + b"x-big: " + b"a" * 70_000)
    assert (status, body["error"]["code"]) == (431, "headers_too_large")


@pytest.mark.parametrize(
    "request_",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET / HTTP/9\r\n\r\n",
        b"GET /livez HTTP/1.1\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: -5\r\n\r\n",
    ],
    ids=["tls", "version", "no host", "two hosts", "two lengths", "negative"],
)
async def test_what_is_no_http_is_told_so_in_our_words(request_: bytes) -> None:
    status, body = await asked(request_)
    assert (status, body["error"]["code"]) == (400, "bad_http")
    assert body["error"].keys() == {"message", "type", "param", "code"}


async def test_an_offer_of_http2_costs_the_request_nothing() -> None:
    # Java's own client sends this with every first request.
    offer = (
        "connection: Upgrade, HTTP2-Settings",
        "upgrade: h2c",
        "http2-settings: AAMAAABkAARAAAAAAAIAAAAA",
    )
    status, body = await asked(post(chat_body(), *offer))
    assert status == 200
    assert body["choices"][0]["message"]["content"] == "Hello world"


async def test_more_clients_than_there_is_room_for_are_told_to_come_back() -> None:
    async with scene() as house, served(house, most=2) as url:
        address = urllib.parse.urlsplit(url)
        held = [await asyncio.open_connection(address.hostname, address.port) for _ in range(2)]
        status, body = await talk(url)
        assert (status, body["error"]["code"]) == (503, "too_many_connections")
        for _, writer in held:
            writer.close()
            await writer.wait_closed()
        await served_again(house, url)


async def served_again(house: Scene, url: str) -> None:
    async with asyncio.timeout(10):
        while (await talk(url, GET + b"\r\n"))[0] != 200:
            await asyncio.sleep(0.01)


def test_clients_leave_open_files_for_the_workers() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, soft), hard))
        room = connection.room()
        raised, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        assert 0 < room <= max(1, raised - 256)
        assert raised > 512 or hard <= 512
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_client_that_stopped_reading_is_dropped_by_the_kernel() -> None:
    with socket.socket() as listener:
        connection.bound(listener, seconds=7)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        with socket.create_connection(listener.getsockname()):
            accepted, _ = listener.accept()
            with accepted:
                assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
                assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 7000
