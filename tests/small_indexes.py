"""Indexes of a few rows, and what they have to say, worked out from a dictionary."""

import os
import sqlite3
import subprocess
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from diffembed.index import words
from diffembed.index.hits import NO_ROW, Hits
from diffembed.index.snapshot import Settings, Snapshot
from diffembed.index.store import Store
from diffembed.index.writer import Writer

DIMS = 4
SETTINGS = dict(
    model="small",
    fingerprint="abc",
    dtype="float32",
    dims=DIMS,
    precision="float16",
    chunk_tokens=8,
    contextual=True,
)


def create(folder: Path, **changes) -> Store:
    return Store.create(folder, Settings(**(SETTINGS | changes)))


def spans_of(text: str) -> list[tuple[int, int]]:
    """Each line that says something is a chunk."""
    spans, start = [], 0
    for line in text.split("\n"):
        if line:
            spans.append((start, start + len(line)))
        start += len(line) + 1
    return spans


def vectors_of(text: str) -> np.ndarray:
    """Small whole numbers, so that every product is exact and many scores are equal."""
    seeds = [zlib.crc32(text[start:stop].encode()) for start, stop in spans_of(text)]
    rows = [np.random.default_rng(seed).integers(-3, 4, DIMS) for seed in seeds]
    return np.array(rows, np.float32).reshape(len(rows), DIMS)


def put(writer: Writer, path: str, key: str, text: str, title: str = "") -> None:
    writer.put(path, key, digest=f"of {text}", title=title, text=text, spans=spans_of(text), vectors=vectors_of(text))


def fill(store: Store, files: dict[str, str], *, compact: bool = False) -> None:
    """Put one document a file, all in one commit."""
    with store.writing() as writer:
        for path, text in files.items():
            put(writer, path, path, text)
            writer.finish_file(path, f"of {text}")
        if compact:
            writer.compact_if_due()
        else:
            writer.commit()


def contents(store: Store) -> list[tuple]:
    return store.read(lambda snapshot: snapshot.contents())


def contents_of(files: dict[str, str]) -> list[tuple]:
    """What `contents` has to give after `fill`."""
    model = Model()
    for path, text in files.items():
        model.put(path, path, text, "")
    return model.contents()


@dataclass(frozen=True)
class Entry:
    title: str
    text: str


@dataclass
class Model:
    """The same index in memory: documents in the order in which they came."""

    files: dict[str, str | None] = field(default_factory=dict)
    documents: dict[tuple[str, str], Entry] = field(default_factory=dict)
    unreadable: dict[str, tuple[str, str]] = field(default_factory=dict)

    def copy(self) -> "Model":
        return Model(dict(self.files), dict(self.documents), dict(self.unreadable))

    def put(self, path: str, key: str, text: str, title: str) -> None:
        self.files.setdefault(path, None)
        self.unreadable.pop(path, None)
        self.documents.pop((path, key), None)
        self.documents[path, key] = Entry(title, text)

    def drop(self, path: str, key: str | None = None, keep: tuple[str, ...] = ()) -> bool:
        gone = [(p, k) for p, k in self.documents if p == path and key in (None, k) and k not in keep]
        for each in gone:
            del self.documents[each]
        return bool(gone)

    def chunks(self, where: str | None = None) -> list[tuple[str, str, int, int]]:
        """In the order of their rows, those of files that are called or lie below `where`."""
        return [
            (path, key, start, stop)
            for (path, key), entry in self.documents.items()
            if where is None or f"/{where}/" in f"/{path}/"
            for start, stop in spans_of(entry.text)
        ]

    def contents(self) -> list[tuple]:
        vectors = (vector for entry in self.documents.values() for vector in vectors_of(entry.text))
        return sorted((*chunk, vector.tobytes()) for chunk, vector in zip(self.chunks(), vectors, strict=True))

    def dense(self, query_E: np.ndarray, k: int, where: str | None) -> list[tuple]:
        vectors = {chunk[:4]: np.frombuffer(chunk[4], np.float32) for chunk in self.contents()}
        scored = [(float(query_E @ vectors[chunk]), chunk) for chunk in self.chunks(where)]
        return sorted(scored, key=lambda each: -each[0])[:k]

    def lexical(self, query: str, k: int, where: str | None) -> list[tuple]:
        chunks, wanted = self.chunks(), self.chunks(where)
        texts = [(self.documents[path, key], start, stop) for path, key, start, stop in chunks]
        with new_words() as db:
            words.add(db, [(row, each.title, each.text[a:b]) for row, (each, a, b) in enumerate(texts)])
            found = [(np.float32(score), chunks[row]) for row, score in words.search(db, query, len(chunks) + 1)]
        return [(score, chunk) for score, chunk in found if chunk in wanted][:k]


def named(snapshot: Snapshot, hits: Hits) -> list[list[tuple]]:
    """Hits as scores and places."""
    chunks = snapshot.chunks(sorted({int(row) for row in hits.rows.ravel() if row != NO_ROW}))
    return [
        [
            (score, (chunks[row].path, chunks[row].id, chunks[row].start, chunks[row].stop))
            for score, row in zip(scores_K, rows_K, strict=True)
            if row != NO_ROW
        ]
        for scores_K, rows_K in zip(hits.scores.tolist(), hits.rows.tolist(), strict=True)
    ]


@contextmanager
def new_words() -> Iterator[sqlite3.Connection]:
    db = sqlite3.connect(":memory:")
    try:
        db.execute(words.SCHEMA)
        yield db
    finally:
        db.close()


def start_script(script: str, *arguments: object) -> subprocess.Popen:
    """A Python process that finds what this one finds."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_script(script: str, *arguments: object) -> tuple[int, str]:
    """Exit status (negative for a signal) and what it said."""
    with start_script(script, *arguments) as process:
        out, err = process.communicate(timeout=60)
        return process.returncode, out + err
