"""
`python -m tests.bench.delays`: how soon a client that leaves frees its slot (promised: 250 ms), and how soon the
streams of a killed worker are told (500 ms).

The one rule: seconds are measured here and asserted nowhere: a machine with other work is slow, and nothing is wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2

from router import demo
from router.settings import cache_home
from tests.bench import servers

PROMISED = {"a client leaves, its slot is free": 0.25, "a worker is killed, its stream is told": 0.5}
ENDLESS = {"model": "m", "prompt": "Once upon a time", "max_tokens": 900, "ignore_eos": True, "stream": True}
HANG_SECONDS = 60.0


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--model", type=Path, help="a GGUF; a demo model if not given")
    return parser.parse_args(arguments)


@contextlib.contextmanager
def streaming(http: httpx2.Client) -> Iterator[Iterator[str]]:
    """The lines of a stream that has begun."""
    with http.stream("POST", "/v1/completions", json=ENDLESS) as response:
        lines = response.iter_lines()
        while not next(lines).startswith("data: "):
            pass
        yield lines


def running(http: httpx2.Client) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = http.get("/running").json()["running"]
    return found


def seconds_until(holds: Callable[[], bool]) -> float:
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < HANG_SECONDS, "it did not come true"
        time.sleep(0.005)
    return time.monotonic() - began


def leave(http: httpx2.Client) -> float:
    with streaming(http):
        pass
    return seconds_until(lambda: not any(entry["leases"] for entry in running(http)))


def kill(http: httpx2.Client) -> float:
    with streaming(http) as lines:
        (worker,) = (entry["pid"] for entry in running(http) if entry["leases"])
        os.kill(worker, signal.SIGKILL)
        began = time.monotonic()
        while '"error"' not in next(lines):
            pass
        return time.monotonic() - began


def run(chosen: argparse.Namespace, *flags: str) -> dict[str, list[float]]:
    """What happens -> seconds of each round."""
    model = chosen.model or demo.fetch(cache_home())["q4_1"]
    with tempfile.TemporaryDirectory(prefix="router-bench-") as name:
        with servers.gateway(Path(name), {"m": str(model)}, 4 * 2**30, 1024, 2, *flags) as url:
            with httpx2.Client(base_url=url, timeout=HANG_SECONDS, trust_env=False) as http:
                measured = ([leave(http) for _ in range(chosen.rounds)], [kill(http) for _ in range(2)])
    return dict(zip(PROMISED, measured, strict=True))


def main() -> int:
    found = run(parse())
    for what, seconds in found.items():
        ordered = sorted(seconds)
        print(
            f"{what}: {ordered[len(ordered) // 2] * 1000:.0f} ms (least {ordered[0] * 1000:.0f}, "
            f"most {ordered[-1] * 1000:.0f}; promised {PROMISED[what] * 1000:.0f})"
        )
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
