"""What a search shows: where a passage stands, its best sentence, and the words that it shares with the question."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffembed.index import words
from diffembed.index.snapshot import Chunk
from diffembed.library.model import LibraryModel
from diffembed.text.sentences import sentences

Span = tuple[int, int]

FEWEST_WORDS = 4
SENTENCES = 24
"""Of a passage, those that are compared by meaning: the ones with most words of the question first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Hit:
    """One passage that was found."""

    rank: int
    """From 1."""
    score: float
    """Larger is better; a cosine, a BM25 score or their fusion, by the mode."""
    path: str
    """Absolute path of its file; empty for a document that came from none."""
    id: str
    """Of its document: the `_id` of a JSON row, else the path."""
    start: int
    """Where the passage begins in the document's text, in characters."""
    end: int
    text: str
    """The passage: characters `start` to `end` of the document."""
    title: str
    """Of the document."""
    line: int
    """Of the document's text, from 1: where the sentence begins."""
    sentence: str = ""
    """The sentence of the passage that comes nearest to the question."""
    words: tuple[str, ...] = ()
    """The words, as they stand in the passage, that the question has too, perhaps in another form."""


def plain(hits: Sequence[tuple[float, Chunk]]) -> list[Hit]:
    """Make hits of scored chunks, without sentences and words."""
    return [_hit(rank, score, chunk, (0, 0), ()) for rank, (score, chunk) in enumerate(hits, start=1)]


def describe(
    query: str, hits: Sequence[tuple[float, Chunk]], query_E: NDArray[np.float32] | None, model: LibraryModel
) -> list[Hit]:
    """Make hits of scored chunks.

    Args:
        query: The question.
        hits: Scores and chunks, best first.
        query_E: The question's vector; None for a search by words alone.
        model: Embeds sentences; unused without a vector.
    """
    marks = words.marked(query, [chunk.text for _, chunk in hits])
    best = _best_sentences([chunk.text for _, chunk in hits], marks, query_E, model)
    return [
        _hit(rank, score, chunk, sentence, _distinct(chunk.text[a:b] for a, b in spans))
        for rank, ((score, chunk), spans, sentence) in enumerate(zip(hits, marks, best, strict=True), start=1)
    ]


def _hit(rank: int, score: float, chunk: Chunk, sentence: Span, shared: tuple[str, ...]) -> Hit:
    start, stop = sentence
    return Hit(
        rank=rank,
        score=score,
        path=chunk.path,
        id=chunk.id,
        start=chunk.start,
        end=chunk.stop,
        text=chunk.text,
        title=chunk.title,
        line=chunk.line + chunk.text.count("\n", 0, start),
        sentence=chunk.text[start:stop],
        words=shared,
    )


def _best_sentences(
    texts: Sequence[str],
    marks: Sequence[Sequence[Span]],
    query_E: NDArray[np.float32] | None,
    model: LibraryModel,
) -> list[Span]:
    """Of each text the sentence with the most different words of the question; by meaning, the nearest among those."""
    candidates: list[list[tuple[int, Span]]] = []
    for text, spans in zip(texts, marks, strict=True):
        counted = [
            (len({text[a:b].casefold() for a, b in spans if start <= a and b <= stop}), (start, stop))
            for start, stop in _telling(text)
        ]
        candidates.append(sorted(counted, key=lambda each: -each[0])[:SENTENCES] or [(0, (0, 0))])
    if query_E is None:
        return [some[0][1] for some in candidates]
    pool = [text[slice(*span)] for text, some in zip(texts, candidates, strict=True) for _, span in some]
    cosines = iter((model.passages(pool) @ query_E).tolist() if pool else [])
    best = []
    for some in candidates:
        here = [next(cosines) for _ in some]
        # A shared word weighs as much as the usual difference between two sentences' cosines.
        spread = float(np.std(here))
        scores = [cosine + spread * count for cosine, (count, _) in zip(here, some, strict=True)]
        best.append(some[int(np.argmax(scores))][1])
    return best


def _telling(text: str) -> list[Span]:
    """The sentences of a text, without headings and the like unless there is nothing else."""
    found = sentences(text)
    return [(start, stop) for start, stop in found if _num_words(text[start:stop]) >= FEWEST_WORDS] or found


def _num_words(text: str) -> int:
    """How many, where a character of a script without spaces counts as one."""
    return len(words.UNSPACED.sub(" x ", text).split())


def _distinct(found: Iterable[str]) -> tuple[str, ...]:
    """Each word once, in the form that comes first."""
    kept: dict[str, str] = {}
    for word in found:
        kept.setdefault(word.casefold(), word)
    return tuple(kept.values())
