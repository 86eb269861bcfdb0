"""A score as a sum over tokens: how much of the cosine is carried at each of them.

A text's vector is the mean of its token states scaled to unit length, so its product with any other vector is the sum
of the products of its tokens: arithmetic, without a model of the model.

Shape letters: T counted tokens of a text, D width.
"""

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from diffembed.backbone import pack
from diffembed.backbone.fused import FusedBackbone
from diffembed.embedder.layout import batches, lay_out, token_rows
from diffembed.errors import DataError
from diffembed.index.words import UNSPACED
from diffembed.readout import SKIPPED
from diffembed.text.tokenizer import Tokenizer

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
    """Whether the model added it: the EOS behind a text, or what is read in place of an empty one. Its span is empty
    and at the end. A special token that is written out in the text is part of the text."""


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
    prompt: list[int],
    own: NDArray[np.float32],
    other: NDArray[np.float32],
    *,
    engine: FusedBackbone,
    tokenizer: Tokenizer,
    max_tokens: int,
    batch_tokens: int,
    centred: bool,
) -> list[TokenShare]:
    """Read a text once more, and split the product of its vector with another over its tokens.

    Only a number or two of each token is kept, so a long text costs little memory.

    Args:
        text: A query or a document.
        prompt: Token ids that are read before it and don't count.
        own: (D,), its vector.
        other: (D,), the other text's vector.
        engine: What made the states of `own`.
        tokenizer: Of the model.
        max_tokens: Limit of a sequence; a longer text is read in windows.
        batch_tokens: Tokens that are computed at a time.
        centred: Subtract the mean share from each.
    """
    [(ids, spans)] = tokenizer.encode_with_offsets([text])
    layout = lay_out(
        [ids],
        first=0,
        prompt=prompt,
        suffix=tokenizer.suffix,
        stand_in=tokenizer.stand_in,
        max_tokens=max_tokens,
        overflow="window",
    )
    vectors_D2 = torch.from_numpy(np.stack([other, own], axis=1)).to(engine.device)
    parts = []
    # The windows of a text are of one length, so sorting leaves them, and their tokens, in the order of the text.
    for batch in batches(layout.pieces, batch_tokens):
        along_T2 = engine(pack([piece.ids for piece in batch], engine.device)) @ vectors_D2
        parts.append(along_T2.cpu().numpy()[token_rows(batch) != SKIPPED])
    other_T, own_T = np.concatenate(parts).astype(np.float64).T
    # Along its own vector the states add up to the length of their sum, by which the vector was scaled.
    shares_T = other_T / own_T.sum()
    if centred:
        shares_T -= shares_T.mean()
    spans = [*spans, *[(len(text), len(text))] * (len(shares_T) - len(ids))]
    return [
        TokenShare(text[start:end], start, end, share, special=number >= len(ids))
        for number, ((start, end), share) in enumerate(zip(spans, shares_T.tolist(), strict=True))
    ]


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
