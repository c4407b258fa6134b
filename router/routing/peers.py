"""
What other gateways have in memory, asked every few seconds.

The one rule: one look at a time for each peer, bounded; what was not heard lately is not believed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from router.domain.errors import UpstreamError
from router.domain.upstreams import Upstream
from router.telemetry import logger

log = logger("routing")

POLL_SECONDS = 2.0
STALE_SECONDS = 15.0
AT_ONCE = 16
"""Peers that are asked at the same time."""

Look = Callable[[Upstream], Awaitable[dict[str, str]]]
"""A peer's models by name, each with its status; raises UpstreamError."""


@dataclass(frozen=True, slots=True)
class _Seen:
    at: float
    statuses: dict[str, str]


class Peers:
    """`upstreams` is asked before each round, so that an edit of the registry counts at once."""

    def __init__(
        self,
        look: Look,
        upstreams: Callable[[], Iterable[Upstream]],
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._look = look
        self._upstreams = upstreams
        self._clock = clock
        self._pause = pause
        self._seen: dict[str, _Seen] = {}
        """By address: one look tells of all models of a peer."""

    def status(self, upstream: Upstream) -> str:
        """unloaded, loading, loaded or failed; "" = not known."""
        seen = self._seen.get(upstream.base_url)
        if seen is None or self._clock() - seen.at > STALE_SECONDS:
            return ""
        return seen.statuses.get(upstream.model, "")

    async def watch(self) -> None:
        """Look at every peer, again and again, until cancelled."""
        while True:
            await self.round()
            await self._pause(POLL_SECONDS)

    async def round(self) -> None:
        peers = {upstream.base_url: upstream for upstream in self._upstreams() if upstream.peer}
        for address in self._seen.keys() - peers.keys():
            del self._seen[address]
        gate = asyncio.Semaphore(AT_ONCE)
        async with asyncio.TaskGroup() as tasks:
            for peer in peers.values():
                tasks.create_task(self._ask(peer, gate), name=f"look at {peer.base_url}")

    async def _ask(self, peer: Upstream, gate: asyncio.Semaphore) -> None:
        async with gate:
            try:
                statuses = await self._look(peer)
            except UpstreamError as error:
                told = (error.message, *getattr(error, "__notes__", ()))
                if self._seen.pop(peer.base_url, None) is not None:
                    log.warning("a peer does not answer", peer=peer.name, reason="; ".join(told))
                return
            except Exception:  # a bug here may cost the knowledge of one peer, not the gateway
                self._seen.pop(peer.base_url, None)
                log.exception("looking at a peer broke", peer=peer.name)
                return
        self._seen[peer.base_url] = _Seen(self._clock(), statuses)
