"""
One TCP connection until it is a request: uvicorn's own protocol, with every wait and size bounded.

The one rule: what a client can hold open or make us keep has a limit here, or it has one in `middleware`.

h11, though uvicorn would take httptools where it is installed: that one keeps heads of any size, and loses the
body of a request that offers an upgrade to HTTP/2, which is what Java's own client sends.
"""

from __future__ import annotations

import asyncio
import functools
import resource
import socket
import sys
from typing import Any

import h11
import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from router.api import errors
from router.api.errors import BadHttp, HeadTooLarge, HeadTooSlow, TooManyConnections
from router.api.wire import encode
from router.domain.errors import RouterError

HEAD_SECONDS = 30.0
"""From the connection, or from the first byte of a later request, to the end of its headers."""
MAX_HEAD = 64 * 2**10
DEAD_SECONDS = 120
"""A client that acknowledges nothing for so long is gone, whatever was still to be sent."""
_MOST = 4096
_OWN_FILES = 256
"""Open files that are left for workers, registry and log whatever the clients do."""


def config(app: ASGIApp, **changes: Any) -> uvicorn.Config:
    """How the gateway runs uvicorn. `changes` go to Connection."""
    return uvicorn.Config(
        app,
        http=functools.partial(Connection, **changes),  # type: ignore[arg-type]
        log_config=None,
        access_log=False,
        server_header=False,
        ws="none",
        lifespan="on",
        timeout_keep_alive=75,
        timeout_graceful_shutdown=2,
        h11_max_incomplete_event_size=MAX_HEAD,
    )


def room() -> int:
    """How many connections this process can hold; raises its soft limit of open files as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST + _OWN_FILES if hard == resource.RLIM_INFINITY else min(_MOST + _OWN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return _MOST if soft == resource.RLIM_INFINITY else max(1, min(_MOST, soft - _OWN_FILES))


def bound(listener: socket.socket, seconds: int = DEAD_SECONDS) -> None:
    """Have the kernel end connections whose client vanished or stopped reading; accepted ones inherit it."""
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    options = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 4, "TCP_USER_TIMEOUT": 1000 * seconds}
    for name, value in options.items():
        if (option := getattr(socket, name, None)) is not None:  # not every system has all of them
            listener.setsockopt(socket.IPPROTO_TCP, option, value)


class Connection(H11Protocol):
    """`most` connections at once, and `head_seconds` for the headers of a request."""

    def __init__(
        self, *args: Any, most: int = _MOST, head_seconds: float = HEAD_SECONDS, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self._asgi, self.app = self.app, self._deliver
        self._most = most
        self._head_seconds = head_seconds
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self._most:
            self._refuse(TooManyConnections(f"{self._most} clients are connected; try again later.", 1))
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch_head()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch_head()

    async def _deliver(self, scope: Scope, receive: Receive, send: Send) -> None:
        """
        The app, with a `send` that raises OSError when the message did not reach the transport, as ASGI 2.4 has it.

        uvicorn drops without a word what is sent after the client has left, so that nobody could tell an answer
        that went out from one that did not.
        """
        cycle = self.cycle

        async def deliver(message: Message) -> None:
            if self.transport.is_closing():
                raise ConnectionResetError("the client has left")
            await send(message)
            if cycle.disconnected:
                raise ConnectionResetError("the client has left")

        await self._asgi(scope, receive, deliver)

    def send_400_response(self, msg: str) -> None:
        """uvicorn calls it where h11 found an error, which knows more than the message."""
        error = sys.exc_info()[1]
        if getattr(error, "error_status_hint", 400) == 431:
            self._refuse(HeadTooLarge(f"The headers may have {MAX_HEAD} bytes."))
        else:
            self._refuse(BadHttp(f"This is no HTTP/1.1 request: {error or msg}."))

    def _should_upgrade(self) -> bool:
        return False  # an offer may be ignored, and uvicorn would advise us to install websockets

    def _watch_head(self) -> None:
        """A head is awaited: the first one of a connection, or one whose beginning is here."""
        awaited = self.conn.their_state is h11.IDLE and (self.cycle is None or self.conn.trailing_data[0])
        if not awaited or self.transport.is_closing():
            self._disarm()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(self._head_seconds, self._late)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _late(self) -> None:
        self._deadline = None
        if self.conn.trailing_data[0]:
            self._refuse(HeadTooSlow(f"The headers were not there after {self._head_seconds:.0f} seconds."))
        else:
            self.transport.close()

    def _refuse(self, error: RouterError) -> None:
        """Answer before there is a request, in the words that every other error has; then close."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            answer = errors.response(error, "")
            answer.headers["connection"] = "close"
            head = h11.Response(status_code=answer.status_code, headers=answer.raw_headers)
            for event in (head, h11.Data(data=encode(errors.envelope(error, ""))), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
