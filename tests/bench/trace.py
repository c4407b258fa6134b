"""
`python -m tests.bench.trace`: residency on a real workload's lengths, beside strict FIFO and LRU by count.

Eight models of 2.4 to 8 GiB on one card that holds two or three, wanted by Zipf; virtual time. The one rule: every
request is answered under every policy (clients wait as long as it takes), so that swaps and waits compare.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from router.domain.models import EngineOptions, Footprint, Limits, LocalModel, Placement
from router.residency import policy
from router.simulate import trace, workload
from router.simulate.figures import Figures
from router.simulate.machine import GiB, Machine
from router.simulate.policies import POLICIES, compare
from router.simulate.trace import Request
from router.simulate.world import House

SIZES = (4.2, 7.4, 4.2, 5.5, 4.2, 2.4, 8.0, 4.7)
"""GiB of weights, the most wanted model first; KV cache and process come on top."""
BUDGET = 18.0
"""GiB: the two largest fit, and so do three of the small."""
RATES = (0.5, 0.8, 1.1)
"""Requests a second: the card is some 60, 85 and 95 % busy."""
OBJECTIVE = 10.0
"""Seconds to the first token."""
AS_LONG_AS_IT_TAKES = {"max_wait": 1e6, "max_waiting": 10**6, "max_waiting_per_model": 10**6}


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--trace", type=Path, help="lengths and arrivals of an Azure trace; made up if not given"
    )
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rates", type=float, nargs="+", default=list(RATES), help="requests a second")
    parser.add_argument("--alpha", type=float, default=1.0, help="of Zipf")
    parser.add_argument("--budget", type=float, default=BUDGET, help="GiB")
    parser.add_argument("--patience", type=float, help="seconds; the registry's default if not given")
    parser.add_argument("--hold", type=float, help="seconds; likewise")
    parser.add_argument(
        "--read", type=float, default=Machine().read / GiB, help="GiB a second from file to card"
    )
    parser.add_argument("--json", action="store_true")
    return parser.parse_args(arguments)


def house(chosen: argparse.Namespace) -> House:
    engine = EngineOptions(context=16384, slots=8)
    models = {}
    for number, gib in enumerate(SIZES):
        footprint = Footprint(weights=int(gib * GiB), kv_cache=GiB // 2, overhead=600 * 2**20)
        placement = Placement(engine, {"gpu0": footprint})
        models[f"m{number}"] = LocalModel(f"m{number}", f"/m{number}.gguf", (placement,), engine, ttl=None)
    said = {name: value for name in ("patience", "hold") if (value := getattr(chosen, name)) is not None}
    limits = Limits(**AS_LONG_AS_IT_TAKES, **said)  # type: ignore[arg-type]
    return House(models, {"gpu0": int(chosen.budget * GiB)}, limits, Machine(read=chosen.read * GiB))


def work(chosen: argparse.Namespace, names: Sequence[str], rate: float, seed: int) -> list[Request]:
    if chosen.trace is None:
        return workload.synthetic(names, chosen.requests, rate, chosen.alpha, seed)
    found = trace.read(chosen.trace, most=chosen.requests)
    slower = (len(found) - 1) / found[-1].at / rate
    return workload.assign(trace.stretched(found, slower), names, chosen.alpha, seed)


def run(chosen: argparse.Namespace) -> dict[str, Any]:
    """Per rate and policy the mean over the seeds; of the longest wait, the longest."""
    scene = house(chosen)
    rows = []
    for rate in chosen.rates:
        found: dict[str, list[Figures]] = {name: [] for name in POLICIES}
        for seed in range(1, chosen.seeds + 1):
            for one in compare(
                scene, work(chosen, list(scene.models), rate, seed), list(POLICIES), OBJECTIVE
            ):
                found[one.policy].append(one)
        rows += [row(rate, name, found[name], found["fifo"], bound(scene, found[name])) for name in found]
    source = "the lengths of Azure's conversations" if chosen.trace is None else str(chosen.trace)
    return {"title": source, "requests": chosen.requests, "rows": rows}


def bound(scene: House, found: Sequence[Figures]) -> float:
    """Seconds that DESIGN.md allows residency for a request behind one for each of the other models."""
    machine, limits = scene.machine, scene.limits
    load = max(machine.load_seconds(model) for model in scene.models.values())
    longest = max(one.service.max for one in found)
    one = max(limits.patience, load + policy.hold(load, limits)) + longest + machine.exit
    return len(scene.models) * (one + load)


def row(
    rate: float, name: str, found: Sequence[Figures], fifo: Sequence[Figures], bound: float
) -> dict[str, Any]:
    swaps = statistics.mean(one.swaps for one in found)
    return {
        "rate": rate,
        "policy": name,
        "answered": sum(one.answered for one in found) / sum(one.requests for one in found),
        "wait_p50": statistics.mean(one.wait.p50 for one in found),
        "wait_p95": statistics.mean(one.wait.p95 for one in found),
        "wait_p99": statistics.mean(one.wait.p99 for one in found),
        "wait_max": max(one.wait.max for one in found),
        "wait_bound": bound,
        "swaps": swaps,
        "fewer_than_fifo": statistics.mean(one.swaps for one in fifo) / swaps,
        "goodput": statistics.mean(one.goodput for one in found),
        "busy": statistics.mean(one.busy["gpu0"] for one in found),
    }


def show(found: dict[str, Any]) -> None:
    print(f"\n{found['title']}: {found['requests']} requests, {len(SIZES)} models; waits in seconds")
    table = Table(box=None, pad_edge=False)
    for column in ("rate", "policy", "p50", "p95", "p99", "max", "swaps", "fifo / it", "goodput", "busy"):
        table.add_column(column)
    for one in found["rows"]:
        waits = [f"{one[f'wait_{name}']:.1f}" for name in ("p50", "p95", "p99", "max")]
        swaps = [f"{one['swaps']:.0f}", f"{one['fewer_than_fifo']:.2f}"]
        table.add_row(
            f"{one['rate']:g}/s",
            one["policy"],
            *waits,
            *swaps,
            f"{one['goodput']:.3f}/s",
            f"{one['busy']:.0%}",
        )
    Console(width=120, markup=False).print(table)


def main() -> int:
    chosen = parse()
    found = run(chosen)
    print(json.dumps(found, indent=1)) if chosen.json else show(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
