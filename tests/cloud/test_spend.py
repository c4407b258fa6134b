"""What may be spent: never more than the budget, whoever asks, whatever dies."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from router.cloud.books import Entry
from router.cloud.journal import Journal, JournalBroken
from router.cloud.spend import Spend, Spent, seconds_left
from router.domain.errors import OverBudget, SpendUnknown, UpstreamBroken
from router.domain.upstreams import Budget, Timeouts, Upstream
from tests.cloud.endpoint import Endpoint, chunk, good, raw_stream, serving, usage_chunk
from tests.cloud.scene import HELLO, PRICE, call, scene

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC).timestamp()
DAY = 86_400.0


def big(**more: object) -> Upstream:
    return Upstream("big", "https://x/v1", "m", price=PRICE, **more)  # type: ignore[arg-type]


class Clock:
    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> float:
        return self.now


@contextlib.asynccontextmanager
async def spending(folder: Path, clock: Clock | None = None) -> AsyncIterator[Spend]:
    found = Spend(folder / "spend.db", clock or Clock())
    async with found.running():
        yield found


def on_disk(folder: Path) -> tuple[list[Entry], list[Entry]]:
    """Left open, and spent."""
    journal = Journal(folder / "spend.db")
    try:
        return journal.adopt(), journal.spent("2026-11")
    finally:
        journal.close()


async def test_what_was_reserved_counts_until_it_is_settled_at_what_it_came_to(tmp_path: Path) -> None:
    upstream = big(budget=Budget(day=100))
    async with spending(tmp_path) as it:
        charge = await it.reserve(upstream, None, 80)
        assert it.spent("big") == Spent(0, 0, 80)
        with pytest.raises(OverBudget, match=r"0\.000020 USD left for this day") as caught:
            await it.reserve(upstream, None, 21)
        assert (caught.value.window, caught.value.retry_after) == ("day", DAY / 2)
        assert charge.settle(30) == 30
        assert it.spent("big") == Spent(30, 30, 0)
        await it.reserve(upstream, None, 70)
        with pytest.raises(OverBudget):
            await it.reserve(upstream, None, 1)


async def test_a_charge_is_settled_once_and_at_its_worst_when_nobody_told(tmp_path: Path) -> None:
    async with spending(tmp_path) as it:
        charge = await it.reserve(big(), None, 80)
        assert [charge.settle(None), charge.settle(1)] == [80, 80]
        assert it.spent("big").day == 80
    assert on_disk(tmp_path) == ([], [Entry("big", "", "2026-11-24", 80)])


async def test_months_and_keys_have_budgets_of_their_own(tmp_path: Path) -> None:
    clock = Clock()
    upstream = big(budget=Budget(day=100, month=150), budgets_by_key={"alice": Budget(day=40)})
    async with spending(tmp_path, clock) as it:
        (await it.reserve(upstream, "alice", 40)).settle(None)
        with pytest.raises(OverBudget, match="key 'alice'"):
            await it.reserve(upstream, "alice", 1)
        (await it.reserve(upstream, "bob", 60)).settle(None)
        clock.now += DAY
        (await it.reserve(upstream, "alice", 40)).settle(None)
        with pytest.raises(OverBudget, match="for this month") as caught:
            await it.reserve(upstream, None, 11)
        assert caught.value.window == "month"


async def test_a_new_day_begins_at_midnight_utc_and_settles_to_the_day_of_the_reservation(
    tmp_path: Path,
) -> None:
    clock = Clock()
    async with spending(tmp_path, clock) as it:
        charge = await it.reserve(big(budget=Budget(day=100)), None, 100)
        clock.now += DAY / 2
        await it.reserve(big(budget=Budget(day=100)), None, 100)
        charge.settle(90)
        assert it.spent("big") == Spent(0, 90, 100)


async def test_upstreams_do_not_share_budgets(tmp_path: Path) -> None:
    async with spending(tmp_path) as it:
        await it.reserve(big(budget=Budget(day=100)), None, 100)
        await it.reserve(msgspec.structs.replace(big(budget=Budget(day=100)), name="other"), None, 100)


async def test_what_is_free_touches_no_file(tmp_path: Path) -> None:
    async with spending(tmp_path / "none") as it:
        assert (await it.reserve(Upstream("peer", "http://x/v1", "m"), None, 0)).settle(None) == 0
    assert not (tmp_path / "none").exists()


async def test_a_restart_loses_nothing(tmp_path: Path) -> None:
    async with spending(tmp_path) as it:
        (await it.reserve(big(), "alice", 80)).settle(30)
        await it.reserve(big(), "alice", 50)
    async with spending(tmp_path) as it:
        await it.reserve(big(budget=Budget(day=100)), "alice", 20)
        assert it.spent("big") == Spent(80, 80, 20)


async def test_without_a_record_nothing_is_spent_and_the_reason_is_in_the_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "spend.db").write_bytes(b"no database " * 1000)
    async with spending(tmp_path) as it:
        with pytest.raises(SpendUnknown, match="cannot be recorded"):
            await it.reserve(big(), None, 1)
        assert it.spent("big") == Spent()
    told = "".join(capsys.readouterr())
    assert "damaged" in told


async def test_a_full_disk_refuses_new_calls_and_keeps_the_sums(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Journal, steps: object) -> None:
        raise JournalBroken("the disk is full")

    async with spending(tmp_path) as it:
        charge = await it.reserve(big(budget=Budget(day=100)), None, 80)
        monkeypatch.setattr(Journal, "write", full)
        charge.settle(30)
        with pytest.raises(SpendUnknown):
            await it.reserve(big(budget=Budget(day=100)), None, 10)
        assert it.spent("big") == Spent(30, 30, 0)
    monkeypatch.undo()
    # The settlement never came to the disk: the next run counts the worst case.
    assert on_disk(tmp_path) == ([Entry("big", "", "2026-11-24", 80)], [Entry("big", "", "2026-11-24", 80)])


async def test_one_who_leaves_while_the_disk_is_awaited_owes_nothing(tmp_path: Path) -> None:
    async with spending(tmp_path) as it:
        await it.reserve(big(), None, 1)
        async with asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(it.reserve(big(), None, 80), name="waiting")
            await asyncio.sleep(0)
            assert it.spent("big").reserved == 81
            waiting.cancel()
        assert it.spent("big") == Spent(0, 0, 1)
    assert on_disk(tmp_path)[0] == [Entry("big", "", "2026-11-24", 1)]


async def test_a_bill_beyond_the_worst_case_is_counted_in_full(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with spending(tmp_path) as it:
        (await it.reserve(big(), None, 10)).settle(25)
        assert it.spent("big").day == 25
    assert "more than the worst case" in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    ("day", "left"), [("2026-11-24", 6.5), ("2026-12-31", 0.5), ("2028-02-01", 28.5)], ids=lambda v: str(v)
)
def test_a_month_ends_with_its_last_day(day: str, left: float) -> None:
    noon = datetime.fromisoformat(f"{day}T12:00:00+00:00").timestamp()
    assert seconds_left("month", noon) == left * DAY
    assert seconds_left("day", noon) == 0.5 * DAY


# Many at once, and a process that is killed ------------------------------------------------------------------

COST = 10 + 2 * 10
"""Micro-dollars of one call: what it costs is also its worst case."""


async def test_of_200_at_once_a_budget_for_50_pays_for_50(tmp_path: Path) -> None:
    async with scene(tmp_path) as it:
        patient = msgspec.structs.replace(it.upstream, price=PRICE, timeouts=Timeouts())
        upstream = msgspec.structs.replace(patient, budget=Budget(day=50 * COST + COST - 1))
        ends = await asyncio.gather(
            *(it.ask(call(max_tokens=2, prompt_tokens_bound=10), upstream) for _ in range(200)),
            return_exceptions=True,
        )
        assert sum(isinstance(end, OverBudget) for end in ends) == 150
        assert it.cloud.view(upstream).spent == Spent(50 * COST, 50 * COST, 0)
    assert len(it.endpoint.seen) == 50


@pytest.mark.process
@pytest.mark.parametrize("after", [1, 20, 45])
async def test_a_process_killed_in_the_middle_has_not_spent_more_than_its_budget_after_a_restart(
    tmp_path: Path, after: int
) -> None:
    budget = 50 * COST
    billed = 0

    async def bill(seen, send) -> None:  # type: ignore[no-untyped-def]
        nonlocal billed
        billed += COST
        await asyncio.sleep(0.02 * (billed // COST % 5))
        await good()(seen, send)

    async with serving(Endpoint(bill)) as endpoint:
        arguments = [endpoint.url, str(tmp_path / "spend.db"), str(budget), "200"]
        process = await start(arguments)
        while len(endpoint.seen) < after and process.returncode is None:
            await asyncio.sleep(0.001)
        process.kill()
        await process.wait()
        before = billed
        process = await start(arguments)
        told, _ = await process.communicate()
    ends = json.loads(told.splitlines()[-1])
    assert (process.returncode, sum(ends.values())) == (0, 200)
    assert set(ends) <= {"ok", "OverBudget"}
    left, spent = on_disk(tmp_path)
    assert left == []
    assert before < billed or not ends.get("ok")
    assert billed <= sum(entry.micro for entry in spent) <= budget


async def start(arguments: list[str]) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.cloud.spender", *arguments, stdout=asyncio.subprocess.PIPE
    )


COUNTED: Any = {"prompt_tokens": 10, "completion_tokens": 0}


@pytest.mark.parametrize("then", ["cut", "end"])
async def test_a_usage_that_later_words_belie_is_not_believed(tmp_path: Path, then: str) -> None:
    """Some tell it with each event: what is told last counts, and only if nothing came after it."""
    async with scene(tmp_path) as it:
        upstream = msgspec.structs.replace(it.upstream, price=PRICE, max_tokens=5)
        first = chunk("m", {"content": "a"}, usage=COUNTED)
        rest = [chunk("m", {"content": "b"}), chunk("m", {}, "stop"), b"data: [DONE]\n\n"]
        it.endpoint.answer = raw_stream(first, *(rest if then == "end" else []), then=then)
        async with it.cloud.open(upstream, call()) as answer:
            assert answer.events is not None
            with contextlib.suppress(UpstreamBroken):
                [event async for event in answer.events]
        assert answer.cost == answer.reserved > 10


async def test_the_last_usage_counts_though_a_client_leaves_before_done(tmp_path: Path) -> None:
    async with scene(tmp_path) as it:
        upstream = msgspec.structs.replace(it.upstream, price=PRICE, max_tokens=5)
        it.endpoint.answer = raw_stream(
            chunk("m", {}, "stop"), usage_chunk("m", 10, 2), b": x\n\n", then="cut"
        )
        async with it.cloud.open(
            upstream, call(body={**HELLO, "stream_options": {"include_usage": True}})
        ) as answer:
            assert answer.events is not None
            with contextlib.suppress(UpstreamBroken):
                [event async for event in answer.events]
        assert answer.cost == 30


async def test_a_clock_that_was_wrong_for_a_moment_brings_no_money_back(tmp_path: Path) -> None:
    upstream, clock = big(budget=Budget(month=100)), Clock()
    async with spending(tmp_path, clock) as it:
        (await it.reserve(upstream, None, 80)).settle(None)
        clock.now += 400 * DAY
        (await it.reserve(upstream, None, 1)).settle(0)
        clock.now -= 400 * DAY
        with pytest.raises(OverBudget):
            await it.reserve(upstream, None, 80)


async def test_a_start_with_a_wrong_clock_brings_no_money_back(tmp_path: Path) -> None:
    upstream, clock = big(budget=Budget(month=100)), Clock()
    async with spending(tmp_path, clock) as it:
        (await it.reserve(upstream, None, 80)).settle(None)
    clock.now += 400 * DAY
    async with spending(tmp_path, clock) as it:
        (await it.reserve(upstream, None, 1)).settle(0)
        clock.now -= 400 * DAY
        with pytest.raises(OverBudget):
            await it.reserve(upstream, None, 80)


async def test_a_budget_that_an_edit_changes_counts_what_runs(tmp_path: Path) -> None:
    before, after = big(budget=Budget(day=100)), big(budget=Budget(day=90))
    async with spending(tmp_path) as it:
        runs = await it.reserve(before, None, 80)
        with pytest.raises(OverBudget):
            await it.reserve(after, None, 20)
        runs.settle(10)
        assert (await it.reserve(after, None, 80)).worst == 80


async def test_a_request_without_a_limit_gets_the_one_that_was_reserved(tmp_path: Path) -> None:
    async with scene(tmp_path) as it:
        upstream = msgspec.structs.replace(it.upstream, price=PRICE, max_tokens=77)
        answer, _ = await it.ask(call(), upstream)
        await it.ask(call(max_tokens=5, body={**HELLO, "max_completion_tokens": 5}), upstream)
    assert answer.reserved == len(it.endpoint.seen[0].raw) + 77 * 10
    assert it.endpoint.seen[0].body["max_tokens"] == 77
    assert it.endpoint.seen[1].body["max_completion_tokens"] == 5
    assert "max_tokens" not in it.endpoint.seen[1].body
