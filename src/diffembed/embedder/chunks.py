"""A document as chunks: what the backbone reads of it, and which token counts for which chunk.

Contextual chunks: the whole document goes through the model, and each chunk is the mean of its own tokens' states, so
that what is said elsewhere in the document reaches it ("late chunking", Günther and others 2024, arXiv:2409.04701).

Shape letters: T tokens of the document, C chunks.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffembed.backbone.packed import split_by_tokens
from diffembed.embedder.budget import Budget
from diffembed.embedder.layout import Counted, Frame, Piece, count_tokens
from diffembed.embedder.report import Report
from diffembed.errors import DataError
from diffembed.readout.spec import SKIPPED, Readout
from diffembed.text.chunking import check_chunk_tokens, cut_chunks
from diffembed.text.tokenizer import Framed, Tokenizer
from diffembed.text.windows import Window, cut_windows


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a document."""

    vector: NDArray[np.float32]
    """(dims,), of unit length."""
    start: int
    """First character of the piece in the document."""
    end: int
    """The character after its last."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunks:
    """The chunks of a document, and how they came about."""

    spans: list[tuple[int, int]]
    """Characters [start, end) of each chunk. They follow each other from 0 to the end of the document."""
    vectors: NDArray[np.float32]
    """(chunks, dims), rows of unit length."""
    report: Report
    """Contextual: of the document as one text. Otherwise: of the chunks as texts. An empty document is one empty text
    without tokens."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ChunkLayout:
    """A document as token ids, and to which chunk each token belongs."""

    spans: list[tuple[int, int]]
    text: Framed
    frame: Frame
    chunks_T: NDArray[np.int64]
    """Number of each token's chunk."""
    windows: list[Window]

    def report(self, seconds: float) -> Report:
        """What reading the document in one go amounts to."""
        num_windows, num_tokens = len(self.windows), len(self.text.ids)
        return Report(
            texts=1,
            tokens=self.frame.max_tokens - self.frame.room(self.text) + num_tokens if self.spans else 0,
            truncated=0,
            windowed=int(num_windows > 1),
            windows=num_windows if num_windows > 1 else 0,
            empty=int(not num_tokens),
            seconds=seconds,
        )

    def piece(self, window: Window) -> Piece:
        """A window with what stands around it, as if the document were one text."""
        return self.frame.piece(0, self.text, window)

    def rows(self, piece: Piece, counted: Counted, first: int) -> NDArray[np.int64]:
        """The chunk of each counted token of a piece, `first` being the number of the first chunk; or SKIPPED.

        What stands before the document counts for its first chunk, if at all, and what stands behind for its last.
        """
        chunks = np.full(len(piece.ids), len(self.spans) - 1, np.int64)
        chunks[: piece.before] = 0
        window, start = piece.window, piece.before - piece.window.start
        own = self.chunks_T[window.start : window.stop]
        chunks[start + window.start : start + window.start + len(own)] = own
        return np.where(counted.rows_T == SKIPPED, SKIPPED, first + chunks)


def batches(
    layouts: Sequence[ChunkLayout], readout: Readout, budget: Budget
) -> Iterator[tuple[list[list[int]], Counted]]:
    """Sequences for the backbone, sorted by length, and the chunk of each of their tokens, counted over all documents.

    The windows of a document are of one length and keep their order, so its sums don't depend on the others.

    Args:
        layouts: Of documents.
        readout: One that is a mean.
        budget: Of the batches; a longer sequence is one of its own.
    """
    firsts = np.cumsum([0, *(len(layout.spans) for layout in layouts)]).tolist()
    pieces = [
        (layout.piece(window), layout, first)
        for layout, first in zip(layouts, firsts[:-1], strict=True)
        for window in (layout.windows if layout.spans else [])
    ]
    pieces.sort(key=lambda each: len(each[0].ids))
    lengths = [len(piece.ids) for piece, *_ in pieces]
    for part in split_by_tokens(lengths, budget.tokens_for(lengths)):
        counted = [count_tokens([piece], readout, looks_before=False) for piece, *_ in pieces[part]]
        rows = [
            layout.rows(piece, own, first) for (piece, layout, first), own in zip(pieces[part], counted, strict=True)
        ]
        weights = [own.weights_T for own in counted if own.weights_T is not None]
        yield (
            [piece.ids for piece, *_ in pieces[part]],
            Counted(np.concatenate(rows), np.concatenate(weights) if weights else None),
        )


def lay_out_chunks(
    document: str,
    tokenizer: Tokenizer,
    *,
    around: tuple[str, str],
    frame: Frame,
    chunk_tokens: int,
    headings: Sequence[int],
) -> ChunkLayout:
    """Tokenise a document once, and cut it into chunks and windows.

    Args:
        document: Any text.
        tokenizer: Of the model.
        around: What stands before and behind each window.
        frame: What else does.
        chunk_tokens: Most tokens of a chunk.
        headings: Characters where a section begins, ascending.

    Raises:
        ConfigError: A chunk of this size does not fit into the model, or the headings are none of this document.
        DataError: The document is no Unicode string.
    """
    check_chunk_tokens(chunk_tokens, frame.room(tokenizer.frame([""], *around)[0]))
    if not isinstance(document, str):
        raise DataError(
            f"a document must be a string, got {type(document).__name__}", hint="call this once for each document"
        )
    [text] = tokenizer.frame([document], *around, spans=True)
    starts_T = np.fromiter((start for start, _ in text.spans), np.int64, len(text.spans))
    spans = cut_chunks(document, starts_T, chunk_tokens=chunk_tokens, headings=headings)
    starts_C = np.array([start for start, _ in spans], np.int64)
    chunks_T = np.maximum(starts_C.searchsorted(starts_T, "right") - 1, 0)
    windows = cut_windows(len(text.ids or frame.stand_in), frame.room(text))
    return ChunkLayout(spans=spans, text=text, frame=frame, chunks_T=chunks_T, windows=windows)
