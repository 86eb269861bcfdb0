"""What an index says at one commit."""

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffembed.index import words
from diffembed.index.failures import damaged
from diffembed.index.hits import NO_ROW, Hits
from diffembed.index.shards import Precision, Shards

VECTORS = "vectors"
VARIABLES = 500
"""Values in one SQL statement: below the limit of every SQLite."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What an index is made of; fixed when it is created."""

    model: str
    """Name or absolute path of the model."""
    fingerprint: str
    """Of the model; vectors of another one are refused."""
    dims: int
    precision: Precision
    chunk_tokens: int
    contextual: bool
    """Whether the chunks of a document saw all of it."""


@dataclass(frozen=True, slots=True)
class Counts:
    """How much there is."""

    files: int
    documents: int
    chunks: int
    characters: int
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
    """An index as it was at one commit. Ids are those of chunks."""

    def __init__(self, db: sqlite3.Connection, folder: Path, settings: Settings) -> None:
        self._db = db
        self.settings = settings
        self.num_rows, self.shards = committed_rows(db, folder, settings)

    def dense(self, query_BE: NDArray[np.float32], k: int, *, where: str | None = None) -> Hits:
        """The nearest chunks; `where` as in `_patterns`."""
        is_wanted = self._wanted(where)
        found = self.shards.search(query_BE, self.num_rows, k, is_wanted=is_wanted)
        ids = dict(self._in("SELECT row, id FROM chunks WHERE row IN ({})", np.unique(found.rows).tolist()))
        to_id = np.vectorize(lambda row: ids.get(row, NO_ROW), otypes=[np.int64])
        return Hits(found.scores, to_id(found.rows) if found.rows.size else found.rows)

    def lexical(self, queries: Sequence[str], k: int, *, where: str | None = None) -> Hits:
        """The chunks with the best words."""
        condition = "" if where is None else f"AND rowid IN (SELECT c.id {_CHUNKS_OF_PATHS})"
        patterns = () if where is None else _patterns(where)
        found = [words.search(self._db, query, k, condition, patterns) for query in queries]
        width = max(map(len, found), default=0)
        if width < k:  # places behind the last hit say how few texts share a word with a question
            (chunks,) = self._db.execute("SELECT count(*) FROM chunks").fetchone()
            width = min(k, chunks)
        scores_BK, rows_BK = np.zeros((len(found), width), np.float32), np.full((len(found), width), NO_ROW, np.int64)
        for i, hits in enumerate(found):
            rows_BK[i, : len(hits)] = [row for row, _ in hits]
            scores_BK[i, : len(hits)] = [score for _, score in hits]
        return Hits(scores_BK, rows_BK)

    def chunks(self, ids: Sequence[int]) -> dict[int, Chunk]:
        """What chunks say and where they stand."""
        statement = (
            "SELECT c.id, f.path, d.key, d.title, c.start, c.stop, "
            "1 + c.start - length(replace(substr(d.text, 1, c.start), char(10), '')), "
            "substr(d.text, c.start + 1, c.stop - c.start) "
            "FROM chunks c JOIN documents d ON d.id = c.document JOIN files f ON f.id = d.file WHERE c.id IN ({})"
        )
        rows = self._in(statement, ids)
        if any(tuple(map(type, row)) != _CHUNK_TYPES for row in rows):
            raise damaged(self.shards.folder.parent, "chunks or their documents are not as they were written")
        return {row[0]: Chunk(*row[1:]) for row in rows}

    def files(self) -> dict[str, str | None]:
        """Path -> digest; None while a file of many documents is being read."""
        return dict(self._db.execute("SELECT path, digest FROM files WHERE path != ''"))

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
        vectors = self.shards.take(self._rows(row[4] for row in rows), self.num_rows)
        return [(*row[:4], vector.tobytes()) for row, vector in zip(rows, vectors, strict=True)]

    def counts(self) -> Counts:
        files, documents, chunks, characters = self._db.execute(
            "SELECT (SELECT count(*) FROM files WHERE path != ''), (SELECT count(*) FROM documents), "
            "(SELECT count(*) FROM chunks), (SELECT coalesce(sum(length(text)), 0) FROM documents)"
        ).fetchone()
        folder = self.shards.folder.parent
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        return Counts(files, documents, chunks, characters, size)

    def _wanted(self, where: str | None) -> NDArray[np.bool_] | None:
        """Which rows may be hits; None for all."""
        if where is not None:
            self.shards.expect(self.num_rows)
            found = self._db.execute(f"SELECT c.row {_CHUNKS_OF_PATHS}", _patterns(where))
            wanted = np.zeros(self.num_rows, bool)
            wanted[self._rows(row for (row,) in found)] = True
            return wanted
        dead = self._rows(row for (row,) in self._db.execute("SELECT row FROM dead"))
        if not len(dead):
            return None
        self.shards.expect(self.num_rows)
        wanted = np.ones(self.num_rows, bool)
        wanted[dead] = False
        return wanted

    def _rows(self, values: Iterable[int]) -> NDArray[np.int64]:
        """Rows that the database names, which must be there."""
        rows = np.array(list(values) or np.empty(0, np.int64))
        if rows.dtype.kind != "i" or (len(rows) and not 0 <= rows.min() <= rows.max() < self.num_rows):
            raise damaged(self.shards.folder.parent, "it names vectors that it does not have")
        return rows

    def _in(self, statement: str, values: Sequence[int]) -> list[tuple]:
        """Run a statement with IN ({}), as often as SQLite's limit of variables asks for."""
        found: list[tuple] = []
        for start in range(0, len(values), VARIABLES):
            some = [int(value) for value in values[start : start + VARIABLES]]
            found += self._db.execute(statement.format(",".join("?" * len(some))), some).fetchall()
        return found


def committed_rows(db: sqlite3.Connection, folder: Path, settings: Settings) -> tuple[int, Shards]:
    """How many rows of vectors a commit knows, and the files that they are in.

    Raises:
        IndexFormatError: It doesn't say.
    """
    state = dict(db.execute("SELECT key, value FROM settings WHERE key IN ('rows', 'generation')").fetchall())
    if set(map(type, state.values())) != {int} or len(state) < 2 or min(state.values()) < 0:
        raise damaged(folder, "it does not say which vectors are its own")
    return state["rows"], Shards(folder / VECTORS, state["generation"], settings.dims, settings.precision)


_CHUNK_TYPES = (int, str, str, str, int, int, int, str)
_CHUNKS_OF_PATHS = (
    "FROM chunks c JOIN documents d ON d.id = c.document JOIN files f ON f.id = d.file "
    "WHERE f.path GLOB ? OR f.path GLOB ? OR f.path GLOB ? OR f.path GLOB ?"
)


def _patterns(where: str) -> tuple[str, str, str, str]:
    """A pattern (`*`, `?`, `[a-z]`) holds for the end of a path, or for a folder that it lies in."""
    return where, f"*/{where}", f"{where}/*", f"*/{where}/*"
