"""
Connections that are kept open, one pool for each upstream's address and certificates.

The one rule: a pool is closed when no call uses it and the registry no longer names it, never under a call.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import AsyncIterator, Iterable

import httpx2

from router.domain.upstreams import Upstream

MAX_CONNECTIONS = 1000
"""To one upstream; who comes after that waits for `connect` and is refused."""
MAX_IDLE = 100
KEEPALIVE_SECONDS = 30.0
"""Shorter than what servers allow, so that they seldom close a connection that we are about to use."""

# At DEBUG it would log the headers of answers, and who knows what an upstream puts there.
logging.getLogger("httpcore2").setLevel(logging.WARNING)

_Key = tuple[str, str, str | None]


class Pool:
    """The transport to one upstream, made when it is first needed: reading certificates takes time."""

    def __init__(self, upstream: Upstream) -> None:
        self._ca_file = upstream.ca_file
        self._plain = not upstream.base_url.startswith("https:")
        self._trust: asyncio.Future[ssl.SSLContext] | None = None
        """Being read, or read; shared by all who come meanwhile."""
        self._transport: httpx2.AsyncHTTPTransport | None = None
        self.users = 0
        self.retired = False

    async def transport(self) -> httpx2.AsyncHTTPTransport:
        """Raises OSError when the certificates cannot be read."""
        if self._transport is None:
            context = await self._trusted()
            # Somebody else may have made one meanwhile.
            self._transport = self._transport or _transport(context)
        return self._transport

    async def _trusted(self) -> ssl.SSLContext:
        if self._plain:
            return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # trusts nobody, and is not asked
        reading = self._trust
        if reading is None:
            loop = asyncio.get_running_loop()
            reading = self._trust = loop.run_in_executor(None, _context, self._ca_file)
        try:
            # Shielded: the first who waits may leave, the others wait on.
            return await asyncio.shield(reading)
        except OSError:
            self._trust = None
            raise

    async def aclose(self) -> None:
        if self._transport is not None:
            transport, self._transport = self._transport, None
            await transport.aclose()


class Pools:
    def __init__(self) -> None:
        self._pools: dict[_Key, Pool] = {}

    @contextlib.asynccontextmanager
    async def of(self, upstream: Upstream) -> AsyncIterator[Pool]:
        """The pool, kept open at least as long as the context."""
        # By name too: two upstreams behind one address must not share a connection made for the other's name.
        pool = self._pools.setdefault(_key(upstream), Pool(upstream))
        pool.users += 1
        try:
            yield pool
        finally:
            pool.users -= 1
            if pool.retired and not pool.users:
                await pool.aclose()

    async def retain(self, upstreams: Iterable[Upstream]) -> None:
        """Let go of all pools but those of `upstreams`."""
        kept = {_key(upstream) for upstream in upstreams}
        for key in self._pools.keys() - kept:
            pool = self._pools.pop(key)
            pool.retired = True
            if not pool.users:
                await pool.aclose()


def _key(upstream: Upstream) -> _Key:
    return upstream.name, upstream.base_url, upstream.ca_file


def _context(ca_file: str | None) -> ssl.SSLContext:
    if ca_file is not None:
        return ssl.create_default_context(cafile=ca_file)
    return httpx2.create_ssl_context(trust_env=False)


def _transport(context: ssl.SSLContext) -> httpx2.AsyncHTTPTransport:
    limits = httpx2.Limits(
        max_connections=MAX_CONNECTIONS,
        max_keepalive_connections=MAX_IDLE,
        keepalive_expiry=KEEPALIVE_SECONDS,
    )
    return httpx2.AsyncHTTPTransport(verify=context, trust_env=False, limits=limits)
