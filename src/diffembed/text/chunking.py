"""Where a text is cut into chunks of a number of tokens. All offsets count characters.

Shape letters: T tokens of the text, P places where a chunk could begin or end, N characters without the white space,
L line ends.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffembed.errors import ConfigError
from diffembed.text.sentences import sentence_ends

Span = tuple[int, int]
Array = NDArray[np.int64]

LEAST_CHUNK_TOKENS = 8
# Less than this share of a chunk before a heading, or left over at the end of a section, is tiny.
TINY_SHARE = 4
# A chunk of a longer section fills at least this share, so that the strongest break in reach can be taken.
FILLED_SHARE = 2

# How good a place is to cut. Among equals the later wins, so a place that leaves line ends to the next chunk gets one
# less than the place behind them.
_TOKEN, _WORD, _SENTENCE, _LINE, _PARAGRAPH = 0, 1, 2, 4, 6
_STRONGEST_FIRST = range(_PARAGRAPH, _TOKEN - 1, -1)

_LINE_ENDS = "\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"
_SPACES = "".join(chr(code) for code in range(0x3001) if chr(code).isspace())
# A line that underlines a heading. Bounded, so that a mile of dashes is not read once for each heading in it.
_RULE = re.compile(r"([^\w\s])\1{2,200}[ \t]{0,8}(?:[\r\n]|\Z)")


def cut_chunks(
    text: str, token_starts: Sequence[int] | Array, *, chunk_tokens: int, headings: Sequence[int] = ()
) -> list[Span]:
    """Cut a text into chunks that end where the text does: before a heading, after a paragraph, a line, a sentence.

    A heading begins a new chunk, unless what is before it is tiny (under a quarter of the size): small sections share
    a chunk, and their headings stay with what follows. A section over the size is cut at the strongest break that lies
    between a half and the whole of it; the latest of several. The rest is divided evenly before a tiny piece is left.

    Args:
        text: What is cut.
        token_starts: Character where each token of the text begins, ascending; a character may have several tokens.
        chunk_tokens: Most tokens of a chunk, at least 8. A single character with more is a chunk of its own.
        headings: Characters where a section begins, ascending.

    Returns:
        Spans [start, end) that follow each other from 0 to the end of the text. All but the first start with a token.

    Raises:
        ConfigError: `chunk_tokens` is no whole number or too small, or the headings are no offsets of this text.
    """
    check_chunk_tokens(chunk_tokens)
    starts_T = np.asarray(token_starts, np.int64)
    if not _ascend(starts_T, len(text)) or (text and starts_T.size and starts_T[-1] == len(text)):
        raise ValueError("token starts must be ascending offsets of characters of the text")
    headings_H = np.asarray(headings, np.int64)
    if not _ascend(headings_H, len(text)):
        raise ConfigError(
            f"the headings are no ascending offsets in a text of {len(text)} characters",
            hint="pass the character where each section begins, in order",
        )
    if not text:
        return []
    places = _find_places(text, starts_T)
    sections = _find_sections(text, places, headings_H, chunk_tokens)
    cuts = [0]
    while cuts[-1] < places.last:
        cuts.append(_next_cut(places, sections, cuts[-1], chunk_tokens))
    offsets = places.offsets_P[cuts].tolist()
    return list(zip(offsets, offsets[1:], strict=False))


def check_chunk_tokens(chunk_tokens: int, most: int | None = None) -> None:
    """Refuse sizes of chunks that there are none of.

    Args:
        chunk_tokens: Tokens of a chunk.
        most: What a model can read at a time.

    Raises:
        ConfigError: It is no whole number, or out of range.
    """
    is_whole = isinstance(chunk_tokens, int) and not isinstance(chunk_tokens, bool)
    if is_whole and chunk_tokens >= LEAST_CHUNK_TOKENS and (most is None or chunk_tokens <= most):
        return
    allowed = f"whole numbers from {LEAST_CHUNK_TOKENS}"
    if most is not None:
        allowed += f" to {most}, which is what the model reads at a time besides prompt and EOS"
    raise ConfigError(f"chunk_tokens is {chunk_tokens!r}", hint=f"allowed: {allowed}")


@dataclass(frozen=True, slots=True)
class _Characters:
    """Where the text isn't white space, and where its lines end."""

    solid_N: Array
    line_ends_L: Array
    length: int

    def next_solid(self, offset: int) -> int:
        """The first character from `offset` on that is no white space; the end of the text when there is none."""
        index = int(self.solid_N.searchsorted(offset))
        return int(self.solid_N[index]) if index < len(self.solid_N) else self.length

    def next_line(self, offset: int) -> int:
        """The first character that is no white space, on the lines after that of `offset`."""
        index = int(self.line_ends_L.searchsorted(offset))
        return self.next_solid(int(self.line_ends_L[index])) if index < len(self.line_ends_L) else self.length


