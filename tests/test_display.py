from __future__ import annotations

import io
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest
from rich.console import Console
from rich.table import Table

from router import display
from router.client import Instance, Memory, ModelEntry, Running, Status
from router.domain.models import Footprint, Limits, LocalModel, ModelCard
from router.domain.routes import Route, Spill
from router.domain.upstreams import Price, Upstream
from router.registry.loader import Registry
from tests.local import local_model

MiB = 2**20


def model(name: str, need: int, problem: str | None = None, pooled: bool = False) -> LocalModel:
    weights = Footprint(weights=need * MiB)
    return local_model(name, footprint=weights, device="gpu0", problem=problem, card=ModelCard(pooled=pooled))


def registry(*models: LocalModel, budget: int = 100) -> Registry:
    return Registry(
        path=Path("registry.yaml"),
        models={m.name: m for m in models},
        aliases={},
        budgets={"gpu0": budget * MiB},
        keys=(),
        limits=Limits(),
        warnings=(),
    )


def rendered(table: Table) -> list[list[str]]:
    """The rows of a table, cells split where two blanks or more are."""
    out = Console(file=io.StringIO(), width=500)
    out.print(table)
    text = out.file.getvalue()  # type: ignore[attr-defined]
    return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in text.splitlines()]


def test_the_banner_has_the_url_and_three_lines_to_copy_that_swap() -> None:
    text = display.banner(registry(model("b", 80), model("a", 40), model("mid", 50)), "http://h:1")
    lines = [line.strip() for line in text.splitlines() if line.strip().startswith("curl")]
    assert len(lines) == 3
    assert lines[0] == "curl http://h:1/v1/models"
    assert '"model": "a"' in lines[1]
    assert '"model": "b"' in lines[2]


def test_the_banner_offers_no_chat_with_a_model_that_cannot() -> None:
    text = display.banner(registry(model("broken", 10, "no such file"), model("vec", 20, pooled=True)), "u")
    assert text.count("curl") == 1
    assert "cannot be loaded: no such file" in text


@pytest.mark.parametrize(
    ("needs", "words"),
    [
        ((40, 50), "every model at once"),
        ((40, 50, 60), "at most 2 of 3 models at once"),
        ((101,), "none of these"),
    ],
)
def test_what_fits_counts_the_smallest_first(needs: tuple[int, ...], words: str) -> None:
    models = [model(f"m{index}", need) for index, need in enumerate(needs)]
    assert words in display.what_fits(registry(*models))


def test_names_of_one_process_fit_together() -> None:
    one = model("one", 60)
    twin = msgspec.structs.replace(one, name="twin")
    assert "every model" in display.what_fits(registry(one, twin))


def test_the_footprints_of_a_registry_say_what_does_not_fit_and_why() -> None:
    table = display.footprints(registry(model("a", 40), model("b", 101), model("c", 0, "truncated")))
    fits = [row[-1] for row in rendered(table)[1:]]
    assert fits == ["yes", "no: it needs more than the budget", "no: truncated"]


def test_registry_facts_add_up_in_bytes() -> None:
    (facts,) = display.registry_facts(registry(model("a", 40)))["models"]
    assert facts["bytes"]["total"] == facts["bytes"]["weights"] == 40 * MiB
    assert facts["fits"] is True


def test_brackets_in_a_name_are_no_markup() -> None:
    assert rendered(display.model_list([ModelEntry("[bold]x")]))[1][0] == "[bold]x"


def test_the_model_list_tells_why_a_model_failed() -> None:
    row = rendered(display.model_list([ModelEntry("a", Status("failed", "crashed"), ("x", "y"))]))[1]
    assert row == ["a", "failed: crashed", "-", "-", "x, y"]


def test_instances_show_progress_slots_and_the_time_left() -> None:
    now = Running(
        (
            Instance("a", "a#1", "ready", pid=7, bytes=3 * 2**30, slots=4, leases=1, expires_in=61.0),
            Instance("b", "b#2", "loading", 0.4),
        )
    )
    assert rendered(display.instances(now))[1:] == [
        ["a#1", "a", "ready", "3.0 GiB", "1 of 4", "1m01s", "7"],
        ["b#2", "b", "loading 40%", "-", "- of -", "-", "-"],
    ]


def test_memory_lines_name_waiters_and_failures() -> None:
    held = Memory(100 * MiB, 50 * MiB, 10 * MiB, free=40 * MiB)
    assert display.memory(Running((), held, {"a": 2}, {"b": "crashed"})) == [
        "60 MiB of 100 MiB held, 40 MiB free",
        "waiting for a: 2",
        "failed: b: crashed",
    ]


def test_memory_lines_name_what_does_not_come_back_and_what_others_take() -> None:
    held = Memory(100 * MiB, 30 * MiB, 0, quarantined=20 * MiB, strangers=60 * MiB, free=-10 * MiB)
    assert display.memory(Running((), held)) == [
        "50 MiB of 100 MiB held, 20 MiB of them by processes that do not end, 0 MiB free, "
        "60 MiB taken by other processes"
    ]


def test_a_piped_table_is_not_folded(capsys: pytest.CaptureFixture[str]) -> None:
    display.show(display.model_list([ModelEntry("x" * 200)]))
    assert "x" * 200 in capsys.readouterr().out


def test_routes_are_shown_with_their_candidates_and_prices() -> None:
    price = Price(Decimal("2.5"), Decimal(10))
    upstreams = {
        "big": Upstream("big", "https://api.example.com/v1", "gpt", price=price),
        "box/a": Upstream("box/a", "http://10.0.0.2/v1", "a", peer=True),
    }
    a = msgspec.structs.replace(model("a", 1), cloud="spill", fallback=("box/a",), spill=Spill(5))
    route = Route("r", ("a", "big"), cloud="fallback", accuracy="high")
    found = replace(registry(a), upstreams=upstreams, routes={"r": route})
    assert rendered(display.routes(found))[1:] == [
        ["r", "a, big ($2.5 in, $10 out)", "fallback", "-", "high"],
        ["a", "a, box/a (free)", "spill", "5s", "-"],
    ]
    facts = display.registry_facts(found)
    assert [r["candidates"] for r in facts["routes"]] == [["a", "big"], ["a", "box/a"]]
    assert facts["upstreams"][0]["usd_per_million_tokens"] == {"input": 2.5, "output": 10.0}
    assert "api_key" not in repr(facts)
