"""The library as an index; a question, and what each search found for it."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diffembed.data.docstrings import Passage
from diffembed.library.hits import Hit as IndexHit
from diffembed.library.index import Index, Mode
from diffembed.library.reading.document import Document

WORDS: Mapping[Mode, str] = {"dense": "by meaning", "lexical": "by words", "hybrid": "both"}
"""What a person reads above each search, in the order in which they are shown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Hit:
    """One docstring found by one search."""

    rank: int
    score: float
    id: str
    """Dotted name, for example `json.dumps`."""
    path: str
    """Relative to the library's folder."""
    line: int
    text: str

    @property
    def where(self) -> str:
        return f"{self.path}:{self.line}"

    @property
    def snippet(self) -> str:
        """The beginning of the docstring in one line."""
        return " ".join(self.text.split())


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What each search found for a question."""

    question: str
    hits: Mapping[Mode, Sequence[Hit]]
    """Search -> hits, best first."""
    seconds: float

    def rows(self) -> Iterator[dict[str, Any]]:
        """One JSON object a hit."""
        for mode, hits in self.hits.items():
            for hit in hits:
                place = {"id": hit.id, "path": hit.path, "line": hit.line}
                score = {"rank": hit.rank, "score": hit.score}
                yield {"question": self.question, "mode": mode, **score, **place, "text": hit.text}


class Demo:
    """Asks an index of docstrings.

    Args:
        index: Made of `documents`.
    """

    def __init__(self, index: Index) -> None:
        self.index = index

    def ask(self, question: str, k: int = 3, *, instruction: str | None = None) -> Answer:
        """Search for a question in every mode.

        Args:
            question: In plain words.
            k: Hits per search.
            instruction: What is asked for, in place of the model's own instruction.

        Raises:
            DataError: The question is blank.
        """
        start = time.perf_counter()
        hits: dict[Mode, Sequence[Hit]] = {
            mode: self.search(question, k, mode, instruction=instruction) for mode in WORDS
        }
        return Answer(question=question, hits=hits, seconds=time.perf_counter() - start)

    def search(self, question: str, k: int, mode: Mode, *, instruction: str | None = None) -> tuple[Hit, ...]:
        """The k best docstrings: each as good as its best passage."""
        depth = k
        while True:
            found = self.index.search(question, depth, mode, instruction=instruction, details=False)
            best: dict[str, IndexHit] = {}
            for hit in found:
                best.setdefault(hit.id, hit)
            if len(best) >= k or len(found) < depth:
                return tuple(_shown(rank, hit) for rank, hit in enumerate(list(best.values())[:k], start=1))
            depth *= 2

    def names(self) -> set[str]:
        """Of all docstrings in the index."""
        return self.index.ids()


def documents(passages: Iterable[Passage]) -> list[Document]:
    """Passages as documents: the name says as much as the text, and the place stands where hits show a title.

    Of those with one name (a function that is defined again for another platform) the first is taken.
    """
    found: dict[str, Document] = {}
    for passage in passages:
        place = f"{passage.path}:{passage.line}"
        text = f"{passage.id}\n{passage.text}"
        found.setdefault(passage.id, Document(id=passage.id, title=place, text=text))
    return list(found.values())


def _shown(rank: int, hit: IndexHit) -> Hit:
    path, _, line = hit.title.rpartition(":")
    text = hit.text.removeprefix(f"{hit.id}\n")
    return Hit(rank=rank, score=hit.score, id=hit.id, path=path, line=int(line), text=text)