@dataclass(frozen=True, slots=True)
class _Places:
    """Where a chunk could begin or end: the start of the text, each character with a token, the end of the text."""

    offsets_P: Array
    tokens_P: Array
    """Tokens before the place."""
    strengths: bytes
    """How good a place is to cut; of the first and last it means nothing."""
    characters: _Characters

    @property
    def last(self) -> int:
        return len(self.offsets_P) - 1


@dataclass(frozen=True, slots=True)
class _Sections:
    """Headings as indices of places; headings with nothing between them are one."""

    tokens: Array
    """Tokens before each."""
    starts: list[int]
    bodies: list[int]
    """The last place where the chunk before would end in nothing but headings."""


def _ascend(offsets: Array, length: int) -> bool:
    if not offsets.size:
        return True
    return offsets.ndim == 1 and offsets[0] >= 0 and offsets[-1] <= length and bool((offsets[1:] >= offsets[:-1]).all())


def _find_places(text: str, starts_T: Array) -> _Places:
    is_first_T = np.ones(len(starts_T), bool)
    is_first_T[1:] = starts_T[1:] > starts_T[:-1]
    offsets_P = np.append(starts_T[is_first_T], len(text))
    tokens_P = np.append(np.flatnonzero(is_first_T), len(starts_T))
    if len(offsets_P) == 1:  # no token at all
        offsets_P, tokens_P = np.array([0, len(text)]), np.array([0, 0])
    offsets_P[0] = 0
    characters = _read_characters(text)
    strengths = _strengths(text, offsets_P, characters)
    return _Places(offsets_P, tokens_P, strengths, characters)


def _read_characters(text: str) -> _Characters:
    kinds = np.zeros(0x3002, np.uint8)  # no white space lies beyond
    kinds[[ord(space) for space in _SPACES]] = 1
    kinds[[ord(end) for end in _LINE_ENDS]] = 2
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
    found = kinds[np.minimum(codes, len(kinds) - 1)]
    is_end = found == 2
    is_end[:-1] &= ~((codes[:-1] == ord("\r")) & (codes[1:] == ord("\n")))  # \r\n is one line end
    return _Characters(np.flatnonzero(found == 0), np.flatnonzero(is_end), len(text))


def _strengths(text: str, offsets_P: Array, characters: _Characters) -> bytes:
    solid_N, line_ends_L = characters.solid_N, characters.line_ends_L
    # The white space around each place is [left, right); a place between two solid characters has none.
    number_P = solid_N.searchsorted(offsets_P)
    left_P = np.concatenate([[0], solid_N + 1])[number_P]
    right_P = np.append(solid_N, len(text))[number_P]
    lines_P = line_ends_L.searchsorted(offsets_P)
    before_P = lines_P - line_ends_L.searchsorted(left_P)
    after_P = line_ends_L.searchsorted(right_P) - lines_P
    line_starts_P = np.concatenate([[0], line_ends_L + 1])[lines_P]
    stops = np.fromiter(sentence_ends(text), np.int64)

    strengths_P = np.where(left_P < right_P, _WORD, _TOKEN)
    strengths_P[np.isin(left_P, stops)] = _SENTENCE
    num_lines_P = before_P + after_P
    is_indentation_P = (before_P > 0) & (offsets_P > line_starts_P)
    is_line_P = (num_lines_P > 0) & ~is_indentation_P
    kinds_P = np.where(num_lines_P > 1, _PARAGRAPH, _LINE) - (after_P > 0)
    strengths_P[is_line_P] = kinds_P[is_line_P]
    strengths_P[is_indentation_P] = _WORD
    return strengths_P.astype(np.uint8).tobytes()


