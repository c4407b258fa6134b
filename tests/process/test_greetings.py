from __future__ import annotations

import asyncio
import fcntl
import struct
import termios
from asyncio.subprocess import Process
from collections.abc import Mapping, Sequence

import pytest

from router.runtime import process
from router.runtime.spares import Spares
from tests.process.people import wait_until

pytestmark = pytest.mark.process


def unread(fd: int) -> int:
    """Bytes that were written into this socket and that its other end has not read."""
    (count,) = struct.unpack("i", fcntl.ioctl(fd, termios.TIOCOUTQ, bytes(4)))
    return int(count)


async def test_a_greeting_that_is_there_before_the_gateway_looks_is_heard(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start = process._start

    async def held_up(command: Sequence[str], fd: int, environment: Mapping[str, str]) -> Process:
        born = await start(command, fd, environment)
        wait_until(lambda: unread(fd))  # the whole gateway stands still, and the worker does not
        for _ in range(5):
            await asyncio.sleep(0)
        return born

    monkeypatch.setattr(process, "_start", held_up)
    async with Spares(0, backend="echo", hello_seconds=30) as spares:
        worker = await spares.start()
        assert worker.hello is not None
        assert await worker.stop()
