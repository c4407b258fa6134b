"""
What every request passes through: identity, log line, one count, key, size and time of the body.

The one rule: pure ASGI, outermost first, deny by default; paths come from `scope["path"]`, since a
Host header can forge a URL. No credential and no body is ever logged.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from router.api import errors, origins, tenants
from router.api.errors import BadKey, BodyTooLarge, BodyTooSlow
from router.api.exchange import note
from router.api.house import House, Record
from router.api.memory_release import MemoryRelease
from router.api.sse import ClientLeft
from router.domain.errors import InvalidRequest, QueueFull, RouterError
from router.registry.loader import Key
from router.telemetry import logger

log = logger("api")

BODY_SECONDS = 30.0
"""The longest pause between two pieces of a body."""
SLOWEST = 4096
"""Bytes a second, over the whole body."""
BUSY_SECONDS = 5.0
LEFT = 499
"""Counted and logged as the status of a request whose client left before one was sent; never on the wire."""
OPEN_PATHS = frozenset({"/livez", "/readyz", "/health"})
_KEY_HEADERS = (b"x-api-key", b"api-key")
"""Anthropic's clients and many others; clients of Azure."""
_OF_A_MODEL = re.compile(r"(/+v1)?/+models/+(.+)", re.DOTALL)
_SANE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


def record_of(scope: Scope) -> Record:
    found: Record = scope["router.record"]
    return found


def canonical(path: str) -> str:
    """
    The one spelling of a path, under which it is checked, counted and routed: `//v1//models/` -> `/v1/models`.

    Clients join a base URL that ends in a slash with paths that begin or end with one. The name of a model may hold
    slashes, two in a row even, but never at its end.
    """
    path = path.rstrip("/")
    if named := _OF_A_MODEL.fullmatch(path):
        return f"{'/v1' if named[1] else ''}/models/{named[2]}"
    return re.sub("/{2,}", "/", path) or "/"


class Outermost:
    """
    Gives the request its id, record and canonical path, answers what went wrong below, then logs and counts it:
    exactly once.

    `counted`: path -> the `route` label; POSTs of these paths are counted as requests.
    """

    def __init__(self, app: ASGIApp, house: House, counted: Mapping[str, str]) -> None:
        self._app = app
        self._house = house
        self._counted = counted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.monotonic()
        came = scope["path"]
        scope["path"] = canonical(came)
        record = scope["router.record"] = Record(_request_id(scope))
        wire = _Wire(receive, send, record.id)
        try:
            await self._answer(record, scope, wire)
        except ClientLeft:
            record.finish = "left"
        except BaseException:  # cancelled: the gateway is stopping
            record.finish = record.finish if wire.complete else "error"
            raise
        finally:
            status = wire.status or (LEFT if record.finish == "left" else 500)
            self._log(scope["method"], came, record, status, time.monotonic() - began)
            self._count(scope, record, status)

    async def _answer(self, record: Record, scope: Scope, wire: _Wire) -> None:
        """Raises ClientLeft."""
        try:
            await self._app(scope, wire.receive, wire.send)
            if not wire.complete:  # some responses end by themselves when their client leaves
                raise ClientLeft
        except ClientLeft:
            raise
        except Exception as error:
            record.finish = "error"
            note(error, record)
            if wire.status is None:
                await errors.response(error, record.id, record.hidden)(scope, wire.receive, wire.send)

    def _log(self, method: str, path: str, record: Record, status: int, seconds: float) -> None:
        log.info(
            "request",
            request=record.id,
            method=method,
            path=path[:200],
            status=status,
            model=record.model,
            key=record.key.name if record.key else None,
            finish=record.finish,
            ms=round(seconds * 1000, 1),
            **_error(record, status),
        )

    def _count(self, scope: Scope, record: Record, status: int) -> None:
        route = self._counted.get(scope["path"])
        if route is not None and scope["method"] == "POST":
            model = record.model or "unknown"
            self._house.metrics.requests.labels(model, str(status), record.finish or "error").inc()
            self._house.metrics.route_requests.labels(route, str(status)).inc()


def _error(record: Record, status: int) -> dict[str, str | None]:
    """Of an error: its code and the field at fault, both perhaps an upstream's words; None where it has none."""
    if status < 400 and record.code is None:
        return {}
    return {"code": record.code and record.code[:100], "param": record.param and record.param[:100]}


class _Wire:
    """
    Passes messages on; remembers the status and adds the request id.

    A server says http.disconnect also when a response is complete, and says it before whoever sent the last
    byte has returned. That is nobody's leaving: from then on `receive` says nothing.
    """

    def __init__(self, receive: Receive, send: Send, request_id: str) -> None:
        self._receive = receive
        self._send = send
        self._request_id = request_id
        self.complete = False
        """The last byte was handed to the transport: whoever leaves now has the whole response."""
        self.status: int | None = None
        """Of the response, once its status line is on the way."""

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect" and self.complete:
            await asyncio.Event().wait()  # until whoever asks is cancelled
        return message

    async def send(self, message: Message) -> None:
        """Raises ClientLeft when the message did not go out."""
        begins = message["type"] == "http.response.start"
        if begins:
            MutableHeaders(scope=message)["x-request-id"] = self._request_id
        try:
            await self._send(message)
        except OSError as error:
            raise ClientLeft from error
        if begins:
            self.status = message["status"]
        else:
            self.complete = not message.get("more_body", False)


