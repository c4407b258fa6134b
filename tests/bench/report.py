"""
Medians side by side, as a table or as JSON.

The one rule: a ratio is a ratio of medians of the same run, and the spread is shown beside it.
"""

from __future__ import annotations

import json
import platform
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

Samples = Mapping[str, Sequence[float]]
"""What was measured -> its values, one a round."""


def facts(title: str, unit: str, router: Samples, peer: Samples, **more: Any) -> dict[str, Any]:
    rows = {}
    for what in router:
        ours, theirs = list(router[what]), list(peer.get(what, ()))
        rows[what] = {
            "router": statistics.median(ours),
            "peer": statistics.median(theirs) if theirs else None,
            "ratio": statistics.median(ours) / statistics.median(theirs) if theirs else None,
            "samples": {"router": ours, "peer": theirs},
        }
    return {"title": title, "unit": unit, "machine": platform.platform(), "rows": rows, **more}


def show(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(found, indent=1))
        return
    print(f"\n{found['title']} ({found['unit']}: median, least and most)")
    table = Table(box=None, pad_edge=False)
    for column in ("", "router", "llama-server", "ratio"):
        table.add_column(column)
    for what, row in found["rows"].items():
        samples = row["samples"]
        ratio = f"{row['ratio']:.2f}" if row["ratio"] else "-"
        table.add_row(what, _cell(samples["router"]), _cell(samples["peer"]), ratio)
    Console(width=120, markup=False).print(table)


def _cell(values: Sequence[float]) -> str:
    if not values:
        return "-"
    return f"{statistics.median(values):.4g} ({min(values):.4g} to {max(values):.4g})"