def _find_sections(text: str, places: _Places, headings_H: Array, chunk_tokens: int) -> _Sections:
    tokens_P = places.tokens_P
    # A longer block of headings is text like other text: it has to be cut somewhere.
    longest = chunk_tokens // FILLED_SHARE
    starts, bodies = [], []
    block_end = -1  # where the text under the latest heading begins
    for heading in np.unique(headings_H).tolist():
        start = _heading_place(places, heading)
        body_offset = _body_offset(text, places.characters, heading)
        body = int(places.offsets_P.searchsorted(body_offset, "right")) - 1
        is_same = bool(starts) and (heading <= block_end or start == starts[-1])
        if is_same and tokens_P[body] - tokens_P[starts[-1]] <= longest:
            bodies[-1] = body
            block_end = body_offset
        elif not is_same or start > starts[-1]:
            is_short = tokens_P[body] - tokens_P[start] <= longest
            starts.append(start)
            bodies.append(body if is_short else start)
            block_end = body_offset if is_short else -1
    return _Sections(tokens_P[starts], starts, bodies)


def _heading_place(places: _Places, heading: int) -> int:
    """The place before a heading, its indentation included."""
    solid_N, line_ends_L = places.characters.solid_N, places.characters.line_ends_L
    line = int(line_ends_L.searchsorted(heading))
    line_start = int(line_ends_L[line - 1]) + 1 if line else 0
    if solid_N.searchsorted(line_start) == solid_N.searchsorted(heading):
        heading = line_start
    place = int(places.offsets_P.searchsorted(heading))
    if place and places.offsets_P[place] > heading:  # it begins inside a token, perhaps behind its leading space
        token_start = places.offsets_P[place - 1]
        place -= int(solid_N.searchsorted(token_start) == solid_N.searchsorted(heading))
    return place


def _body_offset(text: str, characters: _Characters, heading: int) -> int:
    """Where the text under a heading begins: behind its line, and behind rules above and below it."""
    title = characters.next_solid(heading)
    if _RULE.match(text, title):
        title = characters.next_line(title)
    body = characters.next_line(title)
    return characters.next_line(body) if _RULE.match(text, body) else body


def _next_cut(places: _Places, sections: _Sections, begin: int, chunk_tokens: int) -> int:
    """Where the chunk that begins at a place ends."""
    tokens_P, done = places.tokens_P, int(places.tokens_P[begin])
    tiny, filled = -(-chunk_tokens // TINY_SHARE), chunk_tokens // FILLED_SHARE
    following = int(sections.tokens.searchsorted(done + tiny))
    end = sections.starts[following] if following < len(sections.starts) else places.last
    left = int(tokens_P[end]) - done
    if left <= chunk_tokens:
        return end
    fewest, most, wanted = filled, chunk_tokens, chunk_tokens
    if left <= chunk_tokens + filled:  # two chunks are enough: neither shall be tiny
        fewest, most, wanted = max(tiny, left - chunk_tokens), min(chunk_tokens, left - tiny), left // 2
    low = int(tokens_P.searchsorted(done + fewest))
    high = int(tokens_P.searchsorted(done + most, "right"))
    if following and sections.starts[following - 1] >= begin:
        low = max(low, sections.bodies[following - 1] + 1)
    if low < high:
        return _strongest(places, low, high, done + wanted)
    # A character with very many tokens is in the way.
    return max(begin + 1, int(tokens_P.searchsorted(done + chunk_tokens, "right")) - 1)


def _strongest(places: _Places, low: int, high: int, wanted: int) -> int:
    """Of the places [low, high) the one with the strongest break; of several the one nearest to `wanted` tokens."""
    middle = min(max(int(places.tokens_P.searchsorted(wanted, "right")), low), high)
    for strength in _STRONGEST_FIRST:
        before = places.strengths.rfind(strength, low, middle)
        after = places.strengths.find(strength, middle, high)
        if before >= 0 and after >= 0:
            is_nearer = wanted - places.tokens_P[before] <= places.tokens_P[after] - wanted
            return before if is_nearer else after
        if before >= 0 or after >= 0:
            return max(before, after)
    raise AssertionError("every place has a strength")
