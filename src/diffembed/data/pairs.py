"""(query, passage) pairs: read from a source, or made from its documents.

What a source gives depends on the files it has, never on its name:

- `pairs.jsonl` with rows `{q, p, kind}`: those pairs.
- `docs.jsonl` alone: "title: heading" -> passage, a sentence -> the passage it was taken from, lead -> body.
- `problems.jsonl` (`{concept, problem, solution}`) and `definitions.jsonl` (`{concept, definition}`): problem ->
  definition of its concept, problem -> another solved problem of that concept.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from diffembed.data.docstrings import read_docstrings
from diffembed.data.examples import Example
from diffembed.data.sources import Document, Row, Section, Source, find_sources, read_rows

DOCSTRINGS = "docstrings"
"""Source name of the pairs that come from the standard library."""

PASSAGE_WORDS = 90
"""A made passage is closed before the sentence that would take it past this: some 125 tokens, a paragraph."""
MIN_PASSAGE_WORDS = 20
MIN_QUERY_WORDS, MAX_QUERY_WORDS = 6, 40
"""A sentence taken as a query: shorter ones say little, longer ones are often broken lists."""
MIN_SENTENCES = 3
"""Passages with fewer keep too little once one is taken out."""
MIN_LEAD_WORDS, MAX_LEAD_WORDS, MIN_BODY_WORDS = 40, 60, 300
"""For lead -> body: a lead that says something, a body long enough to need the long context."""

# A sentence ends at . ! or ? (perhaps closed by a quote or bracket) before white space and something that begins one.
_SENTENCE_END = re.compile(r"""(?<=[.!?])["”')\]]?\s+(?=["“'(\[]?[A-Z0-9])""")


@dataclass(frozen=True, slots=True)
class Pair:
    """A text that asks and a text that answers.

    Attributes:
        query: Asks.
        passage: Answers.
        source: Folder name of the source.
        kind: How the two are related, for example `question->answer`.
        topic: Pairs of one topic answer each other, so they must not meet in a batch; None: only equal texts must not.
    """

    query: str
    passage: str
    source: str
    kind: str
    topic: str | None = None

    def example(self) -> Example:
        """The pair as what a fine-tuning trains on.

        Raises:
            DataError: A text is blank.
        """
        return Example(
            query=self.query, positives=(self.passage,), source=self.source, kind=self.kind, topic=self.topic
        )


def read_pairs(folder: Path | str) -> Iterator[Pair]:
    """Every pair of every source below a data folder.

    Raises:
        DataError: At once if there is no source; while reading if a file or row is malformed, naming file and line.
    """
    sources = find_sources(folder)
    return (pair for source in sources for pair in _pairs_of(source))


def docstring_pairs() -> Iterator[Pair]:
    """Name and first line -> the rest, for the docstrings of the running Python's standard library."""
    for passage in read_docstrings():
        first, _, rest = passage.text.partition("\n")
        if len(rest.split()) >= MIN_QUERY_WORDS:
            name = passage.id.rpartition(".")[2]
            yield Pair(f"{name}: {first}", " ".join(rest.split()), DOCSTRINGS, "first line->rest")


def cut_passages(text: str, max_words: int = PASSAGE_WORDS) -> Iterator[list[str]]:
    """Cut a text at sentence ends into passages of at most `max_words` words (a longer sentence stays whole).

    Yields:
        The sentences of a passage; a last one of fewer than MIN_PASSAGE_WORDS words is dropped.
    """
    kept: list[str] = []
    count = 0
    for sentence in split_sentences(text):
        words = len(sentence.split())
        if kept and count + words > max_words:
            yield kept
            kept, count = [], 0
        kept.append(sentence)
        count += words
    if count >= MIN_PASSAGE_WORDS:
        yield kept


def split_sentences(text: str) -> list[str]:
    """Cut a text after the marks that end sentences; line breaks count as spaces."""
    flat = " ".join(text.split())
    cuts = [match.end() for match in _SENTENCE_END.finditer(flat)]
    pieces = (flat[start:end].strip() for start, end in zip([0, *cuts], [*cuts, len(flat)], strict=True))
    return [piece for piece in pieces if piece]


def document_pairs(document: Document, source: str) -> Iterator[Pair]:
    """The pairs that one document gives."""
    title = document.title.strip()
    for section in document.sections:
        name = ": ".join(part for part in (title, section.name) if part)
        for number, sentences in enumerate(cut_passages(section.text)):
            if name:
                yield Pair(name, " ".join(sentences), source, "heading->passage")
            # Another place in each passage, so that it isn't always the opening sentence that asks.
            place = number % len(sentences)
            if len(sentences) >= MIN_SENTENCES and _asks(sentences[place]):
                rest = " ".join(sentences[:place] + sentences[place + 1 :])
                yield Pair(sentences[place], f"{title} {rest}".strip(), source, "sentence->passage")
    yield from _lead_pair(document.sections, source)


def ready_pair(row: Row, source: str) -> Pair:
    """The pair that a row of `pairs.jsonl` holds.

    Raises:
        DataError: A field is missing or no text.
    """
    return Pair(row.text("q"), row.text("p"), source, row.text("kind"))


@dataclass(frozen=True, slots=True)
class Problem:
    """A row of `problems.jsonl`.

    Attributes:
        concept: That it is about.
        text: Asks.
        solution: Answers.
        is_solved: Whether its authors' check let the solution pass; a refused one asks but does not answer.
    """

    concept: str
    text: str
    solution: str
    is_solved: bool

    @classmethod
    def from_row(cls, row: Row) -> "Problem":
        """Read a row.

        Raises:
            DataError: A field is missing or no text, or the problem is blank.
        """
        is_solved = bool(row.values.get("check_ok", True))
        return cls(row.text("concept"), row.filled("problem"), row.text("solution"), is_solved)


def definition_of(row: Row) -> tuple[str, str]:
    """Concept and definition of a row of `definitions.jsonl`.

    Raises:
        DataError: A field is missing or no text, or the definition is blank.
    """
    return row.text("concept"), row.filled("definition")


def concept_pairs(problems: Iterable[Problem], definitions: Iterable[tuple[str, str]], source: str) -> Iterator[Pair]:
    """Problem -> definition of its concept, and problem -> the next solved problem of the same concept.

    All of them are in memory, since those of a concept may lie anywhere.
    """
    texts = dict(definitions)
    asked: dict[str, list[str]] = {}
    solved: dict[str, list[tuple[str, str]]] = {}
    for each in problems:
        asked.setdefault(each.concept, []).append(each.text)
        if each.is_solved:
            solved.setdefault(each.concept, []).append((each.text, each.solution))
    for concept, problems_of in asked.items():
        answers = solved.get(concept, [])
        for number, problem in enumerate(problems_of):
            if concept in texts:
                yield Pair(problem, texts[concept], source, "problem->definition", concept)
            others = [f"{other}\n{solution}" for other, solution in answers if other != problem]
            if others:
                yield Pair(problem, others[number % len(others)], source, "problem->solved problem", concept)


def _pairs_of(source: Source) -> Iterator[Pair]:
    if source.pairs:
        yield from (ready_pair(row, source.name) for row in read_rows(source.pairs))
    elif source.docs:
        for row in read_rows(source.docs):
            yield from document_pairs(Document.from_row(row), source.name)
    if source.problems and source.definitions:
        problems = map(Problem.from_row, read_rows(source.problems))
        yield from concept_pairs(problems, map(definition_of, read_rows(source.definitions)), source.name)


def _asks(sentence: str) -> bool:
    return MIN_QUERY_WORDS <= len(sentence.split()) <= MAX_QUERY_WORDS


def _lead_pair(sections: Sequence[Section], source: str) -> Iterator[Pair]:
    """The beginning of an article asks for everything below its first heading."""
    if not sections or sections[0].name:
        return
    lead = sections[0].text.split()
    body = "\n".join(f"{section.name}\n{section.text}".strip() for section in sections[1:])
    if len(lead) >= MIN_LEAD_WORDS and len(body.split()) >= MIN_BODY_WORDS:
        yield Pair(" ".join(lead[:MAX_LEAD_WORDS]), body, source, "lead->body")
