"""Texts -> what the backbone reads: chunks of texts, their windows with prompt and EOS, batches of a token budget."""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from diffembed.backbone.packed import split_by_tokens
from diffembed.errors import ConfigError, DataError
from diffembed.readout import SKIPPED
from diffembed.text.windows import cut_windows

Overflow = Literal["window", "truncate", "error"]
OVERFLOWS: tuple[Overflow, ...] = get_args(Overflow)

# Texts are tokenised and sorted by length a chunk at a time, so that memory does not grow with their number.
CHUNK_TEXTS = 4_096
CHUNK_CHARACTERS = 16_000_000

LIST_HINT = "pass a list of strings, [text] for one text"


@dataclass(frozen=True, slots=True)
class Piece:
    """One sequence for the backbone: prompt, a window of a text, suffix."""

    row: int
    """Number of its text within the chunk."""
    ids: list[int]
    runs: tuple[int, int, int]
    """Tokens that pooling skips, that it counts, that it skips again; the suffix is not among them."""
    suffix_tokens: int
    counts_suffix: bool


@dataclass(slots=True)
class Layout:
    """The pieces of a chunk, and what was done to its texts."""

    pieces: list[Piece] = field(default_factory=list)
    texts: int = 0
    tokens: int = 0
    truncated: int = 0
    windowed: int = 0
    windows: int = 0
    empty: int = 0


def read_chunks(texts: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    """Cut texts into chunks; each comes with the number of its first text.

    Raises:
        DataError: What was passed is no collection of texts, or a text is no Unicode string.
    """
    try:
        listed = None if isinstance(texts, str | bytes | Mapping | Set) else iter(texts)
    except TypeError:  # an array without a dimension has an __iter__, and no items
        listed = None
    if listed is None:
        raise DataError(f"texts must be a list of strings, got {type(texts).__name__}", hint=LIST_HINT)
    first, chunk, characters = 0, [], 0
    for number, text in enumerate(listed):
        _check_text(number, text)
        if chunk and (len(chunk) == CHUNK_TEXTS or characters + len(text) > CHUNK_CHARACTERS):
            yield first, chunk
            first, chunk, characters = number, [], 0
        chunk.append(text)
        characters += len(text)
    if chunk:
        yield first, chunk


def lay_out(
    encoded: Sequence[list[int]],
    *,
    first: int,
    prompt: list[int],
    suffix: list[int],
    stand_in: list[int],
    max_tokens: int,
    overflow: Overflow,
) -> Layout:
    """Put prompt and suffix around each text, and deal with those over the limit.

    Args:
        encoded: Token ids of the chunk's texts.
        first: Number of the first of them, for messages.
        prompt: Token ids that pooling skips.
        suffix: Ends every piece (our models' EOS); pooling counts it, once per text.
        stand_in: Read in place of a text without tokens.
        max_tokens: Limit of a piece, prompt and suffix included.
        overflow: What happens to a longer one.

    Raises:
        ConfigError: The prompt leaves no room for text.
        DataError: In mode `error`, a text is empty or too long.
    """
    room = max_tokens - len(prompt) - len(suffix)
    if room < 1:
        raise ConfigError(
            f"the prompt takes {len(prompt)} of {max_tokens} tokens and leaves no room for text",
            hint=f"shorten the instruction to at most {max_tokens - len(suffix) - 1} tokens",
        )
    layout = Layout()
    for row, ids in enumerate(encoded):
        if overflow == "error":
            _refuse(first + row, len(ids), room, max_tokens)
        if len(ids) > room and overflow == "truncate":
            ids = ids[:room]
            layout.truncated += 1
        is_empty = not ids
        ids = ids or stand_in
        windows = cut_windows(len(ids), room)
        for window in windows:
            own = window.own_stop - window.own_start
            before, after = window.own_start - window.start, window.stop - window.own_stop
            piece = [*prompt, *ids[window.start : window.stop], *suffix]
            runs = (len(prompt) + before, own, after)
            layout.pieces.append(Piece(row, piece, runs, len(suffix), window.is_last))
        layout.texts += 1
        layout.tokens += len(prompt) + len(ids) + len(suffix)
        layout.empty += is_empty
        if len(windows) > 1:
            layout.windowed += 1
            layout.windows += len(windows)
    return layout


def batches(pieces: Sequence[Piece], budget: int) -> Iterator[list[Piece]]:
    """Sort by length and cut into batches of at most `budget` tokens; a longer piece is a batch of its own."""
    by_length = sorted(pieces, key=lambda piece: len(piece.ids))
    for rows in split_by_tokens([len(piece.ids) for piece in by_length], budget):
        yield by_length[rows]


def token_rows(batch: Sequence[Piece]) -> NDArray[np.int64]:
    """For each token of a batch the text that counts it, or SKIPPED."""
    values = [
        v for piece in batch for v in (SKIPPED, piece.row, SKIPPED, piece.row if piece.counts_suffix else SKIPPED)
    ]
    lengths = [n for piece in batch for n in (*piece.runs, piece.suffix_tokens)]
    return np.repeat(np.array(values, dtype=np.int64), lengths)


def _check_text(number: int, text: str) -> None:
    if not isinstance(text, str):
        raise DataError(f"text {number} is {type(text).__name__}, not a string", hint=LIST_HINT)
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise DataError(
                f"text {number} holds half a surrogate pair, which is no Unicode text",
                hint="decode the source with errors='replace'",
            ) from None


def _refuse(number: int, num_tokens: int, room: int, max_tokens: int) -> None:
    if not num_tokens:
        raise DataError(f"text {number} is empty", hint="leave it out, or use overflow='window'")
    if num_tokens > room:
        raise DataError(
            f"text {number} has {num_tokens + max_tokens - room} tokens with prompt and EOS, the limit is {max_tokens}",
            hint="shorten it, or use overflow='window' (all of it counts) or 'truncate' (its beginning counts)",
        )
