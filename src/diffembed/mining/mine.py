"""Find hard negatives for training examples."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from diffembed.data.examples import Example
from diffembed.errors import ConfigError, DataError
from diffembed.mining.pool import Passage, Pool
from diffembed.mining.rules import CHOSEN, SPARE, Rules, Scorer, Seen, judge
from diffembed.mining.vectors import Dense, Progress, Rows, TextEmbedder
from diffembed.mining.words import Words, fused

By = Literal["dense", "lexical", "both"]
SEARCHES: tuple[By, ...] = ("dense", "lexical", "both")

PairScorer = Callable[[list[str], list[str]], Sequence[float]]
"""A cross-encoder: queries and as many passages -> a score for each pair; larger is nearer."""

NOTHING_FOUND = "too few texts found"
"""Why a query has too few negatives where no rule took any."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Account:
    """What was looked at, and what became of it."""

    examples: int
    candidates: int
    """Different texts that may become negatives."""
    duplicates: int
    """Texts that say the same as another candidate, up to case and white space."""
    blank: int
    """Documents of the corpus without text."""
    known: int
    """Candidates that are a query's known answer, or the query itself; summed over the examples."""
    verdicts: dict[str, int]
    """What became of the texts within the rank window's depth, over all examples."""
    short: dict[str, int]
    """Examples with fewer negatives than wanted, by what took most of their candidates."""
    without: int
    """Those of them with no negative at all."""
    outscored: int
    """Examples for which a text that was looked at scores above a positive: an answer that nobody marked, or a model
    that doesn't know better."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Audited:
    """An example with all that was looked at for it, to be read by a person."""

    number: int
    """Place of the example, from 0."""
    example: Example
    """With its negatives."""
    positives: tuple[float, ...]
    """Score of each positive."""
    seen: tuple[tuple[Seen, str], ...]
    """With the texts; by rank."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Mined:
    """Examples with their negatives."""

    examples: tuple[Example, ...]
    """In the order given. Their scores are of the first positive and of each negative, by which margins were kept."""
    account: Account
    audit: tuple[Audited, ...]
    """A sample, evenly spread over the examples."""


