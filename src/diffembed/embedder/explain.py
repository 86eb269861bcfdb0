"""A score as a sum over tokens: how much of the cosine is carried at each of them.

A text's vector is a weighted mean of token states scaled to unit length, so its product with any other vector is the
sum of the products of its tokens: arithmetic, without a model of the model.

Shape letters: D width.
"""

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from diffembed.embedder.layout import Frame, Piece, lay_out
from diffembed.embedder.reading import Reader
from diffembed.errors import DataError
from diffembed.index.words import UNSPACED
from diffembed.text.tokenizer import Framed

# As the index sees words, but for the other visible characters, each of which is one here: they have shares too.
_UNSPACED = UNSPACED.pattern
WORD = re.compile(rf"{_UNSPACED}|(?:(?!{_UNSPACED})\w)(?:(?!{_UNSPACED})[\w\u0300-\u036f])*|[^\w\s]")
BLANK, END = "(white space)", "(end of text)"


@dataclass(frozen=True, slots=True)
class TokenShare:
    """A token, and how much of the score is carried at its position."""

    text: str
    """The characters [start, end) of the text. A byte-level tokenizer may cut a character into several tokens, whose
    spans then overlap."""
    start: int
    end: int
    share: float
    """Negative where the token's state points away from the other text."""
    special: bool
    """Whether the model added it: the EOS behind a text, what is read in place of an empty one, a mask, or a prompt's
    token where the mean counts those. Its span is empty, and at the beginning or end. A special token that is written
    out in the text is part of the text."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Explanation:
    """A score, split over the tokens of the query and, another time, over those of the document.

    A share is what is carried at a token's position, and not what the token caused: in every layer the tokens of a
    text read each other, so that a state tells of its neighbours too.
    """

    score: float
    """The cosine of the two vectors."""
    query: list[TokenShare]
    """In the order of the text; the shares add up to the score, or to 0 if they are centred."""
    document: list[TokenShare]
    """Likewise."""


@dataclass(frozen=True, slots=True)
class WordShare:
    """A word, and the shares of its tokens added up, wherever it stands in a text."""

    text: str
    """As it is spelt first; BLANK for the tokens of white space alone, END for special ones."""
    share: float
    count: int
    """Places where it stands; for BLANK and END, tokens."""


def check_texts(query: str, document: str) -> None:
    """Refuse what is no text.

    Raises:
        DataError: One of them is no string.
    """
    for name, text in (("query", query), ("document", document)):
        if not isinstance(text, str):
            raise DataError(
                f"the {name} must be a string, got {type(text).__name__}",
                hint="explain takes one query and one document; call it once for each pair",
            )


def share_out(
    text: str,
    framed: Framed,
    frame: Frame,
    own: NDArray[np.float32],
    other: NDArray[np.float32],
    *,
    reader: Reader,
    centred: bool,
) -> list[TokenShare]:
    """Read a text once more, and split the product of its vector with another over its tokens.

    Only a number or two of each token is kept, so a long text costs little memory.

    Args:
        text: A query or a document.
        framed: Its tokens and their spans.
        frame: What stands around it.
        own: (D,), its vector.
        other: (D,), the other text's vector.
        reader: What made `own`.
        centred: Subtract the mean share from each.
    """
    pieces = lay_out([framed], frame, first=0, overflow="window").pieces
    vectors_D2 = np.stack([other, own], axis=1)
    num_tokens = len(framed.ids)
    along = dict.fromkeys(((Part.TEXT, place) for place in range(num_tokens)), 0.0)
    length_along = 0.0
    for batch in reader.batches(pieces):
        places = [(piece, number) for piece in batch for number in range(len(piece.ids))]
        for token, (share, own_share) in reader.products(batch, vectors_D2):
            key = _place(*places[token], num_tokens)
            along[key] = along.get(key, 0.0) + share
            length_along += own_share
    ordered = sorted(along)
    # Along its own vector the states add up to the length of their sum, by which the vector was scaled.
    shares = np.array([along[key] for key in ordered]) / length_along
    if centred:
        shares -= shares.mean()
    found = []
    for (part, place), share in zip(ordered, shares.tolist(), strict=True):
        start, end = framed.spans[place] if part == Part.TEXT else (part == Part.BEHIND and len(text),) * 2
        found.append(TokenShare(text[start:end], int(start), int(end), share, special=part != Part.TEXT))
    return found


class Part(IntEnum):
    """Where a token stands, in the order of the text."""

    BEFORE = 0
    TEXT = 1
    BEHIND = 2


def _place(piece: Piece, number: int, num_tokens: int) -> tuple[Part, int]:
    """Where a token of a piece stands; what is around the text has the same place in every window."""
    if number < piece.before:
        return Part.BEFORE, number
    place = number - piece.before + piece.window.start
    if place < min(piece.window.stop, num_tokens):
        return Part.TEXT, place
    return Part.BEHIND, number - len(piece.ids)


def by_word(text: str, tokens: Sequence[TokenShare]) -> list[WordShare]:
    """Add up the shares of each word, small and capital letters alike.

    Args:
        text: The query or the document.
        tokens: Its tokens. One that reaches over several words counts for the first.

    Returns:
        The words, the largest share first. They add up to what the tokens do.
    """
    spans = [match.span() for match in WORD.finditer(text)]
    ends = [end for _, end in spans]
    names: dict[str, str] = {}
    shares: dict[str, float] = {}
    places: dict[str, set[int]] = {}
    for number, token in enumerate(tokens):
        word = bisect_right(ends, token.start)  # the first that ends behind the token's start
        if token.special or word == len(spans) or spans[word][0] >= max(token.end, token.start + 1):
            name, place = END if token.special else BLANK, number
        else:
            name, place = text[slice(*spans[word])], word
        key = name.casefold()
        names.setdefault(key, name)
        shares[key] = shares.get(key, 0.0) + token.share
        places.setdefault(key, set()).add(place)
    found = [WordShare(names[key], share, len(places[key])) for key, share in shares.items()]
    return sorted(found, key=lambda word: -word.share)
