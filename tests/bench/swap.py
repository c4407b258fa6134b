"""
`python -m tests.bench.swap`: time to the first token of a model that must first take another one's place.

The one rule: memory for one model at a time, on both sides: a byte budget here, `--models-max 1` there.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from router import demo
from router.registry import loader
from router.settings import cache_home
from router.sizing import devices
from tests.bench import load, peer, report, servers

CONTEXT = 2048
SLOTS = 1
PROMPT = "Once upon a time"


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=Path, nargs=2, help="two GGUFs; two demo models if not given")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args(arguments)


async def measure(urls: dict[str, str], names: list[str], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Server -> what -> seconds to the first token. The first round is not counted: it fills the page cache."""
    found: dict[str, dict[str, list[float]]] = {server: {} for server in urls}
    for round_ in range(rounds + 1):
        for server, url in urls.items():
            for name in names:
                swapped = await load.stream(url, name, PROMPT, 4, round_)
                resident = await load.stream(url, name, f"{PROMPT} {round_}", 4, round_)
                if round_:
                    found[server].setdefault(f"swap to {name}", []).append(swapped.first)
                    found[server].setdefault(f"{name}, resident", []).append(resident.first)
    return found


def budget_for_one(folder: Path, paths: dict[str, str]) -> int:
    """Bytes that hold the larger of the models and not both."""
    probe = servers.registry_file(folder / "probe.yaml", paths, 64 * 2**30, CONTEXT, SLOTS)
    models = loader.load(probe, devices.detect(), cache_home()).models.values()
    smaller, larger = sorted(model.footprint.total for model in models)
    return larger + smaller // 2


def run(chosen: argparse.Namespace, *flags: str) -> dict[str, Any]:
    files = chosen.models or [demo.fetch(cache_home())[kind] for kind in ("q8_0", "f16")]
    paths = {path.stem: str(path.absolute()) for path in files}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="router-bench-")))
        budget = budget_for_one(folder, paths)
        urls = {"router": stack.enter_context(servers.gateway(folder, paths, budget, CONTEXT, SLOTS, *flags))}
        if not chosen.no_peer:
            urls["peer"] = stack.enter_context(_peer(folder, paths))
        found = asyncio.run(measure(urls, list(paths), chosen.rounds))
    title = "Time to the first token"
    return report.facts(title, "s", found["router"], found.get("peer", {}), budget=budget)


@contextlib.contextmanager
def _peer(folder: Path, paths: dict[str, str]) -> Iterator[str]:
    """llama-server in router mode over a folder of links to the same files."""
    models = folder / "models"
    models.mkdir()
    for name, path in paths.items():
        (models / f"{name}.gguf").symlink_to(path)
    binary = peer.build(lambda line: print(line, file=sys.stderr))
    one = ("--models-dir", str(models), "--models-max", "1")
    slots = ("--ctx-size", str(CONTEXT * SLOTS), "--parallel", str(SLOTS))
    with servers.peer(binary, folder, *one, *slots) as url:
        yield url


def main() -> int:
    chosen = parse()
    report.show(run(chosen), chosen.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