def _request_id(scope: Scope) -> str:
    for value in header(scope, b"x-request-id"):
        if _SANE_ID.fullmatch(text := value.decode("latin-1")):
            return text
    return uuid.uuid4().hex


class Guard:
    """
    One Host; a key where the registry has keys, and where it has none no page of a stranger.

    Raises InvalidRequest, BadKey, WrongHost or ForeignPage.
    """

    def __init__(self, app: ASGIApp, house: House) -> None:
        self._app = app
        self._house = house

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            if len(header(scope, b"host")) > 1:
                raise InvalidRequest("The request has more than one Host header.")
            keys = self._house.catalog.current.keys
            if not keys:
                self._check_page(scope)
            elif scope["path"] not in OPEN_PATHS:
                record_of(scope).key = _key(scope, keys)
            record = record_of(scope)
            record.tenant = tenants.tenant(record.key, header(scope, tenants.HEADER))
        await self._app(scope, receive, send)

    def _check_page(self, scope: Scope) -> None:
        settings = self._house.settings
        host = _first(scope, b"host")
        origins.check_host(host, settings.loopback, settings.allow_hosts)
        origins.check_page(
            host, _first(scope, b"origin"), _first(scope, b"sec-fetch-site"), settings.cors_origins
        )


def _key(scope: Scope, keys: Sequence[Key]) -> Key:
    presented = [hashlib.sha256(token).hexdigest() for token in _tokens(scope)]
    found: Key | None = None
    for key in keys:  # all of them, each in constant time: how long it takes tells nothing
        for digest in presented:
            if hmac.compare_digest(digest, key.sha256.lower()):
                found = key
    if found is None:
        raise BadKey("No valid API key: send it as 'Authorization: Bearer ...', 'x-api-key' or 'api-key'.")
    return found


def _tokens(scope: Scope) -> list[bytes]:
    bearers = [value.partition(b" ") for value in header(scope, b"authorization")]
    tokens = [token.strip() for scheme, _, token in bearers if scheme.lower() == b"bearer"]
    tokens += [token for name in _KEY_HEADERS for token in header(scope, name)]
    return [token for token in tokens if token]


@dataclass(slots=True)
class _Incoming:
    began: float
    seen: int = 0
    whole: bool = False


class BodyLimit:
    """
    At most `most` bytes of body, and `in_all` of those that wait and run; no pause over `seconds` in a body,
    and SLOWEST on the whole. Raises BodyTooLarge, BodyTooSlow, QueueFull.
    """

    def __init__(
        self,
        app: ASGIApp,
        most: int,
        in_all: int,
        seconds: float = BODY_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app = app
        self._most = most
        self._in_all = in_all
        self._held = 0
        self._release = MemoryRelease(lambda: self._held)
        self._seconds = seconds
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        for length in header(scope, b"content-length"):
            if not length.isdigit() or len(length) > 18 or int(length) > self._most:
                raise self._too_large()
        body = _Incoming(self._clock())

        async def limited() -> Message:
            if body.whole:
                return await receive()
            message = await self._piece(receive)
            self._take(body, message)
            if message["type"] == "http.disconnect":
                raise ClientLeft
            return message

        try:
            await self._app(scope, limited, send)
        finally:
            self._held -= body.seen
            self._release.ended(body.seen)

    def _take(self, body: _Incoming, message: Message) -> None:
        size = len(message.get("body", b""))
        body.seen += size
        self._held += size
        body.whole = not message.get("more_body", False)
        if body.seen > self._most:
            raise self._too_large()
        if self._held > self._in_all:
            raise QueueFull(f"Requests of {self._in_all} bytes wait already.", BUSY_SECONDS)
        if not body.whole and self._clock() - body.began > self._seconds + body.seen / SLOWEST:
            raise BodyTooSlow(f"The body comes slower than {SLOWEST} bytes a second.")

    async def _piece(self, receive: Receive) -> Message:
        try:
            async with asyncio.timeout(self._seconds):
                return await receive()
        except TimeoutError:
            raise BodyTooSlow(f"The body stopped for {self._seconds:.0f} seconds.") from None

    def _too_large(self) -> RouterError:
        return BodyTooLarge(f"The body may have {self._most} bytes.")


def _first(scope: Scope, name: bytes) -> str | None:
    found = header(scope, name)
    return found[0].decode("latin-1") if found else None


def header(scope: Scope, name: bytes) -> list[bytes]:
    return [value for key, value in scope["headers"] if key == name]
