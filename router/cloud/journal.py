"""
The record of spending on disk: SQLite in WAL mode, written by one process.

The one rule: what is on disk is never less than what was spent. A charge is there, at its worst case, before the
call; whoever opens the file finds the charges that nobody settled and counts them as spent.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from router.cloud.books import Entry

VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS spent (
    upstream TEXT NOT NULL, caller TEXT NOT NULL, day TEXT NOT NULL, micro INTEGER NOT NULL,
    PRIMARY KEY (upstream, caller, day)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS open (
    id INTEGER PRIMARY KEY, upstream TEXT NOT NULL, caller TEXT NOT NULL, day TEXT NOT NULL, micro INTEGER NOT NULL
);
"""


class JournalBroken(Exception):
    """The file cannot be read or written; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Reserve:
    """A charge at its worst case."""

    id: int
    entry: Entry


@dataclass(frozen=True, slots=True)
class Settle:
    """The charge `id` is over: `entry` is what it came to."""

    id: int
    entry: Entry


Step = Reserve | Settle


class Journal:
    """One open file. Blocking: called on a thread, one call at a time."""

    def __init__(self, path: Path) -> None:
        """Opens or makes the file. Raises JournalBroken."""
        self.path = path
        self._db: sqlite3.Connection | None = None
        with self._named_errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            # Autocommit: transactions are begun by hand. No waiting: whoever holds the file holds it for long.
            self._db = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
            try:
                self._prepare(self._db)
            except BaseException:
                self._db.close()
                raise

    def _prepare(self, db: sqlite3.Connection) -> None:
        # Exclusive: a second gateway on the same file would count what it alone knows. NORMAL: a write is with the
        # kernel when it returns, so that no death of ours loses it; `sync` brings it through a loss of power, too.
        for pragma in ("locking_mode=EXCLUSIVE", "journal_mode=WAL", "synchronous=NORMAL"):
            db.execute(f"PRAGMA {pragma}").fetchall()
        if (found := db.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
            raise sqlite3.DatabaseError(found)
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, VERSION):
            raise JournalBroken(f"{self.path} was written by another version of the gateway.")
        db.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version={VERSION}; COMMIT;")

    def adopt(self) -> list[Entry]:
        """Count charges that an earlier process left open as spent; they are returned. Raises JournalBroken."""
        with self._named_errors(), self._transaction() as db:
            rows = db.execute("SELECT upstream, caller, day, micro FROM open").fetchall()
            left = [Entry(*row) for row in rows]
            for entry in left:
                self._add(db, entry)
            db.execute("DELETE FROM open")
        return left

    def spent(self, since: str) -> list[Entry]:
        """What was spent from the day `since` on."""
        with self._named_errors():
            query = "SELECT upstream, caller, day, micro FROM spent WHERE day >= ?"
            return [Entry(*row) for row in self._connection().execute(query, (since,))]

    def write(self, steps: Sequence[Step]) -> None:
        """All of them or none, safe from our own death when this returns. Raises JournalBroken."""
        with self._named_errors(), self._transaction() as db:
            for step in steps:
                entry = step.entry
                if isinstance(step, Reserve):
                    row = (step.id, entry.upstream, entry.caller, entry.day, entry.micro)
                    db.execute("INSERT INTO open VALUES (?, ?, ?, ?, ?)", row)
                else:
                    db.execute("DELETE FROM open WHERE id = ?", (step.id,))
                    self._add(db, entry)

    def sync(self) -> None:
        """Until all that was written is on the disk itself, some milliseconds. Beside `write`, from any thread."""
        with self._named_errors():
            try:
                log = os.open(f"{self.path}-wal", os.O_RDONLY)
            except FileNotFoundError:
                return  # nothing was written since it was opened, or it is closed and with that on disk
            try:
                os.fsync(log)
            finally:
                os.close(log)

    def close(self) -> None:
        if self._db is not None:
            with contextlib.suppress(sqlite3.Error):
                self._db.close()
            self._db = None

    def _add(self, db: sqlite3.Connection, entry: Entry) -> None:
        db.execute(
            "INSERT INTO spent VALUES (?, ?, ?, ?) "
            "ON CONFLICT (upstream, caller, day) DO UPDATE SET micro = micro + excluded.micro",
            (entry.upstream, entry.caller, entry.day, entry.micro),
        )

    def _connection(self) -> sqlite3.Connection:
        if self._db is None:
            raise JournalBroken(f"{self.path} is closed.")
        return self._db

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        db = self._connection()
        db.execute("BEGIN IMMEDIATE")
        try:
            yield db
            db.execute("COMMIT")
        except BaseException:
            # A failed COMMIT may leave the transaction open; a full disk rolls it back by itself.
            with contextlib.suppress(sqlite3.Error):
                db.execute("ROLLBACK")
            raise

    @contextlib.contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise JournalBroken(_explain(self.path, str(error))) from error
        except (sqlite3.DatabaseError, OverflowError) as error:
            what = f"{self.path} is damaged ({error}): move it away and spending starts from nothing"
            raise JournalBroken(f"{what}, or bring back a copy.") from error
        except OSError as error:
            raise JournalBroken(f"{self.path} cannot be made or written: {error.strerror}.") from error


def _explain(path: Path, reason: str) -> str:
    match reason:
        case "database is locked":
            return f"{path} is locked: another gateway writes to it."
        case "database or disk is full":
            return f"{path} cannot grow: the disk is full."
        case _:
            return f"{path} cannot be written: {reason}."
