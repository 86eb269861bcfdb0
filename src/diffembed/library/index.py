"""An index of a person's documents: made from files or texts, searched by meaning, by words, or by both."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from diffembed.errors import ConfigError, DataError
from diffembed.index import fusion
from diffembed.index.hits import NO_ROW, Hits, check_k
from diffembed.index.shards import Precision
from diffembed.index.snapshot import Chunk, Counts, Settings, Snapshot
from diffembed.index.store import Store
from diffembed.library.account import Account
from diffembed.library.hits import Hit, describe, plain
from diffembed.library.indexing import OnProgress, Run, is_below
from diffembed.library.model import LibraryModel, new_settings
from diffembed.library.reading.document import Document, whole_characters

if TYPE_CHECKING:
    from diffembed.embedder import Embedder

Mode = Literal["dense", "lexical", "hybrid"]
MODES: tuple[Mode, ...] = get_args(Mode)
Fuse = Literal["scores", "ranks"]
FUSES: tuple[Fuse, ...] = get_args(Fuse)

Name = str | os.PathLike[str]


class Index:
    """Documents in a folder on disk, cut into chunks that are searched.

    `kill -9` at any moment leaves each document as it was or as it is; readers are never in the way of a writer. Use
    `open` for an index that is there and `create` for a new one; `library.update.index_files` brings files in.
    """

    def __init__(self, store: Store, model: LibraryModel) -> None:
        self._store = store
        self._model = model

    @classmethod
    def open(cls, folder: Name, *, model: "Name | Embedder | None" = None) -> "Index":
        """Open an index; its model is loaded when it is first needed.

        Args:
            folder: Of the index.
            model: Where its model is now, or the model itself; where it was when absent.

        Raises:
            DataError: There is no index.
            IndexFormatError: The index is damaged, or `model` is another one than its vectors come from.
        """
        store = Store.open(Path(folder))
        try:
            return cls(store, LibraryModel.of_index(store.settings, model))
        except BaseException:
            store.close()
            raise

    @classmethod
    def create(
        cls,
        folder: Name,
        *,
        model: "Name | Embedder" = "builtin",
        precision: Precision = "float16",
        chunk_tokens: int | None = None,
        contextual: bool = True,
    ) -> "Index":
        """Make an empty index in a new or empty folder.

        Args:
            folder: Of the index.
            model: What `Embedder.load` takes, or an embedder that was loaded from a folder.
            precision: Of the vectors on disk: float32; float16, half the size, scores to three digits the same; int8,
                for millions of chunks: a quarter is scanned, and the best hits get their scores from float16.
            chunk_tokens: Of the largest chunk; 256, or what the model reads at a time, when absent.
            contextual: Whether the chunks of a document see all of it.

        Raises:
            DataError: The folder holds something else.
            ConfigError: A setting can't be used.
        """
        given = LibraryModel.of(model)
        store = Store.create(Path(folder), new_settings(given, precision, chunk_tokens, contextual))
        return cls(store, given)

    @property
    def folder(self) -> Path:
        return self._store.folder

    @property
    def settings(self) -> Settings:
        return self._store.settings

    def counts(self) -> Counts:
        """How much there is."""
        return self._store.read(lambda snapshot: snapshot.counts())

    def ids(self, path: Name = "") -> set[str]:
        """Of the documents of a file; of those that came from none when absent."""
        return set(self._store.read(lambda snapshot: snapshot.documents(str(path))))

    def check(self) -> list[str]:
        """Look at every byte that can be checked; what is wrong, a line each."""
        return self._store.check()

    def close(self) -> None:
        """Let go of the files."""
        self._store.close()

    def search(
        self,
        query: str,
        k: int = 10,
        mode: Mode = "hybrid",
        *,
        where: str | None = None,
        instruction: str | None = None,
        fuse: Fuse = "scores",
        details: bool = True,
    ) -> list[Hit]:
        """Find the k best passages for a question. See `search_many`."""
        return self.search_many([query], k, mode, where=where, instruction=instruction, fuse=fuse, details=details)[0]

    def search_many(
        self,
        queries: Sequence[str],
        k: int = 10,
        mode: Mode = "hybrid",
        *,
        where: str | None = None,
        instruction: str | None = None,
        fuse: Fuse = "scores",
        details: bool = True,
    ) -> list[list[Hit]]:
        """Find the k best passages for each question.

        Args:
            queries: In plain words.
            k: Hits per question; `hybrid`, which fuses the best of both, has at most 200.
            mode: `dense`: by meaning, exact; `lexical`: by words, BM25, without the model; `hybrid`: both, fused.
            where: Only files whose path ends in this pattern (`*`, `?`, `[a-z]`) or that lie in such a folder; where
                such a path is in the index, brackets stand for themselves.
            instruction: What the questions ask for, in place of the model's own.
            fuse: What `hybrid` adds up: `scores` above the lowest, weighted for the model that ships, or reciprocal
                `ranks`, which need no weight and suit a model that is as good as BM25.
            details: Whether to find the best sentence and the shared words of each hit.

        Raises:
            DataError: A question is blank.
            ConfigError: The mode is unknown or k no positive integer.
            IndexFormatError: The index is damaged or its model has changed.
        """
        check_k(k)
        if mode not in MODES:
            raise ConfigError(f"mode is {mode!r}", hint=f"allowed: {', '.join(MODES)}")
        if fuse not in FUSES:
            raise ConfigError(f"fuse is {fuse!r}", hint=f"allowed: {', '.join(FUSES)}")
        for query in queries:
            _check_query(query)
        if not queries:
            return []
        vectors = None
        if mode != "lexical":
            self._model.expect(self.settings)
            vectors = self._model.queries(queries, instruction)

        def look(snapshot: Snapshot) -> list[list[tuple[float, Chunk]]]:
            pattern = _pattern(where, snapshot)
            depth = max(k, fusion.CANDIDATES)
            if vectors is None:
                found = snapshot.lexical(queries, k, where=pattern)
            elif mode == "dense":
                found = snapshot.dense(vectors, k, where=pattern)
            else:
                dense = snapshot.dense(vectors, depth, where=pattern)
                lexical = snapshot.lexical(queries, depth, where=pattern)
                found = fusion.hybrid(dense, lexical, k) if fuse == "scores" else fusion.by_ranks(dense, lexical, k)
            return _with_chunks(found, snapshot)

        scored = self._store.read(look)
        if not details:
            return [plain(hits) for hits in scored]
        return [
            describe(query, hits, None if vectors is None else vectors[row], self._model)
            for row, (query, hits) in enumerate(zip(queries, scored, strict=True))
        ]

    def add(self, documents: Iterable[Document], *, on_progress: OnProgress = lambda account: None) -> Account:
        """Add documents that come from no file, in place of those with the same ids.

        Args:
            documents: With different ids.
            on_progress: Told the account after each.

        Raises:
            DataError: Two have one id, one is no Unicode text, or another process is writing.
        """
        account = Account()
        with Run(lambda: self._store, self._ready(), account, on_progress) as run:
            run.add("", documents)
            run.finish()
        return account

    def remove(self, *, paths: Sequence[Name] = (), ids: Sequence[str] = ()) -> int:
        """Remove files, or all files below folders, and documents that came from no file, by id.

        Returns:
            How many files and documents went.
        """
        roots = [os.path.abspath(path) for path in paths]
        known = self._store.read(lambda snapshot: snapshot.files())
        gone = [path for path in known if any(is_below(path, root) for root in roots)]
        with self._store.writing() as writer:
            removed = sum(writer.drop_file(path) for path in gone)
            removed += sum(writer.drop_document("", key) for key in ids)
            writer.compact_if_due()
        return removed

    def _ready(self) -> LibraryModel:
        self._model.expect(self.settings)
        return self._model


def _check_query(query: str) -> None:
    if not isinstance(query, str) or not query.strip():
        raise DataError(f"the query {query!r} is empty", hint='ask something, for example "read a csv file"')
    if whole_characters(query) != query:
        raise DataError(
            f"the query {query!r} holds half a surrogate pair, which is no Unicode text",
            hint="decode its source with errors='replace'",
        )


def _pattern(where: str | None, snapshot: Snapshot) -> str | None:
    if where is None:
        return None
    where = where.rstrip("/")
    if whole_characters(where) != where:
        raise ConfigError(f"where is {where!r}, which is no Unicode text", hint="no such path is in any index")
    if "[" in where and any(f"/{where}/" in f"/{path}/" for path in snapshot.files()):
        return where.replace("[", "[[]")
    return where


def _with_chunks(found: Hits, snapshot: Snapshot) -> list[list[tuple[float, Chunk]]]:
    chunks = snapshot.chunks(sorted({int(row) for row in found.rows.ravel() if row != NO_ROW}))
    return [
        [(float(score), chunks[int(row)]) for score, row in zip(scores_K, rows_K, strict=True) if row != NO_ROW]
        for scores_K, rows_K in zip(found.scores, found.rows, strict=True)
    ]
