"""
What a gateway holds while nothing is loaded and nobody asks.

The one rule: it is looked at from outside, and the least that is seen counts.
"""

from __future__ import annotations

import asyncio
import time
import urllib.request

import psutil

from tests.bench import soak_verdict
from tests.bench.soak_verdict import Count

QUIET_SECONDS = 5.0
"""So long the last workers may take to leave, and so long is counted after."""
LOOK_SECONDS = 0.25


async def count(url: str, gateway: psutil.Process) -> Count:
    """
    Send every model away, let the last of them leave, and count for a while: the least of each.

    Something small always goes on (the registry is polled, a scrape answered); a leak raises the least.
    """
    await asyncio.to_thread(_post, f"{url}/unload")
    await asyncio.sleep(QUIET_SECONDS)
    seen = []
    until = time.monotonic() + QUIET_SECONDS
    while time.monotonic() < until:
        seen.append(await _look(url, gateway))
        await asyncio.sleep(LOOK_SECONDS)
    return soak_verdict.least(seen)


async def _look(url: str, gateway: psutil.Process) -> Count:
    text = await asyncio.to_thread(_get, f"{url}/metrics")
    (tasks,) = [line.split()[1] for line in text.splitlines() if line.startswith("router_tasks ")]
    return Count(
        files=gateway.num_fds(),
        tasks=int(float(tasks)),
        processes=len(gateway.children(recursive=True)),
        threads=gateway.num_threads(),
    )


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as answer:
        text: str = answer.read().decode()
        return text


def _post(url: str) -> None:
    with urllib.request.urlopen(urllib.request.Request(url, method="POST"), timeout=30) as answer:
        answer.read()
