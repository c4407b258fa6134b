"""
`python -m tests.bench.flat --models A B`: after many swaps, does the device hold what it held after the first?

The one rule: the device is asked (NVML), not our own books; those are shown beside it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

from router.sizing import devices
from tests.bench import load, servers
from tests.bench.swap import CONTEXT, PROMPT, SLOTS, budget_for_one

CLEARED_SECONDS = 5.0
"""What an evicted worker may take to be gone."""


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=Path, nargs=2, required=True, help="two GGUFs")
    parser.add_argument("--swaps", type=int, default=100)
    return parser.parse_args(arguments)


def spread(values: Sequence[int]) -> dict[str, int]:
    """First, last and how far they lie apart at most; bytes."""
    return {"first": values[0], "last": values[-1], "spread": max(values) - min(values)}


def used() -> int:
    """Bytes of the first device that anybody holds."""
    device = devices.detect()[0]
    return device.total - device.free


def settled(read: Callable[[], int], clock: Callable[[], float] = time.monotonic) -> int:
    """The value once two readings agree: an evicted process is on its way out."""
    until, last = clock() + CLEARED_SECONDS, read()
    while clock() < until:
        time.sleep(0.25)
        last, before = read(), last
        if last == before:
            break
    return last


def booked(url: str) -> dict[str, float]:
    """What the gateway says that each model holds: "model kind" -> bytes."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
        lines = [
            line for line in answer.read().decode().splitlines() if line.startswith("router_model_bytes{")
        ]
    return {line[line.index("{") : line.index("}") + 1]: float(line.rsplit(" ", 1)[1]) for line in lines}


async def swaps(url: str, names: Sequence[str], count: int) -> dict[str, Any]:
    held: dict[str, list[int]] = {name: [] for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(count):
        name = names[number % len(names)]
        seconds[name].append((await load.stream(url, name, PROMPT, 4, number)).first)
        held[name].append(await asyncio.to_thread(settled, used))
        if number % 10 == 9:
            print(f"{number + 1} of {count} swaps", file=sys.stderr, flush=True)
    return {"device": {name: spread(values) for name, values in held.items()}, "seconds": seconds}


def run(chosen: argparse.Namespace, *flags: str) -> dict[str, Any]:
    paths = {path.stem: str(path.absolute()) for path in chosen.models}
    with tempfile.TemporaryDirectory(prefix="router-bench-") as name:
        folder = Path(name)
        before = used()
        budget = budget_for_one(folder, paths)
        with servers.gateway(folder, paths, budget, CONTEXT, SLOTS, *flags) as url:
            gateway = next(child for child in psutil.Process().children() if "serve" in child.cmdline())
            asyncio.run(swaps(url, list(paths), 2 * len(paths)))
            resident = gateway.memory_info().rss
            found = asyncio.run(swaps(url, list(paths), chosen.swaps))
            grown = gateway.memory_info().rss - resident
            return {
                **found,
                "swaps": chosen.swaps,
                "empty": before,
                "gateway_rss_growth": grown,
                "booked": booked(url),
            }


def main() -> int:
    print(json.dumps(run(parse()), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
