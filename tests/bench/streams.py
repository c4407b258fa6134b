"""
`python -m tests.bench.streams`: aggregate tokens per second of 1, 2, 4 and 8 concurrent streams, for each demo file.

The one rule: router and peer take turns within each round, so that a busy machine hurts both alike.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from router import demo
from router.settings import cache_home
from tests.bench import load, peer, report, servers

CONTEXT = 512
"""Tokens a slot."""
SLOTS = 8
WANTED = 1.5
"""How many times the tokens of 1 stream 8 streams must give, on two processor cores and up."""


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=Path, nargs="+", help="GGUFs; the demo models if not given")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 2, 4, 8], choices=range(1, SLOTS + 1))
    parser.add_argument("--tokens", type=int, default=64, help="of each stream")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args(arguments)


async def measure(urls: dict[str, str], chosen: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
    """Server -> "N streams" -> tokens per second, one value a round. A first round warms up and is not counted."""
    found: dict[str, dict[str, list[float]]] = {name: {} for name in urls}
    for url in urls.values():
        await load.together(url, "bench", 1, 8, 0)
    for round_ in range(1, chosen.rounds + 1):
        for count in chosen.streams:
            for name, url in urls.items():
                speed = await load.together(url, "bench", count, chosen.tokens, round_ * 100 + count)
                found[name].setdefault(f"{count} streams", []).append(speed)
    return found


def scaling(samples: dict[str, list[float]]) -> float | None:
    """How much more 8 streams give than 1, in medians."""
    if not {"1 streams", "8 streams"} <= set(samples):
        return None
    return statistics.median(samples["8 streams"]) / statistics.median(samples["1 streams"])


def run(model: Path, chosen: argparse.Namespace, *flags: str) -> dict[str, Any]:
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="router-bench-")))
        ours = servers.gateway(folder, {"bench": str(model.absolute())}, 64 * 2**30, CONTEXT, SLOTS, *flags)
        urls = {"router": stack.enter_context(ours)}
        if not chosen.no_peer:
            slots = ("--ctx-size", str(CONTEXT * SLOTS), "--parallel", str(SLOTS))
            binary = peer.build(lambda line: print(line, file=sys.stderr))
            theirs = servers.peer(binary, folder, "--model", str(model), *slots)
            urls["peer"] = stack.enter_context(theirs)
        found = asyncio.run(measure(urls, chosen))
    grows = {name: scaling(samples) for name, samples in found.items()}
    title = f"{model.stem}: {chosen.tokens} tokens a stream"
    return report.facts(title, "tokens/s in all", found["router"], found.get("peer", {}), scaling=grows)


def verdict(found: dict[str, Any]) -> list[str]:
    """A line a server, in medians of this run; what is wanted is asked of the router alone."""
    lines = []
    for name, factor in found["scaling"].items():
        if factor is not None:
            judged = "" if name != "router" else "PASS: " if factor >= WANTED else "FAIL: "
            wanted = f" (at least {WANTED} wanted)" if name == "router" else ""
            lines.append(f"{judged}{name}: 8 streams give {factor:.2f} times the tokens of 1{wanted}")
    return lines


def main() -> int:
    chosen = parse()
    models = chosen.models or list(demo.fetch(cache_home()).values())
    everything = []
    for model in models:
        found = run(model, chosen)
        everything.append(found)
        if not chosen.json:
            report.show(found, as_json=False)
            print(*verdict(found), sep="\n", flush=True)
    if chosen.json:
        print(json.dumps(everything, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
