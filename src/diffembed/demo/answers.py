"""Passages, their vectors and their words; a question, and what each search found for it."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from diffembed.data.docstrings import Passage
from diffembed.errors import DataError
from diffembed.index import exact, fusion
from diffembed.index.hits import NO_ROW, Hits
from diffembed.index.lexical import Lexical

if TYPE_CHECKING:
    from diffembed.embedder import Embedder

MODES = {"dense": "by meaning", "lexical": "by words", "fused": "both"}
"""Searches in the order in which they are shown, with what a person reads above them."""
SLICE_TEXTS = 256
"""Texts embedded between two signs of progress."""

OnProgress = Callable[[float], None]
"""Is told which share of the work is done."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Hit:
    """One passage found by one search."""

    rank: int
    score: float
    passage: Passage

    @property
    def where(self) -> str:
        return f"{self.passage.path}:{self.passage.line}"

    @property
    def snippet(self) -> str:
        return " ".join(self.passage.text.split())


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What each search found for a question."""

    question: str
    hits: Mapping[str, Sequence[Hit]]
    """Search -> hits, best first."""
    seconds: float

    def rows(self) -> Iterator[dict[str, Any]]:
        """One JSON object a hit."""
        for mode, hits in self.hits.items():
            for hit in hits:
                place = {"id": hit.passage.id, "path": hit.passage.path, "line": hit.passage.line}
                score = {"rank": hit.rank, "score": hit.score}
                yield {"question": self.question, "mode": mode, **score, **place, "text": hit.passage.text}


@dataclass(frozen=True, kw_only=True, slots=True)
class Demo:
    """Passages with their vectors and their BM25 index, all in memory."""

    embedder: "Embedder"
    passages: Sequence[Passage]
    vectors: NDArray[np.float32]
    lexical: Lexical
    tokens: int
    """Tokens embedded."""
    seconds: float
    """Time that embedding took, also when that was on an earlier day."""

    def ask(self, question: str, k: int = 3, *, instruction: str | None = None) -> Answer:
        """Search for a question in every mode.

        Args:
            question: In plain words.
            k: Hits per search.
            instruction: What is asked for, in place of the model's own instruction.

        Raises:
            DataError: The question is blank.
        """
        if not question.strip():
            raise DataError("the question is empty", hint='ask something, for example "read a csv file"')
        start = time.perf_counter()
        depth = max(k, fusion.CANDIDATES)
        dense = exact.search(self.embedder.encode_query([question], instruction=instruction), self.vectors, depth)
        lexical = self.lexical.search([question], depth)
        found = {"dense": dense, "lexical": lexical, "fused": fusion.hybrid(dense, lexical, k)}
        hits = {mode: self._hits(found[mode], k) for mode in MODES}
        return Answer(question=question, hits=hits, seconds=time.perf_counter() - start)

    def _hits(self, found: Hits, k: int) -> tuple[Hit, ...]:
        return tuple(
            Hit(rank=rank, score=float(score), passage=self.passages[row])
            for rank, (score, row) in enumerate(zip(found.scores[0, :k], found.rows[0, :k], strict=True), start=1)
            if row != NO_ROW
        )


def build_demo(
    embedder: "Embedder", passages: Sequence[Passage], *, on_progress: OnProgress = lambda share: None
) -> Demo:
    """Embed the passages and index their words.

    Args:
        embedder: The model.
        passages: What is searched.
        on_progress: Told the share of the characters that is embedded.

    Raises:
        DataError: There are no passages.
    """
    if not passages:
        raise DataError(
            "there is no passage to search", hint="this Python's library has no source: use a usual CPython"
        )
    texts = [document(passage) for passage in passages]
    start = time.perf_counter()
    # Neighbours of like length make full batches, and a vector doesn't depend on its neighbours.
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    total, done, tokens = sum(map(len, texts)), 0, 0
    slices: list[NDArray[np.float32]] = []
    for first in range(0, len(order), SLICE_TEXTS):
        batch = [texts[row] for row in order[first : first + SLICE_TEXTS]]
        encoded = embedder.embed(batch, "document")
        slices.append(encoded.vectors)
        tokens += encoded.report.tokens
        done += sum(map(len, batch))
        on_progress(done / total)
    vectors = np.empty((len(texts), slices[0].shape[1]), np.float32)
    vectors[order] = np.concatenate(slices)
    seconds = time.perf_counter() - start
    return assemble(embedder, passages, vectors, tokens=tokens, seconds=seconds)


def assemble(
    embedder: "Embedder", passages: Sequence[Passage], vectors: NDArray[np.float32], *, tokens: int, seconds: float
) -> Demo:
    """Make the demo of vectors that are there already; only the words are indexed."""
    lexical = Lexical([document(passage) for passage in passages])
    return Demo(embedder=embedder, passages=passages, vectors=vectors, lexical=lexical, tokens=tokens, seconds=seconds)


def document(passage: Passage) -> str:
    """What is embedded and indexed: the name says as much as the text."""
    return f"{passage.id}\n{passage.text}"
