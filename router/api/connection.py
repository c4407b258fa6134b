"""
One TCP connection until it is a request: uvicorn's own protocol, with every wait and size bounded.

The one rule: what a client can hold open or make us keep has a limit here, or it has one in `middleware`.

h11, though uvicorn would take httptools where it is installed: that one keeps heads of any size, and loses the
body of a request that offers an upgrade to HTTP/2, which is what Java's own client sends.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import resource
import socket
import sys
from typing import Any

import h11
import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from router.api import errors
from router.api.closing import HalfClosed, Lingering
from router.api.errors import BadHttp, HeadTooLarge, HeadTooSlow, TooManyConnections
from router.api.http_head import MAX_HEAD, Parser
from router.api.wire import encode
from router.domain.errors import RouterError
from router.telemetry import logger

log = logger("api")

HEAD_SECONDS = 30.0
"""From the connection, or from the first byte of a later request, to the end of its headers."""
DEAD_SECONDS = 120
"""A client that acknowledges nothing for so long is gone, whatever was still to be sent."""
_MOST = 4096
_OWN_FILES = 256
"""Open files that are left for workers, registry and log whatever the clients do."""
_REFUSED_AT_ONCE = 64
"""Connections above the limit that are kept until they have read their refusal."""


logging.getLogger("uvicorn.error").addFilter(
    lambda record: record.msg != "Invalid HTTP request received."  # it is logged here, with its reason
)


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
        self.conn = Parser(h11.SERVER, MAX_HEAD)
        self._refused = False
        self._closes_after_answer = False
        self._half_closed: HalfClosed | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._lingering = Lingering(transport, self._unread)
        super().connection_made(self._lingering)  # type: ignore[arg-type]
        if len(self.connections) > self._most:
            self._refuse(TooManyConnections(f"{self._most} clients are connected; try again later.", 1))
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        self._lingering.forget()
        if self._half_closed is not None:
            self._half_closed.forget()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._lingering.lingers:
            self._lingering.drop(data)
            return
        super().data_received(data)
        self._watch_head()

    def eof_received(self) -> bool:  # type: ignore[override]
        """
        The client sends no more. True: the connection stays, because a whole request has no answer yet.

        With HTTP/1.0 nobody can ask whether a client is still there: it gets what is quick, and has left a generation.
        """
        cycle = self.cycle
        if self._lingering.lingers or cycle is None or cycle.more_body or cycle.response_started:
            return False
        if self.scope["http_version"] < "1.1":
            quick: bool = self.scope["method"] in ("GET", "HEAD")
            self._closes_after_answer = quick
            return quick
        if not HalfClosed.can_tell(self.transport):
            return False
        self._closes_after_answer = True
        self._half_closed = HalfClosed(self.transport, self._probe, self.transport.abort)
        self._half_closed.look()
        return True

    def _probe(self) -> None:
        """An interim response, which every client has to expect; later the answer itself tells."""
        if self.conn.our_state is h11.SEND_RESPONSE and self.scope["http_version"] >= "1.1":
            interim = h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue")
            self.transport.write(self.conn.send(interim) or b"")

    def on_response_complete(self) -> None:
        super().on_response_complete()
        answered = self.cycle.response_complete or self.cycle.more_body  # else the next one was sent, too
        if self._closes_after_answer and answered and not self.transport.is_closing():
            self.transport.close()
        self._watch_head()

    def _unread(self) -> bool:
        """Whether the client may still be sending, so that closing would cost it the answer."""
        return not self._closes_after_answer and (self._refused or self.conn.their_state is h11.SEND_BODY)

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
        # Without the bytes: they may be a header with a key in it.
        reason = str(error or msg).partition(": bytearray")[0]
        log.info("refused before it was a request", reason=reason)
        if getattr(error, "error_status_hint", 400) == 431:
            self._refuse(HeadTooLarge(f"The headers may have {MAX_HEAD} bytes."))
        else:
            self._refuse(BadHttp(f"This is no HTTP/1.1 request: {error or msg}."))

    def _should_upgrade(self) -> bool:
        return False  # an offer may be ignored, and uvicorn would advise us to install websockets

    def _watch_head(self) -> None:
        """
        A head is awaited: the first one of a connection, or one whose beginning is here; or the rest of a body
        that nobody wants, since its answer has been sent.
        """
        their, cycle = self.conn.their_state, self.cycle
        head = their is h11.IDLE and (cycle is None or self.conn.trailing_data[0])
        rest = their is h11.SEND_BODY and cycle is not None and cycle.response_complete
        if not (head or rest) or self.transport.is_closing():
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
            self._refused = len(self.connections) <= self._most + _REFUSED_AT_ONCE
        self.transport.close()
