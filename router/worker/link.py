"""
The worker's end of the socketpair: commands in, events out.

The one rule: nothing here knows what a command means.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator

from router import protocol

_CHUNK = 2**20
PATIENCE = 60
"""Seconds a write may wait for a gateway that has stopped reading."""


class GatewayGone(Exception):
    """Nobody reads what the worker says: the socket is closed, or was not read for PATIENCE seconds."""


class Link:
    """Whole frames over a blocking socket. `send` may be called by any thread, `commands` by one."""

    def __init__(self, sock: socket.socket, patience: int = PATIENCE) -> None:
        # A timeout for sends only: settimeout would also end the reads of an idle worker.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", patience, 0))
        self._sock = sock
        self._lock = threading.Lock()

    def send(self, event: protocol.WorkerEvent) -> None:
        """Write one frame. Raises GatewayGone, or protocol.FrameError when the event is too large for one."""
        frame = protocol.encode(event)
        with self._lock:
            try:
                self._sock.sendall(frame)
            except BlockingIOError as error:
                raise GatewayGone("the gateway stopped reading") from error
            except OSError as error:
                raise GatewayGone(f"the gateway closed the socket: {error}") from error

    def commands(self) -> Iterator[protocol.Command]:
        """Every command until the gateway closes the socket. Raises protocol.FrameError."""
        decoder = protocol.command_decoder()
        while data := self._receive():
            yield from decoder.feed(data)

    def _receive(self) -> bytes:
        try:
            return self._sock.recv(_CHUNK)
        except ConnectionError:
            return b""
