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
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from diffembed.errors import DataError, IndexFormatError
from diffembed.index import checking
from diffembed.index.database import (
    Connection,
    connect,
    create_tables,
    expect_sqlite,
    expect_tables,
    is_index,
    is_nothing,
)
from diffembed.index.failures import damaged, gone, in_use, replaced, translating
from diffembed.index.folder import DATABASE, VECTORS, foreign, is_own, locked
from diffembed.index.settings import FORMAT as FORMAT
from diffembed.index.settings import Settings, read_settings, read_state, write_settings
from diffembed.index.shards import OWN_NAME, sync_folder
from diffembed.index.snapshot import LiveRows, Snapshot
from diffembed.index.writer import Writer

T = TypeVar("T")

ATTEMPTS = 3
"""To look at a commit: while one is looked at, a compaction may take its vector files away, or, where nothing may be
written, the next commit come over it."""


class Store:
    """An index folder. Several threads may use one; each snapshot is taken by one of them at a time.

    A process that is forked opens it again.
    """

    def __init__(self, folder: Path, file: os.stat_result, db: Connection, settings: Settings, token: str) -> None:
        self.folder = folder
        self.settings = settings
        self._place = folder.absolute()  # wherever the process goes
        self._file = file
        self._db = db
        self._token = token
        self._process = os.getpid()
        self._known_rows: LiveRows = {}
        self._turn = threading.RLock()
        _OPENED.add(self)

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
                if not is_own(path):
                    raise foreign(path)
            vectors = folder / VECTORS
            if vectors.is_dir():
                for path in sorted(vectors.iterdir()):
                    if not OWN_NAME.fullmatch(path.name):
                        raise foreign(path)
            elif vectors.exists():
                raise foreign(vectors)
            if (folder / DATABASE).is_file():
                with connect(folder) as db:
                    if not (is_index(db) or is_nothing(db)):
                        raise foreign(folder / DATABASE)

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
            with locked(folder), connect(folder, create=True) as db:
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
            file = os.stat(folder / DATABASE)
            db = held.enter_context(connect(folder))
            if not is_index(db):
                if is_nothing(db):
                    raise DataError(f"the index in {folder} was never finished", hint="run `diffembed index` again")
                raise foreign(folder / DATABASE)
            expect_tables(db, folder)
            settings = read_settings(db, folder)
            store = cls(folder, file, db, settings, read_state(db, folder, settings).shards.token)
            held.pop_all()
        return store

    def close(self) -> None:
        """Let go of the files."""
        if self._process == os.getpid():  # in another one that was done already
            with self._turn:
                self._db.close()

    def read(self, look: Callable[[Snapshot], T]) -> T:
        """Look at the index as it is now; later commits don't change what `look` sees.

        Raises:
            DataError: The index is in use for too long, is gone or another one by now, was opened in another process,
                or `look` itself calls `read`.
            IndexFormatError: It is damaged.
        """
        self._expect_own_process()
        with self._turn, translating(self.folder):
            if self._db.in_transaction:
                raise DataError(
                    f"the index in {self.folder} is being read already, by what asks to read it",
                    hint="use the snapshot that is there, or open the index once more",
                )
            changed = why = in_use(self.folder, "it was written while it was read")
            for _ in range(ATTEMPTS):
                self._expect_same_file()
                if not self._db.sees_changes:
                    old, self._db = self._db, connect(self._place)
                    old.close()
                self._db.execute("BEGIN")
                try:
                    snapshot = Snapshot(self._db, self._place, self.settings, self._known_rows)
                    if snapshot.shards.token != self._token:
                        raise replaced(self.folder)
                    found = look(snapshot)
                    if not self._db.has_missed_changes():
                        return found
                    why = changed
                except FileNotFoundError as error:  # or a compaction took the vector files of this commit away
                    why = damaged(self.folder, f"{error.filename} is missing")
                except Exception:
                    if not self._db.has_missed_changes():
                        raise
                    why = changed
                finally:
                    if self._db.in_transaction:
                        self._db.execute("ROLLBACK")
            raise why

    @contextmanager
    def writing(self) -> Iterator[Writer]:
        """The right to change the index, which one process and thread has at a time.

        What was not committed when the block is left is forgotten.

        Raises:
            DataError: Somebody else has it, or the index is gone or another one by now, or was opened in another
                process.
        """
        self._expect_own_process()
        with ExitStack() as held:
            with translating(self.folder):
                self._expect_same_file()
                held.enter_context(locked(self._place))
                db = held.enter_context(connect(self._place))
                writer = Writer(self.folder, self._place, db, self.settings, self._token)
            yield writer

    def check(self) -> list[str]:
        """Look at every byte that can be checked; what is wrong, a line each. See `checking.check`."""
        try:
            return self.read(lambda snapshot: checking.check(self._db, snapshot))
        except IndexFormatError as error:  # so damaged that nobody can look further
            return [error.message]

    def _expect_own_process(self) -> None:
        if self._process != os.getpid():
            raise DataError(
                f"the index in {self.folder} was opened by the process that this one was forked from",
                hint="open it again in this process",
            )

    def _expect_same_file(self) -> None:
        # Who has a file open can read it long after it was deleted.
        try:
            found = os.stat(self._place / DATABASE)
        except (FileNotFoundError, NotADirectoryError):
            raise gone(self.folder) from None
        if not os.path.samestat(found, self._file):
            raise replaced(self.folder)

    def _close_in_child(self) -> None:
        if self._turn.acquire(blocking=False):  # else a thread that the child does not have was in the middle of it
            self._db.close()


_OPENED: "weakref.WeakSet[Store]" = weakref.WeakSet()


def _close_all_in_child() -> None:
    """Let go of what a process that was just forked has inherited.

    SQLite keeps its locks on a file for a whole process. A child has what it noted of them, without the locks: as long
    as it keeps a connection, none that it opens itself sees or holds off those who write. Later would be too late:
    as long as the parent has its locks, nothing is written or deleted when the child lets go.
    """
    for store in list(_OPENED):
        store._close_in_child()


os.register_at_fork(after_in_child=_close_all_in_child)
