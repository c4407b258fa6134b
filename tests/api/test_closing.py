"""How connections end, over real sockets; with whole gateways in tests/e2e/test_http_edges.py."""

from __future__ import annotations

import asyncio
import socket

import pytest

from router.api import closing
from router.api.closing import HalfClosed, Lingering


class Server(asyncio.Protocol):
    """Says a word, and closes before it has read anything."""

    def __init__(self) -> None:
        self.gone = asyncio.Event()
        self.seen = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = Lingering(transport, lambda: True)
        self.transport.write(b"answer")
        self.transport.close()
        self.transport.write(b"never sent")

    def data_received(self, data: bytes) -> None:
        self.seen += len(data)
        self.transport.drop(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport.forget()
        self.gone.set()


async def answered(sent: int) -> tuple[bytes, Server]:
    """What a client reads that sends everything first."""
    made = Server()
    server = await asyncio.get_running_loop().create_server(lambda: made, "127.0.0.1", 0)
    async with server, asyncio.timeout(60):
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"x" * sent)
        await writer.drain()
        found = await reader.read()
        if sent < closing.LINGER_BYTES:
            writer.close()
        await made.gone.wait()
        writer.close()
    return found, made


async def test_whoever_sends_everything_first_reads_the_answer() -> None:
    found, made = await answered(4 * 2**20)
    assert found == b"answer"
    assert made.seen == 4 * 2**20


async def test_what_is_dropped_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closing, "LINGER_BYTES", 2**20)
    made = Server()
    server = await asyncio.get_running_loop().create_server(lambda: made, "127.0.0.1", 0)
    async with server, asyncio.timeout(60):
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        with pytest.raises(ConnectionError):
            while True:
                writer.write(b"x" * 2**20)
                await writer.drain()
    assert made.seen < 8 * 2**20


async def test_silence_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closing, "LINGER_QUIET", 0.05)
    made = Server()
    server = await asyncio.get_running_loop().create_server(lambda: made, "127.0.0.1", 0)
    async with server, asyncio.timeout(60):
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        await made.gone.wait()
        writer.close()


class Asked:
    """One end of a connection whose client has sent all that it will."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.gone = asyncio.Event()
        self.probes = 0
        self.watch = HalfClosed(self, self._probe, self._left)  # type: ignore[arg-type]

    def get_extra_info(self, name: str) -> object:
        return self._connection if name == "socket" else None

    def _probe(self) -> None:
        self.probes += 1
        self._connection.send(b"?")

    def _left(self) -> None:
        self.watch.forget()
        self.gone.set()


async def test_a_client_that_waits_stays_and_one_that_is_gone_is_found() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
    client.shutdown(socket.SHUT_WR)
    with ours:
        asked = Asked(ours)
        assert HalfClosed.can_tell(asked)  # type: ignore[arg-type]
        asked.watch.look()
        while asked.probes < 2:
            await asyncio.sleep(0.01)
        assert not asked.gone.is_set()
        client.close()
        async with asyncio.timeout(30):
            await asked.gone.wait()
