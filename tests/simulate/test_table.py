from __future__ import annotations

from rich.console import Console
from rich.table import Table

from router.simulate import table
from router.simulate.policies import compare
from tests.simulate.scene import asks, house, model


def text(shown: Table) -> str:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(shown)
    return capture.get()


FOUND = compare(house([model("a"), model("[b]")], 5), asks((0, "a"), (1, "[b]")), ["lru", "fifo"], 10.0)


def test_each_policy_has_a_row() -> None:
    rows = text(table.policies(FOUND)).splitlines()
    assert [row.split()[0] for row in rows] == ["policy", "lru", "fifo"]
    assert "2 of 2" in rows[1]


def test_a_name_with_brackets_is_shown_as_it_is() -> None:
    assert "[b]" in text(table.by_model(FOUND[0]))
