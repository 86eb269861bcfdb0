"""Texts -> what the backbone reads: chunks of texts, their windows with prompt and EOS, batches of a token budget."""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from diffembed.embedder.report import Report
from diffembed.errors import ConfigError, DataError
from diffembed.readout.spec import SKIPPED, Readout
from diffembed.text.tokenizer import Framed
from diffembed.text.windows import Window, cut_windows

Overflow = Literal["window", "truncate", "error"]
OVERFLOWS: tuple[Overflow, ...] = get_args(Overflow)

# Texts are tokenised and sorted by length a chunk at a time, so that memory does not grow with their number.
CHUNK_TEXTS = 4_096
CHUNK_CHARACTERS = 16_000_000

LIST_HINT = "pass a list of strings, [text] for one text"


@dataclass(frozen=True, slots=True)
class Piece:
    """One sequence for the backbone: what stands before a text, a window of it, what stands behind."""

    row: int
    """Number of its text within the chunk."""
    ids: list[int]
    window: Window
    before: int
    """Tokens before the window."""
    after: int
    """Tokens behind it, of the template."""
    masks: int
    """Mask tokens behind those."""
    suffix: int
    """Tokens at the end, which the tokenizer puts behind every text."""

    @property
    def is_first(self) -> bool:
        return self.window.start == 0


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


def count(texts: Iterable[str]) -> int | None:
    """How many texts there are, if that can be known before they are read."""
    try:
        return len(texts)  # type: ignore[arg-type]
    except TypeError:
        return None


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """What a model puts around a text of some role, besides the strings that the tokenizer cuts with it."""

    prefix: list[int]
    """Token ids before all else."""
    masks: list[int]
    """Behind text and template."""
    suffix: list[int]
    """Ends every piece (our models' EOS); means count it, once per text."""
    stand_in: list[int]
    """Read in place of a text without tokens."""
    max_tokens: int
    """Limit of a piece, all of this included."""

    def room(self, text: Framed) -> int:
        """Tokens of a text that fit into a piece.

        Raises:
            ConfigError: There are none.
        """
        around = len(self.prefix) + len(text.before) + len(text.after) + len(self.masks) + len(self.suffix)
        if around >= self.max_tokens:
            raise ConfigError(
                f"the prompt takes {around - len(self.suffix)} of {self.max_tokens} tokens and leaves no room for text",
                hint=f"shorten the instruction to at most {self.max_tokens - len(self.suffix) - 1} tokens",
            )
        return self.max_tokens - around

    def piece(self, row: int, text: Framed, window: Window) -> Piece:
        """A window of a text with all that stands around it."""
        own = (text.ids or self.stand_in)[window.start : window.stop]
        return Piece(
            row,
            [*self.prefix, *text.before, *own, *text.after, *self.masks, *self.suffix],
            window,
            len(self.prefix) + len(text.before),
            len(text.after),
            len(self.masks),
            len(self.suffix),
        )


def lay_out(texts: Sequence[Framed], frame: Frame, *, first: int, overflow: Overflow) -> Layout:
    """Put its frame around each text, and deal with those over the limit.

    Args:
        texts: The chunk's texts.
        frame: What stands around each of them.
        first: Number of the first of them, for messages.
        overflow: What happens to a longer one.

    Raises:
        ConfigError: The prompt leaves no room for text.
        DataError: In mode `error`, a text is empty or too long.
    """
    layout = Layout()
    for row, text in enumerate(texts):
        room, num_tokens = frame.room(text), len(text.ids)
        if overflow == "error":
            _refuse(first + row, num_tokens, room, frame.max_tokens)
        if num_tokens > room and overflow == "truncate":
            text = text._replace(ids=text.ids[:room])
            layout.truncated += 1
        windows = cut_windows(len(text.ids or frame.stand_in), room)
        layout.pieces += [frame.piece(row, text, window) for window in windows]
        layout.texts += 1
        layout.tokens += frame.max_tokens - room + len(text.ids or frame.stand_in)
        layout.empty += not text.ids
        if len(windows) > 1:
            layout.windowed += 1
            layout.windows += len(windows)
    return layout


def sum_up(layouts: Sequence[Layout], seconds: float) -> Report:
    """What was done to the texts of all chunks."""
    names = ("texts", "tokens", "truncated", "windowed", "windows", "empty")
    return Report(**{name: sum(getattr(layout, name) for layout in layouts) for name in names}, seconds=seconds)


class Counted(NamedTuple):
    """Which vector each token of a batch counts for."""

    rows_T: NDArray[np.int64]
    """Number of the vector, or SKIPPED."""
    weights_T: NDArray[np.float32] | None
    """How much it counts; None where all count the same."""


def count_tokens(batch: Sequence[Piece], readout: Readout, *, looks_before: bool) -> Counted:
    """The tokens whose states make the vectors of a batch.

    Args:
        batch: Pieces in the order in which they are packed.
        readout: What is counted.
        looks_before: Whether a mask is predicted by the state before it (`logit_shift`).
    """
    runs = [run for piece in batch for run in _runs(piece, readout, int(looks_before))]
    rows_T = np.repeat(np.array([row for row, _ in runs], np.int64), [length for _, length in runs])
    if readout.pooling != "weighted_mean":
        return Counted(rows_T, None)
    return Counted(rows_T, np.concatenate([_positions(piece) for piece in batch]))


def _runs(piece: Piece, readout: Readout, shift: int) -> list[tuple[int, int]]:
    """Rows of neighbouring tokens, and how many these are."""
    row, window, total = piece.row, piece.window, len(piece.ids)
    if readout.pooling == "last":
        return [(SKIPPED, total - 1), (row, 1)]
    if readout.pooling == "masks":
        start = total - piece.suffix - piece.masks - shift
        own = [(row * piece.masks + mask, 1) for mask in range(piece.masks)] if readout.multi else [(row, piece.masks)]
        return [(SKIPPED, start), *own, (SKIPPED, total - start - piece.masks)]
    return [
        (row if readout.counts_prompt and piece.is_first else SKIPPED, piece.before),
        (SKIPPED, window.own_start - window.start),
        (row, window.own_stop - window.own_start),
        (SKIPPED, window.stop - window.own_stop),
        (row if readout.counts_prompt and window.is_last else SKIPPED, piece.after),
        (row if window.is_last else SKIPPED, piece.suffix),
    ]


def _positions(piece: Piece) -> NDArray[np.float32]:
    """Places of a piece's tokens, counted from 1, in the sequence that its text would be without windows."""
    return np.arange(1, len(piece.ids) + 1, dtype=np.float32) + np.where(
        np.arange(len(piece.ids)) < piece.before, 0, piece.window.start
    ).astype(np.float32)


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
