"""One indexing run: files -> what changed -> documents -> chunks -> vectors -> commits.

A file is in the index as it was or as it is: its documents are replaced inside one transaction. Files that hold rows
are committed row by row, so that a long one goes on where it was stopped.
"""

import hashlib
import os
import time
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffembed.errors import DataError
from diffembed.files import file_digest
from diffembed.index.store import Store
from diffembed.index.writer import Span, Writer
from diffembed.library.account import Account
from diffembed.library.model import LibraryModel
from diffembed.library.reading.document import Document, whole_characters
from diffembed.library.reading.read import Unreadable, is_rows, read_bytes, read_document, read_rows
from diffembed.library.reading.walk import Found, Skipped

COMMIT_S = 10.0
"""At most about so much work is lost when a run is killed."""
COMMIT_ROWS = 8_192
"""Vectors that wait for a commit, at most about so many."""

TOGETHER, TOGETHER_CHARACTERS = 64, 32_768
"""Documents, or characters of them, that go through the model together: a few batches."""

OnProgress = Callable[[Account], None]


@dataclass(frozen=True, slots=True)
class Changed:
    """A file that has to be read."""

    path: str
    size_bytes: int
    digest: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run has to do."""

    changed: list[Changed]
    gone: list[str]
    """Paths that are in the index and shall not be any more."""


def plan(found: Found, known: dict[str, str | None], account: Account) -> Plan:
    """Compare files with what is in the index, by content.

    Args:
        found: Files on disk.
        known: Path -> digest of the files in the index. One that no folder lists (a hidden one, of another kind) was
            named itself at some time, and is looked at as if it were named again.
        account: Counts what is unchanged and what can't be read.
    """
    account.other_kinds = found.other_kinds
    account.skipped += found.skipped
    below = [path for path in known if any(is_below(path, str(root)) for root in found.roots)]
    left_out = {each.path for each in found.skipped}
    listed = dict.fromkeys(map(str, found.files))
    listed.update(dict.fromkeys(path for path in below if path not in listed and _is_there(path, left_out)))
    changed, seen = [], set()
    for path in listed:
        try:
            digest, size = _digest(Path(path))
        except Unreadable as error:
            account.skipped.append(Skipped(path=path, reason=error.reason))
            continue
        seen.add(path)
        if known.get(path) == digest:
            account.files_unchanged += 1
        else:
            changed.append(Changed(path, size, digest))
    gone = [path for path in below if path not in seen]
    account.bytes_total = sum(each.size_bytes for each in changed)
    return Plan(changed, gone)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Waiting:
    """A document that is to be put into the index."""

    path: str
    document: Document
    digest: str
    """Of the document."""
    file_digest: str | None = None
    """Of the file that it is, if it is one by itself."""

    @property
    def text(self) -> str:
        return _storable(self.document.text)


class Run:
    """Writes to an index: what a plan says, or documents that come from no file.

    Args:
        store: Gives the store; called when there is something to write, so that nothing is made for nothing.
        model: Embeds.
        account: Is kept up to date.
        on_progress: Told after each document.
    """

    def __init__(
        self,
        store: Callable[[], Store],
        model: LibraryModel,
        account: Account,
        on_progress: OnProgress = lambda account: None,
    ) -> None:
        self._store = store
        self._model = model
        self._account = account
        self._on_progress = on_progress
        self._writer: Writer | None = None
        self._waiting: list[_Waiting] = []
        self._held = ExitStack()
        self._committed = self._started = time.monotonic()

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()
        self._account.seconds = time.monotonic() - self._started

    @property
    def writer(self) -> Writer:
        """The right to write, taken when it is first needed."""
        if self._writer is None:
            self._writer = self._held.enter_context(self._store().writing())
        return self._writer

    def carry_out(self, plan: Plan, known: Container[str]) -> None:
        """Read what has changed, drop what is gone, and commit now and then.

        Args:
            plan: What to do.
            known: Paths that are in the index.
        """
        for file in plan.changed:
            before = self._account.bytes_done
            try:
                self._read(file)
            except Unreadable as error:
                self._account.skipped.append(Skipped(path=file.path, reason=error.reason))
                self._waiting = [each for each in self._waiting if each.path != file.path]
                if file.path in known:
                    self._drop(file.path)
                elif self._writer is not None:
                    self._writer.drop_file(file.path)  # the rows before one that broke while they were embedded
            else:
                self._account.files_read += 1
            self._account.bytes_done = before + file.size_bytes
            self._progress()
        self._put_waiting()
        # Last, because what moved is found by the name that it had.
        for path in plan.gone:
            self._drop(path)
        self.finish()

    def finish(self) -> None:
        """Commit what is left; write vectors anew if many are dead."""
        self._put_waiting()
        if self._writer is not None:
            self._writer.compact_if_due()

    def add(self, path: str, documents: Iterable[Document]) -> set[str]:
        """Put documents into the index, each by itself, except those that are in it as they are.

        Args:
            path: Of their file; empty for none.
            documents: With different ids.

        Returns:
            Their ids.

        Raises:
            DataError: Two documents have one id, or one is no Unicode text.
        """
        known: dict[str, tuple[str, str]] | None = None
        keys: set[str] = set()
        for document in documents:
            if known is None:
                _ = self.writer
                known = self._store().read(lambda snapshot: snapshot.documents(path))
            if document.id in keys:
                raise DataError(f"the id {document.id!r} occurs twice", hint="give every document an id of its own")
            _check(document)
            keys.add(document.id)
            digest = _document_digest(document)
            if known.get(document.id) == (digest, _storable(document.title)):
                self._account.reused += 1
                self._account.documents += 1
                self._progress()
            else:
                self._put(_Waiting(path=path, document=document, digest=digest))
        self._put_waiting()
        return keys

    def _read(self, file: Changed) -> None:
        path = Path(file.path)
        if is_rows(path):
            # Read twice: a broken line shall not show after hours of embedding what stands before it.
            count = sum(1 for _ in _rows(path))
            if not count:
                raise Unreadable("no row in it")
            self.writer.begin_file(file.path)
            keys = self.add(file.path, self._metered(_rows(path), file.size_bytes / count))
            self.writer.finish_file(file.path, file.digest, keys)
        else:
            data = read_bytes(path)
            document = read_document(path, data)
            digests = {"digest": _document_digest(document), "file_digest": hashlib.sha256(data).hexdigest()}
            self._put(_Waiting(path=file.path, document=document, **digests))

    def _metered(self, rows: Iterable[Document], row_bytes: float) -> Iterator[Document]:
        before = self._account.bytes_done
        for number, row in enumerate(rows, start=1):
            yield row
            self._account.bytes_done = before + int(number * row_bytes)

    def _put(self, one: "_Waiting") -> None:
        """Put a document into the index, soon: short ones go through the model together."""
        _ = self.writer  # there is something to write now, and somebody else who is writing is told of early
        self._waiting.append(one)
        characters = sum(len(each.document.text) for each in self._waiting)
        if len(self._waiting) >= TOGETHER or characters >= TOGETHER_CHARACTERS:
            self._put_waiting()

    def _put_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        found = [self.writer.twin(each.digest) for each in waiting]
        fresh = [each for each, twin in zip(waiting, found, strict=True) if twin is None and each.text.strip()]
        embedded = iter(self._embed(fresh))
        for each, twin in zip(waiting, found, strict=True):
            if twin is not None:
                self._account.reused += 1
                self._put_one(each, *twin)
            elif each.text.strip():
                self._put_one(each, *next(embedded))
            else:
                self._account.empty += 1
                self._put_one(each, [], np.empty((0, self._store().settings.dims), np.float32))

    def _put_one(self, one: "_Waiting", spans: list[Span], vectors: NDArray[np.float32]) -> None:
        key, title = one.document.id, _storable(one.document.title)
        self.writer.put(one.path, key, digest=one.digest, title=title, text=one.text, spans=spans, vectors=vectors)
        if one.file_digest is not None:
            self.writer.finish_file(one.path, one.file_digest, {key})
        self._account.documents += 1
        self._account.chunks += len(spans)
        self._progress()

    def _embed(self, documents: "Sequence[_Waiting]") -> Iterator[tuple[list[Span], NDArray[np.float32]]]:
        if not documents:
            return
        settings, embedder = self._store().settings, self._model.embedder
        started = time.monotonic()
        embedded = embedder.embed_documents(
            [(each.text, each.document.headings) for each in documents],
            settings.chunk_tokens,
            contextual=bool(settings.contextual),
        )
        self._account.model_seconds += time.monotonic() - started
        for each, chunks in zip(documents, embedded, strict=True):
            self._account.tokens += chunks.report.tokens
            self._account.windowed += chunks.report.windowed
            says_something = [bool(each.text[start:stop].strip()) for start, stop in chunks.spans]
            yield (
                [span for span, says in zip(chunks.spans, says_something, strict=True) if says],
                chunks.vectors[says_something],
            )

    def _drop(self, path: str) -> None:
        self._account.files_dropped += self.writer.drop_file(path)

    def _progress(self) -> None:
        now = time.monotonic()
        self._account.seconds = now - self._started
        is_late = now - self._committed > COMMIT_S
        if self._writer is not None and (is_late or self._writer.pending_rows >= COMMIT_ROWS):
            self._writer.commit()
            self._committed = now
        self._on_progress(self._account)


def _digest(path: Path) -> tuple[str, int]:
    if is_rows(path):
        try:
            return file_digest(path), path.stat().st_size
        except OSError as error:
            raise Unreadable(error.strerror or str(error)) from None
    data = read_bytes(path)
    return hashlib.sha256(data).hexdigest(), len(data)


def _rows(path: Path) -> Iterator[Document]:
    """The rows of a file; a broken one makes all of the file unreadable."""
    try:
        yield from read_rows(path)
    except Unreadable:
        raise
    except DataError as error:
        reason = error.message.removeprefix(f"{path} ")
        if reason.startswith(f"{path}:"):
            reason = "line " + reason.removeprefix(f"{path}:")
        raise Unreadable(reason, hint=error.hint) from None


def _check(document: Document) -> None:
    for name in ("id", "title", "text"):
        value = getattr(document, name)
        if not isinstance(value, str):
            raise DataError(
                f"the {name} of a document must be a string, got {type(value).__name__}", hint="make it one: str(...)"
            )
        if whole_characters(value) != value:
            raise DataError(
                f"the {name} of the document {document.id!r} holds half a surrogate pair, which is no Unicode text",
                hint="decode its source with errors='replace'",
            )


def _storable(text: str) -> str:
    return text.replace("\0", " ")  # at which SQLite would end the text


def _document_digest(document: Document) -> str:
    """Of all that makes a document's vectors."""
    headings = ",".join(map(str, document.headings))
    return hashlib.blake2b(f"{headings}\0{document.text}".encode(), digest_size=16).hexdigest()


def _is_there(path: str, left_out: set[str]) -> bool:
    """Whether there is such a file, and nothing on the way to it was left out (links to folders are)."""
    return os.path.isfile(path) and left_out.isdisjoint([path, *map(str, Path(path).parents)])


def is_below(path: str, root: str) -> bool:
    """Whether a path is a root, or in the folder that it is."""
    return path == root or path.startswith(root.rstrip("/") + "/")


def reasons(skipped: Sequence[Skipped], most: int = 3) -> str:
    """The first few skipped files in one line."""
    shown = [f"{each.path}: {each.reason}" for each in skipped[:most]]
    return "; ".join(shown) + (f"; and {len(skipped) - most} more" if len(skipped) > most else "")
