"""A process of its own that spends: so many calls at once at one upstream. It is killed in the middle by its test."""

from __future__ import annotations

import asyncio
import collections
import json
import sys
from pathlib import Path

import msgspec

from router.cloud.client import Cloud
from router.domain.errors import RouterError
from router.domain.upstreams import Budget, Timeouts, Upstream
from router.telemetry import Metrics
from tests.cloud.scene import PRICE, call


async def spend(url: str, file: Path, budget: int, calls: int) -> dict[str, int]:
    """How the calls ended, by name."""
    upstream = Upstream("big", url, "m", price=PRICE, budget=Budget(day=budget), allow_private=True)
    upstream = msgspec.structs.replace(upstream, timeouts=Timeouts(connect=30))
    ends: collections.Counter[str] = collections.Counter()

    async def one(cloud: Cloud) -> None:
        try:
            async with cloud.open(upstream, call(max_tokens=2, prompt_tokens_bound=10)) as answer:
                assert answer.events is not None
                async for _ in answer.events:
                    pass
            ends["ok"] += 1
        except RouterError as error:
            ends[type(error).__name__] += 1

    async with Cloud(file, Metrics()) as cloud:
        async with asyncio.TaskGroup() as tasks:
            for number in range(calls):
                tasks.create_task(one(cloud), name=f"call-{number}")
    return dict(ends)


if __name__ == "__main__":
    url, file, budget, calls = sys.argv[1:]
    print(json.dumps(asyncio.run(spend(url, Path(file), int(budget), int(calls)))))
