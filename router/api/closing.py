"""
The end of a connection: an answer that is sent before the request was read, and a client that has only stopped sending.

The one rule: every wait here has a bound in bytes or time.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

LINGER_SECONDS = 30.0
LINGER_QUIET = 2.0
"""Seconds without a byte after which nobody is sending any more."""
LINGER_BYTES = 64 * 2**20
LOOK_SECONDS = 0.05
_PROBES = frozenset({0, 2, 20})
_PROBE_EVERY = 100
"""Looks; a client that leaves after it had stopped sending is found by one of these."""
_CLOSED = 7
"""Linux's TCP_CLOSE: the other side has reset the connection."""


class Lingering:
    """
    A transport whose `close` lets the client read the answer first.

    A socket that is closed while bytes come in resets the connection, and the client loses the answer that it was just
    sent: it gets no 413 but an error of its socket. So, where `unread()`, only our side is closed, and what still comes
    is read and dropped.
    """

    def __init__(self, transport: asyncio.Transport, unread: Callable[[], bool]) -> None:
        self._transport = transport
        self._unread = unread
        self._loop = asyncio.get_running_loop()
        self._quiet: asyncio.TimerHandle | None = None
        self._until = 0.0
        self._dropped = 0
        self.lingers = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        return self.lingers or self._transport.is_closing()

    def write(self, data: bytes) -> None:
        if not self.lingers:
            self._transport.write(data)

    def close(self) -> None:
        """A second call closes at once."""
        if self.is_closing() or not self._unread() or not self._transport.can_write_eof():
            self.end()
            return
        self.lingers = True
        self._until = self._loop.time() + LINGER_SECONDS
        self._transport.write_eof()
        self._transport.resume_reading()
        self._wait()

    def drop(self, data: bytes) -> None:
        """Bytes that came while it lingers."""
        self._dropped += len(data)
        if self._dropped > LINGER_BYTES or self._loop.time() > self._until:
            self.end()
        else:
            self._wait()

    def end(self) -> None:
        self.forget()
        self._transport.close()

    def forget(self) -> None:
        """The connection is gone."""
        if self._quiet is not None:
            self._quiet.cancel()
            self._quiet = None

    def _wait(self) -> None:
        self.forget()
        self._quiet = self._loop.call_later(LINGER_QUIET, self.end)


class HalfClosed:
    """
    A client that has closed its side before its answer: is it waiting for that, or gone?

    Both look alike until something is sent. `probe` sends what a waiting client has to ignore; a client that is gone
    resets the connection in reply, and `gone` is called. Linux only: elsewhere whoever closes has left.
    """

    def __init__(
        self, transport: asyncio.BaseTransport, probe: Callable[[], None], gone: Callable[[], None]
    ) -> None:
        self._socket = transport.get_extra_info("socket")
        self._probe = probe
        self._gone = gone
        self._loop = asyncio.get_running_loop()
        self._looks = 0
        self._next: asyncio.TimerHandle | None = None

    @staticmethod
    def can_tell(transport: asyncio.BaseTransport) -> bool:
        found = transport.get_extra_info("socket")
        return hasattr(socket, "TCP_INFO") and found is not None and found.family != socket.AF_UNIX

    def look(self) -> None:
        if self._state() == _CLOSED:
            self._gone()
            return
        if self._looks in _PROBES or self._looks % _PROBE_EVERY == 0:
            self._probe()
        self._looks += 1
        self._next = self._loop.call_later(LOOK_SECONDS, self.look)

    def forget(self) -> None:
        if self._next is not None:
            self._next.cancel()
            self._next = None

    def _state(self) -> int:
        try:
            found: bytes = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
        except OSError:
            return _CLOSED
        return found[0]
