"""Measures of one query's ranking, as trec_eval defines them; all in 0..1, larger is better.

A measure's name is its definition: `nDCG@10`, `Recall@100`, `RR@10`, `Acc@1`.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from diffembed.errors import ConfigError

Measure = Callable[[Sequence[str], Mapping[str, int]], float]
"""(ranking, judgements of the query) -> value."""


def rank(scores: Mapping[str, float]) -> list[str]:
    """Order document ids as trec_eval does: by score in single precision, equal scores by id from last to first."""
    return sorted(scores, key=lambda each: (np.float32(scores[each]), each.encode()), reverse=True)


def ndcg(ranking: Sequence[str], judged: Mapping[str, int], k: int) -> float:
    """Discounted gain over the ideal one; the gain is the relevance itself, the discount log2(rank + 1).

    Source: Jarvelin and Kekalainen 2002, in trec_eval's form (linear gain; a negative relevance counts as 0).
    """
    gains = [max(judged.get(each, 0), 0) for each in ranking[:k]]
    ideal = sorted((max(each, 0) for each in judged.values()), reverse=True)[:k]
    best = _discounted(ideal)
    return _discounted(gains) / best if best else 0.0


def recall(ranking: Sequence[str], judged: Mapping[str, int], k: int) -> float:
    """Share of the relevant documents that stand among the first k."""
    relevant = {each for each, relevance in judged.items() if relevance > 0}
    return len(relevant.intersection(ranking[:k])) / len(relevant) if relevant else 0.0


def reciprocal_rank(ranking: Sequence[str], judged: Mapping[str, int], k: int) -> float:
    """One over the rank of the first relevant document, 0 when none stands among the first k."""
    return next((1 / place for place, each in enumerate(ranking[:k], start=1) if judged.get(each, 0) > 0), 0.0)


def accuracy(ranking: Sequence[str], judged: Mapping[str, int], k: int) -> float:
    """1 when a relevant document stands among the first k, else 0."""
    return float(any(judged.get(each, 0) > 0 for each in ranking[:k]))


KINDS: Mapping[str, Callable[[Sequence[str], Mapping[str, int], int], float]] = {
    "nDCG": ndcg,
    "Recall": recall,
    "RR": reciprocal_rank,
    "Acc": accuracy,
}


def cutoff(name: str) -> int:
    """How far down the ranking a measure looks."""
    return _parse(name)[1]


def measure(name: str) -> Measure:
    """Find a measure by its name.

    Raises:
        ConfigError: The name isn't one of the known kinds with a cut-off behind it.
    """
    kind, k = _parse(name)
    return lambda ranking, judged: KINDS[kind](ranking, judged, k)


def _parse(name: str) -> tuple[str, int]:
    match = re.fullmatch(r"(\w+)@([1-9]\d{0,8})", name)
    if match is None or match[1] not in KINDS:
        allowed = ", ".join(f"{kind}@k" for kind in KINDS)
        raise ConfigError(f"unknown measure {name!r}", hint=f"allowed: {allowed}, for example nDCG@10")
    return match[1], int(match[2])


def _discounted(gains: Sequence[int]) -> float:
    return sum(gain / math.log2(place + 1) for place, gain in enumerate(gains, start=1))
