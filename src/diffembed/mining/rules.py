"""Which of the texts that a search finds become negatives, and why the others do not."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffembed.data.example_store import fingerprint
from diffembed.errors import ConfigError

Choose = Literal["top", "random"]
CHOICES: tuple[Choose, ...] = ("top", "random")

SKIPPED, MARGIN, MAX_SCORE, VETO = "skipped rank", "margin", "score too high", "veto"
"""Why a text that was looked at is no negative."""
CHOSEN, SPARE = "negative", "not needed"

Scorer = Callable[[NDArray[np.int64]], NDArray[np.float64]]
"""Scores of rows for the query at hand; larger is nearer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """How many negatives a query gets, and what keeps a text from becoming one.

    A text that looks too much like an answer often is one that nobody has marked: of the unmarked texts that a search
    puts on top in MS MARCO, 70% answer the query or nearly do (RocketQA, arXiv:2010.08191, section 1).
    """

    negatives: int = 7
    """Wanted for each query."""
    choose: Choose = "top"
    """`top`: the best ranked of those that may be; `random`: any of them, drawn by `seed`."""
    seed: int = 0
    """Of `random`. A query draws the same whatever other queries there are."""
    skip: int = 0
    """Best ranks that are passed over. Ranks count from 1 and leave out known answers and the query itself."""
    depth: int = 100
    """The last rank that is looked at."""
    relative_margin: float | None = 0.05
    """A negative's score is at most the positive's less this share of its size; None: anything goes.
    0.05 is NV-Embed's 95% (arXiv:2405.17428; compared with other rules in NV-Retriever, arXiv:2407.15831)."""
    absolute_margin: float | None = None
    """A negative's score is at most the positive's less this; in units of the score. None: anything goes."""
    max_score: float | None = None
    """Highest score of a negative."""

    def __post_init__(self) -> None:
        if self.choose not in CHOICES:
            raise ConfigError(f"choose is {self.choose!r}", hint=f"allowed: {', '.join(CHOICES)}")
        for name, least in (("negatives", 1), ("skip", 0), ("depth", 1), ("seed", 0)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise ConfigError(f"{name} must be a whole number of at least {least}, got {value!r}", hint="change it")
        if self.depth < self.skip + self.negatives:
            raise ConfigError(
                f"ranks {self.skip + 1} to {self.depth} are fewer than the {self.negatives} negatives wanted",
                hint="look deeper, skip less, or want fewer",
            )
        for name in ("relative_margin", "absolute_margin"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"{name} must be at least 0, got {value!r}", hint="0.05 of the score is usual")
        if self.max_score is not None and not math.isfinite(self.max_score):
            raise ConfigError(f"max_score is {self.max_score!r}", hint="name a score, or leave it out")

    def bar(self, positive: float) -> float:
        """The highest score that a negative may have beside a positive of this score; infinite without margins.

        The relative margin is a share of the score's size, so that it also keeps a distance to a negative score.
        """
        bars = [math.inf]
        if self.relative_margin is not None:
            bars.append(positive - self.relative_margin * abs(positive))
        if self.absolute_margin is not None:
            bars.append(positive - self.absolute_margin)
        return min(bars)


class Seen(NamedTuple):
    """A text that was looked at for a query.

    Attributes:
        row: Its number.
        rank: From 1.
        score: By which margins are measured.
        verdict: `CHOSEN`, `SPARE`, or why it is no negative.
    """

    row: int
    rank: int
    score: float
    verdict: str


def judge(
    rules: Rules,
    query: str,
    rows: NDArray[np.int64],
    scores: NDArray[np.float64],
    positive: float,
    veto: Callable[[], tuple[float, Scorer]] | None = None,
) -> list[Seen]:
    """Choose the negatives of one query among what was found for it.

    Args:
        rules: What is allowed.
        query: Its words; the draw of `random` depends on them and the seed.
        rows: Best first, without known answers.
        scores: Of the rows.
        positive: Score of the positive that scores least, so that the margin is kept to each of them.
        veto: Gives the positive's score by a second judge, and its scores of rows; called when there is a candidate.

    Returns:
        What became of each row, in the order of the ranks.
    """
    bar = rules.bar(positive)
    verdicts = [SPARE] * len(rows)
    for place, score in enumerate(scores):
        if place < rules.skip:
            verdicts[place] = SKIPPED
        elif rules.max_score is not None and score > rules.max_score:
            verdicts[place] = MAX_SCORE
        elif score > bar:
            verdicts[place] = MARGIN
    left = [place for place, verdict in enumerate(verdicts) if verdict == SPARE]
    if rules.choose == "random":
        generator = np.random.default_rng([rules.seed, fingerprint(query)])
        left = [left[number] for number in generator.permutation(len(left))]
    for place, verdict in _taken(rules, rows, left, veto):
        verdicts[place] = verdict
    return [
        Seen(int(row), rank, float(score), verdict)
        for rank, (row, score, verdict) in enumerate(zip(rows, scores, verdicts, strict=True), 1)
    ]


def _taken(
    rules: Rules,
    rows: NDArray[np.int64],
    places: Sequence[int],
    veto: Callable[[], tuple[float, Scorer]] | None,
) -> Iterator[tuple[int, str]]:
    """Take places in their order until there are enough; the second judge is asked about as few as may do."""
    if veto is None or not places:
        yield from ((place, CHOSEN) for place in places[: rules.negatives])
        return
    positive, scorer = veto()
    bar = min(rules.bar(positive), positive)  # without margins too it must be no nearer than the positive
    wanted, asked = rules.negatives, 0
    while wanted and asked < len(places):
        batch = places[asked : asked + wanted]
        asked += len(batch)
        scores = scorer(rows[batch])
        for place, score in zip(batch, scores, strict=True):
            wanted -= bool(score <= bar)
            yield place, CHOSEN if score <= bar else VETO
