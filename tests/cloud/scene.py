"""A cloud with everything quick, and one upstream that is a scripted endpoint on loopback."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from router.cloud.calls import CloudAnswer, CloudCall
from router.cloud.client import Cloud
from router.domain.upstreams import Price, Timeouts, Upstream
from router.telemetry import Metrics
from tests.cloud.endpoint import Endpoint, serving

QUICK = Timeouts(connect=0.5, first_byte=0.3, whole=0.3, idle=0.3)
PRICE = Price(Decimal(1), Decimal(10))
HELLO: dict[str, Any] = {"model": "ours", "messages": [{"role": "user", "content": "hi"}]}


def call(stream: bool = True, body: Mapping[str, Any] = HELLO, **more: Any) -> CloudCall:
    return CloudCall("chat/completions", body, stream=stream, **more)


@dataclass(slots=True)
class Scene:
    cloud: Cloud
    endpoint: Endpoint
    upstream: Upstream
    metrics: Metrics

    async def ask(self, call: CloudCall, upstream: Upstream | None = None) -> tuple[CloudAnswer, bytes]:
        """The answer, all of it."""
        async with self.cloud.open(upstream or self.upstream, call) as answer:
            received = answer.body
            if answer.events is not None:
                received = b"".join([event async for event in answer.events])
        return answer, received

    def count(self, outcome: str) -> float:
        labels = {"upstream": self.upstream.name, "outcome": outcome}
        return self.metrics.registry.get_sample_value("router_cloud_requests_total", labels) or 0.0


@contextlib.asynccontextmanager
async def scene(folder: Path, **how: Any) -> AsyncIterator[Scene]:
    """`how` goes to the Cloud; `folder` gets the record of spending."""
    metrics = Metrics()
    async with serving(Endpoint()) as endpoint:
        async with Cloud(folder / "spend.db", metrics, chance=lambda: 0.0, **how) as cloud:
            upstream = Upstream("big", endpoint.url, "gpt-big", allow_private=True, timeouts=QUICK)
            yield Scene(cloud, endpoint, upstream, metrics)
