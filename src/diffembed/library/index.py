"""An index of a person's documents: made from files or texts, searched by meaning, by words, or by both."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from diffembed.errors import ConfigError, DataError
from diffembed.index import fusion
from diffembed.index.hits import NO_ROW, Hits, check_k
from diffembed.index.settings import Settings
from diffembed.index.shards import Precision
from diffembed.index.snapshot import Chunk, Counts, Snapshot
from diffembed.index.store import Store
from diffembed.library.account import Account, OnProgress
from diffembed.library.arguments import Name, several, several_paths
from diffembed.library.hits import Hit, describe, plain
from diffembed.library.indexing import IndexingRun
from diffembed.library.model import LibraryModel, check_settings, new_settings
from diffembed.library.paths import Roots, absolute
from diffembed.library.plan import Known
from diffembed.library.questions import check_query, path_pattern, with_own_brackets
from diffembed.library.reading.document import Document

if TYPE_CHECKING:
    from diffembed.embedder import Embedder

T = TypeVar("T")

Mode = Literal["dense", "lexical", "hybrid"]
MODES: tuple[Mode, ...] = get_args(Mode)
Fuse = Literal["scores", "ranks"]
FUSES: tuple[Fuse, ...] = get_args(Fuse)


class Index:
    """Documents in a folder on disk, cut into chunks that are searched.

    `kill -9` at any moment leaves each document as it was or as it is; readers are never in the way of a writer. Use
    `open` for an index that is there and `create` for a new one; `index_files` brings files in. In a `with` block it is
    closed at the end.
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
            CheckpointError: There is no such model.
            ConfigError: A setting can't be used.
        """
        check_settings(precision, chunk_tokens)
        Store.check_new(Path(folder))
        given = LibraryModel.of(model)
        store = Store.create(Path(folder), new_settings(given, precision, chunk_tokens, contextual))
        return cls(store, given)

    def __enter__(self) -> "Index":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def folder(self) -> Path:
        return self._store.folder

    @property
    def settings(self) -> Settings:
        return self._store.settings

    def counts(self) -> Counts:
        """How much there is."""
        return self.read(lambda snapshot: snapshot.counts())

    def ids(self, path: Name = "") -> set[str]:
        """Of the documents of a file; of those that came from none when absent."""
        return set(self.read(lambda snapshot: snapshot.documents(str(path))))

    def read(self, look: Callable[[Snapshot], T]) -> T:
        """Look at the index as it is now: later changes don't show in what `look` sees.

        Args:
            look: Called with the index as it was at one moment, perhaps more than once; must not call the index itself.

        Raises:
            IndexFormatError: The index is damaged.
        """
        return self._store.read(look)

    def embed_queries(self, texts: Sequence[str], instruction: str | None = None) -> NDArray[np.float32]:
        """Vectors of questions, as a search by meaning compares them.

        Args:
            texts: Questions.
            instruction: What they ask for, in place of the model's own.

        Returns:
            (texts, dims), rows of unit length.

        Raises:
            DataError: A question is blank.
            IndexFormatError: The model has changed.
        """
        texts = several("texts", texts)
        for text in texts:
            check_query(text)
        self._model.expect(self.settings)
        return self._model.queries(texts, instruction)

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
        where: Name | None = None,
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
        where: Name | None = None,
        instruction: str | None = None,
        fuse: Fuse = "scores",
        details: bool = True,
    ) -> list[list[Hit]]:
        """Find the k best passages for each question.

        Args:
            queries: In plain words; a list.
            k: Hits per question; `hybrid`, which fuses the best of both, has at most 200.
            mode: `dense`: by meaning, exact; `lexical`: by words, BM25, without the model; `hybrid`: both, fused.
            where: Only files whose path ends in this pattern (`*`, `?`, `[a-z]`) or that lie in such a folder; where
                such a path is in the index, brackets stand for themselves. `./notes` is `notes`.
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
        queries = several("queries", queries)
        for query in queries:
            check_query(query)
        ends = None if where is None else path_pattern(where)
        if not queries:
            return []
        vectors = None if mode == "lexical" else self.embed_queries(queries, instruction)

        def look(snapshot: Snapshot) -> list[list[tuple[float, Chunk]]]:
            pattern = None if ends is None else with_own_brackets(ends, snapshot.files())
            if vectors is None:
                found = snapshot.lexical(queries, k, where=pattern)
            elif mode == "dense":
                found = snapshot.dense(vectors, k, where=pattern)
            else:
                dense = snapshot.dense(vectors, fusion.CANDIDATES, where=pattern)
                lexical = snapshot.lexical(queries, fusion.CANDIDATES, where=pattern)
                found = fusion.hybrid(dense, lexical, k) if fuse == "scores" else fusion.by_ranks(dense, lexical, k)
            return _with_chunks(found, snapshot)

        scored = self.read(look)
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
            DataError: Two have one id, one is no Unicode text or too long, or another process is writing.
            IndexFormatError: The model has changed.
        """
        account = Account()
        self._model.expect_for_documents(self.settings)
        with IndexingRun(lambda: self._store, self._model, account, on_progress) as run:
            run.add("", documents)
            run.finish()
        return account

    def remove(self, *, paths: Sequence[Name] = (), ids: Sequence[str] = (), must_exist: bool = False) -> int:
        """Remove files, or all files below folders, and documents that came from no file, by id.

        Args:
            paths: A list of files and folders, which need not be there any more.
            ids: A list.
            must_exist: Whether to refuse, and remove nothing, where nothing of one of them is in the index.

        Returns:
            How many files and documents went.

        Raises:
            DataError: Nothing of a path or id is in the index, or another process is writing.
        """
        roots = dict.fromkeys(absolute(path) for path in several_paths(paths))
        keys = dict.fromkeys(several("ids", ids))
        given = Roots(roots)
        with self._store.writing() as writer:
            known = Known.of(self._store)
            gone = known.below(given)
            if must_exist:
                _expect_held(roots, {root for path in gone for root in given.over(path)})
                _expect_held(keys, self.ids())
            removed = sum(writer.drop_file(path) for path in gone)
            removed += sum(writer.drop_document("", key) for key in keys)
            writer.compact_if_due()
        return removed


def _expect_held(named: Iterable[str], held: set[str]) -> None:
    for each in named:
        if each not in held:
            raise DataError(f"nothing of {each} is in the index", hint="check the name; nothing was removed")


def _with_chunks(found: Hits, snapshot: Snapshot) -> list[list[tuple[float, Chunk]]]:
    chunks = snapshot.chunks(sorted({int(row) for row in found.rows.ravel() if row != NO_ROW}))
    return [
        [(float(score), chunks[int(row)]) for score, row in zip(scores_K, rows_K, strict=True) if row != NO_ROW]
        for scores_K, rows_K in zip(found.scores, found.rows, strict=True)
    ]
