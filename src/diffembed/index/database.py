"""The SQLite file of an index: its tables, and connections to it."""

import os
import sqlite3
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

from diffembed.errors import ConfigError
from diffembed.index import settings, words
from diffembed.index.failures import damaged
from diffembed.index.folder import DATABASE, expect_no_links

APPLICATION_ID = int.from_bytes(b"dfem")
"""In the header of the file: by it an index is told from a database of somebody else's."""
OLDEST_SQLITE = (3, 27)
"""The first whose words lose their accents wherever these stand."""
BUSY_S = 30.0
"""How long SQLite waits for another process; its locks are held for moments."""
CACHE_KIB = 65_536
KEPT_LOG_BYTES = 2**24
"""Of the write-ahead log: a large commit makes it as large as what it writes, and room is given back down to this."""

SCHEMA = (
    settings.SCHEMA,
    "CREATE TABLE files (id INTEGER PRIMARY KEY, path TEXT NOT NULL UNIQUE, digest TEXT, unreadable TEXT)",
    "CREATE TABLE documents (id INTEGER PRIMARY KEY, file INTEGER NOT NULL REFERENCES files, key TEXT NOT NULL, "
    "digest TEXT NOT NULL, title TEXT NOT NULL, text TEXT NOT NULL, content TEXT NOT NULL, UNIQUE (file, key))",
    "CREATE INDEX documents_by_digest ON documents (digest)",
    "CREATE TABLE chunks (id INTEGER PRIMARY KEY, row INTEGER NOT NULL UNIQUE, "
    "document INTEGER NOT NULL REFERENCES documents, start INTEGER NOT NULL, stop INTEGER NOT NULL, "
    "line INTEGER NOT NULL, byte INTEGER NOT NULL)",
    "CREATE INDEX chunks_of_document ON chunks (document)",
    "CREATE TABLE dead (row INTEGER PRIMARY KEY)",
    "CREATE TABLE appends (first INTEGER PRIMARY KEY, count INTEGER NOT NULL, digest TEXT NOT NULL)",
    words.SCHEMA,
)


Stamp = tuple[int, int, bool]
"""Of a database: when it was written, how large it is, and whether there is a log of later commits beside it."""


class Connection(sqlite3.Connection):
    """Closed when its block is left, whatever happened in it; an open transaction is rolled back then."""

    taken_for: "tuple[Path, Stamp] | None" = None
    """Where nothing may be written, SQLite takes the file for one that never changes: this one, as it was."""

    @property
    def sees_changes(self) -> bool:
        """Whether each transaction shows the last commit, and nothing of another."""
        return self.taken_for is None

    def has_missed_changes(self) -> bool:
        """Whether the file was changed behind SQLite's back since it was opened."""
        return self.taken_for is not None and _stamp(self.taken_for[0]) != self.taken_for[1]

    def __exit__(self, *_: Any) -> None:  # type: ignore[override]
        self.close()


@cache
def expect_sqlite() -> None:
    """See that this Python's SQLite can do what an index needs.

    Raises:
        ConfigError: It is too old, or has no FTS5.
    """
    hint = "use another Python: those of python.org, conda and uv have a SQLite that will do"
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        oldest = ".".join(map(str, OLDEST_SQLITE))
        raise ConfigError(f"this Python has SQLite {sqlite3.sqlite_version}, an index needs {oldest}", hint=hint)
    with closing(sqlite3.connect(":memory:")) as db:
        try:
            db.execute(words.SCHEMA)
        except sqlite3.OperationalError as error:
            raise ConfigError(
                f"this Python's SQLite can't search for words (FTS5), which an index needs: {error}", hint=hint
            ) from None


def connect(folder: Path, *, create: bool = False) -> Connection:
    """Open the database of an index folder.

    Args:
        folder: Of the index.
        create: Whether to make an empty one if there is none.

    Raises:
        IndexFormatError: Something in the folder lies elsewhere.
    """
    expect_no_links(folder)
    if create or os.access(folder, os.W_OK):
        return _open(folder, "mode=rwc" if create else "mode=rw")
    try:
        return _open(folder, "mode=ro")
    except sqlite3.OperationalError:
        # It needs files beside it, which can't be made here. If they are there and no use, neither is what is said
        # without them.
        stamp = _stamp(folder)
        if stamp[-1]:
            raise
    db = _open(folder, "mode=ro&immutable=1")
    db.taken_for = folder, stamp
    return db


def _stamp(folder: Path) -> Stamp:
    found = os.stat(folder / DATABASE)
    return found.st_mtime_ns, found.st_size, (folder / f"{DATABASE}-wal").exists()


def create_tables(db: sqlite3.Connection) -> None:
    """Make a new database an index without settings."""
    db.execute(f"PRAGMA application_id={APPLICATION_ID}")
    for statement in SCHEMA:
        db.execute(statement)


def is_index(db: sqlite3.Connection) -> bool:
    """Whether a database is an index of ours."""
    return db.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)


def is_nothing(db: sqlite3.Connection) -> bool:
    """Whether a database is empty, and nobody's."""
    (number,) = db.execute("PRAGMA application_id").fetchone()
    return number == 0 and not db.execute("SELECT 1 FROM sqlite_master").fetchone()


def expect_tables(db: sqlite3.Connection, folder: Path) -> None:
    """See that the tables of an index are those that were made, before any is read: a view could be endless.

    Raises:
        IndexFormatError: They are others, or those of another format.
    """
    found, own = _tables(db), _own_tables()
    if found == own:
        return
    if any(name == "settings" for _, name, *_ in found & own):
        settings.expect_format(db, folder)
    names = sorted({f"{name!r}" for _, name, *_ in found ^ own})
    raise damaged(folder, f"its tables are not as they were made: {', '.join(names[:3])}")


@cache
def _own_tables() -> frozenset[tuple]:
    with closing(sqlite3.connect(":memory:")) as db:
        create_tables(db)
        return _tables(db)


def _tables(db: sqlite3.Connection) -> frozenset[tuple]:
    """Kind, name and table of all that a database has, with the SQL that made it."""
    found = db.execute("SELECT type, name, tbl_name, sql FROM sqlite_master").fetchall()
    # Those that FTS5 makes for itself may be worded in another way by another SQLite.
    return frozenset((*names, None if str(names[1]).startswith("words_") else sql) for *names, sql in found)


def _open(folder: Path, options: str) -> Connection:
    db = sqlite3.connect(
        f"{(folder / DATABASE).absolute().as_uri()}?{options}",
        uri=True,
        timeout=BUSY_S,
        isolation_level=None,
        check_same_thread=False,
        factory=Connection,
    )
    try:
        db.execute("PRAGMA synchronous=FULL")
        db.execute(f"PRAGMA cache_size=-{CACHE_KIB}")
        db.execute(f"PRAGMA journal_size_limit={KEPT_LOG_BYTES}")
        db.execute("SELECT 1 FROM sqlite_master").fetchone()  # opening alone reads nothing
    except BaseException:
        db.close()
        raise
    return db
