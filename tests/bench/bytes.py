"""
`python -m tests.bench.bytes [GGUF ...]`: predicted bytes beside measured ones, on the host.

The one rule: each load has a worker process of its own; without arguments the demo models are weighed.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from router import demo
from router.domain.models import EngineOptions
from router.runtime.launcher import ProcessLauncher
from router.runtime.spares import Spares
from router.settings import cache_home
from router.sizing.devices import detect
from router.sizing.meter import Meter
from router.telemetry import Metrics, configure_logging
from tests.bench.weigh import weigh

CONTEXTS = ((512, 1), (2048, 4), (8192, 1))


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", type=Path, nargs="*")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args(arguments)


async def measure(paths: list[Path]) -> list[dict[str, Any]]:
    meter = Meter(detect())
    rows = []
    async with Spares(1) as spares:
        launcher = ProcessLauncher(spares, Metrics())
        for path, (context, slots) in itertools.product(paths, CONTEXTS):
            options = EngineOptions(context=context, slots=slots, gpu_layers=0, devices=("host",))
            found = await weigh(launcher, meter, path, options)
            rows.append(
                {
                    "model": path.stem,
                    "context": f"{context} x {slots}",
                    "predicted": found.planned["host"].total,
                    "measured": found.measured["host"].total,
                    "error": found.error("host"),
                    "system": found.peak["host"],
                }
            )
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    table = Table(box=None, pad_edge=False)
    for column in ("model", "context", "predicted", "measured", "error", "system at its peak"):
        table.add_column(column, justify="left" if column in ("model", "context") else "right")
    for row in rows:
        sizes = [f"{row[key] / 2**20:.1f}" for key in ("predicted", "measured")]
        peak = f"{row['system'] / 2**20:.1f}"
        table.add_row(row["model"], row["context"], *sizes, f"{row['error']:+.2%}", peak)
    print("\nHost memory of a worker (MiB)")
    Console(width=120, markup=False).print(table)


def main() -> int:
    chosen = parse()
    configure_logging("error")
    rows = asyncio.run(measure(chosen.models or list(demo.fetch(cache_home()).values())))
    if chosen.json:
        print(json.dumps(rows, indent=1))
    else:
        show(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
