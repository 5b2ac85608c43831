"""What became of each set, in SQLite: attempts counted before the work, ends, reasons, digests.

One writer, the daemon that holds the lock; `stackd retry` writes one short transaction beside it.
The ledger may be lost: what is finished is proven by the outbox's manifests, from which it is
rebuilt, and a missing row never deletes anything. Knows no clock but the one it is told.
"""

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stackd.errors import OutputError
from stackd.records import CaptureSet, Sighting

LEDGER_NAME = "ledger.db"
BUSY_TIMEOUT_S = 5.0
CACHE_KB = 256  # the daemon must not grow with the ledger of many nights

RUNNING, RETRY = "running", "retry"
DONE, QUARANTINED, DUPLICATE = "done", "quarantined", "duplicate"

_SCHEMA = """
CREATE TABLE IF NOT EXISTS sets (
    identity TEXT PRIMARY KEY,          -- sha256 of the frames' paths, sizes and times of change
    name TEXT NOT NULL,
    state TEXT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,    -- counted before the work; only those that may kill a worker
    delays INTEGER NOT NULL DEFAULT 0,      -- tries that an input or output error ended, not counted above
    next_try_s REAL NOT NULL DEFAULT 0,     -- Unix time
    digest TEXT,                            -- sha256 of the frames' contents
    folder TEXT,                            -- name of the folder in the outbox
    archived INTEGER NOT NULL DEFAULT 0,
    reason TEXT NOT NULL DEFAULT '', file TEXT, remedy TEXT NOT NULL DEFAULT '',
    changed_s REAL NOT NULL DEFAULT 0       -- Unix time
);
CREATE TABLE IF NOT EXISTS frames (
    identity TEXT NOT NULL REFERENCES sets (identity) ON DELETE CASCADE,
    position INTEGER NOT NULL, path TEXT NOT NULL, size_bytes INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
    PRIMARY KEY (identity, position)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS sets_by_state ON sets (state);
CREATE INDEX IF NOT EXISTS sets_by_digest ON sets (digest);
CREATE INDEX IF NOT EXISTS sets_by_name ON sets (name);
"""
_COLUMNS = "identity, name, state, attempts, delays, next_try_s, digest, folder, reason, file, remedy, changed_s"


@dataclass(frozen=True, slots=True)
class Entry:
    """One set as the ledger knows it."""

    identity: str
    name: str
    state: str
    attempts: int = 0
    delays: int = 0
    next_try_s: float = 0.0
    digest: str | None = None
    folder: str | None = None
    reason: str = ""
    file: str | None = None
    remedy: str = ""
    changed_s: float = 0.0


def identity_of(frames: Iterable[Sighting]) -> str:
    """What makes a set this set: which files, how long, last changed when. The order does not count."""
    lines = sorted(f"{frame.path}\0{frame.size_bytes}\0{frame.mtime_ns}" for frame in frames)
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def digest_of(sha256s: Iterable[str]) -> str:
    """What makes a set's content this content, whatever its files are called."""
    return hashlib.sha256("\n".join(sorted(sha256s)).encode()).hexdigest()


