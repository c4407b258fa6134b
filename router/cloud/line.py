"""
The line to one upstream, and the one place where bytes leave this machine.

The one rule: every wait has a bound, and a request that may not leave is refused here whatever was decided above.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import math
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import httpx2

from router.cloud import faults, outgoing
from router.cloud.addresses import Addresses, AddressRefused, NoAddress
from router.cloud.outgoing import Outgoing
from router.cloud.pools import Pool
from router.cloud.tally import Tally
from router.domain.errors import PolicyRefused
from router.domain.upstreams import Upstream

AFTER_FINISH = 3.0
"""Seconds that an answer which has its end is held open, for a usage and [DONE]: some say neither."""


@dataclass(slots=True)
class Progress:
    """How far a request came, for whoever must judge what it may have cost."""

    tally: Tally = field(default_factory=Tally)
    began: float = math.inf
    """When it began, by the loop's clock."""
    sent_at: float | None = None
    """When the first byte of it left, by the loop's clock."""
    status: int | None = None
    heard: bool = False
    """Data came since this was last reset: bytes alone show only that a connection is alive."""
    phase: Literal["connect", "send", "first", "body", "idle", "done"] = "connect"

    def hear(self) -> None:
        """Data has come."""
        self.heard = True
        self.phase = "idle"


@dataclass(frozen=True, slots=True)
class Line:
    upstream: Upstream
    pool: Pool
    addresses: Addresses

    @contextlib.asynccontextmanager
    async def send(
        self, request: Outgoing, key: str | None, progress: Progress, *, private: bool
    ) -> AsyncIterator[httpx2.Response]:
        """
        Send, and give the answer once its headers are there; `chunks` reads its body. Leaving closes the exchange.

        Raises PolicyRefused and UpstreamUnavailable.
        """
        if private:
            raise PolicyRefused("This request may not leave this machine (cloud: never).", self.upstream.name)
        progress.began = now = asyncio.get_running_loop().time()
        last = self._last(progress)
        with self._named(request, progress):
            async with asyncio.timeout_at(min(now + self.upstream.timeouts.connect, last)) as deadline:
                async with _Watch(deadline, progress, self._first(request), last) as watch:
                    response = await self._connected(request, key, watch)
        progress.status = response.status_code
        progress.phase = "body"
        try:
            yield response
        finally:
            await response.aclose()

    async def chunks(
        self, request: Outgoing, response: httpx2.Response, progress: Progress
    ) -> AsyncGenerator[bytes, None]:
        """
        The body as it comes. Raises UpstreamUnavailable (timeout, cut).

        Whoever reads it tells `progress` of data: nothing else moves the deadline, however many bytes come.
        """
        now = asyncio.get_running_loop().time
        deadline, last = (progress.sent_at or now()) + self._first(request), self._last(progress)
        with self._named(request, progress):
            async with contextlib.aclosing(response.aiter_raw()) as body:
                while True:
                    async with asyncio.timeout_at(min(deadline, last)):
                        chunk = await anext(body, None)
                    if chunk is None:
                        return
                    if now() >= min(deadline, last):  # what is there already is read without a wait
                        raise TimeoutError
                    progress.heard, came = False, now()
                    yield chunk
                    # The time that our reader took is nobody's silence.
                    deadline = now() + self._idle(progress) if progress.heard else deadline + now() - came

    def _idle(self, progress: Progress) -> float:
        idle = self.upstream.timeouts.idle
        return min(idle, AFTER_FINISH) if progress.tally.finished else idle

    def _last(self, progress: Progress) -> float:
        """The moment at which the whole exchange is over, by the loop's clock."""
        total = self.upstream.timeouts.total
        return math.inf if total is None else progress.began + total

    def _first(self, request: Outgoing) -> float:
        return self.upstream.timeouts.first_byte if request.stream else self.upstream.timeouts.whole

    def _named(self, request: Outgoing, progress: Progress) -> contextlib.AbstractContextManager[None]:
        waits = self.upstream.timeouts

        def waited() -> str:
            if asyncio.get_running_loop().time() >= self._last(progress):
                return f"was not done within {waits.total:g} s"
            match progress.phase:
                case "connect":
                    return f"took no connection within {waits.connect:g} s"
                case "idle":
                    return f"fell silent for {waits.idle:g} s"
                case _:
                    return f"sent no data for {self._first(request):g} s"

        return faults.named(self.upstream.name, waited)

    async def _connected(self, request: Outgoing, key: str | None, watch: _Watch) -> httpx2.Response:
        transport = await self.pool.transport()
        failure: Exception | None = None
        url = _url(self.upstream.base_url, request.path)
        addresses = await self._good_addresses(url)
        for number, address in enumerate(addresses):
            sending = httpx2.Request(
                request.method,
                # To the very address that was judged; certificate and Host are those of the name.
                _at(url, address),
                headers=outgoing.headers(
                    url.netloc.decode(), key, request.stream, self.upstream.peer, request.tenant
                ),
                content=request.body,
                extensions=self._extensions(url, watch, len(addresses) - number),
            )
            try:
                return await transport.handle_async_request(sending)
            except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
                failure = error
        raise failure or NoAddress(f"the name {url.host} has no address")

    async def _good_addresses(self, url: httpx2.URL) -> tuple[str, ...]:
        """Raises AddressRefused or NoAddress."""
        plain = url.scheme != "https"
        private = self.upstream.allow_private
        if plain and not private:
            raise AddressRefused(f"{url.scheme} is for addresses that are not public, with allow_private")
        port = url.port or (80 if plain else 443)
        return await self.addresses.of(url.host, port, private=private, public=not plain)

    def _extensions(self, url: httpx2.URL, watch: _Watch, left: int) -> dict[str, Any]:
        """`left`: how many addresses there are yet to try, this one included."""
        waits = self.upstream.timeouts
        # Waits for a connection and for bytes are bounded by our deadline: theirs start anew with every byte.
        # But one address that swallows packets must leave time for the next.
        connect = watch.left() / left if left > 1 else None
        timeout = {"connect": connect, "read": None, "write": waits.idle, "pool": waits.connect}
        return {"timeout": timeout, "sni_hostname": url.host, "trace": watch}


