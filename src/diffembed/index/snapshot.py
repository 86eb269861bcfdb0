"""What an index says at one commit."""

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffembed.errors import IndexFormatError
from diffembed.index import words
from diffembed.index.failures import damaged
from diffembed.index.hits import NO_ROW, Hits
from diffembed.index.places import cut
from diffembed.index.settings import Settings, read_state

VARIABLES = 500
"""Values in one SQL statement: below the limit of every SQLite."""

LiveRows = dict[int, NDArray[np.bool_] | None]
"""Number of a commit -> which rows are some chunk's; None for all."""


@dataclass(frozen=True, slots=True)
class Counts:
    """How much there is."""

    files: int
    """Without those that can't be read."""
    documents: int
    chunks: int
    size_bytes: int
    """On disk, all files of the index."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A chunk as a hit shows it."""

    path: str
    """Of its file; empty for a document that came from none."""
    id: str
    title: str
    start: int
    stop: int
    line: int
    """Of the document's text, from 1, in which the chunk begins."""
    text: str


class Snapshot:
    """An index as it was at one commit. Ids are those of chunks.

    Where a method takes `where`, it is a pattern (`*`, `?`, `[a-z]`) that holds for the end of a file's path, from a
    slash on, or for a folder that the file lies in; None for all.

    Args:
        db: Inside a transaction.
        folder: Of the index.
        settings: Of the index.
        known_rows: What other snapshots of the same index found out; kept up to date.
    """

    def __init__(self, db: sqlite3.Connection, folder: Path, settings: Settings, known_rows: LiveRows) -> None:
        self._db = db
        self._known_rows = known_rows
        self.settings = settings
        state = read_state(db, folder, settings)
        self.num_rows, self.shards, self._commits = state.num_rows, state.shards, state.commits

    def dense(self, query_BE: NDArray[np.float32], k: int, *, where: str | None = None) -> Hits:
        """The nearest chunks: exact, unless the index has the precision int8 (see `Shards.search`)."""
        is_wanted = self._live() if where is None else self._below(where)
        found = self.shards.search(query_BE, self.num_rows, k, is_wanted=is_wanted)
        rows, places = np.unique(found.rows, return_inverse=True)
        ids = dict(self._in("SELECT row, id FROM chunks WHERE row IN ({})", rows.tolist()))
        if len(ids) < len(rows):
            raise self._damaged("it holds vectors that belong to no chunk")
        ids_M = np.array([ids[row] for row in rows.tolist()], np.int64)
        return Hits(found.scores, ids_M[places].reshape(found.rows.shape))

    def lexical(self, queries: Sequence[str], k: int, *, where: str | None = None) -> Hits:
        """The chunks with the best words."""
        condition = "" if where is None else f"AND rowid IN (SELECT c.id {_CHUNKS_OF_PATHS})"
        patterns = () if where is None else _patterns(where)
        found = [words.search(self._db, query, k, condition, patterns) for query in queries]
        width = max(map(len, found), default=0)
        if width < k:  # places behind the last hit say how few texts share a word with a question
            all_of_them = "FROM chunks" if where is None else _CHUNKS_OF_PATHS
            (chunks,) = self._db.execute(f"SELECT count(*) {all_of_them}", patterns).fetchone()
            width = min(k, max(chunks, width))
        scores_BK, rows_BK = np.zeros((len(found), width), np.float32), np.full((len(found), width), NO_ROW, np.int64)
        for i, hits in enumerate(found):
            rows_BK[i, : len(hits)] = [row for row, _ in hits]
            scores_BK[i, : len(hits)] = [score for _, score in hits]
        return Hits(scores_BK, rows_BK)

    def chunks(self, ids: Sequence[int]) -> dict[int, Chunk]:
        """What chunks say and where they stand."""
        statement = (
            "SELECT c.document, c.id, f.path, d.key, d.title, typeof(d.text), c.start, c.stop, c.line, c.byte "
            "FROM chunks c JOIN documents d ON d.id = c.document JOIN files f ON f.id = d.file WHERE c.id IN ({})"
        )
        rows = sorted(self._in(statement, list(set(ids))), key=lambda row: row[:2])
        chunks: dict[int, Chunk] = {}
        for document, some in groupby(rows, key=lambda row: row[0]):
            # Out of the middle of the text, which may be a book: `substr` would read all of it for each chunk.
            with self._db.blobopen("documents", "text", document, readonly=True) as blob:
                for _, number, path, key, title, kind, *place in some:
                    are_as_written = tuple(map(type, (path, key, title, *place))) == _CHUNK_TYPES and kind == "text"
                    text = cut(blob, tuple(place)) if are_as_written else None
                    if text is None:
                        raise self._damaged("chunks or their documents are not as they were written")
                    start, stop, line, _ = place
                    chunks[number] = Chunk(path, key, title, start, stop, line, text)
        if len(chunks) < len(set(ids)):
            raise self._damaged("it names chunks that it does not have, or whose documents it does not have")
        return chunks

    def files(self) -> dict[str, str | None]:
        """Path -> digest of the files that could be read; None while a file of many documents is being read."""
        return dict(self._db.execute("SELECT path, digest FROM files WHERE path != '' AND unreadable IS NULL"))

    def unreadable(self) -> dict[str, tuple[str, str]]:
        """Path -> digest and reason of the files that could not be read; the digest is empty if it was forgotten."""
        found = self._db.execute("SELECT path, coalesce(digest, ''), unreadable FROM files WHERE unreadable NOTNULL")
        return {path: (digest, reason) for path, digest, reason in found}

    def documents(self, path: str) -> dict[str, tuple[str, str]]:
        """Key -> digest and title of a file's documents."""
        statement = "SELECT d.key, d.digest, d.title FROM documents d JOIN files f ON f.id = d.file WHERE f.path = ?"
        return {key: (digest, title) for key, digest, title in self._db.execute(statement, (path,))}

    def contents(self) -> list[tuple[str, str, int, int, bytes]]:
        """All that is searched: path, id, start, stop and the vector's bytes of each chunk, in the order of places."""
        rows = self._db.execute(
            "SELECT f.path, d.key, c.start, c.stop, c.row FROM chunks c JOIN documents d ON d.id = c.document "
            "JOIN files f ON f.id = d.file ORDER BY f.path, d.key, c.start"
        ).fetchall()
        vectors = self.vectors(row[4] for row in rows)
        return [(*row[:4], vector.tobytes()) for row, vector in zip(rows, vectors, strict=True)]

    def vectors(self, rows: Iterable[int]) -> NDArray[np.float32]:
        """Of rows that the database names."""
        return self.shards.take(self._rows(rows), self.num_rows)

    def counts(self) -> Counts:
        """How much there is."""
        files, documents, chunks = self._db.execute(
            "SELECT (SELECT count(*) FROM files WHERE path != '' AND unreadable IS NULL), "
            "(SELECT count(*) FROM documents), (SELECT count(*) FROM chunks)"
        ).fetchone()
        folder = self.shards.folder.parent
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        return Counts(files, documents, chunks, size)

    def _below(self, where: str) -> NDArray[np.bool_]:
        """Which rows are chunks of files that a pattern names."""
        self.shards.expect(self.num_rows)
        is_wanted = np.zeros(self.num_rows, bool)
        found = self._db.execute(f"SELECT c.row {_CHUNKS_OF_PATHS}", _patterns(where))
        is_wanted[self._rows(row for (row,) in found)] = True
        return is_wanted

    def _live(self) -> NDArray[np.bool_] | None:
        """Which rows are a chunk's; None for all."""
        if self._commits not in self._known_rows:
            dead = self._rows(row for (row,) in self._db.execute("SELECT row FROM dead"))
            is_live = None
            if len(dead):
                self.shards.expect(self.num_rows)
                is_live = np.ones(self.num_rows, bool)
                is_live[dead] = False
            self._known_rows.clear()
            self._known_rows[self._commits] = is_live
        return self._known_rows[self._commits]

    def _rows(self, values: Iterable[int]) -> NDArray[np.int64]:
        """Rows that the database names, which must be there."""
        rows = np.array(list(values) or np.empty(0, np.int64))
        if rows.dtype.kind != "i" or (len(rows) and not 0 <= rows.min() <= rows.max() < self.num_rows):
            raise self._damaged("it names vectors that it does not have")
        return rows

    def _in(self, statement: str, values: Sequence[int]) -> list[tuple]:
        """Run a statement with IN ({}), as often as SQLite's limit of variables asks for."""
        found: list[tuple] = []
        for start in range(0, len(values), VARIABLES):
            some = [int(value) for value in values[start : start + VARIABLES]]
            found += self._db.execute(statement.format(",".join("?" * len(some))), some).fetchall()
        return found

    def _damaged(self, why: str) -> IndexFormatError:
        return damaged(self.shards.folder.parent, why)


_CHUNK_TYPES = (str, str, str, int, int, int, int)
_CHUNKS_OF_PATHS = (
    "FROM chunks c JOIN documents d ON d.id = c.document JOIN files f ON f.id = d.file "
    "WHERE f.path GLOB ? OR f.path GLOB ? OR f.path GLOB ? OR f.path GLOB ?"
)


def _patterns(where: str) -> tuple[str, str, str, str]:
    return where, f"*/{where}", f"{where}/*", f"*/{where}/*"