class Ledger:
    """The sets' table. Every change is on the disk (synchronous FULL) when its method returns."""

    def __init__(self, state: Path, *, read_only: bool = False) -> None:
        """Open or make the ledger in an existing folder; a damaged one is set aside, never deleted.

        `was_damaged` is then the place where the old one lies. With `read_only` a missing or damaged
        ledger raises OutputError.
        """
        self.path = state / LEDGER_NAME
        self.was_damaged: Path | None = None
        self._touching: tuple[object, list[CaptureSet]] | None = None
        if read_only:
            self._db = self._opened_for_reading()
            return
        try:
            self._db = self._opened()
        except sqlite3.DatabaseError as error:
            if _is_full_or_busy(error):
                raise OutputError(f"{self.path}: the ledger cannot be opened: {error}") from error
            self.was_damaged = self._set_aside()
            self._db = self._opened()

    def _opened(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
        try:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            db.execute("PRAGMA foreign_keys = ON")
            db.execute(f"PRAGMA cache_size = -{CACHE_KB}")
            verdict = db.execute("PRAGMA integrity_check(1)").fetchone()[0]
            if verdict != "ok":
                raise sqlite3.DatabaseError(verdict)
            db.executescript(_SCHEMA)
        except BaseException:
            db.close()
            raise
        return db

    def _opened_for_reading(self) -> sqlite3.Connection:
        try:
            db = sqlite3.connect(f"{self.path.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY_TIMEOUT_S)
            db.execute("SELECT 1 FROM sets LIMIT 1").fetchone()
        except sqlite3.DatabaseError as error:
            raise OutputError(f"{self.path}: the ledger cannot be read: {error}") from error
        return db

    def _set_aside(self) -> Path:
        number = 1
        while (aside := self.path.with_name(f"{LEDGER_NAME}.damaged-{number}")).exists():
            number += 1
        for ending in ("", "-wal", "-shm"):
            with suppress(FileNotFoundError):
                self.path.with_name(self.path.name + ending).rename(aside.with_name(aside.name + ending))
        return aside

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def entry(self, identity: str) -> Entry | None:
        """One set, or None if it was never worked on."""
        rows = self._read(f"SELECT {_COLUMNS} FROM sets WHERE identity = ?", (identity,))
        return Entry(*rows[0]) if rows else None

    def entries(self, state: str | None = None, name: str | None = None) -> list[Entry]:
        """Sets in order of their last change, of one state or one name if given."""
        query = f"SELECT {_COLUMNS} FROM sets WHERE ? IN (state, '') AND ? IN (name, '') ORDER BY changed_s, name"
        return [Entry(*row) for row in self._read(query, (state or "", name or ""))]

    def counts(self) -> dict[str, int]:
        """How many sets are in each state; states without any are left out."""
        return dict(self._read("SELECT state, COUNT(*) FROM sets GROUP BY state"))

    def frames(self, identity: str) -> tuple[Sighting, ...]:
        """A set's frames in order of time, inode 0."""
        query = "SELECT path, size_bytes, mtime_ns, 0 FROM frames WHERE identity = ? ORDER BY position"
        return tuple(Sighting(*row) for row in self._read(query, (identity,)))

    def touching(self, paths: Iterable[str]) -> list[CaptureSet]:
        """Every set that is running, done, duplicate or quarantined after work and has a frame at one of `paths`."""
        asked = json.dumps(list(paths))
        version = self._read("PRAGMA data_version")[0][0], self._db.total_changes, hash(asked)
        if self._touching is None or self._touching[0] != version:
            sets: dict[str, list[Any]] = {}
            query = (
                "SELECT identity, name, path, size_bytes, mtime_ns, 0 FROM frames JOIN sets USING (identity)"
                " WHERE state != ? AND identity IN"
                " (SELECT identity FROM frames WHERE path IN (SELECT value FROM json_each(?)))"
                " ORDER BY changed_s, identity, position"
            )
            for identity, name, *frame in self._rows(query, (RETRY, asked)):
                sets.setdefault(identity, [name]).append(Sighting(*frame))
            self._touching = version, [CaptureSet(name, tuple(frames)) for name, *frames in sets.values()]
        return self._touching[1]

    def named(self, name: str) -> int:
        """How many sets of this name are running, done, duplicate or quarantined after work."""
        return self._read("SELECT COUNT(*) FROM sets WHERE name = ? AND state != ?", (name, RETRY))[0][0]

    def done_with(self, digest: str) -> Entry | None:
        """A finished set with exactly this content."""
        query = f"SELECT {_COLUMNS} FROM sets WHERE digest = ? AND state = ? LIMIT 1"
        rows = self._read(query, (digest, DONE))
        return Entry(*rows[0]) if rows else None

    def to_archive(self, most: int) -> list[Entry]:
        """The first finished sets whose frames were not moved yet."""
        query = f"SELECT {_COLUMNS} FROM sets WHERE state = ? AND archived = 0 ORDER BY changed_s LIMIT {most}"
        return [Entry(*row) for row in self._read(query, (DONE,))]

    def superseded_by(self, capture_set: CaptureSet) -> list[Entry]:
        """Sets put off or away that this one replaces: of its name, or with one of its files.

        Once a file has changed nobody comes back to them; a lasting row would be a false alarm.
        """
        identity = identity_of(capture_set.frames)
        paths = {frame.path for frame in capture_set.frames}
        return [
            old
            for old in (*self.entries(RETRY), *self.entries(QUARANTINED))
            if old.identity != identity
            and (old.name == capture_set.name or any(frame.path in paths for frame in self.frames(old.identity)))
        ]

    def start(self, capture_set: CaptureSet, now_s: float) -> int:
        """Count an attempt, before the work; gives its number (1 is the first).

        What is `superseded_by` the set is forgotten in the same step.
        """
        identity = identity_of(capture_set.frames)
        with self._transaction():
            self._note(identity, capture_set, RUNNING, now_s)
            self._db.execute("UPDATE sets SET attempts = attempts + 1 WHERE identity = ?", (identity,))
            for old in self.superseded_by(capture_set):
                self._db.execute("DELETE FROM sets WHERE identity = ?", (old.identity,))
        entry = self.entry(identity)
        return entry.attempts if entry else 1

    def give_back(self, identity: str, reason: str, next_try_s: float, now_s: float, *, counted: bool) -> None:
        """The set is tried again from `next_try_s` on; `counted` if its attempt stays counted."""
        change = "attempts = attempts" if counted else "attempts = MAX(attempts - 1, 0), delays = delays + 1"
        self._end(identity, RETRY, now_s, reason=reason, next_try_s=next_try_s, more=change)

    def finish(self, identity: str, digest: str, folder: str, now_s: float) -> None:
        """The set lies in the outbox under `folder`."""
        self._end(identity, DONE, now_s, digest=digest, folder=folder)

    def quarantine(self, identity: str, reason: str, file: str | None, remedy: str, now_s: float) -> None:
        """The set is put away until a person acts."""
        self._end(identity, QUARANTINED, now_s, reason=reason, file=file, remedy=remedy)

    def repeat(self, identity: str, digest: str, of_set: str, now_s: float) -> None:
        """The set has the content of a finished one."""
        self._end(identity, DUPLICATE, now_s, digest=digest, reason=f"same frames as {of_set}")

    def archived(self, identity: str) -> None:
        """The set's frames were moved out of the inbox."""
        with self._transaction():
            self._db.execute("UPDATE sets SET archived = 1 WHERE identity = ?", (identity,))

    def back_to_work(self, identity: str, now_s: float) -> None:
        """Forget a set's attempts; it is tried again with the next scan."""
        self._end(identity, RETRY, now_s, more="attempts = 0, delays = 0")

    def restore_entry(self, entry: Entry, frames: Sequence[Sighting]) -> None:
        """Write down again what a manifest proves, over whatever is said of the set."""
        with self._transaction():
            self._note(entry.identity, CaptureSet(entry.name, tuple(frames)), entry.state, entry.changed_s)
            self._db.execute(
                "UPDATE sets SET attempts = ?, digest = ?, folder = ?, reason = ?, file = ?, remedy = ?"
                " WHERE identity = ?",
                (entry.attempts, entry.digest, entry.folder, entry.reason, entry.file, entry.remedy, entry.identity),
            )

    def _read(self, query: str, values: Sequence[str] = ()) -> list[Any]:
        """All rows. A disk that refuses becomes an OutputError."""
        return list(self._rows(query, values))

    def _rows(self, query: str, values: Sequence[str] = ()) -> Iterator[Any]:
        """One row after the other, for those that are many."""
        try:
            yield from self._db.execute(query, values)
        except sqlite3.OperationalError as error:
            raise OutputError(f"{self.path}: the ledger cannot be read now: {error}") from error

    def _note(self, identity: str, capture_set: CaptureSet, state: str, now_s: float) -> None:
        self._db.execute(
            "INSERT INTO sets (identity, name, state, changed_s) VALUES (?, ?, ?, ?) ON CONFLICT (identity)"
            " DO UPDATE SET name = excluded.name, state = excluded.state, changed_s = excluded.changed_s",
            (identity, capture_set.name, state, now_s),
        )
        self._db.execute("DELETE FROM frames WHERE identity = ?", (identity,))
        self._db.executemany(
            "INSERT INTO frames (identity, position, path, size_bytes, mtime_ns) VALUES (?, ?, ?, ?, ?)",
            [(identity, n, f.path, f.size_bytes, f.mtime_ns) for n, f in enumerate(capture_set.frames)],
        )

    def _end(
        self,
        identity: str,
        state: str,
        now_s: float,
        *,
        reason: str = "",
        file: str | None = None,
        remedy: str = "",
        digest: str | None = None,
        folder: str | None = None,
        next_try_s: float = 0.0,
        more: str = "attempts = attempts",
    ) -> None:
        with self._transaction():
            self._db.execute(
                f"UPDATE sets SET state = ?, changed_s = ?, reason = ?, file = ?, remedy = ?, next_try_s = ?,"
                f" digest = COALESCE(?, digest), folder = COALESCE(?, folder), {more} WHERE identity = ?",
                (state, now_s, reason, file, remedy, next_try_s, digest, folder, identity),
            )

    def _transaction(self) -> "_Transaction":
        return _Transaction(self._db, self.path)


class _Transaction:
    """BEGIN IMMEDIATE ... COMMIT; a full disk or a lock held too long becomes an OutputError."""

    def __init__(self, db: sqlite3.Connection, path: Path) -> None:
        self._db, self._path = db, path

    def __enter__(self) -> None:
        try:
            self._db.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            raise OutputError(f"{self._path}: the ledger cannot be written now: {error}") from error

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            if error is None:
                self._db.execute("COMMIT")
                return
        except sqlite3.OperationalError as failed:
            error = failed
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")
        if isinstance(error, sqlite3.OperationalError):
            raise OutputError(f"{self._path}: the ledger cannot be written now: {error}") from error


def _is_full_or_busy(error: sqlite3.DatabaseError) -> bool:
    codes = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_READONLY)
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in (*codes, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN)
