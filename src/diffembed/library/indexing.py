"""One indexing run: a plan -> documents -> chunks -> vectors -> commits.

A file is in the index as it was or as it is: its documents are replaced inside one transaction. Files that hold rows
are committed row by row, so that a long one goes on where it was stopped.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffembed.errors import DataError
from diffembed.index.store import Store
from diffembed.index.writer import Writer
from diffembed.library.account import Account, OnProgress
from diffembed.library.model import LibraryModel
from diffembed.library.pieces import Span, embed
from diffembed.library.plan import KEPT, NOTHING, Changed, Known, Plan
from diffembed.library.reading.document import Document, Unreadable, check_length, surviving, whole_characters
from diffembed.library.reading.read import is_rows, read_bytes, read_document
from diffembed.library.reading.rows import Rows
from diffembed.library.reading.walk import Skipped

COMMIT_S = 10.0
"""At most about so much work is lost when a run is killed."""
COMMIT_ROWS = 8_192
"""Vectors that wait for a commit, at most about so many."""

TOGETHER, TOGETHER_CHARACTERS = 64, 32_768
"""Documents, or characters of them, that go through the model together: a few batches."""


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


class IndexingRun:
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
        self._unreadable: list[tuple[str, str, str]] = []
        """Path, digest and reason of files that are to be noted when there is an index."""
        self._held = ExitStack()
        self._committed_s = account.tick()

    def __enter__(self) -> "IndexingRun":
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()
        self._account.tick()

    def carry_out(self, plan: Plan, known: Known | None) -> None:
        """Read what has changed, drop what is gone, and commit now and then.

        Args:
            plan: What to do.
            known: What the index had when the plan was made; None where there was no index.
        """
        if known is None:
            known = NOTHING
        elif plan.changed or plan.gone:
            self._claim()  # somebody else who is writing is told of before any work is done
            now = Known.of(self._store())
            plan, known = plan.still_due(known, now, self._account), now
        for file in plan.changed:
            before = self._account.bytes_done
            try:
                self._read(file)
            except Unreadable as error:
                self._give_up(file, error, known)
            else:
                self._account.files_read += 1
            self._account.bytes_done = before + file.size_bytes
            self._progress()
        self._flush()
        # Last, because what moved is found by the name that it had.
        for path in plan.gone:
            self._account.files_dropped += self._claim().drop_file(path)
        self.finish()

    def finish(self) -> None:
        """Commit what is left; write vectors anew if many are dead."""
        self._flush()
        if self._writer is not None:
            self._account.lacked_room = not self._writer.compact_if_due()

    def add(self, path: str, documents: Iterable[Document]) -> set[str]:
        """Put documents into the index, each by itself, except those that are in it as they are.

        Args:
            path: Of their file; empty for none.
            documents: With different ids.

        Returns:
            Their ids.

        Raises:
            DataError: Two documents have one id, or one is no Unicode text or too long.
        """
        known: dict[str, tuple[str, str]] | None = None
        keys: set[str] = set()
        for document in documents:
            if known is None:
                self._claim()
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
                self._queue(_Waiting(path=path, document=document, digest=digest))
        self._flush()
        return keys

    def _claim(self) -> Writer:
        """Take the right to write, unless it was taken already."""
        if self._writer is None:
            self._writer = self._held.enter_context(self._store().writing())
            for each in self._unreadable:
                self._writer.note_unreadable(*each)
        return self._writer

    def _read(self, file: Changed) -> None:
        # The file may change at any time: what is noted is the digest of what was read, not of what the plan has seen.
        path = Path(file.path)
        if is_rows(path):
            rows = Rows(path)
            # Read twice: a broken line shall not show after hours of embedding what stands before it.
            count = sum(1 for _ in _surviving(rows))
            self._claim().begin_file(file.path)
            keys = self.add(file.path, self._metered(_surviving(rows), file.size_bytes / count))
            assert rows.digest is not None
            self._claim().finish_file(file.path, rows.digest, keys)
        else:
            with surviving():
                data = read_bytes(path)
                document = read_document(path, data)
            digests = {"digest": _document_digest(document), "file_digest": hashlib.sha256(data).hexdigest()}
            self._queue(_Waiting(path=file.path, document=document, **digests))

    def _give_up(self, file: Changed, error: Unreadable, known: Known) -> None:
        """Leave a file out of the index, or as it was where it may be read again later."""
        self._waiting = [each for each in self._waiting if each.path != file.path]
        digest = None if error.is_for_now else error.digest
        is_kept = digest is None and file.path in known.files
        self._account.files_kept += is_kept
        self._account.skipped.append(Skipped(file.path, error.reason + (KEPT if is_kept else ""), digest is None))
        if digest is None:
            return
        note = file.path, digest, error.reason
        if self._writer is None:
            self._unreadable.append(note)
        else:
            self._writer.note_unreadable(*note)
        self._account.files_dropped += file.path in known.files

    def _metered(self, rows: Iterable[Document], row_bytes: float) -> Iterator[Document]:
        before = self._account.bytes_done
        for number, row in enumerate(rows, start=1):
            yield row
            self._account.bytes_done = before + int(number * row_bytes)

    def _queue(self, one: _Waiting) -> None:
        """Put a document into the index, soon: short ones go through the model together."""
        self._claim()  # there is something to write now, and somebody else who is writing is told of early
        self._waiting.append(one)
        characters = sum(len(each.document.text) for each in self._waiting)
        if len(self._waiting) >= TOGETHER or characters >= TOGETHER_CHARACTERS:
            self._flush()

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        found = [self._claim().twin(each.digest) for each in waiting]
        fresh = [each for each, twin in zip(waiting, found, strict=True) if twin is None and each.text.strip()]
        settings = self._store().settings
        embedded = embed(
            ((each.text, each.document.headings) for each in fresh),
            self._model,
            self._account,
            chunk_tokens=settings.chunk_tokens,
            contextual=settings.contextual,
            on_piece=self._tell,
        )
        for each, twin in zip(waiting, found, strict=True):
            if twin is not None:
                self._account.reused += 1
                self._store_one(each, *twin)
            elif each.text.strip():
                self._store_one(each, *next(embedded))
            else:
                self._account.empty += 1
                self._store_one(each, [], np.empty((0, settings.dims), np.float32))

    def _store_one(self, one: _Waiting, spans: list[Span], vectors: NDArray[np.float32]) -> None:
        key, title = one.document.id, _storable(one.document.title)
        writer = self._claim()
        writer.put(one.path, key, digest=one.digest, title=title, text=one.text, spans=spans, vectors=vectors)
        if one.file_digest is not None:
            writer.finish_file(one.path, one.file_digest, {key})
        self._account.documents += 1
        self._account.chunks += len(spans)
        self._progress()

    def _progress(self) -> None:
        now = self._account.tick()
        is_late = now - self._committed_s > COMMIT_S
        if self._writer is not None and (is_late or self._writer.pending_rows >= COMMIT_ROWS):
            self._writer.commit()
            self._committed_s = now
        self._on_progress(self._account)

    def _tell(self) -> None:
        self._account.tick()
        self._on_progress(self._account)


def _surviving(rows: Rows) -> Iterator[Document]:
    with surviving():
        yield from rows


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
        try:
            check_length(len(value))
        except Unreadable as error:
            raise DataError(
                f"the {name} of the document {document.id[:40]!r} is {error.reason}", hint=error.hint
            ) from None


def _storable(text: str) -> str:
    return text.replace("\0", " ")  # at which SQLite would end the text


def _document_digest(document: Document) -> str:
    """Of all that makes a document's vectors."""
    headings = ",".join(map(str, document.headings))
    return hashlib.blake2b(f"{headings}\0{document.text}".encode(), digest_size=16).hexdigest()
