"""An index on disk: documents, chunks and words in one SQLite file, vectors in files that a committed row names.

A writer first writes vectors behind the last known row, down to the disk, and then commits the transaction that names
them: killed at any moment, it leaves the documents that were committed and nothing of the others. Readers see one
commit, however long they take. There is one writer at a time.

    DIR/index.sqlite     settings, files, documents, chunks, dead rows, appends; the words (FTS5)
    DIR/vectors/*.bin    see `diffembed.index.shards`
    DIR/lock             held by the writer
"""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from diffembed.errors import DataError, IndexFormatError
from diffembed.index import checking
from diffembed.index.database import (
    DATABASE,
    Connection,
    connect,
    create_tables,
    expect_sqlite,
    is_index,
    is_nothing,
)
from diffembed.index.failures import damaged, replaced, translating
from diffembed.index.settings import FORMAT as FORMAT
from diffembed.index.settings import VECTORS, Settings, read_settings, read_state, write_settings
from diffembed.index.shards import OWN_NAME, sync_folder
from diffembed.index.snapshot import LiveRows, Snapshot
from diffembed.index.writer import Writer

T = TypeVar("T")

LOCK = "lock"
OWN_ENTRIES = frozenset({DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm", f"{DATABASE}-journal", VECTORS, LOCK})
ATTEMPTS = 3
"""To look at a commit: while one is looked at, a compaction may take its vector files away."""


class Store:
    """An index folder. Several threads may use one; each snapshot is taken by one of them at a time."""

    def __init__(self, folder: Path, db: Connection, settings: Settings, token: str) -> None:
        self.folder = folder
        self.settings = settings
        self._place = folder.absolute()  # wherever the process goes
        self._db = db
        self._token = token
        self._file = os.stat(self._place / DATABASE)
        self._known_rows: LiveRows = {}
        self._turn = threading.RLock()

    @classmethod
    def is_begun(cls, folder: Path) -> bool:
        """Whether there is an index; one whose maker was killed before it had begun is none."""
        with translating(folder):
            if not (folder / DATABASE).is_file():
                return False
            with connect(folder) as db:
                return is_index(db)

    @classmethod
    def check_new(cls, folder: Path) -> None:
        """See that an index can be made in a folder, which need not be there.

        Raises:
            DataError: It is no folder, or holds something that is not an index's own.
        """
        with translating(folder):
            if folder.exists() and not folder.is_dir():
                raise DataError(f"{folder} is a file", hint="name a new or an empty folder")
            if not folder.exists():
                return
            for path in sorted(folder.iterdir()):
                if path.name not in OWN_ENTRIES:
                    raise _foreign(path)
            vectors = folder / VECTORS
            if vectors.is_dir():
                for path in sorted(vectors.iterdir()):
                    if not OWN_NAME.fullmatch(path.name):
                        raise _foreign(path)
            elif vectors.exists():
                raise _foreign(vectors)
            if (folder / DATABASE).is_file():
                with connect(folder) as db:
                    if not (is_index(db) or is_nothing(db)):
                        raise _foreign(folder / DATABASE)

    @classmethod
    def create(cls, folder: Path, settings: Settings) -> "Store":
        """Make an empty index in a new or empty folder.

        Raises:
            DataError: The folder holds something else, or an index, or can't be written.
            ConfigError: This Python's SQLite can't do it.
        """
        expect_sqlite()
        cls.check_new(folder)
        with translating(folder):
            place = folder.absolute()
            missing = [parent for parent in place.parents if not parent.exists()]
            folder.mkdir(parents=True, exist_ok=True)
            with _locked(folder), connect(folder, create=True) as db:
                db.execute("PRAGMA journal_mode=WAL")
                sync_folder(place)
                for parent in (place.parent, *(each.parent for each in missing)):
                    with suppress(PermissionError):  # one that may be passed through and not be read
                        sync_folder(parent)
                db.execute("BEGIN IMMEDIATE")
                if is_index(db):
                    raise DataError(f"there is an index in {folder} already", hint="open it, or name a new folder")
                create_tables(db)
                write_settings(db, settings)
                db.execute("COMMIT")
        return cls.open(folder)

    @classmethod
    def open(cls, folder: Path) -> "Store":
        """Open an index that is there.

        Raises:
            DataError: There is none.
            IndexFormatError: It is damaged or of another format.
            ConfigError: This Python's SQLite can't read it.
        """
        expect_sqlite()
        with translating(folder), ExitStack() as held:
            if not (folder / DATABASE).is_file():
                raise DataError(f"there is no index in {folder}", hint=f"make one: diffembed index PATH --to {folder}")
            db = held.enter_context(connect(folder))
            if not is_index(db):
                if is_nothing(db):
                    raise DataError(f"the index in {folder} was never finished", hint="run `diffembed index` again")
                raise _foreign(folder / DATABASE)
            settings = read_settings(db, folder)
            store = cls(folder, db, settings, read_state(db, folder, settings).shards.token)
            held.pop_all()
        return store

    def close(self) -> None:
        """Let go of the files."""
        with self._turn:
            self._db.close()

    def read(self, look: Callable[[Snapshot], T]) -> T:
        """Look at the index as it is now; later commits don't change what `look` sees.

        Raises:
            DataError: The index is in use for too long, is another one by now, or `look` itself calls `read`.
            IndexFormatError: It is damaged.
        """
        with self._turn, translating(self.folder):
            if self._db.in_transaction:
                raise DataError(
                    f"the index in {self.folder} is being read already, by what asks to read it",
                    hint="use the snapshot that is there, or open the index once more",
                )
            missing = ""
            for _ in range(ATTEMPTS):
                if not self._db.sees_changes:
                    old, self._db = self._db, connect(self._place)
                    old.close()
                self._db.execute("BEGIN")
                try:
                    snapshot = Snapshot(self._db, self._place, self.settings, self._known_rows)
                    if snapshot.shards.token != self._token:
                        raise replaced(self.folder)
                    return look(snapshot)
                except FileNotFoundError as error:  # or a compaction took the vector files of this commit away
                    missing = error.filename
                finally:
                    if self._db.in_transaction:
                        self._db.execute("ROLLBACK")
            if not os.path.samestat(os.stat(self._place / DATABASE), self._file):
                raise replaced(self.folder)
            raise damaged(self.folder, f"{missing} is missing")

    @contextmanager
    def writing(self) -> Iterator[Writer]:
        """The right to change the index, which one process and thread has at a time.

        What was not committed when the block is left is forgotten.

        Raises:
            DataError: Somebody else has it, or the index is another one by now.
        """
        with ExitStack() as held:
            with translating(self.folder):
                held.enter_context(_locked(self._place))
                db = held.enter_context(connect(self._place))
                writer = Writer(self.folder, self._place, db, self.settings, self._token)
            yield writer

    def check(self) -> list[str]:
        """Look at every byte that can be checked; what is wrong, a line each. See `checking.check`."""
        try:
            return self.read(lambda snapshot: checking.check(self._db, snapshot))
        except IndexFormatError as error:  # so damaged that nobody can look further
            return [error.message]


def _foreign(path: Path) -> DataError:
    return DataError(
        f"{path.parent} holds {path.name!r}, which belongs to no index", hint="name a new or an empty folder"
    )


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