@dataclass(slots=True)
class _Watch:
    """Hears from the transport how far a request is, and moves the deadline on with it."""

    deadline: asyncio.Timeout
    progress: Progress
    first: float
    last: float
    """The end of the whole exchange; inf = none."""
    _socket: Any = None
    """While TLS is agreed on: httpcore does not close it when that is cancelled."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._socket is not None:
            await self._socket.aclose()

    def left(self) -> float:
        """Seconds until the deadline, while there is one."""
        return (self.deadline.when() or 0.0) - asyncio.get_running_loop().time()

    async def __call__(self, event: str, info: dict[str, Any]) -> None:
        now = asyncio.get_running_loop().time()
        if event == "connection.connect_tcp.complete":
            self._socket = info["return_value"]
        elif event == "http11.send_request_headers.started":
            self._socket = None
            self.progress.sent_at = now
            self.progress.phase = "send"
            # A long body takes as long as its line needs; each write has a bound of its own.
            self.deadline.reschedule(self.last)
        elif event == "http11.receive_response_headers.started":
            self.progress.sent_at = now
            self.progress.phase = "first"
            self.deadline.reschedule(min(now + self.first, self.last))


# Parsing a URL takes longer than sending a request.
@functools.lru_cache(maxsize=256)
def _url(base: str, path: str) -> httpx2.URL:
    return httpx2.URL(f"{base.rstrip('/')}/{path}")


@functools.lru_cache(maxsize=256)
def _at(url: httpx2.URL, address: str) -> httpx2.URL:
    return url.copy_with(host=address)
