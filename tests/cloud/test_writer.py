"""The journal seen from the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from router.cloud import writer
from router.cloud.books import Entry
from router.cloud.journal import Journal, JournalBroken, Reserve, Settle
from router.cloud.writer import Writer

ENTRY = Entry("big", "", "2026-11-24", 500)


class Heard:
    def __init__(self) -> None:
        self.spent: list[Entry] = []
        self.left: list[Entry] = []
        self.times = 0

    def __call__(self, spent: list[Entry], left: list[Entry]) -> None:
        self.spent, self.left, self.times = spent, left, self.times + 1


@contextlib.asynccontextmanager
async def running(path: Path, heard: Heard | None = None) -> AsyncIterator[Writer]:
    found = Writer(path, lambda: "2026-11", heard or Heard())
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(found.run(), name="writer")
        tasks.create_task(found.run_syncs(), name="syncs")
        try:
            yield found
        finally:
            found.stop()


def on_disk(path: Path) -> tuple[list[Entry], list[Entry]]:
    """Left open, and spent."""
    journal = Journal(path)
    try:
        return journal.adopt(), journal.spent("2026-11")
    finally:
        journal.close()


async def test_a_reservation_is_on_disk_when_it_returns_and_a_settlement_at_the_end(tmp_path: Path) -> None:
    async with running(tmp_path / "a.db") as it:
        await it.write(Reserve(1, ENTRY))
        await it.write(Reserve(2, ENTRY))
        it.post(Settle(1, ENTRY))
    assert on_disk(tmp_path / "a.db") == ([ENTRY], [Entry("big", "", "2026-11-24", 1000)])


async def test_many_that_come_together_share_few_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes: list[int] = []
    plain = Journal.write
    monkeypatch.setattr(
        Journal, "write", lambda self, steps: (writes.append(len(steps)), plain(self, steps))[1]
    )
    async with running(tmp_path / "a.db") as it:
        await it.ready()
        async with asyncio.TaskGroup() as tasks:
            for number in range(1, 201):
                tasks.create_task(it.write(Reserve(number, ENTRY)), name=f"{number}")
    assert sum(writes) == 200
    assert len(writes) <= 3


async def test_the_disk_is_not_waited_for_but_gets_it_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, synced = threading.Event(), threading.Event()

    def slow(self: Journal) -> None:
        disk.wait(10)
        synced.set()

    monkeypatch.setattr(Journal, "sync", slow)
    async with running(tmp_path / "a.db") as it:
        await it.write(Reserve(1, ENTRY))
        await it.write(Reserve(2, ENTRY))
        assert not synced.is_set()
        disk.set()
        await asyncio.to_thread(synced.wait, 10)
    assert synced.is_set()


async def test_a_disk_that_does_not_sync_is_in_the_log_and_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(self: Journal) -> None:
        raise JournalBroken("the disk is broken")

    monkeypatch.setattr(Journal, "sync", broken)
    async with running(tmp_path / "a.db") as it:
        await it.write(Reserve(1, ENTRY))
        await asyncio.sleep(0.05)
        await it.write(Reserve(2, ENTRY))
    assert "the disk is broken" in "".join(capsys.readouterr())


async def test_the_file_is_opened_once_and_what_was_left_is_told(tmp_path: Path) -> None:
    async with running(tmp_path / "a.db") as it:
        await it.write(Reserve(1, ENTRY))
    heard = Heard()
    async with running(tmp_path / "a.db", heard) as it:
        await it.ready()
        await it.ready()
        await it.write(Reserve(1, ENTRY))
    assert (heard.left, heard.spent, heard.times) == ([ENTRY], [ENTRY], 1)


async def test_a_file_that_cannot_be_opened_is_not_tried_at_every_call(tmp_path: Path) -> None:
    (tmp_path / "a.db").write_bytes(b"no database " * 1000)
    async with running(tmp_path / "a.db") as it:
        with pytest.raises(JournalBroken):
            await it.ready()
        (tmp_path / "a.db").unlink()
        with pytest.raises(JournalBroken):
            await it.ready()


async def test_a_settlement_that_the_disk_refuses_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "PAUSE", 0.01)
    plain = Journal.write
    refused = 0

    def full(self: Journal, steps: object) -> None:
        nonlocal refused
        if refused < 3:
            refused += 1
            raise JournalBroken("the disk is full")
        plain(self, steps)  # type: ignore[arg-type]

    async with running(tmp_path / "a.db") as it:
        await it.write(Reserve(1, ENTRY))
        monkeypatch.setattr(Journal, "write", full)
        it.post(Settle(1, Entry("big", "", "2026-11-24", 20)))
        with pytest.raises(JournalBroken):
            await it.write(Reserve(2, ENTRY))
        async with asyncio.timeout(2):
            while refused < 3:
                await asyncio.sleep(0.01)
    assert on_disk(tmp_path / "a.db") == ([], [Entry("big", "", "2026-11-24", 20)])


async def test_an_unforeseen_error_refuses_who_waits_and_does_not_end_the_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path / "a.db") as it:
        await it.write(Reserve(1, ENTRY))
        with monkeypatch.context() as patched:
            patched.setattr(Journal, "write", _breaks)
            patched.setattr(Journal, "sync", _breaks)
            with pytest.raises(JournalBroken, match="RuntimeError: a bug"):
                await it.write(Reserve(2, ENTRY))
            it.post(Settle(1, ENTRY))
            await asyncio.sleep(0.05)
        await it.write(Reserve(3, ENTRY))
    assert on_disk(tmp_path / "a.db") == ([ENTRY], [Entry("big", "", "2026-11-24", 1000)])


def _breaks(*_: object) -> None:
    raise RuntimeError("a bug")