def mine(
    examples: Iterable[Example],
    corpus: Iterable[Passage | str] | None = None,
    *,
    embedder: TextEmbedder | None = None,
    by: By = "dense",
    rules: Rules | None = None,
    veto: TextEmbedder | PairScorer | None = None,
    instruction: str | None = None,
    num_audited: int = 20,
    query_block: int = 256,
    text_block: int = 4_096,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> Mined:
    """Give each example hard negatives in place of those it has (which are candidates like all others).

    The search says which texts are looked at, in which order; the score says which of them may be negatives. With an
    embedder scores are its cosines, however the texts were found, and without one they are BM25's. The result is the
    same whatever the sizes of the blocks.

    Args:
        examples: Each gets negatives for its query. All are held in memory; vectors are not.
        corpus: Candidates; the positives and negatives of all examples when absent.
        embedder: Finds and scores. Only a lexical search does without.
        by: `dense`: exact search by the embedder; `lexical`: BM25; `both`: fused by reciprocal ranks, each search
            giving as many texts as the rules look at.
        rules: What becomes a negative; see `Rules`.
        veto: A second judge, asked about texts that pass the rules: it too must put them below each positive by the
            margins. An embedder embeds what it is asked about, once. A function is told queries without instructions.
        instruction: For queries that bring none of their own.
        num_audited: Examples in the audit.
        query_block: Queries that are searched for together.
        text_block: Texts that they are compared with at a time.
        folder: Where vectors lie while this runs (texts x dims x 4 bytes); None: where temporary files go.
        progress: Told what is being done.

    Raises:
        ConfigError: An argument can't be used.
        DataError: There is no example, or no candidate; a score is not finite.
    """
    if by not in SEARCHES:
        raise ConfigError(f"by is {by!r}", hint=f"allowed: {', '.join(SEARCHES)}")
    if embedder is None and by != "lexical":
        raise ConfigError(f"a search by {by!r} needs an embedder", hint='pass one, or by="lexical"')
    if query_block < 1 or text_block < 1 or num_audited < 0:
        raise ConfigError(
            f"got blocks of {query_block} queries and {text_block} texts, and {num_audited} audited examples",
            hint="256 queries, 4096 texts and 20 examples are usual",
        )
    rules = rules or Rules()
    given = list(examples)
    if not given:
        raise DataError("there is no example to find negatives for", hint="pass at least one")
    pool = Pool(given, corpus)
    if not pool.num_candidates:
        raise DataError("the corpus has no text", hint="every negative comes from it")
    with ExitStack() as stack:
        run = _Run(given, pool, rules, by, embedder, veto, instruction, folder, stack)
        run.make_vectors(progress)
        audited = set(np.linspace(0, len(given) - 1, min(num_audited, len(given)), dtype=int).tolist())
        found, audit = [], []
        counts = _Counts()
        for number, seen, positives, known in run.judged(query_block, text_block, progress):
            example = _with_negatives(given[number], seen, positives, pool)
            found.append(example)
            counts.add(seen, known, rules.negatives, min(positives))
            if number in audited:
                texts = tuple((each, pool.texts[each.row]) for each in seen)
                audit.append(Audited(number=number, example=example, positives=positives, seen=texts))
    return Mined(examples=tuple(found), account=counts.account(pool), audit=tuple(audit))


class _Run:
    """The searches and judges of one call."""

    def __init__(
        self,
        examples: Sequence[Example],
        pool: Pool,
        rules: Rules,
        by: By,
        embedder: TextEmbedder | None,
        veto: TextEmbedder | PairScorer | None,
        instruction: str | None,
        folder: Path | None,
        stack: ExitStack,
    ) -> None:
        self._examples, self._pool, self._rules, self._by = examples, pool, rules, by
        queries = [example.query for example in examples]
        instructions = [instruction if each.instruction is None else each.instruction for each in examples]

        def dense(model: TextEmbedder) -> Dense:
            return stack.enter_context(closing(Dense(model, queries, instructions, pool.texts, folder)))

        self._dense = None if embedder is None else dense(embedder)
        self._words = Words(queries, pool.texts) if by != "dense" else None
        self._veto: Callable[[int, Rows], np.ndarray] | None = None
        if veto is not None:
            is_model = hasattr(veto, "encode_query")
            self._veto = dense(veto).scores if is_model else partial(_pair_scores, veto, queries, pool)  # type: ignore[arg-type]

    def make_vectors(self, progress: Progress | None) -> None:
        if self._dense is not None and self._by != "lexical":
            self._dense.make(len(self._pool), progress)

    def judged(
        self, query_block: int, text_block: int, progress: Progress | None
    ) -> Iterator[tuple[int, list[Seen], tuple[float, ...], int]]:
        """For each example its number, what was seen, the scores of its positives, and how many candidates it knew."""
        size, pool, depth = len(self._examples), self._pool, self._rules.depth
        for start in range(0, size, query_block):
            block = range(start, min(start + query_block, size))
            hidden = [pool.hidden(self._examples[number]) for number in block]
            searches: list[Iterable[Rows]] = []
            if self._by != "lexical":
                assert self._dense is not None
                searches.append(self._dense.search(block, hidden, pool.num_candidates, depth, text_block))
            if self._words is not None:
                searches.append(self._words.search(block, hidden, pool.num_candidates, depth))
            for number, known, *rankings in zip(block, hidden, *searches, strict=True):
                rows = rankings[0] if len(rankings) == 1 else fused(rankings, depth)
                yield number, *self._judge(number, rows), len(known)
            if progress is not None:
                progress("searching", block.stop, size)

    def _judge(self, number: int, rows: Rows) -> tuple[list[Seen], tuple[float, ...]]:
        example = self._examples[number]
        scorer = self._dense or self._words
        assert scorer is not None
        of_positives = self._pool.rows(example.positives)
        scores = scorer.scores(number, np.concatenate([of_positives, rows]))
        positives = tuple(map(float, scores[: len(of_positives)]))
        veto = None
        if self._veto is not None:
            ask: Scorer = partial(self._veto, number)
            veto = partial(_asked, ask, of_positives)
        seen = judge(self._rules, example.query, rows, scores[len(of_positives) :], min(positives), veto)
        return seen, positives


def _asked(ask: Scorer, of_positives: Rows) -> tuple[float, Scorer]:
    return float(ask(of_positives).min()), ask


def _pair_scores(veto: PairScorer, queries: Sequence[str], pool: Pool, query: int, rows: Rows) -> np.ndarray:
    scores = np.asarray(veto([queries[query]] * len(rows), [pool.texts[row] for row in rows]), np.float64)
    if scores.shape != rows.shape:
        raise ConfigError(
            f"the veto gave scores of shape {scores.shape} for {len(rows)} pairs", hint="it must give one for each"
        )
    if not np.isfinite(scores).all():
        raise DataError(f"the veto gave a score that is not finite for {queries[query][:60]!r}", hint="check its model")
    return scores


def _with_negatives(example: Example, seen: Sequence[Seen], positives: Sequence[float], pool: Pool) -> Example:
    chosen = [each for each in seen if each.verdict == CHOSEN]
    return replace(
        example,
        negatives=tuple(pool.texts[each.row] for each in chosen),
        scores=(positives[0], *(each.score for each in chosen)),
    )


class _Counts:
    """Adds up over the examples."""

    def __init__(self) -> None:
        self._verdicts: Counter[str] = Counter()
        self._short: Counter[str] = Counter()
        self._examples = self._known = self._without = self._outscored = 0

    def add(self, seen: Sequence[Seen], known: int, wanted: int, positive: float) -> None:
        verdicts = Counter(each.verdict for each in seen)
        self._examples += 1
        self._known += known
        self._outscored += any(each.score > positive for each in seen)
        self._verdicts += verdicts
        if (found := verdicts[CHOSEN]) < wanted:
            self._without += not found
            took = [(count, why) for why, count in verdicts.items() if why not in (CHOSEN, SPARE)]
            self._short[max(took)[1] if took else NOTHING_FOUND] += 1

    def account(self, pool: Pool) -> Account:
        return Account(
            examples=self._examples,
            candidates=pool.num_candidates,
            duplicates=pool.duplicates,
            blank=pool.blank,
            known=self._known,
            verdicts=dict(self._verdicts),
            short=dict(self._short),
            without=self._without,
            outscored=self._outscored,
        )
