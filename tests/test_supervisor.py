"""Tasks that break: alone, or again from the start."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from router.supervisor import contained, restarted


async def breaks() -> None:
    raise ValueError("a bug")


async def test_an_error_in_a_contained_task_ends_only_it() -> None:
    with capture_logs() as lines:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(contained(breaks(), "a"))
            other = tasks.create_task(asyncio.sleep(0.01, "done"))
    assert other.result() == "done"
    assert [(line["event"], line["task"], line["log_level"]) for line in lines] == [
        ("a task broke", "a", "error")
    ]


async def test_a_task_that_breaks_begins_again_after_pauses_that_double_to_a_limit() -> None:
    runs = 0

    async def fifth_time_lucky() -> None:
        nonlocal runs
        runs += 1
        if runs < 5:
            raise ValueError("a bug")

    with capture_logs() as lines:
        await restarted(fifth_time_lucky, "watch", pause=0.001, longest=0.004)
    assert runs == 5
    assert {line["task"] for line in lines} == {"watch"}
    assert [line["seconds"] for line in lines] == [0.001, 0.002, 0.004, 0.004]


async def test_a_group_of_errors_is_an_error_too() -> None:
    runs = 0

    async def work() -> None:
        nonlocal runs
        runs += 1
        async with asyncio.TaskGroup() as tasks:
            if runs == 1:
                tasks.create_task(breaks())

    with capture_logs() as lines:
        await restarted(work, "watch", pause=0.0)
    assert (runs, len(lines)) == (2, 1)


async def test_it_can_be_cancelled() -> None:
    async with asyncio.timeout(60):
        task = asyncio.get_running_loop().create_task(restarted(lambda: asyncio.sleep(3600), "watch"))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
