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
from diffembed.embedder.report import Report
from diffembed.errors import DataError
from diffembed.readout import SKIPPED
from diffembed.text.chunking import check_chunk_tokens, cut_chunks
from diffembed.text.tokenizer import Tokenizer
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
    ids: list[int]
    chunks_T: NDArray[np.int64]
    """Number of each token's chunk."""
    prompt: list[int]
    suffix: list[int]
    windows: list[Window]

    def report(self, seconds: float) -> Report:
        """What reading the document in one go amounts to."""
        num_windows = len(self.windows)
        return Report(
            texts=1,
            tokens=len(self.prompt) + len(self.ids) + len(self.suffix) if self.spans else 0,
            truncated=0,
            windowed=int(num_windows > 1),
            windows=num_windows if num_windows > 1 else 0,
            empty=int(not self.ids),
            seconds=seconds,
        )

    def sequence(self, window: Window) -> list[int]:
        """A window with prompt and suffix."""
        return [*self.prompt, *self.ids[window.start : window.stop], *self.suffix]

    def rows(self, window: Window, first: int) -> NDArray[np.int64]:
        """For each token of a sequence the chunk that counts it, `first` being the number of the first; or SKIPPED."""
        rows = np.full(len(self.prompt) + window.stop - window.start + len(self.suffix), SKIPPED, np.int64)
        start = len(self.prompt) - window.start
        own = slice(window.own_start, window.own_stop)
        rows[start + window.own_start : start + window.own_stop] = first + self.chunks_T[own]
        if window.is_last:
            rows[len(rows) - len(self.suffix) :] = first + len(self.spans) - 1
        return rows


def batches(layouts: Sequence[ChunkLayout], budget: int) -> Iterator[tuple[list[list[int]], NDArray[np.int64]]]:
    """Sequences for the backbone, sorted by length, and the chunk of each of their tokens, counted over all documents.

    The windows of a document are of one length and keep their order, so its sums don't depend on the others.

    Args:
        layouts: Of documents.
        budget: Tokens of a batch; a longer sequence is a batch of its own.
    """
    firsts = np.cumsum([0, *(len(layout.spans) for layout in layouts)]).tolist()
    pieces = [
        (layout, window, first)
        for layout, first in zip(layouts, firsts[:-1], strict=True)
        for window in (layout.windows if layout.spans else [])
    ]
    pieces = [(layout.sequence(window), layout, window, first) for layout, window, first in pieces]
    pieces.sort(key=lambda piece: len(piece[0]))
    for part in split_by_tokens([len(sequence) for sequence, *_ in pieces], budget):
        rows = [layout.rows(window, first) for _, layout, window, first in pieces[part]]
        yield [sequence for sequence, *_ in pieces[part]], np.concatenate(rows)


def lay_out_chunks(
    document: str,
    tokenizer: Tokenizer,
    *,
    prompt: list[int],
    max_tokens: int,
    chunk_tokens: int,
    headings: Sequence[int],
) -> ChunkLayout:
    """Tokenise a document once, and cut it into chunks and windows.

    Args:
        document: Any text.
        tokenizer: Of the model.
        prompt: Token ids before each window, which pooling skips.
        max_tokens: Limit of a sequence, prompt and suffix included.
        chunk_tokens: Most tokens of a chunk.
        headings: Characters where a section begins, ascending.

    Raises:
        ConfigError: A chunk of this size does not fit into the model, or the headings are none of this document.
        DataError: The document is no Unicode string.
    """
    room = max_tokens - len(prompt) - len(tokenizer.suffix)
    check_chunk_tokens(chunk_tokens, room)
    if not isinstance(document, str):
        raise DataError(
            f"a document must be a string, got {type(document).__name__}", hint="call this once for each document"
        )
    ids, offsets = tokenizer.encode_with_offsets([document])[0]
    starts_T = np.fromiter((start for start, _ in offsets), np.int64, len(offsets))
    spans = cut_chunks(document, starts_T, chunk_tokens=chunk_tokens, headings=headings)
    starts_C = np.array([start for start, _ in spans], np.int64)
    chunks_T = np.maximum(starts_C.searchsorted(starts_T, "right") - 1, 0)
    return ChunkLayout(
        spans=spans,
        ids=ids,
        chunks_T=chunks_T,
        prompt=prompt,
        suffix=tokenizer.suffix,
        windows=cut_windows(len(ids), room),
    )
