"""An index on disk: documents, chunks and words in one SQLite file, vectors in files that a committed row names.

A writer first writes vectors behind the last known row, down to the disk, and then commits the transaction that names
them: killed at any moment, it leaves the documents that were committed and nothing of the others. Readers see one
commit, however long they take. There is one writer at a time.

    DIR/index.sqlite     settings, files, documents, chunks, dead rows, appends; the words (FTS5)
    DIR/vectors/*.bin    see `diffembed.index.shards`
    DIR/lock             held by the writer
"""

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from diffembed.errors import DataError, IndexFormatError
from diffembed.index import words
from diffembed.index.failures import damaged, told
from diffembed.index.shards import PRECISIONS
from diffembed.index.snapshot import VECTORS, Settings, Snapshot, committed_rows
from diffembed.index.writer import Writer

T = TypeVar("T")

DATABASE = "index.sqlite"
LOCK = "lock"
OWN_ENTRIES = frozenset({DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm", f"{DATABASE}-journal", VECTORS, LOCK})
FORMAT = 1
BUSY_S = 30.0
"""How long SQLite waits for another process; its locks are held for moments."""
MOST_DIMS = 65_536
"""Of a vector; more stand in a damaged index alone."""
ATTEMPTS = 3
"""To look at a commit: while one is looked at, a compaction may take its vector files away."""

SCHEMA = f"""
CREATE TABLE settings (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE files (id INTEGER PRIMARY KEY, path TEXT NOT NULL UNIQUE, digest TEXT);
CREATE TABLE documents (id INTEGER PRIMARY KEY, file INTEGER NOT NULL REFERENCES files, key TEXT NOT NULL,
  digest TEXT NOT NULL, title TEXT NOT NULL, text TEXT NOT NULL, UNIQUE (file, key));
CREATE INDEX documents_by_digest ON documents (digest);
CREATE TABLE chunks (id INTEGER PRIMARY KEY, row INTEGER NOT NULL UNIQUE, document INTEGER NOT NULL
  REFERENCES documents, start INTEGER NOT NULL, stop INTEGER NOT NULL);
CREATE INDEX chunks_of_document ON chunks (document);
CREATE TABLE dead (row INTEGER PRIMARY KEY);
CREATE TABLE appends (first INTEGER PRIMARY KEY, count INTEGER NOT NULL, digest TEXT NOT NULL);
{words.SCHEMA};
"""


class Store:
    """An index folder. Several threads may use one; each snapshot is taken by one of them at a time."""

    def __init__(self, folder: Path, db: sqlite3.Connection, settings: Settings) -> None:
        self.folder = folder
        self.settings = settings
        self._place = folder.absolute()  # wherever the process goes
        self._db = db
        self._turn = threading.RLock()

    @classmethod
    def is_begun(cls, folder: Path) -> bool:
        """Whether there is an index; one whose maker was killed before it had begun is none."""
        with told(folder):
            if not (folder / DATABASE).is_file():
                return False
            with _connect(folder) as db:
                return bool(_read_settings(db))

    @classmethod
    def check_new(cls, folder: Path) -> None:
        """See that an index can be made in a folder, which need not be there.

        Raises:
            DataError: It is no folder, or holds something else.
        """
        with told(folder):
            if folder.exists() and not folder.is_dir():
                raise DataError(f"{folder} is a file", hint="name a new or an empty folder")
            held = sorted(entry.name for entry in folder.iterdir()) if folder.exists() else []
            foreign = [name for name in held if name not in OWN_ENTRIES]
            if foreign:
                raise DataError(
                    f"{folder} holds {foreign[0]!r}, which belongs to no index", hint="name a new or an empty folder"
                )

    @classmethod
    def create(cls, folder: Path, settings: Settings) -> "Store":
        """Make an empty index in a new or empty folder.

        Raises:
            DataError: The folder holds something else, or an index, or can't be written.
        """
        cls.check_new(folder)
        with told(folder):
            folder.mkdir(parents=True, exist_ok=True)
            with _locked(folder), _connect(folder, create=True) as db:
                db.execute("PRAGMA journal_mode=WAL")
                db.execute("BEGIN IMMEDIATE")
                if _read_settings(db):
                    raise DataError(f"there is an index in {folder} already", hint="open it, or name a new folder")
                for statement in SCHEMA.strip().split(";\n"):
                    db.execute(statement)
                values = {**asdict(settings), "format": FORMAT, "rows": 0, "generation": 1}
                db.executemany("INSERT INTO settings VALUES (?, ?)", list(values.items()))
                db.execute("COMMIT")
        return cls.open(folder)

    @classmethod
    def open(cls, folder: Path) -> "Store":
        """Open an index that is there.

        Raises:
            DataError: There is none.
            IndexFormatError: It is damaged or of another format.
        """
        with told(folder), ExitStack() as held:
            if not (folder / DATABASE).is_file():
                raise DataError(f"there is no index in {folder}", hint=f"make one: diffembed index PATH --to {folder}")
            db = held.enter_context(_connect(folder))
            settings = _checked_settings(folder, _read_settings(db))
            committed_rows(db, folder, settings)
            held.pop_all()
        return cls(folder, db, settings)

    def close(self) -> None:
        """Let go of the files."""
        with self._turn:
            self._db.close()

    def read(self, look: Callable[[Snapshot], T]) -> T:
        """Look at the index as it is now; later commits don't change what `look` sees.

        Raises:
            DataError: The index is in use for too long.
            IndexFormatError: It is damaged.
        """
        for _ in range(ATTEMPTS):
            with self._turn, told(self.folder):
                self._db.execute("BEGIN")
                try:
                    return look(Snapshot(self._db, self._place, self.settings))
                except FileNotFoundError as error:  # or a compaction took the vector files of this commit away
                    missing = error.filename
                finally:
                    if self._db.in_transaction:
                        self._db.execute("ROLLBACK")
        raise damaged(self.folder, f"{missing} is missing")

    @contextmanager
    def writing(self) -> Iterator[Writer]:
        """The right to change the index, which one process and thread has at a time.

        What was not committed when the block is left is forgotten.

        Raises:
            DataError: Somebody else has it.
        """
        with ExitStack() as held:
            with told(self.folder):
                held.enter_context(_locked(self._place))
                db = held.enter_context(_connect(self._place))
                num_rows, shards = committed_rows(db, self._place, self.settings)
                writer = Writer(self.folder, db, shards, num_rows)
            yield writer

    def check(self) -> list[str]:
        """Look at every byte that can be checked; what is wrong, a line each."""
        try:
            return self.read(lambda snapshot: _check(self._db, snapshot))
        except IndexFormatError as error:  # so damaged that nobody can look further
            return [error.message]


def _check(db: sqlite3.Connection, snapshot: Snapshot) -> list[str]:
    problems = [line for (line,) in db.execute("PRAGMA integrity_check(10)") if line != "ok"]
    for first, count, digest in db.execute("SELECT first, count, digest FROM appends ORDER BY first"):
        try:
            are_numbers = isinstance(first, int) and isinstance(count, int)
            if not are_numbers or snapshot.shards.digest(first, count) != digest:
                problems.append(f"{count} vectors from {first} on are not as they were written")
        except IndexFormatError as error:
            problems.append(error.message)
    questions = {
        "rows that no append accounts for": "SELECT (SELECT value FROM settings WHERE key = 'rows') - "
        "(SELECT coalesce(sum(count), 0) FROM appends)",
        "rows that are neither dead nor a chunk's": "SELECT (SELECT value FROM settings WHERE key = 'rows') - "
        "(SELECT count(*) FROM chunks) - (SELECT count(*) FROM dead)",
        "rows both dead and a chunk's": "SELECT count(*) FROM chunks WHERE row IN (SELECT row FROM dead)",
        "chunks without a vector": "SELECT count(*) FROM chunks WHERE row < 0 "
        "OR row >= (SELECT value FROM settings WHERE key = 'rows')",
        "chunks without a document": "SELECT count(*) FROM chunks WHERE document NOT IN (SELECT id FROM documents)",
        "documents without a file": "SELECT count(*) FROM documents WHERE file NOT IN (SELECT id FROM files)",
        "chunks that end outside their document": "SELECT count(*) FROM chunks c JOIN documents d "
        "ON d.id = c.document WHERE c.start < 0 OR c.start >= c.stop OR c.stop > length(d.text)",
        "chunks whose words are not indexed": "SELECT (SELECT count(*) FROM chunks) - "
        "(SELECT count(*) FROM words_docsize)",
    }
    for what, question in questions.items():
        (number,) = db.execute(question).fetchone()
        if number:
            problems.append(f"{abs(number)} {what}")
    return problems


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    import fcntl

    with open(folder / LOCK, "a+", encoding="ascii", errors="replace") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            who = file.read().strip() or "?"
            raise DataError(
                f"another process (number {who}) is writing the index in {folder}",
                hint="wait until it is done, then run this again",
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


class _Connection(sqlite3.Connection):
    """Closed when its block is left, whatever happened in it; an open transaction is rolled back then."""

    def __exit__(self, *_: Any) -> None:  # type: ignore[override]
        self.close()


def _connect(folder: Path, *, create: bool = False) -> _Connection:
    path = folder / DATABASE
    is_fixed = not os.access(folder, os.W_OK) and not (folder / f"{DATABASE}-wal").exists()
    options = "mode=rwc" if create else "mode=ro&immutable=1" if is_fixed else "mode=rw"
    db = sqlite3.connect(
        f"{path.absolute().as_uri()}?{options}",
        uri=True,
        timeout=BUSY_S,
        isolation_level=None,
        check_same_thread=False,
        factory=_Connection,
    )
    try:
        db.execute("PRAGMA synchronous=FULL")
        db.execute("PRAGMA cache_size=-65536")
    except BaseException:
        db.close()
        raise
    return db


def _read_settings(db: sqlite3.Connection) -> dict[str, Any]:
    if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'settings'").fetchone():
        return {}
    return dict(db.execute("SELECT key, value FROM settings"))


def _checked_settings(folder: Path, values: dict[str, Any]) -> Settings:
    if not values:
        raise DataError(f"the index in {folder} was never finished", hint="run `diffembed index` again")
    if values.get("format") != FORMAT:
        raise IndexFormatError(
            f"the index in {folder} has format {values.get('format')}, this version reads {FORMAT}",
            hint="index again with this version, into a new folder",
        )
    kinds = {"model": str, "fingerprint": str, "dims": int, "precision": str, "chunk_tokens": int, "contextual": int}
    for name, kind in kinds.items():
        if not isinstance(values.get(name), kind):
            raise damaged(folder, f"its setting {name!r} is {values.get(name)!r}")
    if not 1 <= values["dims"] <= MOST_DIMS or values["precision"] not in PRECISIONS:
        raise damaged(folder, f"its vectors are {values['dims']} numbers of {values['precision']!r}")
    chosen: dict[str, Any] = {name: values[name] for name in kinds}
    return Settings(**{**chosen, "contextual": bool(values["contextual"])})
