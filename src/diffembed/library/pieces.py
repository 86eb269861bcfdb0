"""Documents -> chunks and vectors; a very long one in pieces, so that no document needs memory without end."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from diffembed.library.account import Account
from diffembed.library.model import LibraryModel

if TYPE_CHECKING:
    from diffembed.embedder.chunks import Chunks

PIECE_CHARACTERS = 1_000_000
"""Embedded at a time, at most: tokens with their places take some hundred bytes each."""
BREAKS = ("\n\n", "\n", " ")
"""Where a piece may end, the best first."""

Span = tuple[int, int]
Text = tuple[str, Sequence[int]]
"""A document's text, and the characters where its sections begin."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a text."""

    start: int
    """In the text, in characters."""
    text: str
    headings: list[int]
    """In the piece."""


def cut_pieces(text: str, headings: Sequence[int]) -> Iterator[Piece]:
    """Cut a text into pieces of at most `PIECE_CHARACTERS`, at the end of a paragraph where one is near.

    Args:
        text: Any.
        headings: Characters where a section begins, ascending; what is none stays one, for the embedder to refuse.
    """
    start = 0
    while start < len(text) or not text:
        stop = _piece_end(text, start)
        is_last = stop == len(text)
        here = [each - start for each in headings if (each >= start or not start) and (each < stop or is_last)]
        yield Piece(start, text[start:stop], here)
        if is_last:
            return
        start = stop


def embed(
    documents: Iterable[Text],
    model: LibraryModel,
    account: Account,
    *,
    chunk_tokens: int,
    contextual: bool,
    on_piece: Callable[[], object] = lambda: None,
) -> Iterator[tuple[list[Span], NDArray[np.float32]]]:
    """Cut documents into chunks and turn these into vectors.

    Args:
        documents: Texts that aren't empty, with their headings.
        model: Embeds.
        account: Counts tokens, windows and time.
        chunk_tokens: Of the largest chunk.
        contextual: Whether the chunks of a document, or of a piece of it, see all of it.
        on_piece: Called between two pieces of what takes long.

    Yields:
        Of each document the spans of its chunks, except those of white space alone, and their vectors.
    """
    pieces = ((number, piece) for number, text in enumerate(documents) for piece in cut_pieces(*text))
    embedded = _embed_pieces(pieces, model, account, chunk_tokens, contextual, on_piece)
    for _, parts in groupby(embedded, key=lambda part: part[0]):
        spans: list[Span] = []
        vectors, is_windowed = [], False
        for _, piece, chunks in parts:
            says_something = [bool(piece.text[start:stop].strip()) for start, stop in chunks.spans]
            shifted = ((piece.start + start, piece.start + stop) for start, stop in chunks.spans)
            spans += [span for span, says in zip(shifted, says_something, strict=True) if says]
            vectors.append(chunks.vectors[says_something])
            account.tokens += chunks.report.tokens
            is_windowed |= chunks.report.windowed > 0
        account.windowed += is_windowed
        yield spans, np.concatenate(vectors)


def _embed_pieces(
    pieces: Iterable[tuple[int, Piece]],
    model: LibraryModel,
    account: Account,
    chunk_tokens: int,
    contextual: bool,
    on_piece: Callable[[], object],
) -> "Iterator[tuple[int, Piece, Chunks]]":
    for number_of_batch, batch in enumerate(_batches(pieces)):
        if number_of_batch:
            on_piece()
        embedder = model.embedder
        started = time.monotonic()
        embedded = embedder.embed_documents(
            [(piece.text, piece.headings) for _, piece in batch], chunk_tokens, contextual=contextual
        )
        account.model_seconds += time.monotonic() - started
        for (number, piece), chunks in zip(batch, embedded, strict=True):
            yield number, piece, chunks


def _batches(pieces: Iterable[tuple[int, Piece]]) -> Iterator[list[tuple[int, Piece]]]:
    """Short ones go through the model together."""
    batch, length = list[tuple[int, Piece]](), 0
    for number, piece in pieces:
        if batch and length + len(piece.text) > PIECE_CHARACTERS:
            yield batch
            batch, length = [], 0
        batch.append((number, piece))
        length += len(piece.text)
    if batch:
        yield batch


def _piece_end(text: str, start: int) -> int:
    limit = start + PIECE_CHARACTERS
    if limit >= len(text):
        return len(text)
    for mark in BREAKS:
        place = text.rfind(mark, start + PIECE_CHARACTERS // 2, limit)
        if place >= 0:
            return place + len(mark)
    return limit
