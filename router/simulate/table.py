"""
Figures as tables for people.

The one rule: values in, a table out; nothing is computed here and nothing printed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.table import Table
from rich.text import Text

from router.simulate.figures import Figures, Spread

COLUMNS = (
    "policy", "answered", "wait p50", "p95", "p99", "max", "first token p95", "swaps", "evictions", "goodput",
    "device busy", "loading", "refused",
)  # fmt: skip


def policies(found: Sequence[Figures]) -> Table:
    """One row a policy; several devices in the order of their names. Waits in seconds, goodput in answers a second."""
    table = _table(*COLUMNS)
    for one in found:
        _row(
            table,
            one.policy,
            f"{one.answered} of {one.requests}",
            *_spread(one.wait),
            _seconds(one.first_token.p95),
            str(one.swaps),
            str(sum(one.evictions.values())),
            f"{one.goodput:.3f}/s",
            ", ".join(f"{share:.0%}" for share in one.busy.values()) or "-",
            f"{one.loading:.0%}",
            _reasons(one.refused),
        )
    return table


def by_model(one: Figures) -> Table:
    """How long each model is waited for under one policy."""
    table = _table("model", "answered", "wait p50", "p95", "p99", "max")
    for name, model in one.by_model.items():
        _row(table, name, f"{model.answered} of {model.requests}", *_spread(model.wait))
    return table


def _spread(wait: Spread) -> list[str]:
    return [_seconds(value) for value in (wait.p50, wait.p95, wait.p99, wait.max)]


def _seconds(value: float) -> str:
    return f"{value:.2f}" if value < 100 else f"{value:.0f}"


def _reasons(refused: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in refused.items()) or "-"


def _table(*columns: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _row(table: Table, *cells: str) -> None:
    """Cells as they are: brackets in a model's name are no markup."""
    table.add_row(*(Text(cell) for cell in cells))
