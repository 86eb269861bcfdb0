"""The one writer of an index: adds and removes documents, and makes them visible at a commit."""

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from diffembed.errors import DataError
from diffembed.index import words
from diffembed.index.failures import is_lack_of_room, replaced, translating
from diffembed.index.places import Span, content_digest, places
from diffembed.index.settings import Settings, read_state
from diffembed.index.shards import Shards

COMPACTED_SHARE = 0.2
"""Vector files are written anew when more of their rows than this are dead."""
LEAST_COMPACTED = 4_096
COPY_ROWS = 16_384

P = ParamSpec("P")
R = TypeVar("R")


def _telling(method: "Callable[Concatenate[Writer, P], R]") -> "Callable[Concatenate[Writer, P], R]":
    @wraps(method)
    def inner(self: "Writer", /, *args: P.args, **kwargs: P.kwargs) -> R:
        # What failed halfway, perhaps with its transaction rolled back already, must not be committed by the next call.
        if self._has_failed:
            raise DataError(
                f"writing the index in {self._folder} was stopped by an error",
                hint="begin anew; what was committed before is intact",
            )
        try:
            with translating(self._folder):
                return method(self, *args, **kwargs)
        except BaseException:
            self._has_failed = True
            raise

    return inner


class Writer:
    """Changes an index inside one transaction after another; what was not committed never happened.

    Made by `Store.writing`, which holds the lock. After an error it does nothing more.

    Args:
        folder: Of the index, as it is called in messages.
        place: The same, wherever the process goes.
        db: A connection of its own.
        settings: Of the index.
        token: Of the index.
    """

    def __init__(self, folder: Path, place: Path, db: sqlite3.Connection, settings: Settings, token: str) -> None:
        self._folder = folder
        self._place = place
        self._db = db
        self._settings = settings
        self._has_failed = False
        self._pending: list[NDArray[np.float32]] = []
        self.pending_rows = 0
        self._num_rows, self._shards = self._begin(token)
        self._shards.remove_others()

    @_telling
    def put(
        self,
        path: str,
        key: str,
        *,
        digest: str,
        title: str,
        text: str,
        spans: Sequence[Span],
        vectors: NDArray[np.float32],
    ) -> None:
        """Add a document, in place of the one with the same key if the file has one.

        Args:
            path: Of its file; empty for none.
            key: Its id within the file.
            digest: Of what its vectors are made of.
            title: Searched for words.
            text: Of which the spans are cut; without NUL, at which SQLite would end it.
            spans: Of its chunks, in characters.
            vectors: (chunks, dims); unit rows.

        Raises:
            DataError: There is not one vector of the index's size for each chunk, or one is not finite.
        """
        vectors = np.asarray(vectors, np.float32)
        if vectors.shape != (len(spans), self._shards.dims) or not np.isfinite(vectors).all():
            raise DataError(
                f"the vectors of document {key!r} have shape {vectors.shape} or are not finite, "
                f"expected shape {(len(spans), self._shards.dims)}",
                hint="embed it again with the model of the index",
            )
        file = self._file(path)
        self._remove_documents("file = ? AND key = ?", (file, key))
        found = places(text, spans)
        content = content_digest((path, key, digest, title, text), found, self._shards.rounded(vectors))
        document = self._db.execute(
            "INSERT INTO documents(file, key, digest, title, text, content) VALUES (?, ?, ?, ?, ?, ?)",
            (file, key, digest, title, text, content),
        ).lastrowid
        first = self._num_rows + self.pending_rows
        added = []
        for row, (start, stop, line, byte) in enumerate(found, start=first):
            chunk = self._db.execute(
                "INSERT INTO chunks(row, document, start, stop, line, byte) VALUES (?, ?, ?, ?, ?, ?)",
                (row, document, start, stop, line, byte),
            ).lastrowid
            added.append((chunk, title, text[start:stop]))
        words.add(self._db, added)
        self._pending.append(vectors)
        self.pending_rows += len(vectors)

    @_telling
    def twin(self, digest: str) -> tuple[list[Span], NDArray[np.float32]] | None:
        """Spans and vectors of a committed document with the same digest, if there is one."""
        rows = self._db.execute(
            "SELECT c.start, c.stop, c.row FROM chunks c WHERE c.document = "
            "(SELECT min(d.id) FROM documents d WHERE d.digest = ?) ORDER BY c.start",
            (digest,),
        ).fetchall()
        if not rows or rows[-1][2] >= self._num_rows:
            return None
        vectors = self._shards.take(np.array([row for _, _, row in rows]), self._num_rows)
        return [(start, stop) for start, stop, _ in rows], vectors

    @_telling
    def begin_file(self, path: str) -> None:
        """Note that a file of many documents is being read: until `finish_file`, it counts as changed."""
        self._db.execute("UPDATE files SET digest = NULL WHERE id = ?", (self._file(path),))

    @_telling
    def finish_file(self, path: str, digest: str, keys: set[str] | None = None) -> None:
        """Note that a file is in the index as it is now; with `keys`, its other documents go."""
        file = self._file(path)
        if keys is not None:
            known = [key for (key,) in self._db.execute("SELECT key FROM documents WHERE file = ?", (file,))]
            for key in known:
                if key not in keys:
                    self._remove_documents("file = ? AND key = ?", (file, key))
        self._db.execute("UPDATE files SET digest = ? WHERE id = ?", (digest, file))

    @_telling
    def forget_digest(self, path: str) -> None:
        """Note that a file, if it is known, has to be read again; its documents stay."""
        self._db.execute("UPDATE files SET digest = NULL WHERE path = ?", (path,))

    @_telling
    def note_unreadable(self, path: str, digest: str, reason: str) -> bool:
        """Remember that a file can't be read as it is now; its documents go. Say whether it could be read before.

        Args:
            path: Of the file.
            digest: Of what can't be read.
            reason: Why.
        """
        was_there = self._is_readable(path)
        file = self._file(path)
        self._remove_documents("file = ?", (file,))
        self._db.execute("UPDATE files SET digest = ?, unreadable = ? WHERE id = ?", (digest, reason, file))
        return was_there

    @_telling
    def drop_file(self, path: str) -> bool:
        """Remove a file and its documents, or what is known of one that can't be read; say whether it could be read."""
        was_there = self._is_readable(path)
        self._remove_documents("file = (SELECT id FROM files WHERE path = ?)", (path,))
        self._db.execute("DELETE FROM files WHERE path = ?", (path,))
        return was_there

    @_telling
    def drop_document(self, path: str, key: str) -> bool:
        """Remove one document; say whether it was there."""
        return self._remove_documents("file = (SELECT id FROM files WHERE path = ?) AND key = ?", (path, key))

    @_telling
    def commit(self) -> None:
        """Make all changes since the last commit visible, at once."""
        if self.pending_rows:
            vectors = np.concatenate(self._pending)
            digest = self._shards.write(self._num_rows, vectors)
            self._db.execute("INSERT INTO appends VALUES (?, ?, ?)", (self._num_rows, len(vectors), digest))
            self._set("rows", self._num_rows + len(vectors))
        self._end()
        self._pending, self.pending_rows = [], 0
        self._num_rows, self._shards = self._begin(self._shards.token)

    @_telling
    def compact_if_due(self) -> bool:
        """Write the vectors anew, without the dead rows, if those are many. Commits first.

        Returns:
            False if that was due and there was no room for it: all is as before, and it is due the next time.
        """
        self.commit()
        (dead,) = self._db.execute("SELECT count(*) FROM dead").fetchone()
        if dead < LEAST_COMPACTED or dead <= COMPACTED_SHARE * self._num_rows:
            return True
        is_done = True
        try:
            self._compact()
        except (OSError, sqlite3.OperationalError) as error:
            if not is_lack_of_room(error):
                raise
            is_done = False
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
        self._num_rows, self._shards = self._begin(self._shards.token)
        self._shards.remove_others()
        return is_done

    def _compact(self) -> None:
        old, new = self._shards, replace(self._shards, generation=self._shards.generation + 1)
        live = np.array([row for (row,) in self._db.execute("SELECT row FROM chunks ORDER BY row")], np.int64)
        self._db.execute("DELETE FROM dead")
        self._db.execute("DELETE FROM appends")
        for start in range(0, len(live), COPY_ROWS):
            some = live[start : start + COPY_ROWS]
            digest = new.write(start, old.take(some, self._num_rows))
            self._db.execute("INSERT INTO appends VALUES (?, ?, ?)", (start, len(some), digest))
        # A row never moves up, so in their order each finds its new place left by those before it.
        moves = ((place, row) for place, row in enumerate(live.tolist()) if place != row)
        self._db.executemany("UPDATE chunks SET row = ? WHERE row = ?", moves)
        self._set("rows", len(live))
        self._set("generation", new.generation)
        self._end()

    def _begin(self, token: str) -> tuple[int, Shards]:
        """Start a transaction and read what it goes on from: nobody else can change it from here on."""
        self._db.execute("BEGIN IMMEDIATE")
        state = read_state(self._db, self._place, self._settings)
        if state.shards.token != token:
            raise replaced(self._folder)
        self._changes_before = self._db.total_changes
        return state.num_rows, state.shards

    def _end(self) -> None:
        if self._db.total_changes > self._changes_before:
            self._db.execute("UPDATE settings SET value = value + 1 WHERE key = 'commits'")
        self._db.execute("COMMIT")

    def _set(self, name: str, value: int) -> None:
        self._db.execute("UPDATE settings SET value = ? WHERE key = ?", (value, name))

    def _is_readable(self, path: str) -> bool:
        statement = "SELECT 1 FROM files WHERE path = ? AND unreadable IS NULL"
        return self._db.execute(statement, (path,)).fetchone() is not None

    def _file(self, path: str) -> int:
        """The number of a file, which counts as readable from now on."""
        found = self._db.execute("SELECT id, unreadable FROM files WHERE path = ?", (path,)).fetchone()
        if found is None:
            number = self._db.execute("INSERT INTO files(path) VALUES (?)", (path,)).lastrowid
            assert number is not None
            return number
        number, reason = found
        if reason is not None:
            self._db.execute("UPDATE files SET digest = NULL, unreadable = NULL WHERE id = ?", (number,))
        return number

    def _remove_documents(self, condition: str, values: Sequence) -> bool:
        documents = self._db.execute(f"SELECT id FROM documents WHERE {condition}", values).fetchall()
        for (document,) in documents:  # one text at a time: a file may have millions
            statement = "SELECT title, text FROM documents WHERE id = ?"
            title, text = self._db.execute(statement, (document,)).fetchone()
            chunks = self._db.execute(
                "SELECT id, row, start, stop FROM chunks WHERE document = ?", (document,)
            ).fetchall()
            words.remove(self._db, [(chunk, title, text[start:stop]) for chunk, _, start, stop in chunks])
            self._db.executemany("INSERT INTO dead VALUES (?)", [(row,) for _, row, _, _ in chunks])
            self._db.execute("DELETE FROM chunks WHERE document = ?", (document,))
            self._db.execute("DELETE FROM documents WHERE id = ?", (document,))
        return bool(documents)
