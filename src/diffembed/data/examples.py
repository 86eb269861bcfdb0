"""What a fine-tuning trains on: a text that asks, texts that answer it, texts that do not."""

from dataclasses import dataclass

from diffembed.errors import DataError

SAME_TEXT = "simcse"
"""Kind of the examples whose query and answer are one text, told apart by dropout alone (SimCSE, arXiv:2104.08821)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """A query, what answers it and what seems to.

    Attributes:
        query: Asks.
        positives: Answer; at least one. A step draws one of them.
        negatives: Hard negatives: near the query, and no answer.
        source: Name of where it comes from, for example a folder's.
        kind: How query and answer are related, for example `question->answer`.
        instruction: Says what the query asks for; None: as the mix of the training says.
        topic: Examples of one topic answer each other, so they must not meet in a batch; None: equal texts must not.
        scores: A teacher's, of the first positive and then of each negative; None: there was none.
        chunks: The document in pieces that the first positive is one of, for contextual training; None: none.
    """

    query: str
    positives: tuple[str, ...]
    negatives: tuple[str, ...] = ()
    source: str
    kind: str
    instruction: str | None = None
    topic: str | None = None
    scores: tuple[float, ...] | None = None
    chunks: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        problem = self._problem()
        if problem:
            raise DataError(problem, hint="mend or remove the row, or have bad rows skipped and counted")

    def _problem(self) -> str | None:
        if not self.query.strip():
            return "the query is blank"
        if not self.positives:
            return "there is no positive"
        for name, texts in (("positive", self.positives), ("negative", self.negatives)):
            if not all(text.strip() for text in texts):
                return f"a {name} is blank"
        for text in self.negatives:
            if text in self.positives:
                return f"the negative {text[:60]!r} is a positive too"
        if self.scores is not None and len(self.scores) != 1 + len(self.negatives):
            return f"there are {len(self.scores)} scores for a positive and {len(self.negatives)} negatives"
        if self.chunks is not None and self.positives[0] not in self.chunks:
            return "the first positive is none of the chunks"
        return None
