"""Answers on the disk, by keys that say all that they depend on: one SQLite file that many processes read and write.

It has a rollback journal and no write-ahead log: that one needs memory which all processes share, and file systems of a
network have none; and what a killed writer left half-done is undone by whoever opens the file next. Every row carries a
hash of itself. A file that is damaged is set aside whole, since what broke one row may have broken others.
"""

import hashlib
import math
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from medbench.tasks.foundation.console import warn
from medbench.tasks.foundation.errors import RunError

FILE = "answers-1.sqlite"
"""A version that cannot read it gives it another number."""
MOST_BYTES = 4 * 2**30
_PRUNED_TO = 0.9
_PATIENCE = 10.0  # Seconds for which a lock is waited for.
_DAY = 86_400  # How exactly the last use of an answer is known, in seconds.
_SEAL_BYTES = 16
_SCHEMA = """
PRAGMA auto_vacuum = INCREMENTAL;
PRAGMA journal_mode = TRUNCATE;
PRAGMA synchronous = NORMAL;
PRAGMA trusted_schema = OFF;
PRAGMA cell_size_check = ON;
CREATE TABLE IF NOT EXISTS answers (
    key TEXT PRIMARY KEY, value BLOB NOT NULL, seal BLOB NOT NULL, model TEXT NOT NULL, used INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS by_use ON answers (used);
"""
_BY_MODEL = """
SELECT model, COUNT(*), SUM(LENGTH(value)), CAST(MAX(used) AS INTEGER), CAST(MIN(used) AS INTEGER)
FROM answers GROUP BY model
"""
_FORGET_ALL = "DELETE FROM answers WHERE used <= ? AND (model GLOB ? OR model GLOB ? || ' *')"
_FORGET = "DELETE FROM answers WHERE key IN (SELECT key FROM answers ORDER BY used, rowid LIMIT ?)"
# With these nothing is wrong with the file: somebody holds it, the disk is full, the folder cannot be written to.
_NOT_ITS_FAULT = tuple(
    f"SQLITE_{one}"
    for one in ("BUSY", "LOCKED", "FULL", "IOERR", "READONLY", "CANTOPEN", "PERM", "AUTH", "NOMEM", "PROTOCOL", "NOLFS")
)


class StoreError(RunError):
    """The cache cannot be used now, though nothing is wrong with what it holds; or it was damaged twice."""


class _DamagedError(Exception):
    """A row is not what was written."""


