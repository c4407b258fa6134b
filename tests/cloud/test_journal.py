"""The record of spending on disk."""

from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path

import pytest

from router.cloud.books import Entry
from router.cloud.journal import Journal, JournalBroken, Reserve, Settle

ENTRY = Entry("big", "alice", "2026-11-24", 500)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "spend.db"


def test_what_was_settled_is_there_after_a_restart(path: Path) -> None:
    journal = Journal(path)
    journal.write([Reserve(1, ENTRY), Reserve(2, ENTRY)])
    journal.write(
        [
            Settle(1, Entry("big", "alice", "2026-11-24", 20)),
            Settle(2, Entry("big", "alice", "2026-11-24", 1)),
        ]
    )
    journal.close()
    again = Journal(path)
    assert again.adopt() == []
    assert again.spent("2026-11") == [Entry("big", "alice", "2026-11-24", 21)]
    assert again.spent("2026-12") == []
    again.close()


def test_what_was_left_open_counts_at_its_worst_case_once(path: Path) -> None:
    journal = Journal(path)
    journal.write([Reserve(1, ENTRY)])
    journal.close()
    for left in ([ENTRY], []):
        again = Journal(path)
        assert again.adopt() == left
        assert again.spent("2026-11") == [ENTRY]
        again.close()


def test_all_steps_of_a_write_are_there_or_none(path: Path) -> None:
    journal = Journal(path)
    with pytest.raises(JournalBroken):
        journal.write([Reserve(1, ENTRY), Reserve(1, ENTRY)])
    journal.write([Reserve(1, ENTRY)])
    assert journal.adopt() == [ENTRY]
    journal.close()


def test_a_second_gateway_on_the_same_file_is_refused(path: Path) -> None:
    journal = Journal(path)
    with pytest.raises(JournalBroken, match="another gateway"):
        Journal(path)
    journal.write([Reserve(1, ENTRY)])
    journal.close()
    Journal(path).close()


def test_a_full_disk_is_named_and_loses_nothing(path: Path) -> None:
    journal = Journal(path)
    journal.write([Reserve(1, ENTRY)])
    pages = journal._connection().execute("PRAGMA page_count").fetchone()[0]
    journal._connection().execute(f"PRAGMA max_page_count={pages}")
    with pytest.raises(JournalBroken, match="the disk is full"):
        journal.write([Reserve(n, Entry("u" * 500, "", "2026-11-24", 1)) for n in range(2, 500)])
    journal._connection().execute("PRAGMA max_page_count=1000000")
    journal.write([Settle(1, ENTRY)])
    assert journal.spent("2026-11") == [ENTRY]
    journal.close()


@pytest.mark.parametrize("damage", [b"this is no database, " * 400, b""], ids=["garbage", "torn"])
def test_a_damaged_file_is_refused_and_left_as_it_is(path: Path, damage: bytes) -> None:
    journal = Journal(path)
    journal.write([Settle(1, Entry(f"u{n}", "", "2026-11-24", n)) for n in range(2000)])
    journal.close()
    whole = path.read_bytes()
    path.write_bytes(damage or whole[: len(whole) // 2] + b"\xff" * (len(whole) // 2))
    before = path.read_bytes()
    with pytest.raises(JournalBroken, match="damaged"):
        Journal(path)
    assert path.read_bytes() == before


def test_a_file_of_a_later_version_is_left_alone(path: Path) -> None:
    Journal(path).close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version=99")
    db.close()
    with pytest.raises(JournalBroken, match="another version"):
        Journal(path)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalBroken, match="cannot be made"):
        Journal(tmp_path / "file" / "spend.db")


def test_what_was_written_is_brought_to_the_disk_itself(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    plain = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda fd: (synced.append(str(Path(f"/proc/self/fd/{fd}").readlink())), plain(fd))[1]
    )
    journal = Journal(path)
    journal.write([Reserve(1, ENTRY)])
    journal.sync()
    assert synced == [f"{path}-wal"]
    journal.close()
    journal.sync()


def test_a_disk_that_fails_to_sync_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    journal = Journal(path)
    journal.write([Reserve(1, ENTRY)])
    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(JournalBroken, match="Input/output error"):
        journal.sync()
    journal.close()


def test_after_it_was_closed_nothing_is_written(path: Path) -> None:
    journal = Journal(path)
    journal.close()
    with pytest.raises(JournalBroken, match="closed"):
        journal.write([Reserve(1, ENTRY)])