# Of a damaged file even the error's text may be none.
_FAULTS = (sqlite3.Error, OSError, MemoryError, UnicodeDecodeError, _DamagedError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What the cache holds of one model."""

    model: str
    answers: int
    size: int  # Bytes of the answers.
    used: int  # When one of them was used last, in seconds since 1970; `oldest`: the one not used for longest.
    oldest: int


class Store:
    """The cache in a folder; for many threads. Methods raise StoreError where it cannot be read or written."""

    def __init__(self, folder: Path, *, most_bytes: int = MOST_BYTES, patience: float = _PATIENCE) -> None:
        self.path = folder / FILE
        self._most_bytes, self._patience = most_bytes, patience
        self._lock = threading.RLock()
        self._opened: sqlite3.Connection | None = None
        self._inode = 0
        self._used_again: set[str] = set()
        self.set_aside: list[Path] = []  # Damaged files, under their new names.

    def get(self, keys: Iterable[str]) -> dict[str, bytes]:
        """Return the answers that are there, by their keys."""
        found: dict[str, bytes] = {}
        today = int(time.time()) - _DAY
        with self._database() as database, _transaction(database, "BEGIN"):
            for key in keys:
                row = database.execute("SELECT value, seal, used FROM answers WHERE key = ?", (key,)).fetchone()
                if row is None:
                    continue
                value, seal, used = row
                _refuse_other(key, value, seal)
                found[key] = value
                if not isinstance(used, int) or used < today:
                    self._used_again.add(key)
        return found

    def put(self, answers: Mapping[str, bytes], model: str) -> None:
        """Keep answers of a model, and note which were used; those used longest ago make room."""
        if not answers and not self._used_again:
            return
        now = int(time.time())
        rows = [(key, value, _seal(key, value), model, now) for key, value in answers.items()]
        with self._database() as database:
            with _transaction(database):
                database.executemany("INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?)", rows)
                again = [(now, key) for key in self._used_again]
                database.executemany("UPDATE answers SET used = ? WHERE key = ?", again)
            self._used_again.clear()
            _shrink(database, self._most_bytes)

    def held(self) -> list[Held]:
        """Return what is there, by model."""
        found: list[Held] = []
        with self._database() as database:
            for model, answers, size, used, oldest in database.execute(_BY_MODEL):
                found.append(Held(model=str(model), answers=answers, size=size, used=used, oldest=oldest))
        return sorted(found, key=lambda one: (-one.size, one.model))

    def verify(self) -> int:
        """Read everything, and return how many answers are as they were written: all, or the file is set aside."""
        sound = 0
        with self._database() as database:
            [said] = database.execute("PRAGMA integrity_check(1)").fetchone()
            if said != "ok":
                raise _DamagedError(said)
            for key, value, seal in database.execute("SELECT key, value, seal FROM answers"):
                _refuse_other(key, value, seal)
                sound += 1
        return 0 if self.set_aside else sound

    def prune(self, *, most_bytes: int | None = None, days: float | None = None, model: str | None = None) -> int:
        """Remove answers not used for some days, or of a model (a pattern), or those used longest ago; return how many.

        Without a number of bytes what is removed must be of the model and of that age, as far as both are said.
        """
        removed = 0
        with self._database() as database:
            if days is not None or model is not None or most_bytes is None:
                since = math.inf if days is None else time.time() - days * _DAY
                with _transaction(database):
                    removed = database.execute(_FORGET_ALL, (since, model or "*", model or "*")).rowcount
                _give_back(database)
            if most_bytes is not None:
                removed += _shrink(database, most_bytes, to=1.0)
        return removed

    def close(self) -> None:
        """Let the file go."""
        with self._lock:
            if self._opened is not None:
                self._opened.close()
            self._opened = None

    @contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        """Yield the database. One that is found damaged is set aside, and the block ends as if nothing were there."""
        with self._lock:
            database = self._opened or self._open()
            try:
                yield database
            except _FAULTS as error:
                self._failed(error)

    def _open(self) -> sqlite3.Connection:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._inode = self.path.stat().st_ino if self.path.exists() else 0
            self._opened = sqlite3.connect(
                self.path, timeout=self._patience, isolation_level=None, check_same_thread=False
            )
            for statement in _SCHEMA.split(";"):
                self._opened.execute(statement)
        except _FAULTS as error:
            self._failed(error)
            return self._open()
        return self._opened

    def _failed(self, error: Exception) -> None:
        """Let the file go, and set it aside if it is damaged; StoreError if that is not it, or it was so before."""
        # Whoever comes next begins with a connection of its own.
        self.close()
        name = getattr(error, "sqlite_errorname", "")
        if isinstance(error, OSError | MemoryError) or name.startswith(_NOT_ITS_FAULT):
            raise _unusable(self.path, error) from error
        self._set_aside(error)

    def _set_aside(self, why: Exception) -> None:
        """Give a damaged file another name, unless another process did so and began a new one."""
        if self.set_aside:
            raise StoreError(f"The cache of answers {self.path} was damaged twice: {why}.", "Is the disk sound?")
        aside = self.path.with_name(f"{FILE}.damaged-{time.strftime('%Y%m%d-%H%M%S')}")
        try:
            if self.path.exists() and self.path.stat().st_ino == (self._inode or self.path.stat().st_ino):
                # The journal goes first: the next file of this name must not be given what another one's holds.
                for end in ("-journal", ""):
                    with suppress(FileNotFoundError):
                        self.path.with_name(f"{FILE}{end}").rename(aside.with_name(f"{aside.name}{end}"))
        except OSError as error:
            raise _unusable(self.path, error) from error
        self.set_aside.append(aside)
        warn(f"The cache of answers {self.path} is damaged ({why}). It is {aside.name} now, and a new one begins.")


def _unusable(path: Path, error: Exception) -> StoreError:
    said = getattr(error, "strerror", None) or error
    return StoreError(f"The cache of answers {path} cannot be used: {said}.", "Give another --cache, or leave it out.")


def _seal(key: str, value: bytes) -> bytes:
    return hashlib.sha256(key.encode() + value).digest()[:_SEAL_BYTES]


def _refuse_other(key: object, value: object, seal: object) -> None:
    sound = isinstance(key, str) and isinstance(value, bytes) and seal == _seal(key, value)
    if not sound:
        raise _DamagedError("an answer is not what was written")


@contextmanager
def _transaction(database: sqlite3.Connection, begin: str = "BEGIN IMMEDIATE") -> Iterator[None]:
    with database:
        database.execute(begin)
        yield


def _bytes(database: sqlite3.Connection, *, free: bool = False) -> int:
    """Return the size of the file, without its pages that hold nothing unless they count, too."""
    names = ("page_count", "freelist_count", "page_size")
    pages, empty, size = (int(database.execute(f"PRAGMA {name}").fetchone()[0]) for name in names)
    return (pages if free else pages - empty) * size


def _give_back(database: sqlite3.Connection) -> None:
    # A statement alone would be asked for one row, and free one page.
    database.executescript("PRAGMA incremental_vacuum")


def _shrink(database: sqlite3.Connection, most_bytes: int, *, to: float = _PRUNED_TO) -> int:
    """Remove what was used longest ago until a file that is too large is a little smaller; return how many answers."""
    removed = 0
    if _bytes(database, free=True) <= most_bytes:
        return removed
    while (held := _bytes(database)) > to * most_bytes:
        [rows] = database.execute("SELECT COUNT(*) FROM answers").fetchone()
        if not rows:
            break
        with _transaction(database):
            removed += database.execute(_FORGET, (math.ceil(rows * (1 - to * most_bytes / held)),)).rowcount
    _give_back(database)
    return removed
